"""The one query of a slice: its text with a branch for each partition, and the check of its answer.

Belongs here: SQL as text and parameters, and `Coverage`. Does not belong here: connections.
A flow's .sql file can be pasted into the Trino CLI as it is: it reads the first 100 offsets of
partition 0. Here that branch is repeated for each range of the slice, its numbers bound with `?`.
Trino pushes offsets down as one span over all partitions, hence a branch for each partition.

No join narrows what Trino reads of MySQL and Redis: it reads all of it, or the keys that a
predicate lists. So a file may say `WHERE column IN (SELECT key FROM slice)`. Where all is little,
nothing takes the place of that; else the keys of the slice, which one more query finds (`Keys`).
"""

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kp_platform.engine.errors import IncompleteAnswer, QueryTooLarge
from kp_platform.engine.offsets import OffsetRange, Slice
from kp_platform.engine.ports import Log
from kp_platform.flows.model import Flow

Row = Sequence[Any]

_BRANCH = re.compile(
    r"(?P<select>SELECT\b(?:(?!\bSELECT\b).)*?\bWHERE\s+)"
    r"_partition_id = 0 AND _partition_offset >= 0 AND _partition_offset < 100",
    re.DOTALL,
)
# What a join may read, as the file says it: of which column of the slice the keys are.
_KEYS_ONLY = re.compile(r"\bIN \(SELECT (\w+) FROM slice\)")
# A query's text may have a million characters, and each key stands in it twice.
_MOST_KEYS, _MOST_CHARACTERS = 10_000, 400_000
# Reading a row of MySQL or a key of Redis costs Trino about as much as finding the key of an event
# (3 us of CPU); finding the keys of the smallest slice costs as much as reading so many.
_FEW_ROWS = 50_000
_TOO_MANY = 10**12
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


class LookupPushdown:
    """Which keys the joins of a flow's queries read: all, or as soon as a query has shown that this
    is more than the slice itself, only its own. `other_rows` are the rows and keys that the last
    query that read all has read; they are kept beside the positions for the next run."""

    def __init__(self) -> None:
        self.reference_rows = 0

    @contextmanager
    def query(self, engine: QueryEngine, flow: Flow, part: Slice) -> Iterator[Answer]:
        """The answer to the flow's query of a slice. Raises what a query raises."""
        listed = self._listed(engine, flow, part)
        try:
            with engine.query(*slice_query(flow, part, listed)) as answer:
                yield answer
        except QueryTooLarge:
            self.reference_rows = _TOO_MANY  # perhaps it is these that have no room
            raise
        if listed is None:
            # Trino counts a row where it is read, and again where it is sent to be joined.
            self.reference_rows = (answer.stats.processed_rows - len(part)) // 2

    def _listed(self, engine: QueryEngine, flow: Flow, part: Slice) -> list[str] | None:
        """The keys to list for a slice; None: all are read."""
        if self.reference_rows <= _FEW_ROWS + len(part) or _key(flow.query) is None:
            return None
        with engine.query(*keys_query(flow.query, part)) as answer:
            keys = [key for rows in answer.batches(_MOST_KEYS + 1) for [key] in rows]
        few = len(keys) <= _MOST_KEYS and sum(map(len, keys)) <= _MOST_CHARACTERS
        return keys if few else None


def keys_query(path: Path, part: Slice) -> tuple[str, list[object]]:
    """A query for the different keys of a slice, at most one more than can be listed."""
    before, union, _, parameters = _text(path, part)
    key = _key(path)
    select = f"SELECT DISTINCT {key} FROM slice WHERE {key} IS NOT NULL LIMIT {_MOST_KEYS + 1}"
    return f"{before}{union}\n)\n{select}", parameters


def slice_query(
    flow: Flow, part: Slice, keys: Sequence[str] | None = None
) -> tuple[str, list[object]]:
    """The flow's SQL that reads exactly `part`, and its parameters in order. Its joins read only
    `keys`, if these are given, which must be all of the slice."""
    return ranges_query(flow.query, part, keys)


def ranges_query(
    path: Path, part: Slice, keys: Sequence[str] | None = None
) -> tuple[str, list[object]]:
    """The SQL of a file with a branch for each range of `part`, and its parameters in order."""
    before, union, after, parameters = _text(path, part)
    if keys is None:
        return before + union + _KEYS_ONLY.sub("IS NOT NULL", after), parameters
    # Of no key at all there is no list.
    listed = f"IN ({', '.join('?' * len(keys))})" if keys else "IS NULL"
    text, joins = _KEYS_ONLY.subn(listed, after)
    return before + union + text, parameters + list(keys) * joins


def _text(path: Path, part: Slice) -> tuple[str, str, str, list[object]]:
    """The text before the branches, the branches, the text after them, and their parameters."""
    before, branch, after = _parts(path)
    union = "\n    UNION ALL\n    ".join([branch] * len(part.ranges))
    parameters: list[object] = [
        number for each in part.ranges for number in (each.partition, each.start, each.end)
    ]
    return before, union, after, parameters


@functools.cache
def _key(path: Path) -> str | None:
    """The column of the slice whose values a file's joins may be restricted to."""
    found = _KEYS_ONLY.search(path.read_text())
    return found and found[1]


@functools.cache
def _parts(path: Path) -> tuple[str, str, str]:
    """The text before the branch of one partition, that branch with `?`, and the text after it."""
    text = path.read_text()
    found = _BRANCH.search(text)
    if found is None:
        raise ValueError(f"{path}: no branch that ends in the predicate of partition 0")
    return text[: found.start()], found["select"] + _PREDICATE, text[found.end() :]


class CompletenessCheck:
    """Ticks off the offsets of a slice as their rows come; a byte for each offset."""

    def __init__(self, part: Slice) -> None:
        self._slice = part
        self._seen = {each.partition: bytearray(len(each)) for each in part.ranges}
        self._start = {each.partition: each.start for each in part.ranges}

    def tick(self, places: Iterable[tuple[int, int, str]]) -> None:
        """`places` are partition, offset and timestamp of rows. Raises ShortAnswer for an offset
        that the slice has not, or that came before."""
        for partition, offset, _ in places:
            seen = self._seen.get(partition)
            place = offset - self._start.get(partition, 0)
            if seen is None or not 0 <= place < len(seen):
                raise IncompleteAnswer(
                    f"offset {partition}:{offset} was not asked for in {self._slice}"
                )
            if seen[place]:
                raise IncompleteAnswer(f"offset {partition}:{offset} came twice in {self._slice}")
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
                raise IncompleteAnswer(
                    f"{len(lost)} of {len(part)} offsets of partition {part.partition} did not "
                    f"come, the first is {min(lost)}"
                )
            empty += len(missing)
        return empty
