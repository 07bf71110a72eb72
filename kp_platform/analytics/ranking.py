"""The ranking: which names and uris were accessed most, over a sliding window.

Belongs here: counting, the order of places, what lies in Redis, the join, and the index
`access.ranking`. Does not belong here: when it is done (`kp_platform/orchestration/ranking.py`).

The truth is the index of the access log, one document for each event, so an event counts once
however often runs were killed or retried. The whole ranking is made anew each time and replaces the
old one in Redis by one transaction and in the index by one bulk request. What the window held is
noted last (`ranking:state`): a run that was killed before is simply done again.

In Redis (the prefix `ranking:` belongs to us):

- `ranking:names`, `ranking:uris`: sorted sets, member -> accesses; the most accessed are
  `ZREVRANGE ranking:names 0 9 WITHSCORES`. They hold the first `size` places, as a window may have
  millions of uris.
- `ranking:name:<rank>`, `ranking:uri:<rank>`: a hash for each place, `kind key rank accesses
  computed_at`, named by its rank, as a uri may have kilobytes.
- `ranking:places`: a sorted set that lists the hashes, so that Trino need not search for them.

Places of equal accesses are ordered as ZREVRANGE does it: descending bytes of the key.
"""

import heapq
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import orjson

from kp_platform.engine import positions
from kp_platform.engine.bulk import delete, put, send
from kp_platform.engine.counting import EVER, Extent, Where, Window, iso
from kp_platform.engine.dead_letters import DEAD_INDEX
from kp_platform.engine.errors import SliceError
from kp_platform.engine.offsets import OffsetRange, Slice
from kp_platform.engine.ports import DocumentStore, Log, QueryEngine, QueryStats, Snapshot
from kp_platform.engine.positions import Position
from kp_platform.engine.sql import ranges_query
from kp_platform.flows.model import Flow

INDEX = "access.ranking"
SQL_PATH = Path(__file__).with_name("access_ranking.sql")
MAPPING = Path(__file__).with_name("access.ranking.json")
STATE = "ranking:state"
PLACES = "ranking:places"
# The kind of a place is the field of the access log that is ranked; each has its sorted set.
KINDS = {"name": "ranking:names", "uri": "ranking:uris"}
# How far back in each partition the latest event of a name or uri is looked for.
RECENT_OFFSETS = 2_500


class RankingConflict(Exception):
    """Another run has put its ranking in the place of ours; nothing is lost."""


class RankingStore(Protocol):
    """Redis, as far as the ranking needs it."""

    def replace(
        self,
        listing: str,
        sorted_sets: Mapping[str, Mapping[str, int]],
        hashes: Mapping[str, Mapping[str, str]],
    ) -> None:
        """Set these sorted sets and hashes anew, and delete the hashes that the sorted set
        `listing` named before and that are not among them; all of it or nothing."""

    def set_hash(self, key: str, fields: Mapping[str, str]) -> None:
        """Set a hash to exactly these fields."""

    def hash(self, key: str) -> dict[str, str]:
        """The fields of a hash; none when it does not exist."""


@dataclass(frozen=True, slots=True)
class Place:
    """One place of the ranking; `rank` counts from 1 within its kind."""

    kind: str
    rank: int
    key: str
    accesses: int

    @property
    def hash_key(self) -> str:
        return f"ranking:{self.kind}:{self.rank}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingReport:
    """What one ranking found and wrote."""

    window: Window
    events: int
    places: Mapping[str, int]
    documents: Sequence[dict[str, Any]]
    removed: int
    query: QueryStats
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """The ranking of a flow's events, with the servers that it needs.

    `recent_offsets`: the latest event of a place is looked for among so many of each partition.
    """

    flow: Flow
    log: Log
    engine: QueryEngine
    store: DocumentStore
    board: RankingStore
    window_seconds: int
    size: int
    recent_offsets: int = RECENT_OFFSETS

    def window(self, now: datetime) -> Window:
        return Window(now - timedelta(seconds=self.window_seconds), now)

    def is_due(self, now: datetime, pause_seconds: float) -> tuple[bool, str]:
        """Whether the window holds other events than when it was ranked last, and that was not
        within the pause; with numbers, in words.

        Count and oldest event tell: when an event leaves the window, so does the oldest; when none
        leaves, another one makes the count grow.
        """
        held = self.board.hash(STATE)
        if held:
            age = (now - datetime.fromisoformat(held["computed_at"])).total_seconds()
            if 0 <= age < pause_seconds:
                return False, f"ranked {held['events']} events {age:.0f} s ago"
        with self.store.snapshot(self.flow.index) as snapshot:
            extent = snapshot.extent(self._within(self.window(now)))
        said = f"{extent.count} events in the last {self.window_seconds} s"
        if not held:
            return extent.count > 0, f"{said}, never ranked"
        return not self._state(extent).items() <= held.items(), f"{said}, ranked {held['events']}"

    def compute(self, now: datetime) -> RankingReport:
        """Rank the window that ends now. Raises RankingReplaced, and what query and bulk raise."""
        began = time.monotonic()
        window = self.window(now)
        self.store.ensure_index(INDEX, MAPPING)
        self.store.refresh(self.flow.index)
        with self.store.snapshot(self.flow.index) as snapshot:
            extent = snapshot.extent(self._within(window))
            places = [place for kind in KINDS for place in self._places(snapshot, kind, window)]
        self.board.replace(PLACES, *_board(places, computed_at=iso(now)))
        documents, stats = self._joined(places, extent, iso(now))
        removed = self._write(documents)
        self.board.set_hash(STATE, self._state(extent) | {"computed_at": iso(now)})
        return RankingReport(
            window=window,
            events=extent.count,
            places={kind: sum(place.kind == kind for place in places) for kind in KINDS},
            documents=documents,
            removed=removed,
            query=stats,
            seconds=time.monotonic() - began,
        )

    def _within(self, window: Window) -> Where:
        return Where("@timestamp", window)

    def _state(self, extent: Extent) -> dict[str, str]:
        """What tells whether a window was ranked already, by these settings."""
        return {
            "events": str(extent.count),
            "oldest": iso(extent.oldest) if extent.oldest else "",
            "window_seconds": str(self.window_seconds),
            "size": str(self.size),
        }

    def _places(self, snapshot: Snapshot, kind: str, window: Window) -> Iterator[Place]:
        groups = snapshot.groups([kind], self._within(window))
        counted = ((key, accesses) for (key,), accesses in groups if key is not None)
        for rank, (key, accesses) in enumerate(most_accessed(counted, self.size), start=1):
            yield Place(kind, rank, key, accesses)

    def _joined(
        self, places: Sequence[Place], extent: Extent, computed_at: str
    ) -> tuple[list[dict[str, Any]], QueryStats]:
        """The rows of Trino, which reads the places from Redis, as documents."""
        if not places:
            return [], QueryStats()
        sql, parameters = ranges_query(SQL_PATH.read_text(), self._recent())
        with self.engine.query(sql, parameters) as answer:
            rows = [row for batch in answer.batches(self.size) for row in batch]
            columns = answer.columns
        common = {"window_seconds": self.window_seconds, "events": extent.count}
        documents = [dict(zip(columns, row, strict=True)) | common for row in rows]
        read = [(each["kind"], each["rank"], each["computed_at"]) for each in documents]
        if sorted(read) != sorted((each.kind, each.rank, computed_at) for each in places):
            raise RankingConflict(f"Redis holds another ranking than that of {computed_at}")
        return documents, answer.stats

    def _recent(self) -> Slice:
        """The last offsets of each partition that are indexed.

        They begin after the last message that Trino cannot decode: it would fail the query.
        """
        state, held = positions.read_consistent(self.log, self.store, self.flow)
        spoilt = self._unreadable(state.topic_id)
        ranges = []
        for partition, marks in sorted(state.partitions.items()):
            end = min(held.get(partition, Position(marks.low)).offset, marks.high)
            start = max(marks.low, end - self.recent_offsets, spoilt.get(partition, -1) + 1)
            if start < end:
                ranges.append(OffsetRange(partition, start, end))
        if not ranges:  # a query needs one: behind the end there is no event
            high = state.partitions[0].high
            ranges = [OffsetRange(0, high, high + 1)]
        return Slice(tuple(ranges))

    def _unreadable(self, topic_id: str) -> dict[int, int]:
        """The last offset of each partition whose message Trino could not decode."""
        equal = (("flow", self.flow.name), ("topic_id", topic_id), ("reason", "unreadable"))
        self.store.refresh(DEAD_INDEX)
        with self.store.snapshot(DEAD_INDEX) as snapshot:
            groups = snapshot.groups(["partition", "offset"], Where("@timestamp", EVER, equal))
            return {partition: offset for (partition, offset), _ in groups}

    def _write(self, documents: Sequence[Mapping[str, Any]]) -> int:
        """Put the documents of the ranking, and delete those of ranks that are gone."""
        ours = {_identity(each["kind"], each["rank"]): each for each in documents}
        self.store.refresh(INDEX)
        with self.store.snapshot(INDEX) as snapshot:
            groups = snapshot.groups(["kind", "rank"], Where("computed_at", EVER))
            gone = {_identity(kind, rank) for (kind, rank), _ in groups} - ours.keys()
        operations = [put(INDEX, key, orjson.dumps(document)) for key, document in ours.items()]
        operations += [delete(INDEX, key) for key in sorted(gone)]
        for result in send(self.store, operations):
            if result.rejected:
                raise SliceError(f"{INDEX} refuses a document: {result.error}: {result.reason}")
        self.store.refresh(INDEX)
        return len(gone)


def most_accessed(counted: Iterable[tuple[str, int]], size: int) -> list[tuple[str, int]]:
    """The `size` keys with the most accesses, of equal ones those with the greater bytes first.

    Code points of strings are in the order of their UTF-8 bytes. Memory is O(size).
    """
    highest = heapq.nlargest(size, ((accesses, key) for key, accesses in counted))
    return [(key, accesses) for accesses, key in highest]


def _identity(kind: str, rank: int) -> str:
    return f"{kind}:{rank}"


def _board(
    places: Sequence[Place], computed_at: str
) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, str]]]:
    """The sorted sets and the hashes of a ranking."""
    sorted_sets: dict[str, dict[str, int]] = {PLACES: {}, **{key: {} for key in KINDS.values()}}
    hashes = {}
    for order, place in enumerate(places):
        sorted_sets[KINDS[place.kind]][place.key] = place.accesses
        sorted_sets[PLACES][place.hash_key] = order
        hashes[place.hash_key] = {
            "kind": place.kind,
            "rank": str(place.rank),
            "key": place.key,
            "accesses": str(place.accesses),
            "computed_at": computed_at,
        }
    return sorted_sets, hashes
