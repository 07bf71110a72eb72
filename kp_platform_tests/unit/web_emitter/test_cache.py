"""An answer that many ask for is found once."""

import anyio
import pytest

from web_emitter.site.cache import TTLCache


class Question:
    """Counts how often it is asked; fails when told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.failure: Exception | None = None
        self.may_answer = anyio.Event()

    async def __call__(self) -> int:
        self.asked += 1
        await self.may_answer.wait()
        if self.failure:
            raise self.failure
        return self.asked


def test_all_who_wait_share_one_answer_or_one_failure() -> None:
    async def ask_many() -> None:
        question = Question()
        remembered = TTLCache(question, 60)
        question.failure = RuntimeError("down")
        failures: list[str] = []

        async def one() -> None:
            with pytest.raises(RuntimeError, match="down") as error:
                await remembered()
            failures.append(str(error.value))

        async with anyio.create_task_group() as readers:
            for _ in range(5):
                readers.start_soon(one)
            await anyio.sleep(0)
            question.may_answer.set()
        assert (question.asked, len(failures)) == (1, 5)
        question.failure = None  # a failure is not kept
        assert [await remembered() for _ in range(3)] == [2, 2, 2]

    anyio.run(ask_many)


def test_a_reader_who_goes_away_takes_nothing_from_the_others() -> None:
    async def leave() -> None:
        question = Question()
        remembered = TTLCache(question, 60)
        with anyio.move_on_after(0.01):
            await remembered()
        question.may_answer.set()
        assert await remembered() == 1

    anyio.run(leave)


def test_an_old_answer_is_asked_for_again() -> None:
    async def ask_twice() -> None:
        question = Question()
        question.may_answer.set()
        remembered = TTLCache(question, 0)
        assert [await remembered(), await remembered()] == [1, 2]

    anyio.run(ask_twice)


def test_under_steady_reading_nobody_waits_for_the_next_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr("web_emitter.site.cache.monotonic", lambda: now)

    async def read() -> None:
        nonlocal now
        question = Question()
        question.may_answer.set()
        remembered = TTLCache(question, 2)
        assert await remembered() == 1
        question.may_answer = anyio.Event()
        now = 1.5
        assert [await remembered(), await remembered()] == [1, 1]
        assert question.asked == 1  # its task has not run yet
        await anyio.sleep(0)
        assert question.asked == 2
        question.may_answer.set()
        await anyio.sleep(0.01)
        assert await remembered() == 2
        now = 4.0  # too old to be given
        assert await remembered() == 3
        question.failure = RuntimeError("down")
        now = 5.5
        assert await remembered() == 3  # nobody waits for the failure
        await anyio.sleep(0.01)
        now = 9.0
        with pytest.raises(RuntimeError, match="down"):
            await remembered()

    anyio.run(read)
