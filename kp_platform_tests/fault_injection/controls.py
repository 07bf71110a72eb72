"""Variants of the indexer with a defect, which the oracle must detect.

Belongs here: one small defect each, on the real servers. Does not belong here: the test that they
are detected (`test_oracle.py`). No other indexer may run at the same time.
"""

import contextlib
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.engine import positions
from kp_platform.engine.bisection import SliceLoader
from kp_platform.engine.clock import utc_now
from kp_platform.engine.documents import Columns, builder
from kp_platform.engine.indexer import Indexer, Limits
from kp_platform.engine.loader import DocumentLoader, Write
from kp_platform.engine.offsets import Slice, TopicState
from kp_platform.engine.ports import ItemResult
from kp_platform.engine.reports import SliceReport
from kp_platform.engine.sql import slice_query
from kp_platform.flows.builtin import ACCESS_LOG
from kp_platform.settings import Settings
from kp_platform.wiring import servers
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

    def process(self, state: TopicState, slice_: Slice, write: Write | None = None) -> SliceReport:
        Indexer.process(self, state, slice_, write)
        raise Killed


@dataclass(frozen=True, slots=True)
class InnerJoinLoader(DocumentLoader):
    """The join of the published example, without the completeness check."""

    def load(self, slice_: Slice) -> SliceReport:
        sql, parameters = slice_query(self.flow, slice_)
        report = SliceReport(asked=slice_.ranges, slices=1)
        engine = self.servers.query_engine
        with engine.query(sql.replace("LEFT JOIN", "JOIN"), parameters) as answer:
            build = builder(self.flow, Columns(self.flow, answer.columns), self.run_id)
            for rows in answer.batches(500):
                report.outcome.add(self.write(build(rows, utc_now()).operations))
                report.rows += len(rows)
        return report


@dataclass(frozen=True, slots=True)
class InnerJoin(Indexer):
    """Loads slices with an inner join."""

    def loader(self, write: Write | None = None) -> SliceLoader:
        loader = Indexer.loader(self, write)
        assert isinstance(loader, DocumentLoader)
        return InnerJoinLoader(*(getattr(loader, each.name) for each in fields(loader)))


@dataclass(frozen=True, slots=True)
class CommitBeforeIndexing(Indexer):
    """Moves its positions before the bulk, and dies between the two."""

    def process(self, state: TopicState, slice_: Slice, write: Write | None = None) -> SliceReport:
        stored = positions.read(self.servers.store, self.flow, state)
        self.commit(state, stored, slice_.ends())
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
    ours = servers(Settings())
    return kind(ACCESS_LOG, replace(ours, store=store or ours.store), LIMITS, "control")


def _run(indexer: Indexer) -> None:
    with contextlib.suppress(Killed):
        reports: Iterator[SliceReport | None] = indexer.run()
        list(reports)
