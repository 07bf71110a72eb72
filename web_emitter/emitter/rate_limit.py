"""A log line that could come thousands of times a second, said once per interval.

Belongs here: holding back repeated lines and saying how many were. Does not belong here: counting
for people and machines, which whoever logs does itself.
"""

import logging
import time
from collections.abc import Callable


class RateLimitedLogger:
    """One kind of line of one logger. Two threads may both speak at the turn of an interval."""

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
        self._silent_until = float("-inf")
        self._held_back = 0

    def warning(self, message: str, *values: object) -> None:
        self.log(logging.WARNING, message, *values)

    def log(self, level: int, message: str, *values: object) -> None:
        now = self._clock()
        if now < self._silent_until:
            self._held_back += 1
            return
        held_back, self._held_back = self._held_back, 0
        self._silent_until = now + self._interval_seconds
        self._logger.log(level, message + " (%d like it held back)", *values, held_back)
