"""B9 and B10: one run over a long backlog, then reading its documents.

Belongs here: a run observed from outside, and the figures. Does not belong here: requests to
`/analysis` (`reading.py`), how a figure is shown (`report.py`).
"""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import httpx
import psutil

from kp_platform.flows.builtin import ACCESS_LOG
from kp_platform_tests.benchmarks import reading
from kp_platform_tests.benchmarks.measure import percentile
from kp_platform_tests.benchmarks.report import Figure, Result, Table
from kp_platform_tests.benchmarks.session import Session
from kp_platform_tests.benchmarks.throughput import publish, run_ours, stop_traffic
from kp_platform_tests.conftest import wait_for
from kp_platform_tests.fault_injection.harness import FaultHarness
from kp_platform_tests.fault_injection.servers import Search, Servers
from kp_platform_tests.stack import Stack

SAMPLE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Backlog:
    """A run observed from outside: samples of (seconds, documents), its peak memory, and the bytes
    of its events and documents on disk, without replicas."""

    progress: Sequence[tuple[float, int]]
    peak_bytes: int
    topic_bytes: int
    index_bytes: int

    def rate(self, start: float, end: float) -> float:
        """Documents per second between two shares (0 to 1) of the backlog."""
        total = self.progress[-1][1]
        (began, first), (ended, last) = (
            next((at, done) for at, done in self.progress if done and done >= share * total)
            for share in (start, end)
        )
        return (last - first) / (ended - began)


def run_backlog(stack: Stack, events: int) -> Backlog:
    """One run over a backlog of `events` accesses."""
    stop_traffic(stack)
    publish(Servers.of(stack.settings), events)
    progress: list[tuple[float, int]] = []
    peak, done = [0], threading.Event()

    def watch() -> None:
        harness = FaultHarness(stack.settings, stack.variables)
        with Servers.of(stack.settings).search() as search:
            while not done.wait(SAMPLE_SECONDS):
                with suppress(httpx.HTTPError, KeyError):  # the index does not exist yet
                    found = search.request("GET", "/log.index/_stats/docs")
                    count = found["_all"]["primaries"]["docs"]["count"]
                    progress.append((time.monotonic(), count))
                peak[0] = max([peak[0], *_worker_bytes(harness)])

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        run_ours(stack)
    finally:
        done.set()
        thread.join(60)
    with Servers.of(stack.settings).search() as search:
        wait_for(lambda: not _merges(search), "the segments are merged", seconds=300)
        found = search.request("GET", "/log.index/_stats/store")
    index_bytes = int(found["_all"]["primaries"]["store"]["size_in_bytes"])
    segments = (stack.settings.home / "kafka" / "data").glob(f"{ACCESS_LOG.topic}-*/*.log")
    return Backlog(progress, peak[0], sum(each.stat().st_size for each in segments), index_bytes)


def _merges(search: Search) -> int:
    """The number of segment merges in progress."""
    answer = search.request("GET", "/log.index/_stats/merge")
    return int(answer["_all"]["total"]["merges"]["current"])


def _worker_bytes(harness: FaultHarness) -> list[int]:
    found = []
    for parent in harness.processes("dagster-code-server")[1:]:
        with suppress(psutil.NoSuchProcess):
            found.append(parent.memory_info().rss)
    return found


def results(session: Session) -> Iterator[Result]:
    events = 5 * session.events
    with session.stack() as stack:
        session.log(f"a backlog of {events:,} events")
        backlog = run_backlog(stack, events)
        if "B9" in session.keys:
            yield _long_backlog(events, backlog)
        if "B10" in session.keys:
            session.log("reading /analysis")
            yield _reading(events, reading.times(stack, 40 * session.rounds))


def _long_backlog(events: int, backlog: Backlog) -> Result:
    first, last = backlog.rate(0.0, 0.1), backlog.rate(0.9, 1.0)
    ratio, megabytes = last / first, backlog.peak_bytes / 1e6
    return Result(
        "B9",
        "throughput over a long backlog",
        f"{events:,} accesses, indexed by one run.",
        [
            Figure("rate of the last tenth relative to the first", ">= 0.95", f"{ratio:.2f}",
                   ratio >= 0.95),
            Figure("peak memory of the run worker", "< 300 MB", f"{megabytes:.0f} MB",
                   megabytes < 300),
        ],
        Table(
            ("", "measured"),
            [
                ["documents/s, first tenth", f"{first:,.0f}"],
                ["documents/s, last tenth", f"{last:,.0f}"],
                ["bytes of an event in Kafka", f"{backlog.topic_bytes / events:.0f}"],
                ["bytes of a document in Elasticsearch", f"{backlog.index_bytes / events:.0f}"],
            ],
        ),
    )  # fmt: skip


def _reading(events: int, seconds: Mapping[str, Sequence[float]]) -> Result:
    p95 = {name: percentile(turns, 0.95) for name, turns in seconds.items()}
    first = p95[reading.FIRST] / p95[reading.RAW]
    deep = p95[reading.DEEP] / p95[reading.FIRST]
    return Result(
        "B10",
        "latency of /analysis",
        f"{events:,} documents, {len(seconds[reading.RAW])} requests of each kind in turns. Raw "
        "search: the same documents, requested from Elasticsearch directly.",
        [
            Figure("p95 latency, page relative to raw search", "<= 1.5", f"{first:.2f}",
                   first <= 1.5),
            Figure("p95 latency, deep page relative to first page", "<= 1.3", f"{deep:.2f}",
                   deep <= 1.3),
        ],
        Table(
            ("", "p50 (ms)", "p95 (ms)"),
            [
                [name, f"{1000 * percentile(turns, 0.5):.1f}", f"{1000 * p95[name]:.1f}"]
                for name, turns in seconds.items()
            ],
        ),
    )  # fmt: skip
