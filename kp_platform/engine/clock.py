"""Time: the current moment as text, and a clock that tests replace.

Belongs here: reading the clock and waiting. Does not belong here: windows of time (`counting.py`).
"""

import time
from datetime import UTC, datetime
from typing import Protocol

from kp_platform.engine.counting import iso


class Clock(Protocol):
    """Measures durations and waits."""

    def monotonic(self) -> float:
        """Seconds since any fixed moment."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


class SystemClock:
    """The clock of the machine."""

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


SYSTEM_CLOCK = SystemClock()


def utc_now() -> str:
    """The current time in ISO 8601, UTC, with milliseconds, e.g. `2026-01-31T12:00:00.000Z`."""
    return iso(datetime.now(UTC))
