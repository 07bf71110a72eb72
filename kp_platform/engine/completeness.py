"""The completeness check: every requested offset of a slice came exactly once.

Belongs here: comparing the offsets of an answer with those of the slice. Does not belong here: the
query (`sql.py`). Trino returns fewer rows without an error when retention deletes messages, so each
missing offset is looked up in the log.
"""

from collections.abc import Iterable

from kp_platform.engine.documents import Coordinates
from kp_platform.engine.errors import IncompleteAnswer
from kp_platform.engine.offsets import OffsetRange, Slice
from kp_platform.engine.ports import Log


class CompletenessCheck:
    """The offsets of a slice that have come; one byte each."""

    def __init__(self, slice_: Slice) -> None:
        self._slice = slice_
        self._seen = {each.partition: bytearray(len(each)) for each in slice_.ranges}
        self._start = {each.partition: each.start for each in slice_.ranges}

    def add(self, rows: Iterable[Coordinates]) -> None:
        """Record rows. Raises IncompleteAnswer for an offset that was not requested, or that came
        before."""
        for partition, offset, _ in rows:
            seen = self._seen.get(partition)
            at = offset - self._start.get(partition, 0)
            if seen is None or not 0 <= at < len(seen):
                raise IncompleteAnswer(
                    f"offset {partition}:{offset} was not requested in {self._slice}"
                )
            if seen[at]:
                raise IncompleteAnswer(f"offset {partition}:{offset} came twice in {self._slice}")
            seen[at] = 1

    def finish(self, log: Log, topic: str) -> int:
        """The number of offsets that hold no message, by the log.

        Raises IncompleteAnswer, with the first such offset, when a missing one holds a message.
        """
        empty = 0
        for each in self._slice.ranges:
            seen = self._seen[each.partition]
            if 0 not in seen:
                continue
            missing = [each.start + at for at, came in enumerate(seen) if not came]
            searched = OffsetRange(each.partition, missing[0], missing[-1] + 1)
            if lost := log.present(topic, searched).intersection(missing):
                raise IncompleteAnswer(
                    f"{len(lost)} of {len(each)} offsets of partition {each.partition} did not "
                    f"come, the first is {min(lost)}"
                )
            empty += len(missing)
        return empty
