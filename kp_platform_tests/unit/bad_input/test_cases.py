"""The cases without a server: their number, their names, and validation against the contract.

Belongs here: what follows from a message alone. `integration/test_bad_input.py` checks the results
with Trino and Elasticsearch.
"""

from collections.abc import Callable

import pytest

from kp_platform.engine.documents import BadMessage, parse_message
from kp_platform.flows.builtin import ACCESS_LOG
from kp_platform_tests.bad_input.cases import (
    Case,
    Duplicate,
    Indexed,
    Rejected,
    malformed,
    nasty_strings,
    odd,
)

# Reasons that only servers determine: bytes, timestamps, other events, lengths and depths.
BY_SERVERS = [
    Rejected(reason)
    for reason in (
        "altered",
        "bad_timestamp",
        "conflict",
        "document_parsing_exception",
        "unreadable",
    )
]
BY_CONTRACT = [
    case for case in (*malformed(), *odd(), *nasty_strings()) if case.expected not in BY_SERVERS
]


def validate(case: Case) -> Rejected | tuple[str, str]:
    """The reason why the message is not an event, or its uri and name."""
    try:
        event = parse_message(case.value, ACCESS_LOG)
    except BadMessage as bad:
        return Rejected(bad.reason)
    return event["uri"], event["name"]


@pytest.mark.parametrize(
    ("cases", "at_least"), [(malformed, 60), (odd, 40), (nasty_strings, 2 * 100)]
)
def test_there_are_enough_cases_each_with_a_unique_name_and_a_reason(
    cases: Callable[[], list[Case]], at_least: int
) -> None:
    found = cases()
    assert len(found) >= at_least
    assert len({case.name for case in found}) == len(found)
    assert all(case.why for case in found)


def test_odd_messages_are_valid_except_for_the_one_that_conflicts() -> None:
    assert [case.expected for case in odd() if isinstance(case.expected, Rejected)] == [
        Rejected("conflict")
    ]
    assert all(isinstance(case.expected, Rejected) for case in malformed())


@pytest.mark.parametrize("case", BY_CONTRACT, ids=lambda case: case.name)
def test_the_contract_gives_the_expected_result(case: Case) -> None:
    result = validate(case)
    if isinstance(case.expected, Duplicate):
        assert isinstance(result, tuple)  # valid; the first event has the uuid
    elif isinstance(case.expected, Indexed):
        assert result == (case.expected.uri, case.expected.name)
    else:
        assert result == case.expected


def test_the_largest_messages_are_around_kafkas_default_limit() -> None:
    sizes = [len(case.value or b"") for case in [*malformed(), *odd()] if "megabyte" in case.name]
    assert sizes == [1_048_575, 1_048_577] * 2
