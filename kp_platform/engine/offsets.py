"""Offsets of a topic, and which of them to read next.

Belongs here: half-open ranges, slices, watermarks and the plan made from them; no I/O.
Does not belong here: storing positions (`positions.py`) and processing a slice (`indexer.py`).
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace

ALL_PARTITIONS = range(sys.maxsize)
"""The assignment of a run that consumes all partitions, also those added later."""


@dataclass(frozen=True, slots=True, order=True)
class OffsetRange:
    """The offsets `[start, end)` of one partition; never empty."""

    partition: int
    start: int
    end: int

    def __post_init__(self) -> None:
        if self.partition < 0 or not 0 <= self.start < self.end:
            raise ValueError(f"not a range of offsets: {self}")

    def __len__(self) -> int:
        return self.end - self.start

    def __str__(self) -> str:
        return f"{self.partition}:[{self.start},{self.end})"


@dataclass(frozen=True, slots=True)
class Slice:
    """A micro-batch of offsets, read by one query: at most one range for each partition, in order
    of partitions."""

    ranges: tuple[OffsetRange, ...]

    def __post_init__(self) -> None:
        partitions = [each.partition for each in self.ranges]
        if not partitions or partitions != sorted(set(partitions)):
            raise ValueError(f"a slice needs ranges of distinct, sorted partitions: {partitions}")

    def __len__(self) -> int:
        return sum(len(each) for each in self.ranges)

    def __str__(self) -> str:
        return " ".join(str(each) for each in self.ranges)

    def ends(self) -> dict[int, int]:
        """The end of each partition's range."""
        return {each.partition: each.end for each in self.ranges}

    def halves(self) -> tuple["Slice", "Slice"]:
        """Two slices that together are this one: split by partitions, else by offsets.

        Raises ValueError for a single offset.
        """
        if len(self.ranges) > 1:
            middle = len(self.ranges) // 2
            return Slice(self.ranges[:middle]), Slice(self.ranges[middle:])
        [one] = self.ranges
        middle = one.start + len(one) // 2
        first = OffsetRange(one.partition, one.start, middle)
        return Slice((first,)), Slice((OffsetRange(one.partition, middle, one.end),))


@dataclass(frozen=True, slots=True)
class Watermarks:
    """The first offset a partition still holds, and the offset of its next message."""

    low: int
    high: int

    def start(self, position: int | None) -> int:
        """The next offset to read: the position if it lies within the watermarks, else, and
        without one, the low watermark."""
        if position is None or not self.low <= position <= self.high:
            return self.low
        return position


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic at one moment. `topic_id` changes when a topic is deleted and recreated."""

    topic: str
    topic_id: str
    partitions: Mapping[int, Watermarks]

    def of(self, assignment: range) -> "TopicState":
        """The same topic, restricted to the assigned partitions."""
        assigned = {
            partition: watermarks
            for partition, watermarks in self.partitions.items()
            if partition in assignment
        }
        return replace(self, partitions=assigned)

    def assignments(self, partitions_per_run: int) -> list[range]:
        """The assignment of each run, `partitions_per_run` partitions each; 0: one run for all."""
        if not partitions_per_run:
            return [ALL_PARTITIONS]
        starts = range(0, max(self.partitions, default=0) + 1, partitions_per_run)
        return [range(start, start + partitions_per_run) for start in starts]


def assignment_text(assignment: range) -> str:
    """`0-5` for the partitions from 0 to 5; empty for all."""
    return "" if assignment == ALL_PARTITIONS else f"{assignment.start}-{assignment.stop - 1}"


def parse_assignment(text: str) -> range:
    """The assignment of a text as `assignment_text` writes it. Raises ValueError."""
    if not text:
        return ALL_PARTITIONS
    first, dash, last = text.partition("-")
    if not (dash and first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
        raise ValueError(f"partitions {text!r} are not of the form FIRST-LAST, e.g. 0-5")
    return range(int(first), int(last) + 1)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do next: recover if offsets are missing, else process the slice, if any.

    `gaps` are offsets that retention deleted before they were read. `truncated` are offsets below a
    position that the log no longer has at its end; such a partition is read from its start.
    `lag` counts the offsets that can be read.
    """

    gaps: tuple[OffsetRange, ...]
    truncated: tuple[OffsetRange, ...]
    slice: Slice | None
    lag: int

    @property
    def needs_recovery(self) -> bool:
        return bool(self.gaps or self.truncated)

    @property
    def has_work(self) -> bool:
        return self.needs_recovery or self.slice is not None


def plan(state: TopicState, positions: Mapping[int, int], max_rows: int) -> Plan:
    """The next slice of at most `max_rows` events, shared fairly among partitions with a lag.

    `positions` holds the next offset to index for each partition that has one; a partition
    without one starts at its low watermark.
    """
    gaps: list[OffsetRange] = []
    truncated: list[OffsetRange] = []
    waiting: dict[int, tuple[int, int]] = {}
    for partition, watermarks in sorted(state.partitions.items()):
        position = positions.get(partition, watermarks.low)
        if position > watermarks.high:
            truncated.append(OffsetRange(partition, watermarks.high, position))
        elif position < watermarks.low:
            gaps.append(OffsetRange(partition, position, watermarks.low))
        start = watermarks.start(position)
        if start < watermarks.high:
            waiting[partition] = (start, watermarks.high)
    return Plan(
        gaps=tuple(gaps),
        truncated=tuple(truncated),
        slice=_share(waiting, max_rows),
        lag=sum(high - start for start, high in waiting.values()),
    )


def _share(waiting: Mapping[int, tuple[int, int]], max_rows: int) -> Slice | None:
    """Ranges from each start, the shortest backlog first, so that its unused share goes to the
    other partitions."""
    if not waiting:
        return None
    left = max_rows
    ranges: list[OffsetRange] = []
    shortest_first = sorted(waiting.items(), key=lambda item: item[1][1] - item[1][0])
    for index, (partition, (start, high)) in enumerate(shortest_first):
        share = min(high - start, max(1, left // (len(shortest_first) - index)))
        if left <= 0:
            break
        ranges.append(OffsetRange(partition, start, start + share))
        left -= share
    return Slice(tuple(sorted(ranges)))
