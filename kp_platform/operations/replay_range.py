"""What a replay reads: the offsets of a time, or those that were asked for.

Belongs here: finding them, what the topic has lost of them, and the words in which people ask. Does
not belong here: what becomes of each event (`replay.py`).
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
from kp_platform.flows.model import Flow

DAY = timedelta(days=1)
MILLISECOND = timedelta(milliseconds=1)
_RANGE = re.compile(r"(\d+):\[(\d+),(\d+)\)")


class InvalidReplay(Exception):
    """What was asked for cannot be replayed; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayRange:
    """What a replay reads: `ranges` of the topic, and of these only events in the window, if any.

    `documents` are those of the index that lie in it. `lost` is what the topic does not hold any
    more, by partition: documents of a window, or else offsets.
    """

    state: TopicState
    ranges: tuple[OffsetRange, ...]
    window: Window | None
    documents: int
    lost: Mapping[int, int]

    def __len__(self) -> int:
        return sum(len(part) for part in self.ranges)

    def __str__(self) -> str:
        ranges = " ".join(str(part) for part in self.ranges) or "none"
        asked = f"{self.window}, {self.documents} documents: " if self.window else ""
        return f"{asked}{len(self)} offsets of {self.state.topic} to read: {ranges}"

    def as_json(self) -> dict[str, Any]:
        """The same, for a script."""
        return {
            "topic": self.state.topic,
            "window": str(self.window) if self.window else None,
            "offsets": " ".join(str(part) for part in self.ranges),
            "messages": len(self),
            "documents": self.documents,
            "lost": {str(part): count for part, count in sorted(self.lost.items())},
        }

    def describe_lost(self) -> str:
        """What the topic does not hold any more, in words; empty: nothing."""
        if not self.lost:
            return ""
        what = "documents stay as they are" if self.window else "offsets cannot be read"
        low = " ".join(f"{p}:{self.state.partitions[p].low}" for p in sorted(self.lost))
        total = sum(self.lost.values())
        return f"{total} {what}: retention has deleted messages of {self.state.topic} below {low}"

    def whole_days(self, flow: Flow) -> list[str]:
        """The indices of the window's days. Raises NoSuchReplay unless these are whole."""
        if self.window is None:
            raise InvalidReplay("new indices need whole days: name a time, not offsets")
        if any(each.time() != time.min for each in (self.window.start, self.window.end)):
            raise InvalidReplay(f"new indices need whole days (UTC), not {self.window}")
        return days_of(flow, self.window)


def range_of_time(indexer: Indexer, window: Window) -> ReplayRange:
    """The offsets at which events of a window may lie, as far as they are indexed.

    From the first message of that time to the last, by the topic's own index and by the documents:
    a timestamp is its sender's, so that times and offsets need not be in the same order. Where the
    index of a day is gone, nothing tells which is the last. Raises NoSuchReplay.
    """
    _check_flow(indexer)
    indexer.prepare()
    names = days_of(indexer.flow, window)
    if deleted := set(names).intersection(index_registry.missing(indexer.store, indexer.flow)):
        said = f"{', '.join(sorted(deleted))} was deleted"
        raise InvalidReplay(f"{said}: the next run reads it again by itself, see `kp lag`")
    all_there = indexer.store.index_ids(indexer.flow.index).keys() >= set(names)
    state, held = indexer.look()
    low = {part: state.partitions[part].low for part in held}
    ends = positions.offsets(held)
    indexer.store.refresh(indexer.flow.index)
    with indexer.store.snapshot(indexer.flow.index) as snapshot:
        where = Where("@timestamp", window)
        indexed, known = snapshot.reach(where, low), snapshot.reach(where, ends)
    first, after = (
        indexer.log.offsets_at(indexer.flow.topic, moment) for moment in (window.start, window.end)
    )
    ranges = []
    for part, end in sorted(ends.items()):
        have = indexed.get(part)
        start = min(first[part], have.first) if have else first[part]
        stop = max(after[part], have.last + 1) if have else after[part]
        if not all_there and after[part] > low[part]:
            stop = end
        start, stop = max(start, low[part]), min(stop, end)
        if start < stop:
            ranges.append(OffsetRange(part, start, stop))
    return ReplayRange(
        state=state,
        ranges=tuple(ranges),
        window=window,
        documents=sum(each.below for each in known.values()),
        lost={part: each.below for part, each in indexed.items() if each.below},
    )


def days_of(flow: Flow, window: Window) -> list[str]:
    """The indices of the days that the window touches."""
    first = window.start.date()
    days = (window.end - MILLISECOND).date() - first
    return [flow.daily_index(f"{first + timedelta(number)}") for number in range(days.days + 1)]


def range_of_offsets(indexer: Indexer, asked: Slice) -> ReplayRange:
    """These offsets, as far as the topic holds them. Raises NoSuchReplay for those that are not
    indexed yet."""
    _check_flow(indexer)
    indexer.prepare()
    state, held = indexer.look()
    ranges, lost = [], {}
    for part in asked.ranges:
        position = held[part.partition].offset if part.partition in held else 0
        if part.end > position:
            raise InvalidReplay(f"{state.topic} {part} is indexed only up to {position}")
        low = state.partitions[part.partition].low
        if part.start < low:
            lost[part.partition] = min(part.end, low) - part.start
        if low < part.end:
            ranges.append(OffsetRange(part.partition, max(part.start, low), part.end))
    return ReplayRange(state=state, ranges=tuple(ranges), window=None, documents=0, lost=lost)


def parse_window(start: str, end: str = "") -> Window:
    """A time from texts in ISO 8601, in UTC unless they say otherwise; without an end until the end
    of today. Raises NoSuchReplay."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    try:
        return Window(_moment(start), _moment(end) if end else today + DAY)
    except ValueError as error:
        raise InvalidReplay(f"not a time: {error}") from None


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def parse_offsets(text: str) -> Slice:
    """Offsets as Dagster's tag `kp/offsets` has them: `0:[120,131) 3:[7,9)`.

    Raises NoSuchReplay.
    """
    found = [_RANGE.fullmatch(word) for word in text.split()]
    try:
        ranges = [OffsetRange(*map(int, each.groups())) for each in found if each]
        if len(ranges) == len(found):
            return Slice(tuple(sorted(ranges)))
    except ValueError:
        pass
    raise InvalidReplay(f"{text!r} is not of the form 0:[120,131) 3:[7,9)")


def _check_flow(indexer: Indexer) -> None:
    if indexer.flow.rewrites is not None:
        raise InvalidReplay(f"flow {indexer.flow.name} has no documents of its own")
