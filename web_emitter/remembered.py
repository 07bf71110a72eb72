"""An answer that many ask for is found once and kept for a moment.

Belongs here: that. Does not belong here: what is asked.
"""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Generic, TypeVar

T = TypeVar("T")


class Remembered(Generic[T]):
    """The answer of `ask`, at most `seconds` old; one asker at a time. A failure is raised to each
    who waits for it, and not kept."""

    def __init__(self, ask: Callable[[], Awaitable[T]], seconds: float) -> None:
        self._ask = ask
        self._seconds = seconds
        self._lock = asyncio.Lock()
        self._fresh_until = float("-inf")
        self._answer: T

    async def __call__(self) -> T:
        async with self._lock:
            if monotonic() >= self._fresh_until:
                self._answer = await self._ask()
                self._fresh_until = monotonic() + self._seconds
            return self._answer
