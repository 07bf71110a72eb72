"""An answer that many ask for is found once and kept for a moment.

Belongs here: that. Does not belong here: what is asked.
"""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Generic, TypeVar

T = TypeVar("T")


class TTLCache(Generic[T]):
    """The answer of `ask`, at most `seconds` old; asked once for all who wait. Half as old, it is
    asked for anew while the old one is still given, so that under steady reading nobody waits. A
    failure is raised to each who waits for it, and not kept."""

    def __init__(self, ask: Callable[[], Awaitable[T]], seconds: float) -> None:
        self._ask = ask
        self._seconds = seconds
        self._asking: asyncio.Task[T] | None = None
        self._found: tuple[T, float] | None = None

    async def __call__(self) -> T:
        age = monotonic() - self._found[1] if self._found else float("inf")
        if self._asking is None and age >= self._seconds / 2:
            self._asking = asyncio.create_task(self._answer())
            self._asking.add_done_callback(self._asked)
        if self._found and age < self._seconds:
            return self._found[0]
        assert self._asking is not None
        return await asyncio.shield(self._asking)  # one who goes away takes nothing from the others

    async def _answer(self) -> T:
        answer = await self._ask()
        self._found = answer, monotonic()
        return answer

    def _asked(self, task: "asyncio.Task[T]") -> None:
        self._asking = None
        if not task.cancelled():
            task.exception()  # nobody may have waited for it
