"""The words in which a store is asked to count documents.

Belongs here: spans of time, conditions and answers. Does not belong here: the store (`store.py`)
and what its counts mean (`ranking.py`, `kpi.py`).
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

HOUR = timedelta(hours=1)

# The value of each field that was asked for (None: the document has none), and how many documents.
Group = tuple[tuple[Any, ...], int]


def iso(moment: datetime) -> str:
    """ISO 8601 in UTC with milliseconds, as in all our documents: `2026-01-31T12:00:00.000Z`."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """The time `[start, end)`, in UTC."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        if self.start.utcoffset() != timedelta() or self.end.utcoffset() != timedelta():
            raise ValueError(f"not in UTC: {self}")
        if not self.start < self.end:
            raise ValueError(f"not a window: {self}")

    def __str__(self) -> str:
        return f"[{iso(self.start)},{iso(self.end)})"


# No document has a time of another century (`documents.py`).
EVER = Window(datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))


@dataclass(frozen=True, slots=True)
class Where:
    """Documents whose `field` lies in the window, whose keywords have the values given, and that
    have no value of the fields in `absent`.

    `field` is a date, or a keyword that holds times as `iso` writes them.
    """

    field: str
    window: Window
    equal: tuple[tuple[str, str], ...] = ()
    absent: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Extent:
    """How many documents there are, and the time of the oldest."""

    count: int
    oldest: datetime | None
