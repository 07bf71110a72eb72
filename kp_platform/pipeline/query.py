"""The one query of a slice: its text with a branch for each partition, and the check of its answer.

Belongs here: SQL as text and parameters, and `Coverage`. Does not belong here: connections.
A flow's .sql file can be pasted into the Trino CLI as it is: it reads the first 100 offsets of
partition 0. Here that branch is repeated for each range of the slice, its numbers bound with `?`.
Trino pushes offsets down as one span over all partitions, hence a branch for each partition.
"""

import functools
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kp_platform.flows import Flow
from kp_platform.pipeline.documents import Row
from kp_platform.pipeline.errors import ShortAnswer
from kp_platform.pipeline.log import Log
from kp_platform.pipeline.offsets import OffsetRange, Slice

_BRANCH = re.compile(
    r"(?P<select>SELECT\b(?:(?!\bSELECT\b).)*?\bWHERE\s+)"
    r"_partition_id = 0 AND _partition_offset >= 0 AND _partition_offset < 100",
    re.DOTALL,
)
_PREDICATE = "_partition_id = ? AND _partition_offset >= ? AND _partition_offset < ?"


@dataclass(slots=True)
class QueryStats:
    """What the engine tells of a query; complete once its rows were read."""

    query_id: str = ""
    info_url: str = ""
    processed_rows: int = 0


class Answer(Protocol):
    """A running query: its column names, then its rows in batches, then its statistics."""

    columns: Sequence[str]
    stats: QueryStats

    def batches(self, rows: int) -> Iterator[Sequence[Row]]: ...


class QueryEngine(Protocol):
    """Trino, as far as the pipeline knows it."""

    def query(self, sql: str, parameters: Sequence[object]) -> AbstractContextManager[Answer]: ...


def slice_query(flow: Flow, part: Slice) -> tuple[str, list[int]]:
    """The flow's SQL that reads exactly `part`, and its parameters in order."""
    return ranges_query(flow.sql_path, part)


def ranges_query(path: Path, part: Slice) -> tuple[str, list[int]]:
    """The SQL of a file with a branch for each range of `part`, and its parameters in order."""
    before, branch, after = _parts(path)
    union = "\n    UNION ALL\n    ".join([branch] * len(part.ranges))
    parameters = [n for each in part.ranges for n in (each.partition, each.start, each.end)]
    return before + union + after, parameters


@functools.cache
def _parts(path: Path) -> tuple[str, str, str]:
    """The text before the branch of one partition, that branch with `?`, and the text after it."""
    text = path.read_text()
    found = _BRANCH.search(text)
    if found is None:
        raise ValueError(f"{path}: no branch that ends in the predicate of partition 0")
    return text[: found.start()], found["select"] + _PREDICATE, text[found.end() :]


class Coverage:
    """Ticks off the offsets of a slice as their rows come; a byte for each offset."""

    def __init__(self, part: Slice) -> None:
        self._slice = part
        self._seen = {each.partition: bytearray(len(each)) for each in part.ranges}
        self._start = {each.partition: each.start for each in part.ranges}

    def tick(self, partition: int, offset: int) -> None:
        """Raises ShortAnswer for an offset that the slice has not, or that came before."""
        seen = self._seen.get(partition)
        place = offset - self._start.get(partition, 0)
        if seen is None or not 0 <= place < len(seen):
            raise ShortAnswer(f"offset {partition}:{offset} was not asked for in {self._slice}")
        if seen[place]:
            raise ShortAnswer(f"offset {partition}:{offset} came twice in {self._slice}")
        seen[place] = 1

    def check(self, log: Log, topic: str) -> int:
        """How many offsets hold no message, having asked the log about each that did not come.

        Raises ShortAnswer, with the first such offset, when one of them does hold a message.
        """
        empty = 0
        for part in self._slice.ranges:
            seen = self._seen[part.partition]
            if 0 not in seen:
                continue
            missing = [part.start + at for at, came in enumerate(seen) if not came]
            span = OffsetRange(part.partition, missing[0], missing[-1] + 1)
            if lost := log.present(topic, span).intersection(missing):
                raise ShortAnswer(
                    f"{len(lost)} of {len(part)} offsets of partition {part.partition} did not "
                    f"come, the first is {min(lost)}"
                )
            empty += len(missing)
        return empty
