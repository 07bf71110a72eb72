"""The SQL of a slice: a flow's query with a branch for each range of offsets.

Belongs here: SQL as text and parameters. Does not belong here: running queries (`adapters/`), and
the choice of the keys that a join reads (`lookup_pushdown.py`).

A flow's SQL can be pasted into the Trino CLI as it is: it reads the first 100 offsets of partition
0. Here that branch is repeated for each range of the slice, its numbers bound with `?`. Trino
pushes offsets down as one range over all partitions, hence one branch for each partition.

A join does not narrow what Trino reads of MySQL and Redis: it reads everything, or the keys that a
predicate lists. So the SQL may contain `WHERE column IN (SELECT key FROM slice)`, which is replaced
by a list of the slice's keys, or by nothing.
"""

import functools
import re
from collections.abc import Sequence

from kp_platform.engine.offsets import Slice
from kp_platform.flows.model import AnyFlow

_BRANCH = re.compile(
    r"(?P<select>SELECT\b(?:(?!\bSELECT\b).)*?\bWHERE\s+)"
    r"_partition_id = 0 AND _partition_offset >= 0 AND _partition_offset < 100",
    re.DOTALL,
)
# The predicate that restricts a join, with the column of the slice that holds the keys.
_SLICE_KEYS = re.compile(r"\bIN \(SELECT (\w+) FROM slice\)")
_PREDICATE = "_partition_id = ? AND _partition_offset >= ? AND _partition_offset < ?"


def slice_query(
    flow: AnyFlow, slice_: Slice, keys: Sequence[str] | None = None
) -> tuple[str, list[object]]:
    """The flow's SQL that reads exactly `slice_`, and its parameters in order. Its joins read only
    `keys`, if given, which must be all keys of the slice."""
    return ranges_query(flow.sql, slice_, keys)


def ranges_query(
    sql: str, slice_: Slice, keys: Sequence[str] | None = None
) -> tuple[str, list[object]]:
    """SQL with a branch for each range of `slice_`, and its parameters in order."""
    before, union, after, parameters = _with_branches(sql, slice_)
    if keys is None:
        return before + union + _SLICE_KEYS.sub("IS NOT NULL", after), parameters
    # SQL has no empty list.
    listed = f"IN ({', '.join('?' * len(keys))})" if keys else "IS NULL"
    text, joins = _SLICE_KEYS.subn(listed, after)
    return before + union + text, parameters + list(keys) * joins


def keys_query(sql: str, slice_: Slice, limit: int) -> tuple[str, list[object]]:
    """A query for at most `limit` distinct keys of a slice."""
    before, union, _, parameters = _with_branches(sql, slice_)
    key = key_column(sql)
    select = f"SELECT DISTINCT {key} FROM slice WHERE {key} IS NOT NULL LIMIT {limit}"
    return f"{before}{union}\n)\n{select}", parameters


@functools.cache
def key_column(sql: str) -> str | None:
    """The column of the slice with the keys that the joins may be restricted to."""
    found = _SLICE_KEYS.search(sql)
    return found and found[1]


def _with_branches(sql: str, slice_: Slice) -> tuple[str, str, str, list[object]]:
    """The text before the branches, the branches, the text after them, and their parameters."""
    before, branch, after = _parts(sql)
    union = "\n    UNION ALL\n    ".join([branch] * len(slice_.ranges))
    parameters: list[object] = [
        number for each in slice_.ranges for number in (each.partition, each.start, each.end)
    ]
    return before, union, after, parameters


@functools.cache
def _parts(sql: str) -> tuple[str, str, str]:
    """The text before the branch of one partition, that branch with `?`, and the text after it."""
    found = _BRANCH.search(sql)
    if found is None:
        raise ValueError(f"no branch with the predicate of partition 0 in: {sql[:200]}")
    return sql[: found.start()], found["select"] + _PREDICATE, sql[found.end() :]
