"""A log message that may occur thousands of times a second, written once per interval.

Belongs here: suppressing repeated messages and logging their number. Does not belong here: metrics,
which the callers count.
"""

import logging
import time
from collections.abc import Callable


class RateLimitedLogger:
    """Writes one kind of message to a logger, at most once per interval. At the end of an interval
    two threads may both write."""

    def __init__(
        self,
        logger: logging.Logger,
        *,
        interval_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger = logger
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._next_at = float("-inf")
        self._suppressed = 0

    def warning(self, message: str, *values: object) -> None:
        self.log(logging.WARNING, message, *values)

    def log(self, level: int, message: str, *values: object) -> None:
        now = self._clock()
        if now < self._next_at:
            self._suppressed += 1
            return
        suppressed, self._suppressed = self._suppressed, 0
        self._next_at = now + self._interval_seconds
        self._logger.log(level, message + " (%d similar messages suppressed)", *values, suppressed)
