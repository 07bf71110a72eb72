"""The range of a replay: the offsets of a time window, or those given.

Belongs here: finding the offsets, what the topic has lost of them, and parsing a range. Does not
belong here: what becomes of each event (`replay.py`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Any

from kp_platform.engine import index_registry, positions
from kp_platform.engine.counting import Where, Window
from kp_platform.engine.indexer import Indexer
from kp_platform.engine.offsets import OffsetRange, Slice, TopicState
from kp_platform.engine.ports import Reach
from kp_platform.flows.model import Flow

DAY = timedelta(days=1)
MILLISECOND = timedelta(milliseconds=1)
_RANGE = re.compile(r"(\d+):\[(\d+),(\d+)\)")


class InvalidReplay(Exception):
    """The requested range cannot be replayed; the message contains the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayRange:
    """What a replay of `flow` reads: `ranges` of the topic, and of these only events in the window,
    if any.

    `documents` is the number of documents in the window. `lost` is what the topic no longer holds,
    by partition: documents of a window, or else offsets.
    """

    flow: Flow
    state: TopicState
    ranges: tuple[OffsetRange, ...]
    window: Window | None
    documents: int
    lost: Mapping[int, int]

    def __len__(self) -> int:
        return sum(len(each) for each in self.ranges)

    def __str__(self) -> str:
        ranges = " ".join(str(each) for each in self.ranges) or "none"
        window = f"{self.window}, {self.documents} documents: " if self.window else ""
        return f"{window}{len(self)} offsets of {self.state.topic} to read: {ranges}"

    def as_json(self) -> dict[str, Any]:
        """The range for scripts."""
        return {
            "topic": self.state.topic,
            "window": str(self.window) if self.window else None,
            "offsets": " ".join(str(each) for each in self.ranges),
            "messages": len(self),
            "documents": self.documents,
            "lost": {str(partition): count for partition, count in sorted(self.lost.items())},
        }

    def describe_lost(self) -> str:
        """What the topic no longer holds, as a sentence; empty: nothing."""
        if not self.lost:
            return ""
        what = "documents stay as they are" if self.window else "offsets cannot be read"
        low = " ".join(f"{each}:{self.state.partitions[each].low}" for each in sorted(self.lost))
        total = sum(self.lost.values())
        return f"{total} {what}: retention has deleted messages of {self.state.topic} below {low}"

    def whole_days(self) -> list[str]:
        """The indices of the window's days. Raises InvalidReplay unless the days are whole."""
        if self.window is None:
            raise InvalidReplay("new indices need whole days: give a time, not offsets")
        if any(each.time() != time.min for each in (self.window.start, self.window.end)):
            raise InvalidReplay(f"new indices need whole days (UTC), not {self.window}")
        return days_of(self.flow, self.window)


def range_of_time(indexer: Indexer, window: Window) -> ReplayRange:
    """The indexed offsets at which events of a window may lie. Raises InvalidReplay.

    From the first message of that time to the last, by the topic's own index and by the documents:
    a timestamp is set by the producer, so timestamps and offsets may differ in order. Where the
    index of a day is missing, the last message of the day is unknown.
    """
    flow, store, log = _document_flow(indexer), indexer.servers.store, indexer.servers.log
    indexer.prepare()
    names = days_of(flow, window)
    if deleted := sorted(set(names).intersection(index_registry.missing(store, flow))):
        raise InvalidReplay(
            f"{', '.join(deleted)} was deleted: the next run reads its events again, see `kp lag`"
        )
    complete = store.index_ids(flow.index).keys() >= set(names)
    state, stored = indexer.read_positions()
    ends = positions.offsets(stored)
    low = {partition: state.partitions[partition].low for partition in stored}
    store.refresh(flow.index)
    with store.snapshot(flow.index) as snapshot:
        where = Where("@timestamp", window)
        indexed, below_end = snapshot.reach(where, low), snapshot.reach(where, ends)
    first = log.offsets_at(flow.topic, window.start)
    after = log.offsets_at(flow.topic, window.end)
    ranges = []
    for partition, end in sorted(ends.items()):
        start, stop = _hull(first[partition], after[partition], indexed.get(partition))
        if not complete and after[partition] > low[partition]:
            stop = end
        start, stop = max(start, low[partition]), min(stop, end)
        if start < stop:
            ranges.append(OffsetRange(partition, start, stop))
    return ReplayRange(
        flow=flow,
        state=state,
        ranges=tuple(ranges),
        window=window,
        documents=sum(each.below for each in below_end.values()),
        lost={partition: each.below for partition, each in indexed.items() if each.below},
    )


def _hull(first: int, after: int, documents: Reach | None) -> tuple[int, int]:
    """Start and end of the offsets of a window: by the topic's index, and by the documents."""
    if documents is None:
        return first, after
    return min(first, documents.first), max(after, documents.last + 1)


def days_of(flow: Flow, window: Window) -> list[str]:
    """The indices of the days that overlap the window."""
    first = window.start.date()
    days = (window.end - MILLISECOND).date() - first
    return [flow.daily_index(f"{first + timedelta(number)}") for number in range(days.days + 1)]


def range_of_offsets(indexer: Indexer, requested: Slice) -> ReplayRange:
    """These offsets, as far as the topic holds them. Raises InvalidReplay for offsets that are not
    indexed yet."""
    flow = _document_flow(indexer)
    indexer.prepare()
    state, stored = indexer.read_positions()
    ranges, lost = [], {}
    for each in requested.ranges:
        position = stored[each.partition].offset if each.partition in stored else 0
        if each.end > position:
            raise InvalidReplay(f"{state.topic} {each} is indexed only up to {position}")
        low = state.partitions[each.partition].low
        if each.start < low:
            lost[each.partition] = min(each.end, low) - each.start
        if low < each.end:
            ranges.append(OffsetRange(each.partition, max(each.start, low), each.end))
    return ReplayRange(
        flow=flow, state=state, ranges=tuple(ranges), window=None, documents=0, lost=lost
    )


def parse_window(start: str, end: str = "") -> Window:
    """A window from texts in ISO 8601, in UTC unless they have an offset. The default end is the
    end of the current day. Raises InvalidReplay."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    try:
        return Window(_moment(start), _moment(end) if end else today + DAY)
    except ValueError as error:
        raise InvalidReplay(f"not a time: {error}") from None


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def parse_offsets(text: str) -> Slice:
    """Offsets in the form of Dagster's tag `kp/offsets`: `0:[120,131) 3:[7,9)`.

    Raises InvalidReplay.
    """
    found = [_RANGE.fullmatch(word) for word in text.split()]
    try:
        ranges = [OffsetRange(*map(int, each.groups())) for each in found if each]
        if len(ranges) == len(found):
            return Slice(tuple(sorted(ranges)))
    except ValueError:
        pass
    raise InvalidReplay(f"{text!r} is not of the form 0:[120,131) 3:[7,9)")


def _document_flow(indexer: Indexer) -> Flow:
    if not isinstance(indexer.flow, Flow):
        raise InvalidReplay(f"flow {indexer.flow.name} has no documents of its own")
    return indexer.flow
