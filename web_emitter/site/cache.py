"""A cached value that all requests share.

Belongs here: expiry, and loading once for concurrent callers. Does not belong here: what is loaded.
"""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Generic, TypeVar

T = TypeVar("T")


class TTLCache(Generic[T]):
    """The result of `load`, at most `ttl_seconds` old, loaded once for all concurrent callers.

    At half of that age it is reloaded in the background while the old value is still returned, so
    that no caller waits under steady load. Errors are raised to waiting callers and not cached.
    """

    def __init__(
        self,
        load: Callable[[], Awaitable[T]],
        ttl_seconds: float,
        *,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._load = load
        self._ttl_seconds = ttl_seconds
        self._clock = clock
        self._loading: asyncio.Task[T] | None = None
        self._cached: tuple[T, float] | None = None

    async def __call__(self) -> T:
        age = self._clock() - self._cached[1] if self._cached else float("inf")
        if self._loading is None and age >= self._ttl_seconds / 2:
            self._loading = asyncio.create_task(self._reload())
            self._loading.add_done_callback(self._loaded)
        if self._cached and age < self._ttl_seconds:
            return self._cached[0]
        assert self._loading is not None
        return await asyncio.shield(self._loading)  # a cancelled caller does not affect the others

    async def _reload(self) -> T:
        value = await self._load()
        self._cached = value, self._clock()
        return value

    def _loaded(self, task: "asyncio.Task[T]") -> None:
        self._loading = None
        if not task.cancelled():
            task.exception()  # marks it as retrieved, as there may be no waiting caller
