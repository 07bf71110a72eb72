"""Whether a slice costs the same on a large topic, and a backlog the same at its end.

Belongs here: the two topics with their flows, single slices, and a long backlog watched from
outside. Does not belong here: how a figure is shown (`report.py`).
"""

import json
import shutil
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.adapters.kafka import KafkaAdapter
from kp_platform.engine.indexer import Indexer, Limits
from kp_platform.engine.offsets import OffsetRange, Slice
from kp_platform.flows.builtin import ACCESS_LOG
from kp_platform.flows.model import Flow
from kp_platform.settings import Settings
from kp_platform.wiring import servers
from kp_platform_tests.benchmarks.throughput import publish, run_ours, stand_still
from kp_platform_tests.conftest import wait_for
from kp_platform_tests.fault_injection.harness import FaultHarness
from kp_platform_tests.fault_injection.servers import Search, Servers
from kp_platform_tests.stack import ROOT, Stack

SLICE = 1_000
LOOK_SECONDS = 0.5
LIMITS = Limits(slice_rows=50_000, bulk_rows=5_000, follow_idle_seconds=0, max_run_seconds=600)


def flow_of(name: str, folder: Path) -> Flow:
    """The access log's flow on a topic of its own."""
    return Flow(
        name=f"bench_{name}",
        topic=f"bench.{name}",
        index=f"bench.{name}",
        asset=f"bench_{name}",
        description=f"accesses of a {name} topic",
        fields=ACCESS_LOG.fields,
        references=ACCESS_LOG.references,
        sql=ACCESS_LOG.sql.replace(ACCESS_LOG.topic, f"bench.{name}"),
        mapping=folder / name / "mapping.json",
    )


def write_files(folder: Path, names: Iterable[str]) -> Path:
    """SQL, mappings and table files of these flows; returns the folder to start Trino with."""
    presto_etc = folder / "presto_etc"
    shutil.copytree(ROOT / "presto_etc", presto_etc)
    mapping = ACCESS_LOG.mapping.read_text()
    table = json.loads((presto_etc / "kafka" / "action.json").read_text())
    for name in names:
        flow = flow_of(name, folder)
        flow.mapping.parent.mkdir()
        flow.mapping.write_text(mapping.replace(ACCESS_LOG.index, flow.index))
        named = {"tableName": name, "schemaName": "bench", "topicName": flow.topic}
        (presto_etc / "kafka" / f"{flow.topic}.json").write_text(json.dumps(table | named))
    return presto_etc


@dataclass(frozen=True, slots=True)
class Timed:
    """One slice: its seconds, and how many rows Trino read of the topic for each of its own."""

    seconds: float
    rows_read: float


class Topics:
    """A small and a large topic of the same accesses."""

    def __init__(self, stack: Stack, folder: Path, sizes: dict[str, int]) -> None:
        self._store = ElasticsearchAdapter(Settings())
        expected = Servers.of(stack.settings)
        flows = [flow_of(name, folder) for name in sizes]
        KafkaAdapter(Settings()).create_topics(
            {flow.topic: stack.settings.topic_partitions for flow in flows}
        )
        for flow, count in zip(flows, sizes.values(), strict=True):
            publish(expected, count, flow.topic)
        self._indexers = {
            name: Indexer(flow, servers(Settings()), LIMITS)
            for name, flow in zip(sizes, flows, strict=True)
        }
        # Trino counts these where it reads them and where it sends them to be joined.
        self._reference_rows = 2 * (len(expected.rows()) + len(expected.redis_values()))
        for indexer in self._indexers.values():
            indexer.prepare()

    def slice(self, name: str, number: int) -> Timed:
        """The last `SLICE` events but for those of lower numbers, each of which is read once."""
        indexer = self._indexers[name]
        state, _ = indexer.read_positions()
        each = SLICE // len(state.partitions)
        part = Slice(
            tuple(
                OffsetRange(partition, marks.high - each * (number + 1), marks.high - each * number)
                for partition, marks in sorted(state.partitions.items())
            )
        )
        began = time.monotonic()
        report = indexer.process(state, part)
        seconds = time.monotonic() - began
        assert report.outcome.indexed == len(part)
        return Timed(seconds, (report.query.processed_rows - self._reference_rows) / len(part))


@dataclass(frozen=True, slots=True)
class Backlog:
    """A run seen from outside: (seconds, documents so far) again and again, its memory, and what
    its events and documents take on disk, each once."""

    progress: Sequence[tuple[float, int]]
    peak_bytes: int
    topic_bytes: int
    index_bytes: int

    def rate(self, start: float, end: float) -> float:
        """Documents a second between two shares (0 to 1) of the backlog."""
        total = self.progress[-1][1]
        (began, first), (ended, last) = (
            next((at, done) for at, done in self.progress if done and done >= share * total)
            for share in (start, end)
        )
        return (last - first) / (ended - began)


def backlog(stack: Stack, events: int) -> Backlog:
    """One run through so many events."""
    stand_still(stack)
    publish(Servers.of(stack.settings), events)
    progress: list[tuple[float, int]] = []
    peak, done = [0], threading.Event()

    def watch() -> None:
        harness = FaultHarness(stack.settings, stack.variables)
        with Servers.of(stack.settings).search() as search:
            while not done.wait(LOOK_SECONDS):
                with suppress(httpx.HTTPError, KeyError):  # the index is not there yet
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
        wait_for(lambda: not _merges(search), "the load's segments are merged", seconds=300)
        found = search.request("GET", "/log.index/_stats/store")
    index_bytes = int(found["_all"]["primaries"]["store"]["size_in_bytes"])
    segments = (stack.settings.home / "kafka" / "data").glob(f"{ACCESS_LOG.topic}-*/*.log")
    return Backlog(progress, peak[0], sum(each.stat().st_size for each in segments), index_bytes)


def _merges(search: Search) -> int:
    """How many merges of segments are at work."""
    answer = search.request("GET", "/log.index/_stats/merge")
    return int(answer["_all"]["total"]["merges"]["current"])


def _worker_bytes(harness: FaultHarness) -> list[int]:
    found = []
    for parent in harness.processes("dagster-code-server")[1:]:
        with suppress(psutil.NoSuchProcess):
            found.append(parent.memory_info().rss)
    return found
