"""Lookup pushdown: keys listed in the joins instead of a full read of the reference data.

Belongs here: when to list keys, and reading them. Does not belong here: the SQL (`sql.py`).
"""

from collections.abc import Iterator
from contextlib import contextmanager

from kp_platform.engine.errors import QueryTooLarge
from kp_platform.engine.offsets import Slice
from kp_platform.engine.ports import Answer, QueryEngine
from kp_platform.engine.sql import key_column, keys_query, slice_query
from kp_platform.flows.model import AnyFlow

# A query's text may have a million characters, and each key occurs in it twice.
_MOST_KEYS, _MOST_CHARACTERS = 10_000, 400_000
# Reading a row of MySQL or a key of Redis costs Trino about as much as reading the key of an event
# (3 us of CPU); the query for the keys of the smallest slice costs as much as this many rows.
_FEW_ROWS = 50_000
_TOO_MANY = 10**12


class LookupPushdown:
    """Which keys the joins of a flow's queries read: all, or only those of the slice as soon as a
    query has shown that reference data have more rows than the slice.

    `reference_rows` is the number of rows and keys that the last full read has read. It is stored
    with the positions for the next run.
    """

    def __init__(self) -> None:
        self.reference_rows = 0

    @contextmanager
    def query(self, engine: QueryEngine, flow: AnyFlow, slice_: Slice) -> Iterator[Answer]:
        """The answer to the flow's query of a slice. Raises what a query raises."""
        keys = self._keys(engine, flow, slice_)
        try:
            with engine.query(*slice_query(flow, slice_, keys)) as answer:
                yield answer
        except QueryTooLarge:
            self.reference_rows = _TOO_MANY  # the reference data may be what exceeds the memory
            raise
        if keys is None:
            # Trino counts a row where it is read, and again where it is sent to be joined.
            self.reference_rows = (answer.stats.processed_rows - len(slice_)) // 2

    def _keys(self, engine: QueryEngine, flow: AnyFlow, slice_: Slice) -> list[str] | None:
        """The keys to list for a slice; None: full read."""
        if self.reference_rows <= _FEW_ROWS + len(slice_) or key_column(flow.sql) is None:
            return None
        with engine.query(*keys_query(flow.sql, slice_, _MOST_KEYS + 1)) as answer:
            keys = [key for rows in answer.batches(_MOST_KEYS + 1) for [key] in rows]
        few = len(keys) <= _MOST_KEYS and sum(map(len, keys)) <= _MOST_CHARACTERS
        return keys if few else None
