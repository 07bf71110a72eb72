"""B4 and B5: the latency from an access to a search that returns its document, and its CPU cost.

Belongs here: visits at a steady rate, polling the index for them, and the figures. Does not belong
here: how a figure is shown (`report.py`).
"""

import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx

from kp_platform_tests.benchmarks import dagster_run
from kp_platform_tests.benchmarks.measure import cpu_seconds, percentile, spent
from kp_platform_tests.benchmarks.report import Figure, Result, Table
from kp_platform_tests.benchmarks.session import Session
from kp_platform_tests.fault_injection.ledger import Ledger, Visitor
from kp_platform_tests.fault_injection.servers import Servers
from kp_platform_tests.stack import Stack

# Each poll is a search, which takes CPU from what is measured.
POLL_SECONDS = 0.05
# Above SAMPLES_PER_SECOND the other visits request one of these pages.
COMMON_URIS = 1_000
SAMPLES_PER_SECOND = 10
VISITORS = 4
PATIENCE_SECONDS = 120.0
RATES = (1, 10, 100, 1_000)
TYPICAL_RATE = 10
PERCENTILES = (0.5, 0.95, 0.99)
WARM_UP_SECONDS = 120.0
IDLE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One access: seconds since the epoch when it was requested, stamped by the emitter, read from
    Trino, and first returned by a search."""

    requested: float
    stamped: float
    read: float
    searched: float

    @property
    def delay(self) -> float:
        return self.searched - self.requested


@dataclass(frozen=True, slots=True)
class Steady:
    """Measurements of a steady rate of visits. `cpu` are the cores that each program kept busy;
    `database_bytes` is the growth of Dagster's database in a day at this rate."""

    rate: int
    seconds: float
    samples: Sequence[Sample]
    cpu: dict[str, float]
    slices: int
    database_bytes: float

    def delay(self, share: float) -> float:
        return percentile([each.delay for each in self.samples], share)

    def stages(self) -> tuple[float, float, float]:
        """Medians in seconds: request to event, event to query row, query row to search result."""
        steps = [
            [each.stamped - each.requested for each in self.samples],
            [each.read - each.stamped for each in self.samples],
            [each.searched - each.read for each in self.samples],
        ]
        first, second, third = (percentile(step, 0.5) for step in steps)
        return first, second, third


class Poller:
    """Searches for uris until each is returned; one search for all of them per `POLL_SECONDS`."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._waiting: dict[str, float] = {}
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self.samples: list[Sample] = []

    def __enter__(self) -> "Poller":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(60)

    def add(self, uri: str, requested: float) -> None:
        with self._lock:
            self._waiting[uri] = requested

    def wait(self) -> None:
        """Return when every added uri was returned by a search. Raises TimeoutError."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._waiting:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(self._waiting)} accesses are not in the index")
            time.sleep(POLL_SECONDS)

    def _poll(self) -> None:
        with self._servers.search() as search:
            while not self._done.wait(POLL_SECONDS):
                with self._lock:
                    uris = list(self._waiting)[:1_000]
                if uris:
                    # A new index answers 503 until its shards have started.
                    with suppress(httpx.HTTPStatusError):
                        self._search(search, uris)

    def _search(self, search: Any, uris: Sequence[str]) -> None:
        body = {
            "query": {"terms": {"uri": uris}},
            "size": len(uris),
            "_source": ["uri", "@timestamp", "indexed_at"],
        }
        hits = search.request("POST", "/log.index/_search?ignore_unavailable=true", body)
        now = time.time()
        for source in [hit["_source"] for hit in hits["hits"]["hits"]]:
            with self._lock:
                requested = self._waiting.pop(source["uri"])
            stamped, read = map(_seconds, (source["@timestamp"], source["indexed_at"]))
            self.samples.append(Sample(requested, stamped, read, now))


def steady(stack: Stack, rate: int, seconds: float) -> Steady:
    """Visits at `rate` per second; up to `SAMPLES_PER_SECOND` of them are sampled. Samples have a
    URI of their own; the others request one of `COMMON_URIS`, as on a site with a set of pages."""
    servers = Servers.of(stack.settings)
    before, began, started_at = cpu_seconds(stack), time.monotonic(), time.time()
    database = dagster_run.database(stack)
    with Poller(servers) as poller:
        _visit(servers, poller, rate, seconds)
        took = time.monotonic() - began
        used = spent(before, cpu_seconds(stack))
        poller.wait()
    return Steady(
        rate,
        took,
        poller.samples,
        {name: each / took for name, each in used.items()},
        _slices_since(servers, started_at),
        dagster_run.bytes_a_day(
            database, dagster_run.database(stack), took, stack.settings.max_run_seconds
        ),
    )


def _visit(servers: Servers, poller: Poller, rate: int, seconds: float) -> None:
    run_key, every = uuid.uuid4().hex[:8], max(1, rate // SAMPLES_PER_SECOND)
    visitors = [Visitor(servers, Ledger()) for _ in range(VISITORS)]

    def visit(numbers: range) -> None:
        for number in numbers:
            if number % every:
                uri = f"/bench/{run_key}/page/{number % COMMON_URIS}"
            else:
                uri = f"/bench/{run_key}/{number}"
                poller.add(uri, time.time())
            visitors[number % VISITORS].visit(uri)

    with ThreadPoolExecutor(VISITORS) as pool:
        for due in _paced(int(rate * seconds), rate):
            list(pool.map(visit, _by_visitor(due)))


def _slices_since(servers: Servers, moment: float) -> int:
    """All documents of a small slice have the same `indexed_at`."""
    body = {
        "size": 0,
        "query": {"range": {"indexed_at": {"gte": int(moment * 1000)}}},
        "aggs": {"slices": {"cardinality": {"field": "indexed_at", "precision_threshold": 40_000}}},
    }
    with servers.search() as search:
        answer = search.request("POST", "/log.index/_search?ignore_unavailable=true", body)
    return int(answer["aggregations"]["slices"]["value"])


def cold_start(stack: Stack, idle_seconds: float) -> Sample:
    """One visit after `idle_seconds` without any."""
    time.sleep(idle_seconds)
    return steady(stack, 1, 1).samples[0]


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


def _by_visitor(numbers: range) -> list[range]:
    """The numbers distributed over the visitors."""
    return [
        range(first, numbers.stop, VISITORS)
        for first in range(numbers.start, min(numbers.start + VISITORS, numbers.stop))
    ]


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def results(session: Session) -> Iterator[Result]:
    with session.stack() as stack:
        for rate in (TYPICAL_RATE, max(RATES)):  # Trino and Elasticsearch compile on first use
            steady(stack, rate, WARM_UP_SECONDS)
        loads: list[Steady] = []
        for rate in RATES if "B4" in session.keys else (TYPICAL_RATE,):
            loads.append(steady(stack, rate, session.seconds))
            delays = ", ".join(f"p{100 * p:.0f} {loads[-1].delay(p):.2f} s" for p in PERCENTILES)
            session.log(f"{rate} accesses/s: {delays}")
        if "B5" in session.keys:
            typical = next(each for each in loads if each.rate == TYPICAL_RATE)
            yield _orchestration(stack, typical)
        if "B4" in session.keys:
            cold = []
            for _ in range(session.rounds):
                cold.append(cold_start(stack, session.idle_seconds).delay)
                session.log(f"cold start after {session.idle_seconds:.0f} s: {cold[-1]:.2f} s")
            yield _latency(loads, cold, session)


def _latency(loads: Sequence[Steady], cold: Sequence[float], session: Session) -> Result:
    median = max(each.delay(0.5) for each in loads)
    p95 = max(each.delay(0.95) for each in loads)
    first = percentile(cold, 0.95)
    typical = next(each for each in loads if each.rate == TYPICAL_RATE)
    cores = ", ".join(f"{name} {used:.2f}" for name, used in typical.cpu.items())
    idle = f"cold-start latency after {session.idle_seconds:.0f} s idle (p95, n = {len(cold)})"
    return Result(
        "B4",
        "latency from an access to a search that returns it",
        f"{session.seconds:.0f} s at each rate. Up to {SAMPLES_PER_SECOND} accesses per second "
        f"have a URI of their own and are polled every {1000 * POLL_SECONDS:.0f} ms; the others "
        f"request one of {COMMON_URIS:,} URIs. Stages are medians. Cores used at "
        f"{TYPICAL_RATE} accesses/s: {cores}; total {sum(typical.cpu.values()):.2f}.",
        [
            Figure("p50 latency, worst rate", "<= 0.5 s", f"{median:.2f} s", median <= 0.5),
            Figure("p95 latency, worst rate", "<= 0.9 s", f"{p95:.2f} s", p95 <= 0.9),
            Figure(idle, "<= 5 s", f"{first:.2f} s", first <= 5),
        ],
        _latency_table(loads),
    )


def _latency_table(loads: Sequence[Steady]) -> Table:
    stages = ("request to event (s)", "event to query row (s)", "query row to search result (s)")
    return Table(
        ("accesses/s", *(f"p{100 * p:.0f} (s)" for p in PERCENTILES), *stages),
        [
            [str(each.rate), *(f"{each.delay(p):.2f}" for p in PERCENTILES)]
            + [f"{stage:.2f}" for stage in each.stages()]
            for each in loads
        ],
    )


def _orchestration(stack: Stack, typical: Steady) -> Result:
    time.sleep(stack.settings.follow_idle_seconds + IDLE_SECONDS / 2)  # until its run has ended
    before, began = cpu_seconds(stack), time.monotonic()
    time.sleep(IDLE_SECONDS)
    idle = spent(before, cpu_seconds(stack))
    cores = cores_of_dagster(idle) / (time.monotonic() - began)
    each = cores_of_dagster(typical.cpu) * typical.seconds / max(1, typical.slices)
    growth = typical.database_bytes / 1e6
    return Result(
        "B5",
        "cost of orchestration",
        f"Dagster's processes and runs: at {TYPICAL_RATE} accesses/s for {typical.seconds:.0f} s "
        f"({typical.slices} slices), and for {IDLE_SECONDS:.0f} s without accesses.",
        [
            Figure("CPU-seconds per slice", "<= 0.2", f"{each:.2f}", each <= 0.2),
            Figure("cores used when idle", "<= 0.1", f"{cores:.2f}", cores <= 0.1),
            Figure("growth of Dagster's database (MB/day)", "<= 50", f"{growth:.0f}", growth <= 50),
        ],
        Table(
            ("program", "cores under load", "cores when idle"),
            [
                [name, f"{used:.3f}", f"{idle[name] / IDLE_SECONDS:.3f}"]
                for name, used in typical.cpu.items()
            ],
        ),
    )


def cores_of_dagster(cpu: Mapping[str, float]) -> float:
    """The sum over Dagster's programs, in the unit of `cpu`."""
    return sum(used for name, used in cpu.items() if name.startswith("dagster"))
