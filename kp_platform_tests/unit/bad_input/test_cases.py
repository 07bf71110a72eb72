"""The cases by themselves, without a server: enough of them, distinct, and what the contract says.

Belongs here: what can be said of a message alone. The answers of the whole way, with Trino and
Elasticsearch, are in `integration/test_bad_input.py`.
"""

from collections.abc import Callable

import pytest

from kp_platform.engine.documents import BadMessage, parse_message
from kp_platform.flows.builtin import ACCESS_LOG
from kp_platform_tests.bad_input.cases import (
    Case,
    Counted,
    Dead,
    Indexed,
    malformed,
    nasty_strings,
    odd,
)

# What only the servers on the way can say: of bytes, times, other events, lengths and depths.
BY_SERVERS = [
    Dead(reason)
    for reason in (
        "altered",
        "bad_timestamp",
        "conflict",
        "document_parsing_exception",
        "unreadable",
    )
]
OF_CONTRACT = [
    case for case in (*malformed(), *odd(), *nasty_strings()) if case.answer not in BY_SERVERS
]


def answer_of_contract(case: Case) -> Dead | tuple[str, str]:
    """The reason why it is no event, or else its uri and name."""
    try:
        event = parse_message(case.value, ACCESS_LOG)
    except BadMessage as bad:
        return Dead(bad.reason)
    return event["uri"], event["name"]


@pytest.mark.parametrize(
    ("cases", "at_least"), [(malformed, 60), (odd, 40), (nasty_strings, 2 * 100)]
)
def test_there_are_enough_cases_each_with_its_own_name_and_a_reason_to_be(
    cases: Callable[[], list[Case]], at_least: int
) -> None:
    found = cases()
    assert len(found) >= at_least
    assert len({case.name for case in found}) == len(found)
    assert all(case.why for case in found)


def test_the_odd_messages_are_no_dead_letters_but_for_the_one_that_conflicts() -> None:
    assert [case.answer for case in odd() if isinstance(case.answer, Dead)] == [Dead("conflict")]
    assert all(isinstance(case.answer, Dead) for case in malformed())


@pytest.mark.parametrize("case", OF_CONTRACT, ids=lambda case: case.name)
def test_the_contract_alone_gives_the_answer(case: Case) -> None:
    answer = answer_of_contract(case)
    if isinstance(case.answer, Counted):
        assert isinstance(answer, tuple)  # of the event that came first
    elif isinstance(case.answer, Indexed):
        assert answer == (case.answer.uri, case.answer.name)
    else:
        assert answer == case.answer


def test_the_sizes_are_those_that_kafka_is_asked_for() -> None:
    sizes = [len(case.value or b"") for case in [*malformed(), *odd()] if "megabyte" in case.name]
    assert sizes == [1_048_575, 1_048_577] * 2
