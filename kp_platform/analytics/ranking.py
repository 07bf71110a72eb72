"""The ranking: the most accessed names and uris of a sliding window.

Belongs here: counting, the order, the data in Redis, the join, and the index `access.ranking`. Does
not belong here: when a ranking is computed (`orchestration/ranking.py`).

The source is the index of the access log, with one document per event, so an event counts once even
when runs are killed or retried. Each computation replaces the whole ranking: in Redis by one
transaction, in the index by one bulk request. The state of the window (`ranking:state`) is written
last, so the ranking of a killed run is computed again.

In Redis (the prefix `ranking:` is reserved for the ranking):

- `ranking:names`, `ranking:uris`: sorted sets, member -> accesses; the most accessed are
  `ZREVRANGE ranking:names 0 9 WITHSCORES`. They contain the first `size` keys, because a window may
  have millions of uris.
- `ranking:name:<rank>`, `ranking:uri:<rank>`: a hash per ranked key, `kind key rank accesses
  computed_at`. Its name has the rank, because a uri may have kilobytes.
- `ranking:entries`: a sorted set that lists the hashes, so that Trino need not scan for them.

Keys with equal accesses are ordered as by ZREVRANGE: descending bytes of the key.
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
from web_emitter import contract

INDEX = contract.RANKING_INDEX
SQL_PATH = Path(__file__).with_name("access_ranking.sql")
MAPPING = Path(__file__).with_name("access.ranking.json")
STATE = "ranking:state"
ENTRIES = "ranking:entries"
# The kind of a ranked key is its field in the access log; each kind has its sorted set.
KINDS = {"name": "ranking:names", "uri": "ranking:uris"}
# How many of the latest offsets of each partition are searched for the latest event of a key.
RECENT_OFFSETS = 2_500


class RankingConflict(Exception):
    """Another run has replaced this run's ranking in Redis; nothing is lost."""


class RankingStore(Protocol):
    """The operations on Redis that the ranking needs."""

    def replace(
        self,
        listing: str,
        sorted_sets: Mapping[str, Mapping[str, int]],
        hashes: Mapping[str, Mapping[str, str]],
    ) -> None:
        """Replace these sorted sets and hashes, and delete the hashes that the sorted set `listing`
        named before and that are not among them, in one transaction."""

    def set_hash(self, key: str, fields: Mapping[str, str]) -> None:
        """Set a hash to exactly these fields."""

    def hash(self, key: str) -> dict[str, str]:
        """The fields of a hash; none when it does not exist."""


@dataclass(frozen=True, slots=True)
class RankedKey:
    """A name or uri with its rank, which counts from 1 within its kind."""

    kind: str
    rank: int
    key: str
    accesses: int

    @property
    def hash_key(self) -> str:
        return f"ranking:{self.kind}:{self.rank}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingReport:
    """The result of one ranking. `ranked`: number of ranked keys by kind; `removed`: documents
    deleted because their rank no longer exists."""

    window: Window
    events: int
    ranked: Mapping[str, int]
    documents: Sequence[dict[str, Any]]
    removed: int
    query: QueryStats
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """The ranking of a flow's events, with the servers that it needs.

    `recent_offsets`: how many offsets of each partition are searched for the latest event of a key.
    """

    flow: Flow
    log: Log
    engine: QueryEngine
    store: DocumentStore
    ranking_store: RankingStore
    window_seconds: int
    size: int
    recent_offsets: int = RECENT_OFFSETS

    def window(self, now: datetime) -> Window:
        return Window(now - timedelta(seconds=self.window_seconds), now)

    def is_due(self, now: datetime, pause_seconds: float) -> tuple[bool, str]:
        """Whether the events of the window have changed since the latest ranking, and the pause
        after it is over; with the reason.

        Count and oldest event detect each change: the oldest event changes when one leaves the
        window; the count grows when one is added and none leaves.
        """
        state = self.ranking_store.hash(STATE)
        if state:
            age = (now - datetime.fromisoformat(state["computed_at"])).total_seconds()
            if 0 <= age < pause_seconds:
                return False, f"ranked {state['events']} events {age:.0f} s ago"
        with self.store.snapshot(self.flow.index) as snapshot:
            extent = snapshot.extent(self._within(self.window(now)))
        found = f"{extent.count} events in the last {self.window_seconds} s"
        if not state:
            return extent.count > 0, f"{found}, never ranked"
        is_ranked = self._state(extent).items() <= state.items()
        return not is_ranked, f"{found}, ranked {state['events']}"

    def compute(self, now: datetime) -> RankingReport:
        """Rank the window that ends now. Raises RankingConflict, and the errors of query and
        bulk."""
        began = time.monotonic()
        window = self.window(now)
        self.store.ensure_index(INDEX, MAPPING)
        self.store.refresh(self.flow.index)
        with self.store.snapshot(self.flow.index) as snapshot:
            extent = snapshot.extent(self._within(window))
            entries = [each for kind in KINDS for each in self._ranked(snapshot, kind, window)]
        self.ranking_store.replace(ENTRIES, *_redis_keys(entries, computed_at=iso(now)))
        documents, stats = self._joined(entries, extent, iso(now))
        removed = self._write(documents)
        self.ranking_store.set_hash(STATE, self._state(extent) | {"computed_at": iso(now)})
        return RankingReport(
            window=window,
            events=extent.count,
            ranked={kind: sum(each.kind == kind for each in entries) for kind in KINDS},
            documents=documents,
            removed=removed,
            query=stats,
            seconds=time.monotonic() - began,
        )

    def _within(self, window: Window) -> Where:
        return Where("@timestamp", window)

    def _state(self, extent: Extent) -> dict[str, str]:
        """The values that identify a ranked window and the settings of its ranking."""
        return {
            "events": str(extent.count),
            "oldest": iso(extent.oldest) if extent.oldest else "",
            "window_seconds": str(self.window_seconds),
            "size": str(self.size),
        }

    def _ranked(self, snapshot: Snapshot, kind: str, window: Window) -> Iterator[RankedKey]:
        groups = snapshot.groups([kind], self._within(window))
        counted = ((key, accesses) for (key,), accesses in groups if key is not None)
        for rank, (key, accesses) in enumerate(most_accessed(counted, self.size), start=1):
            yield RankedKey(kind, rank, key, accesses)

    def _joined(
        self, entries: Sequence[RankedKey], extent: Extent, computed_at: str
    ) -> tuple[list[dict[str, Any]], QueryStats]:
        """The documents: rows of Trino, which reads the entries from Redis."""
        if not entries:
            return [], QueryStats()
        sql, parameters = ranges_query(SQL_PATH.read_text(), self._recent())
        with self.engine.query(sql, parameters) as answer:
            rows = [row for batch in answer.batches(self.size) for row in batch]
            columns = answer.columns
        common = {"window_seconds": self.window_seconds, "events": extent.count}
        documents = [dict(zip(columns, row, strict=True)) | common for row in rows]
        read = [(each["kind"], each["rank"], each["computed_at"]) for each in documents]
        if sorted(read) != sorted((each.kind, each.rank, computed_at) for each in entries):
            raise RankingConflict(f"Redis holds another ranking than that of {computed_at}")
        return documents, answer.stats

    def _recent(self) -> Slice:
        """The last indexed offsets of each partition.

        They start after the last message that Trino cannot decode: it would fail the query.
        """
        state, current = positions.read_consistent(self.log, self.store, self.flow)
        undecodable = self._undecodable(state.topic_id)
        ranges = []
        for partition, watermarks in sorted(state.partitions.items()):
            position = current.get(partition, Position(watermarks.low))
            end = min(position.offset, watermarks.high)
            start = max(
                watermarks.low, end - self.recent_offsets, undecodable.get(partition, -1) + 1
            )
            if start < end:
                ranges.append(OffsetRange(partition, start, end))
        if not ranges:  # a query needs a range: this one is past the end and empty
            high = state.partitions[0].high
            ranges = [OffsetRange(0, high, high + 1)]
        return Slice(tuple(ranges))

    def _undecodable(self, topic_id: str) -> dict[int, int]:
        """The offset of each partition's last message that Trino could not decode."""
        equal = (("flow", self.flow.name), ("topic_id", topic_id), ("reason", "unreadable"))
        self.store.refresh(DEAD_INDEX)
        with self.store.snapshot(DEAD_INDEX) as snapshot:
            groups = snapshot.groups(["partition", "offset"], Where("@timestamp", EVER, equal))
            return {partition: offset for (partition, offset), _ in groups}

    def _write(self, documents: Sequence[Mapping[str, Any]]) -> int:
        """Put the documents of the ranking and delete those of ranks that no longer exist."""
        current = {_identity(each["kind"], each["rank"]): each for each in documents}
        self.store.refresh(INDEX)
        with self.store.snapshot(INDEX) as snapshot:
            groups = snapshot.groups(["kind", "rank"], Where("computed_at", EVER))
            removed = {_identity(kind, rank) for (kind, rank), _ in groups} - current.keys()
        operations = [put(INDEX, key, orjson.dumps(document)) for key, document in current.items()]
        operations += [delete(INDEX, key) for key in sorted(removed)]
        for result in send(self.store, operations):
            if result.rejected:
                raise SliceError(f"{INDEX} rejects a document: {result.error}: {result.reason}")
        self.store.refresh(INDEX)
        return len(removed)


def most_accessed(counted: Iterable[tuple[str, int]], size: int) -> list[tuple[str, int]]:
    """The `size` keys with the most accesses; among equals the greater bytes come first.

    Strings compare by code points, which is the order of their UTF-8 bytes. Memory is O(size).
    """
    highest = heapq.nlargest(size, ((accesses, key) for key, accesses in counted))
    return [(key, accesses) for accesses, key in highest]


def _identity(kind: str, rank: int) -> str:
    return f"{kind}:{rank}"


def _redis_keys(
    entries: Sequence[RankedKey], computed_at: str
) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, str]]]:
    """The sorted sets and the hashes of a ranking."""
    sorted_sets: dict[str, dict[str, int]] = {ENTRIES: {}, **{key: {} for key in KINDS.values()}}
    hashes = {}
    for order, each in enumerate(entries):
        sorted_sets[KINDS[each.kind]][each.key] = each.accesses
        sorted_sets[ENTRIES][each.hash_key] = order
        hashes[each.hash_key] = {
            "kind": each.kind,
            "rank": str(each.rank),
            "key": each.key,
            "accesses": str(each.accesses),
            "computed_at": computed_at,
        }
    return sorted_sets, hashes
