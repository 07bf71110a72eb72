"""Variants of the pipeline that are broken on purpose, so that the oracle has something to find.

Belongs here: one small defect each, on the real servers. Does not belong here: the check that they
are caught (`test_oracle.py`). Nobody else may index meanwhile.
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
    return _ID.sub(lambda found: found[1] + uuid.uuid4().hex.encode(), lines)


class Killed(Exception):
    """Where a run is killed between two steps."""


class RandomIds(ElasticsearchAdapter):
    """Gives each document an id of its own, as Elasticsearch does when none is named."""

    def bulk(self, lines: bytes) -> Sequence[ItemResult]:
        return super().bulk(_random(lines))

    def bulk_all(self, lines: bytes) -> bool:
        return super().bulk_all(_random(lines))


@dataclass(frozen=True, slots=True)
class KilledBeforeThePosition(Indexer):
    """Indexes its slice, and dies."""

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
class PositionFirst(Indexer):
    """Moves its positions before the bulk, and dies between the two."""

    def process(self, state: TopicState, slice_: Slice, write: Write | None = None) -> SliceReport:
        stored = positions.read(self.servers.store, self.flow, state)
        self.commit(state, stored, slice_.ends())
        raise Killed


def random_ids() -> None:
    """A run that is killed before its position, and the next one, which does the slice again."""
    _drain(_pipeline(KilledBeforeThePosition, RandomIds(Settings())))
    _drain(_pipeline(Indexer, RandomIds(Settings())))


def inner_join() -> None:
    _drain(_pipeline(InnerJoin))


def position_first() -> None:
    _drain(_pipeline(PositionFirst))
    _drain(_pipeline(Indexer))


CONTROLS = {"random ids": random_ids, "inner join": inner_join, "position first": position_first}


def judged(oracle: Oracle, variant: Callable[[], None], events: int) -> Verdict:
    """What the oracle says of accesses that a variant has indexed; a third bear a name without
    reference rows, and one message is bad."""
    mark, marker = oracle.mark(), uuid.uuid4().hex
    writer = KafkaWriter(oracle.servers, oracle.ledger)
    for number in range(events):
        writer.access(f"/oracle/{marker}/{number}", "presto" if number % 3 else "nobody")
    writer.bad(f"not an event {marker}".encode())
    if writer.flush(60):
        raise ConnectionError("the broker does not take the events")
    variant()
    return oracle.check(mark)


def sound() -> None:
    """The pipeline as it is, which the oracle must find nothing in."""
    _drain(_pipeline(Indexer))


def _pipeline(kind: type[Indexer], store: ElasticsearchAdapter | None = None) -> Indexer:
    ours = servers(Settings())
    return kind(ACCESS_LOG, replace(ours, store=store or ours.store), LIMITS, "control")


def _drain(indexer: Indexer) -> None:
    with contextlib.suppress(Killed):
        reports: Iterator[SliceReport | None] = indexer.run()
        list(reports)
