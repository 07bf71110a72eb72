"""B7: whether a slice takes longer on a large topic.

Belongs here: the two topics with their flows, single slices, and the figures. Does not belong here:
how a figure is shown (`report.py`).
"""

import json
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.adapters.kafka_admin import KafkaAdmin
from kp_platform.engine.indexer import Indexer, Limits
from kp_platform.engine.offsets import OffsetRange, Slice
from kp_platform.flows.builtin import ACCESS_LOG
from kp_platform.flows.model import Flow
from kp_platform.settings import Settings
from kp_platform.wiring import servers
from kp_platform_tests.benchmarks.measure import Spread
from kp_platform_tests.benchmarks.report import Figure, Result, Table
from kp_platform_tests.benchmarks.session import Session
from kp_platform_tests.benchmarks.throughput import publish
from kp_platform_tests.fault_injection.servers import Servers
from kp_platform_tests.stack import ROOT, Stack

SLICE = 1_000
WARM_UP_SLICES = 5
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
    """Write SQL, mapping and table files of these flows. Returns Trino's configuration folder."""
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
    """One slice: its seconds, and the rows that Trino read from the topic per row of the slice."""

    seconds: float
    rows_read: float


class Topics:
    """A small and a large topic of the same accesses."""

    def __init__(self, stack: Stack, folder: Path, sizes: dict[str, int]) -> None:
        self._store = ElasticsearchAdapter(Settings())
        expected = Servers.of(stack.settings)
        flows = [flow_of(name, folder) for name in sizes]
        KafkaAdmin(Settings()).create_topics(
            {flow.topic: stack.settings.topic_partitions for flow in flows}
        )
        for flow, count in zip(flows, sizes.values(), strict=True):
            publish(expected, count, flow.topic)
        self._indexers = {
            name: Indexer(flow, servers(Settings()), LIMITS)
            for name, flow in zip(sizes, flows, strict=True)
        }
        # Trino counts these rows at the scan and at the exchange before the join.
        self._reference_rows = 2 * (len(expected.rows()) + len(expected.redis_values()))
        for indexer in self._indexers.values():
            indexer.prepare()

    def slice(self, name: str, number: int) -> Timed:
        """Index the last `SLICE` events before those of lower numbers: each is read once."""
        indexer = self._indexers[name]
        state, _ = indexer.read_positions()
        each = SLICE // len(state.partitions)
        slice_ = Slice(
            tuple(
                OffsetRange(
                    partition,
                    watermarks.high - each * (number + 1),
                    watermarks.high - each * number,
                )
                for partition, watermarks in sorted(state.partitions.items())
            )
        )
        began = time.monotonic()
        report = indexer.process(state, slice_)
        seconds = time.monotonic() - began
        assert report.outcome.indexed == len(slice_)
        return Timed(seconds, (report.query.processed_rows - self._reference_rows) / len(slice_))


def results(session: Session) -> Iterator[Result]:
    sizes = {"small": session.events // 10, "large": session.events * 10}
    with session.stack(presto_etc=str(write_files(session.folder, sizes))) as stack:
        session.log(f"writing topics of {' and '.join(f'{n:,}' for n in sizes.values())} events")
        topics = Topics(stack, session.folder, sizes)
        turns: dict[str, list[Timed]] = {name: [] for name in sizes}
        for number in range(WARM_UP_SLICES + 4 * session.rounds):
            for name in sizes:
                turns[name].append(topics.slice(name, number))
    times = {
        name: Spread.of([each.seconds for each in timed[WARM_UP_SLICES:]])
        for name, timed in turns.items()
    }
    ratio = times["large"].median / times["small"].median
    read = max(each.rows_read for timed in turns.values() for each in timed)
    yield Result(
        "B7",
        "cost of a slice on a large topic",
        f"{4 * session.rounds} slices of {SLICE:,} events at the end of each topic, in turns.",
        [
            Figure("slice time, large relative to small topic", "<= 1.15", f"{ratio:.2f}",
                   ratio <= 1.15),
            Figure("topic rows read per event", "1.0", f"{read:.3f}", read == 1.0),
        ],
        Table(
            ("messages in the topic", "seconds per slice"),
            [[f"{sizes[name]:,}", f"{times[name]:.3f}"] for name in sizes],
        ),
    )  # fmt: skip
