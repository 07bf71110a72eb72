"""When a run does its work again, and when it ends."""

from collections.abc import Callable

import pytest

from kp_platform.orchestration import periodic


def count(is_due: Callable[[], bool], seconds: float, idle_seconds: float = 60.0) -> int:
    turns = periodic.turns(is_due, seconds=seconds, idle_seconds=idle_seconds, look_seconds=0.001)
    return sum(1 for _ in turns)


def test_a_run_that_does_not_stay_works_once_and_looks_no_more() -> None:
    assert count(lambda: pytest.fail("it looked again"), seconds=0) == 1


def test_work_is_done_again_whenever_it_is_due_until_nothing_is_for_a_while() -> None:
    answers = iter([False, True, False, True])
    assert count(lambda: next(answers, False), seconds=60, idle_seconds=0.05) == 3


def test_a_run_ends_in_time_though_something_is_always_due() -> None:
    assert 1 < count(lambda: True, seconds=0.05) <= 50
