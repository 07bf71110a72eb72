"""Conditions on documents, and the results of counting them.

Belongs here: windows of time, conditions and results. Does not belong here: the store that counts
(`ports.py`) and what its counts mean (`kp_platform/analytics/`).
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

HOUR = timedelta(hours=1)

# The value of each requested field (None: the document has none), and the number of documents.
Group = tuple[tuple[Any, ...], int]


def iso(moment: datetime) -> str:
    """ISO 8601 in UTC with milliseconds, as in all stored documents: `2026-01-31T12:00:00.000Z`."""
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


# All documents: no timestamp lies in another century (`documents.py`).
EVER = Window(datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))


@dataclass(frozen=True, slots=True)
class Where:
    """Documents whose `field` lies in the window, whose keywords equal the values in `equal`, and
    that have no value in the fields of `absent`.

    `field` is a date, or a keyword that holds times as `iso` writes them.
    """

    field: str
    window: Window
    equal: tuple[tuple[str, str], ...] = ()
    absent: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Extent:
    """The number of documents, and the time of the oldest."""

    count: int
    oldest: datetime | None
