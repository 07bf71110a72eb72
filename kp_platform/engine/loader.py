"""One slice's stream: rows from Trino, documents to Elasticsearch, side by side.

Belongs here: how rows become acknowledged documents and what is counted on the way. Does not
belong here: what comes before and after (`drain.py`). Memory is bounded by the batches in flight.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from kp_platform.engine.documents import Batch, Columns, Document, builder
from kp_platform.engine.offsets import OffsetRange, Slice
from kp_platform.engine.ports import Log
from kp_platform.engine.sql import CompletenessCheck, LookupPushdown, QueryEngine, QueryStats
from kp_platform.engine.writer import Outcome
from kp_platform.flows.model import Flow

PREVIEW_ROWS = 3
BULK_THREADS = 2
BATCHES_IN_FLIGHT = 4

# What becomes of operations as `documents.py` makes them; called by several threads.
Write = Callable[[Sequence[bytes]], Outcome]


@dataclass(slots=True, kw_only=True)
class SliceReport:
    """What one step did, or several in a row.

    `asked` are the offsets that were to be read, none when there was only a loss to record; of
    these `empty` hold no message (a transaction's markers, an aborted one's messages); `losses`
    says in words what can never be read; `indices` were written to. `trino_seconds` is the time
    spent waiting for rows; `elasticsearch_seconds` is the time of all bulk requests added up, of
    which two run side by side while rows still come.
    """

    asked: tuple[OffsetRange, ...] = ()
    losses: tuple[str, ...] = ()
    rows: int = 0
    empty: int = 0
    outcome: Outcome = field(default_factory=Outcome)
    missing: Counter[str] = field(default_factory=Counter)
    indices: set[str] = field(default_factory=set)
    preview: list[dict[str, Any]] = field(default_factory=list)
    query: QueryStats = field(default_factory=QueryStats)
    trino_seconds: float = 0.0
    elasticsearch_seconds: float = 0.0
    total_seconds: float = 0.0
    lag_after: int = 0
    slices: int = 0

    def followed_by(self, later: "SliceReport") -> "SliceReport":
        """Both as one report: counts add up; query, preview and lag are those of the later."""
        outcome = Outcome()
        outcome.add(self.outcome)
        outcome.add(later.outcome)
        return SliceReport(
            asked=_joined(self.asked + later.asked),
            losses=self.losses + later.losses,
            rows=self.rows + later.rows,
            empty=self.empty + later.empty,
            outcome=outcome,
            missing=self.missing + later.missing,
            indices=self.indices | later.indices,
            preview=later.preview or self.preview,
            query=later.query if later.asked else self.query,
            trino_seconds=self.trino_seconds + later.trino_seconds,
            elasticsearch_seconds=self.elasticsearch_seconds + later.elasticsearch_seconds,
            total_seconds=self.total_seconds + later.total_seconds,
            lag_after=later.lag_after,
            slices=self.slices + later.slices,
        )


def _joined(ranges: Sequence[OffsetRange]) -> tuple[OffsetRange, ...]:
    """The same offsets in as few ranges as their order allows: one that ends where a later one of
    its partition starts becomes one with it."""
    joined: list[OffsetRange] = []
    last: dict[int, int] = {}
    for part in ranges:
        at = last.get(part.partition)
        if at is not None and joined[at].end == part.start:
            joined[at] = OffsetRange(part.partition, joined[at].start, part.end)
        else:
            last[part.partition] = len(joined)
            joined.append(part)
    return tuple(joined)


def stream(
    flow: Flow,
    log: Log,
    engine: QueryEngine,
    part: Slice,
    batch_rows: int,
    keys: LookupPushdown,
    run_id: str,
    write: Write,
) -> SliceReport:
    """Write every event of the slice; dead letters are only collected.

    Raises ShortAnswer unless exactly the slice's offsets came, and what query and bulk raise.
    """
    report = SliceReport(asked=part.ranges, slices=1)
    coverage = CompletenessCheck(part)
    sending: deque[Future[tuple[Outcome, float]]] = deque()
    with ThreadPoolExecutor(BULK_THREADS) as threads:
        for operations in _documents(
            flow, engine, part, batch_rows, keys, run_id, coverage, report
        ):
            sending.append(threads.submit(_timed, write, operations))
            if len(sending) > BATCHES_IN_FLIGHT:
                _collect(sending.popleft(), report)
        while sending:
            _collect(sending.popleft(), report)
    report.empty = coverage.check(log, flow.topic)
    return report


def _documents(
    flow: Flow,
    engine: QueryEngine,
    part: Slice,
    batch_rows: int,
    keys: LookupPushdown,
    run_id: str,
    coverage: CompletenessCheck,
    report: SliceReport,
) -> Iterator[list[bytes]]:
    """An operation of a bulk request for each document, in batches."""
    asked = time.monotonic()
    with keys.query(engine, flow, part) as answer:
        columns = Columns(flow, answer.columns)
        build = builder(flow, columns, run_id)
        for rows in answer.batches(batch_rows):
            report.trino_seconds += time.monotonic() - asked
            coverage.tick(map(columns.place, rows))
            batch = build(rows, utc_now())
            _count(batch, len(rows), report)
            yield batch.operations
            asked = time.monotonic()
        report.trino_seconds += time.monotonic() - asked
        report.query = answer.stats


def _count(batch: Batch, rows: int, report: SliceReport) -> None:
    report.rows += rows
    report.outcome.dead += batch.dead
    report.missing.update(batch.missing)
    report.indices |= batch.indices
    for operation in batch.operations[: PREVIEW_ROWS - len(report.preview)]:
        report.preview.append(Document(operation).body)


def _timed(write: Write, operations: Sequence[bytes]) -> tuple[Outcome, float]:
    began = time.monotonic()
    return write(operations), time.monotonic() - began


def _collect(sent: Future[tuple[Outcome, float]], report: SliceReport) -> None:
    outcome, seconds = sent.result()
    report.outcome.add(outcome)
    report.elasticsearch_seconds += seconds


def utc_now() -> str:
    """Now as ISO 8601 in UTC with milliseconds, e.g. `2026-01-31T12:00:00.000Z`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
