"""Offsets of a topic, and which of them to read next.

Belongs here: half-open ranges, slices, watermarks and the plan made from them; no I/O.
Does not belong here: where positions are kept (`positions.py`) and who reads a slice (`drain.py`).
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace

ALL_PARTITIONS = range(sys.maxsize)
"""The assignment of a run that takes those partitions too that are added later."""


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
    """What one query reads: at most one range for each partition, in order of partitions."""

    ranges: tuple[OffsetRange, ...]

    def __post_init__(self) -> None:
        partitions = [part.partition for part in self.ranges]
        if not partitions or partitions != sorted(set(partitions)):
            raise ValueError(f"a slice needs ranges of distinct, sorted partitions: {partitions}")

    def __len__(self) -> int:
        return sum(len(part) for part in self.ranges)

    def __str__(self) -> str:
        return " ".join(str(part) for part in self.ranges)

    def halves(self) -> tuple["Slice", "Slice"]:
        """Two slices that are this one together: by partitions, else by offsets.

        Raises ValueError for a single offset.
        """
        if len(self.ranges) > 1:
            middle = len(self.ranges) // 2
            return Slice(self.ranges[:middle]), Slice(self.ranges[middle:])
        [part] = self.ranges
        at = part.start + len(part) // 2
        first = OffsetRange(part.partition, part.start, at)
        return Slice((first,)), Slice((OffsetRange(part.partition, at, part.end),))


@dataclass(frozen=True, slots=True)
class Watermarks:
    """The first offset a partition still holds, and the one its next message will get."""

    low: int
    high: int

    def start(self, position: int | None) -> int:
        """Where to read on: at the position, if the log holds it or will hold it next, else, and
        without one, at the low watermark."""
        if position is None or not self.low <= position <= self.high:
            return self.low
        return position


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic at one moment. `topic_id` changes when a topic is deleted and made again."""

    topic: str
    topic_id: str
    partitions: Mapping[int, Watermarks]

    def of(self, assignment: range) -> "TopicState":
        """The same, of the assigned partitions alone."""
        marks = {part: at for part, at in self.partitions.items() if part in assignment}
        return replace(self, partitions=marks)

    def assignments(self, partitions_per_run: int) -> list[range]:
        """The partitions that each run takes, so many at once; 0: one run takes all of them."""
        if not partitions_per_run:
            return [ALL_PARTITIONS]
        starts = range(0, max(self.partitions, default=0) + 1, partitions_per_run)
        return [range(start, start + partitions_per_run) for start in starts]


def assignment_text(assignment: range) -> str:
    """`0-5` for the partitions from 0 to 5; empty for all."""
    return "" if assignment == ALL_PARTITIONS else f"{assignment.start}-{assignment.stop - 1}"


def parse_assignment(text: str) -> range:
    """The partitions of a text as `assignment_text` writes it. Raises ValueError."""
    if not text:
        return ALL_PARTITIONS
    first, dash, last = text.partition("-")
    if not (dash and first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
        raise ValueError(f"partitions {text!r} are not of the form FIRST-LAST, e.g. 0-5")
    return range(int(first), int(last) + 1)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do next: pass over what is lost, else read the slice, if any.

    `gaps` are offsets that retention deleted before they were read. `truncated` are offsets below a
    position that the log has no more at its end; such a partition is read from its start again.
    `lag` counts the offsets that can be read.
    """

    gaps: tuple[OffsetRange, ...]
    truncated: tuple[OffsetRange, ...]
    slice: Slice | None
    lag: int

    @property
    def losses(self) -> bool:
        return bool(self.gaps or self.truncated)

    @property
    def work(self) -> bool:
        return self.losses or self.slice is not None


def plan(state: TopicState, positions: Mapping[int, int], max_rows: int) -> Plan:
    """The next slice of at most `max_rows` events, shared fairly among partitions with a lag.

    `positions` holds the next offset to index for each partition that has one; a partition
    without one starts at its low watermark.
    """
    gaps: list[OffsetRange] = []
    truncated: list[OffsetRange] = []
    waiting: dict[int, tuple[int, int]] = {}
    for partition, marks in sorted(state.partitions.items()):
        position = positions.get(partition, marks.low)
        if position > marks.high:
            truncated.append(OffsetRange(partition, marks.high, position))
        elif position < marks.low:
            gaps.append(OffsetRange(partition, position, marks.low))
        start = marks.start(position)
        if start < marks.high:
            waiting[partition] = (start, marks.high)
    return Plan(
        gaps=tuple(gaps),
        truncated=tuple(truncated),
        slice=_share(waiting, max_rows),
        lag=sum(high - start for start, high in waiting.values()),
    )


def _share(waiting: Mapping[int, tuple[int, int]], max_rows: int) -> Slice | None:
    """Ranges from each start, the shortest backlog first, so that what it leaves goes to others."""
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
