"""A cached value is loaded once for all callers, and again when it expires."""

import anyio
import pytest

from web_emitter.site.cache import TTLCache


class Source:
    """Counts how often it is loaded; waits for `may_answer` and raises `failure` if set."""

    def __init__(self) -> None:
        self.loads = 0
        self.failure: Exception | None = None
        self.may_answer = anyio.Event()

    async def __call__(self) -> int:
        self.loads += 1
        await self.may_answer.wait()
        if self.failure:
            raise self.failure
        return self.loads


def test_concurrent_callers_share_one_value_or_one_error() -> None:
    async def load_concurrently() -> None:
        source = Source()
        cache = TTLCache(source, 60)
        source.failure = RuntimeError("down")
        failures: list[str] = []

        async def one() -> None:
            with pytest.raises(RuntimeError, match="down") as error:
                await cache()
            failures.append(str(error.value))

        async with anyio.create_task_group() as callers:
            for _ in range(5):
                callers.start_soon(one)
            await anyio.sleep(0)
            source.may_answer.set()
        assert (source.loads, len(failures)) == (1, 5)
        source.failure = None  # an error is not cached
        assert [await cache() for _ in range(3)] == [2, 2, 2]

    anyio.run(load_concurrently)


def test_a_cancelled_caller_does_not_affect_another_one() -> None:
    async def cancel() -> None:
        source = Source()
        cache = TTLCache(source, 60)
        with anyio.move_on_after(0.01):
            await cache()
        source.may_answer.set()
        assert await cache() == 1

    anyio.run(cancel)


def test_an_expired_value_is_loaded_again() -> None:
    async def load_twice() -> None:
        source = Source()
        source.may_answer.set()
        cache = TTLCache(source, 0)
        assert [await cache(), await cache()] == [1, 2]

    anyio.run(load_twice)


def test_under_steady_load_no_caller_waits_for_a_reload() -> None:
    now = 0.0

    async def read() -> None:
        nonlocal now
        source = Source()
        source.may_answer.set()
        cache = TTLCache(source, 2, clock=lambda: now)
        assert await cache() == 1
        source.may_answer = anyio.Event()
        now = 1.5
        assert [await cache(), await cache()] == [1, 1]
        assert source.loads == 1  # its task has not run yet
        await anyio.sleep(0)
        assert source.loads == 2
        source.may_answer.set()
        await anyio.sleep(0.01)
        assert await cache() == 2
        now = 4.0  # expired
        assert await cache() == 3
        source.failure = RuntimeError("down")
        now = 5.5
        assert await cache() == 3  # the failed reload affects no caller
        await anyio.sleep(0.01)
        now = 9.0
        with pytest.raises(RuntimeError, match="down"):
            await cache()

    anyio.run(read)
