"""How long a reader waits for `/analysis`, beside a plain search for the same documents.

Belongs here: the three ways to the documents, taken in turns by one reader. Does not belong here:
how a figure is shown (`report.py`).
"""

import re
import time
from collections.abc import Callable

import httpx

from kp_platform.local.supervisor import Supervisor
from kp_platform_tests.conftest import wait_for
from kp_platform_tests.fault_injection.servers import Search, Servers
from kp_platform_tests.stack import Stack
from web_emitter.site.analysis.logs import PAGE_SIZE
from web_emitter.site.search import NEWEST_FIRST, Cursor

RAW, FIRST, DEEP = "raw search", "first page", "deep page"
WARM = 20
_OLDER = re.compile(r'href="([^"]+)" rel="next"')


def times(stack: Stack, count: int) -> dict[str, list[float]]:
    """Seconds of `count` requests of each kind. The deep page begins at the middle document."""
    Supervisor(stack.settings.home).start_program("emitter")
    with (
        Servers.of(stack.settings).search() as search,
        httpx.Client(base_url=stack.settings.emitter_url, trust_env=False) as reader,
    ):
        wait_for(lambda: _is_up(reader), "the emitter is up")
        middle = Cursor(_middle(search), partition=0, offset=0, reach=0)
        [deep] = _OLDER.findall(reader.get(f"/analysis?after={middle.token}").text)
        plain = {"query": {"match_all": {}}, "sort": NEWEST_FIRST, "size": PAGE_SIZE}
        ways: dict[str, Callable[[], object]] = {
            RAW: lambda: search.request("POST", "/log.index/_search", plain),
            FIRST: lambda: reader.get("/analysis").raise_for_status(),
            DEEP: lambda: reader.get(deep).raise_for_status(),
        }
        found: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(WARM + count):
            for name, ask in ways.items():
                began = time.monotonic()
                ask()
                found[name].append(time.monotonic() - began)
    return {name: each[WARM:] for name, each in found.items()}


def _is_up(reader: httpx.Client) -> bool:
    try:
        return reader.get("/livez").is_success
    except httpx.TransportError:
        return False


def _middle(search: Search) -> int:
    """The median timestamp, in milliseconds since the epoch."""
    percentiles = {"percentiles": {"field": "@timestamp", "percents": [50]}}
    body = {"size": 0, "aggs": {"middle": percentiles}}
    answer = search.request("POST", "/log.index/_search", body)
    return int(answer["aggregations"]["middle"]["values"]["50.0"])
