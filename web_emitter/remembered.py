"""An answer that many ask for is found once and kept for a moment.

Belongs here: that. Does not belong here: what is asked.
"""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Generic, TypeVar

T = TypeVar("T")


class Remembered(Generic[T]):
    """The answer of `ask`, at most `seconds` old; asked once for all who wait. A failure is raised
    to each of these, and not kept."""

    def __init__(self, ask: Callable[[], Awaitable[T]], seconds: float) -> None:
        self._ask = ask
        self._seconds = seconds
        self._asking: asyncio.Task[T] | None = None
        self._fresh_until = float("-inf")

    async def __call__(self) -> T:
        if self._asking is None or (self._asking.done() and monotonic() >= self._fresh_until):
            self._fresh_until = float("-inf")
            self._asking = asyncio.create_task(self._answer())
        return await asyncio.shield(self._asking)  # one who goes away takes nothing from the others

    async def _answer(self) -> T:
        answer = await self._ask()
        self._fresh_until = monotonic() + self._seconds
        return answer
