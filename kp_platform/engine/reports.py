"""What a slice did: outcomes of messages, and the report of one slice or several in a row.

Belongs here: counts and how they add up. Does not belong here: counting (`loader.py`, `writer.py`)
and showing reports (`kp_platform/orchestration/`).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kp_platform.engine.documents import RejectedMessage
from kp_platform.engine.offsets import OffsetRange
from kp_platform.engine.ports import QueryStats

PREVIEW_ROWS = 3


@dataclass(slots=True)
class Outcome:
    """What became of messages.

    A message is `indexed` now, `already_indexed` by an earlier read of the same offset, one of the
    `duplicates` of an event at another offset, an `applied` change of reference data, or
    `rejected`. Once stored as dead letters, rejected messages are only counted by reason
    (`dead_lettered`): a run may have millions. `refreshed` counts documents that got other
    reference data, or that a replay rewrote; `outside` the messages outside of a replay's range.
    `seconds` is the time of all bulk requests added up.
    """

    indexed: int = 0
    already_indexed: int = 0
    duplicates: int = 0
    applied: int = 0
    refreshed: int = 0
    outside: int = 0
    rejected: list[RejectedMessage] = field(default_factory=list)
    dead_lettered: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def settled(self) -> int:
        """The number of messages that are accounted for."""
        stored = self.indexed + self.already_indexed + self.duplicates + self.applied
        return stored + len(self.rejected) + self.dead_lettered.total()

    def count_dead_letters(self) -> None:
        """Keep only the reasons of the rejected messages, which are stored now."""
        self.dead_lettered.update(message.reason for message in self.rejected)
        self.rejected.clear()

    def add(self, other: "Outcome") -> None:
        self.indexed += other.indexed
        self.already_indexed += other.already_indexed
        self.duplicates += other.duplicates
        self.applied += other.applied
        self.refreshed += other.refreshed
        self.outside += other.outside
        self.rejected += other.rejected
        self.dead_lettered += other.dead_lettered
        self.seconds += other.seconds


@dataclass(slots=True, kw_only=True)
class SliceReport:
    """What one slice did, or several in a row.

    `asked` are the requested offsets, none when only gaps were recorded; of these `empty` hold no
    message (markers of transactions, messages of aborted ones). `gaps` describes what can never be
    read; `indices` were written to. `trino_seconds` is the time spent waiting for rows;
    `elasticsearch_seconds` is the time of all bulk requests added up, two of which run in parallel
    while rows still arrive.
    """

    asked: tuple[OffsetRange, ...] = ()
    gaps: tuple[str, ...] = ()
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
            gaps=self.gaps + later.gaps,
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
    """The same offsets in as few ranges as their order allows: a range that ends where a later one
    of its partition starts is merged with it."""
    joined: list[OffsetRange] = []
    last: dict[int, int] = {}
    for each in ranges:
        at = last.get(each.partition)
        if at is not None and joined[at].end == each.start:
            joined[at] = OffsetRange(each.partition, joined[at].start, each.end)
        else:
            last[each.partition] = len(joined)
            joined.append(each)
    return tuple(joined)
