"""Variants of the indexer with a defect, which the oracle must detect.

Belongs here: one small defect each, on the real servers. Does not belong here: the test that they
are detected (`test_oracle.py`). No other indexer may run at the same time.
"""

import contextlib
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.adapters.kafka import KafkaAdapter
from kp_platform.adapters.trino import TrinoAdapter
from kp_platform.engine.documents import Columns, builder
from kp_platform.engine.indexer import Indexer, Limits
from kp_platform.engine.loader import SliceReport, utc_now
from kp_platform.engine.offsets import Plan, Slice, TopicState
from kp_platform.engine.positions import Position
from kp_platform.engine.sql import slice_query
from kp_platform.engine.store import ItemResult
from kp_platform.engine.writer import index_documents
from kp_platform.flows.builtin import ACCESS_LOG
from kp_platform.settings import Settings
from kp_platform_tests.fault_injection.ledger import KafkaWriter
from kp_platform_tests.fault_injection.oracle import Oracle, Verdict

LIMITS = Limits(slice_rows=50_000, bulk_rows=500, follow_idle_seconds=0, max_run_seconds=300)
_ID = re.compile(rb'("_index":"log\.index[^"]*","_id":")[^"]*')


def _random(lines: bytes) -> bytes:
    return _ID.sub(lambda match: match[1] + uuid.uuid4().hex.encode(), lines)


class Killed(Exception):
    """The run is killed between two steps."""


class RandomIds(ElasticsearchAdapter):
    """Gives each document a random id, as Elasticsearch does for requests without one."""

    def bulk(self, lines: bytes) -> Sequence[ItemResult]:
        return super().bulk(_random(lines))

    def bulk_all(self, lines: bytes) -> bool:
        return super().bulk_all(_random(lines))


@dataclass(frozen=True, slots=True)
class KilledBeforeCommit(Indexer):
    """Indexes its slice, then is killed."""

    def step(self, state: TopicState, positions: Mapping[int, Position], todo: Plan) -> SliceReport:
        assert todo.slice is not None
        self.index(state, todo.slice)
        raise Killed


@dataclass(frozen=True, slots=True)
class InnerJoin(Indexer):
    """The published example's join, without the completeness check."""

    def _take(self, slice_: Slice) -> SliceReport:
        sql, parameters = slice_query(self.flow, slice_)
        report = SliceReport(asked=slice_.ranges, slices=1)
        with self.engine.query(sql.replace("LEFT JOIN", "JOIN"), parameters) as answer:
            build = builder(self.flow, Columns(self.flow, answer.columns), self.run_id)
            for rows in answer.batches(500):
                operations = build(rows, utc_now()).operations
                report.outcome.add(index_documents(self.store, self.flow, operations))
                report.rows += len(rows)
        return report


@dataclass(frozen=True, slots=True)
class CommitBeforeIndexing(Indexer):
    """Moves its positions before the bulk request, and is killed between the two."""

    def step(self, state: TopicState, positions: Mapping[int, Position], todo: Plan) -> SliceReport:
        assert todo.slice is not None
        ends = {each.partition: each.end for each in todo.slice.ranges}
        self._move(state, positions, ends)
        raise Killed


def random_ids() -> None:
    """A run that is killed before its commit, and a second run, which repeats the slice."""
    _run(_indexer(KilledBeforeCommit, RandomIds(Settings())))
    _run(_indexer(Indexer, RandomIds(Settings())))


def inner_join() -> None:
    _run(_indexer(InnerJoin))


def position_first() -> None:
    _run(_indexer(CommitBeforeIndexing))
    _run(_indexer(Indexer))


CONTROLS = {"random ids": random_ids, "inner join": inner_join, "position first": position_first}


def verdict_of(oracle: Oracle, variant: Callable[[], None], events: int) -> Verdict:
    """The oracle's verdict on accesses indexed by a variant; a third of them have a name without
    reference data, and one message is bad."""
    checkpoint, key = oracle.checkpoint(), uuid.uuid4().hex
    writer = KafkaWriter(oracle.servers, oracle.ledger)
    for number in range(events):
        writer.access(f"/oracle/{key}/{number}", "presto" if number % 3 else "nobody")
    writer.bad(f"not an event {key}".encode())
    if writer.flush(60):
        raise ConnectionError("the broker did not acknowledge all events")
    variant()
    return oracle.check(checkpoint)


def sound() -> None:
    """The indexer without a defect, for which the oracle must report nothing."""
    _run(_indexer(Indexer))


def _indexer(kind: type[Indexer], store: ElasticsearchAdapter | None = None) -> Indexer:
    return kind(
        ACCESS_LOG,
        KafkaAdapter(Settings()),
        TrinoAdapter(Settings()),
        store or ElasticsearchAdapter(Settings()),
        LIMITS,
        "control",
    )


def _run(indexer: Indexer) -> None:
    with contextlib.suppress(Killed):
        reports: Iterator[SliceReport | None] = indexer.run()
        list(reports)
