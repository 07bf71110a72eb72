"""From a visitor's request until a search finds its document, and what that costs.

Belongs here: visits at a steady rate, and looking for them as a reader does. Does not belong here:
how a figure is shown (`report.py`).
"""

import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx

from kp_platform_tests.benchmarks import dagster_run
from kp_platform_tests.benchmarks.measure import cpu_seconds, percentile, spent
from kp_platform_tests.fault_injection.ledger import Ledger, Visitor
from kp_platform_tests.fault_injection.servers import Servers
from kp_platform_tests.stack import Stack

# Each look is a search, which takes CPU from what is measured.
LOOK_SECONDS = 0.05
# At more than SAMPLES_PER_SECOND the rest ask for one of these pages.
COMMON_URIS = 1_000
SAMPLES_PER_SECOND = 10
VISITORS = 4
PATIENCE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Seen:
    """One access: seconds since the epoch when it was asked for, stamped by the emitter, read from
    Trino, and first found by a search."""

    asked: float
    stamped: float
    read: float
    found: float

    @property
    def delay(self) -> float:
        return self.found - self.asked


@dataclass(frozen=True, slots=True)
class Steady:
    """What a steady rate of visits has shown; `cpu` are the cores that each program kept busy,
    `database_bytes` what Dagster's database grows by in a day of it."""

    rate: int
    seconds: float
    seen: Sequence[Seen]
    cpu: dict[str, float]
    slices: int
    database_bytes: float

    def delay(self, share: float) -> float:
        return percentile([each.delay for each in self.seen], share)

    def stages(self) -> tuple[float, float, float]:
        """Medians: until stamped, until read from Trino, until found."""
        steps = [
            [each.stamped - each.asked for each in self.seen],
            [each.read - each.stamped for each in self.seen],
            [each.found - each.read for each in self.seen],
        ]
        first, second, third = (percentile(step, 0.5) for step in steps)
        return first, second, third


class Reader:
    """Looks for uris until each was found; one search for all of them every `LOOK_SECONDS`."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._waiting: dict[str, float] = {}
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look_on, daemon=True)
        self.seen: list[Seen] = []

    def __enter__(self) -> "Reader":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(60)

    def expect(self, uri: str, asked: float) -> None:
        with self._lock:
            self._waiting[uri] = asked

    def wait(self) -> None:
        """Returns when all that is expected was found. Raises TimeoutError."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._waiting:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(self._waiting)} accesses were not found")
            time.sleep(LOOK_SECONDS)

    def _look_on(self) -> None:
        with self._servers.search() as search:
            while not self._done.wait(LOOK_SECONDS):
                with self._lock:
                    uris = list(self._waiting)[:1_000]
                if uris:
                    # In its first moment an index answers with 503: nothing is found yet.
                    with suppress(httpx.HTTPStatusError):
                        self._look(search, uris)

    def _look(self, search: Any, uris: Sequence[str]) -> None:
        body = {
            "query": {"terms": {"uri": uris}},
            "size": len(uris),
            "_source": ["uri", "@timestamp", "indexed_at"],
        }
        hits = search.request("POST", "/log.index/_search?ignore_unavailable=true", body)
        now = time.time()
        for source in [hit["_source"] for hit in hits["hits"]["hits"]]:
            with self._lock:
                asked = self._waiting.pop(source["uri"])
            stamped, read = map(_seconds, (source["@timestamp"], source["indexed_at"]))
            self.seen.append(Seen(asked, stamped, read, now))


def steady(stack: Stack, rate: int, seconds: float) -> Steady:
    """So many visits a second; `SAMPLES_PER_SECOND` of them, or all, are looked for. These have a
    URI of their own, the others one of COMMON_URIS, as a site has pages."""
    servers = Servers.of(stack.settings)
    marker, every = uuid.uuid4().hex[:8], max(1, rate // SAMPLES_PER_SECOND)
    before, began, moment = cpu_seconds(stack), time.monotonic(), time.time()
    kept = dagster_run.database(stack)
    with Reader(servers) as reader, ThreadPoolExecutor(VISITORS) as pool:
        visitors = [Visitor(servers, Ledger()) for _ in range(VISITORS)]

        def visit(numbers: range) -> None:
            for number in numbers:
                if number % every:
                    uri = f"/bench/{marker}/page/{number % COMMON_URIS}"
                else:
                    uri = f"/bench/{marker}/{number}"
                    reader.expect(uri, time.time())
                visitors[number % VISITORS].visit(uri)

        for due in _paced(int(rate * seconds), rate):
            list(pool.map(visit, _dealt(due)))
        took = time.monotonic() - began
        used = spent(before, cpu_seconds(stack))
        reader.wait()
    return Steady(
        rate,
        took,
        reader.seen,
        {name: each / took for name, each in used.items()},
        _slices_since(servers, moment),
        dagster_run.bytes_a_day(
            kept, dagster_run.database(stack), took, stack.settings.max_run_seconds
        ),
    )


def _slices_since(servers: Servers, moment: float) -> int:
    """All documents of a small slice were indexed at one moment."""
    body = {
        "size": 0,
        "query": {"range": {"indexed_at": {"gte": int(moment * 1000)}}},
        "aggs": {"slices": {"cardinality": {"field": "indexed_at", "precision_threshold": 40_000}}},
    }
    with servers.search() as search:
        answer = search.request("POST", "/log.index/_search?ignore_unavailable=true", body)
    return int(answer["aggregations"]["slices"]["value"])


def first_after(stack: Stack, idle_seconds: float) -> Seen:
    """One visit after nobody came for so long."""
    time.sleep(idle_seconds)
    return steady(stack, 1, 1).seen[0]


def _paced(count: int, rate: int) -> Iterator[range]:
    """The numbers below `count` as they become due."""
    began, number = time.monotonic(), 0
    while number < count:
        due = min(count, int((time.monotonic() - began) * rate) + 1)
        if due > number:
            yield range(number, due)
            number = due
        else:
            time.sleep(min(0.005, 0.5 / rate))


def _dealt(numbers: range) -> list[range]:
    """To each visitor its own."""
    return [
        range(first, numbers.stop, VISITORS)
        for first in range(numbers.start, min(numbers.start + VISITORS, numbers.stop))
    ]


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
