"""Bisection: splitting a slice whose query fails, down to a single message if necessary.

Belongs here: when to split, and when a message is at fault. Does not belong here: loading a slice
(`loader.py`, `reference_refresh.py`).

- QueryTooLarge: split; a single message that is too large is an error, never a dead letter.
- UndecodableMessage: split; a single message is rejected as `unreadable`.
- SuspectMessage: the same, but only if another message of the slice can be read. Otherwise Trino
  itself is at fault, and the error is raised.
"""

from dataclasses import dataclass, replace
from typing import Protocol

from kp_platform.engine.documents import RejectedMessage
from kp_platform.engine.errors import QueryTooLarge, SuspectMessage, UndecodableMessage
from kp_platform.engine.offsets import Slice
from kp_platform.engine.reports import SliceReport

# A slice of a million offsets is split 20 times until the failing message is alone.
MOST_FAILURES = 40


class SliceLoader(Protocol):
    """Loads a slice by one query."""

    def load(self, slice_: Slice) -> SliceReport: ...


def load(loader: SliceLoader, slice_: Slice) -> SliceReport:
    """Load a slice, by several queries when it is too large or when a message fails its query.

    Raises what the loader raises, and SuspectMessage when no message could be read.
    """
    search = _Search()
    report: SliceReport | None = None
    waiting = [slice_]
    while waiting:
        current = waiting.pop()
        try:
            loaded = loader.load(current)
        except QueryTooLarge:
            if len(current) == 1:
                raise
            waiting += reversed(current.halves())
            continue
        except UndecodableMessage as error:
            search.record_failure(error)
            if len(current) > 1:
                waiting += reversed(current.halves())
                continue
            loaded = _unreadable(current, error)
        else:
            search.any_read |= loaded.rows > 0
        report = loaded if report is None else report.followed_by(loaded)
    if search.suspect is not None and not search.any_read:
        raise search.suspect
    assert report is not None  # a slice is never empty
    return replace(report, slices=1)


@dataclass(slots=True)
class _Search:
    """The search for messages that fail a query."""

    any_read: bool = False
    failures: int = 0
    suspect: SuspectMessage | None = None

    def record_failure(self, error: UndecodableMessage) -> None:
        """Raises the error when nothing could be read by `MOST_FAILURES` queries."""
        self.failures += 1
        if isinstance(error, SuspectMessage):
            self.suspect = error
            if not self.any_read and self.failures >= MOST_FAILURES:
                raise error


def _unreadable(slice_: Slice, error: UndecodableMessage) -> SliceReport:
    """The report of a slice of one message that fails its query."""
    [one] = slice_.ranges
    report = SliceReport(asked=slice_.ranges, rows=1, slices=1)
    message = RejectedMessage(one.partition, one.start, "", "unreadable", str(error))
    report.outcome.rejected.append(message)
    return report
