"""The index swap of a replay while readers search and visitors send events."""

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import httpx

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.engine import index_registry
from kp_platform.flows.builtin import ACCESS_LOG
from kp_platform.settings import Settings
from kp_platform_tests.conftest import wait_for
from kp_platform_tests.integration.events import Event, publish
from kp_platform_tests.integration.test_replay import logs, stored_offsets
from kp_platform_tests.stack import Stack


@contextmanager
def repeating(work: Callable[[], None]) -> Iterator[list[str]]:
    """Repeat the work in a thread; yields its failures."""
    failures: list[str] = []
    done = threading.Event()

    def repeat() -> None:
        while not done.is_set() and not failures:
            try:
                work()
            except Exception as error:
                failures.append(repr(error))

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield failures
    finally:
        done.set()
        thread.join()


def test_the_index_of_today_is_swapped_under_load_without_a_failed_or_incomplete_answer(
    whole_stack: Stack,
) -> None:
    marker, count = uuid.uuid4().hex[:8], 3_000  # a longer one would be redacted
    publish(*(Event(uri=f"/{marker}/{number}").value for number in range(count)))
    wait_for(lambda: len(logs(marker)) == count, "all are searchable", seconds=120)
    address = whole_stack.settings.emitter_url
    sent, reads = 0, 0

    def visit() -> None:
        nonlocal sent
        assert visitor.get("/", params={"page": f"{marker}-{sent}"}).status_code == 200
        sent += 1
        time.sleep(0.005)  # leaves CPU time to replay, runs and readers

    def read() -> None:
        nonlocal reads
        page = reader.get("/analysis", params={"uri": f"/{marker}/"})
        assert page.status_code == 200
        assert "3,000" in page.text
        export = reader.get("/analysis.json", params={"uri": f"/{marker}/"})
        assert export.status_code == 200
        found = {each["uuid"] for each in export.json()["logs"]}
        assert len(found) == count
        reads += 1

    before = stored_offsets()
    with (
        httpx.Client(base_url=address, trust_env=False, timeout=30) as visitor,
        httpx.Client(base_url=address, trust_env=False, timeout=30) as reader,
        repeating(visit) as failed_visits,
        repeating(read) as failed_reads,
    ):
        day = f"{datetime.now(UTC):%Y-%m-%d}"
        done = whole_stack.kp("replay", "--from", day, "--new-indices", "--json", check=False)
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert report["swapped"] == [f"log.index-{day.replace('-', '.')}"]
        assert report["reprocessed"] >= count
    assert (failed_visits, failed_reads) == ([], [])
    assert reads > 3
    assert all(stored_offsets()[partition] >= before[partition] for partition in before)
    client = ElasticsearchAdapter(Settings()).client()
    query = {"prefix": {"uri": f"/?page={marker}-"}}

    def found() -> int:
        return int(client.count(index=ACCESS_LOG.index, query=query)["count"])

    wait_for(lambda: found() == sent, f"{sent} visits", seconds=120)
    assert index_registry.missing(ElasticsearchAdapter(Settings()), ACCESS_LOG) == []
