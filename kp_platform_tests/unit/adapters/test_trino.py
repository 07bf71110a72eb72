"""Whose fault a failed query is, as far as Trino's own answer tells, and the size of batches.

Servers behind Trino are stopped for real in `integration/test_pipeline.py`.
"""

from typing import ClassVar

import pytest
from trino.exceptions import TrinoQueryError

from kp_platform.adapters.errors import ServerDown
from kp_platform.adapters.trino import TrinoAdapter, TrinoAnswer
from kp_platform.engine.errors import QueryFailed, QueryTooLarge, UndecodableMessage
from kp_platform.engine.ports import QueryStats
from kp_platform.settings import Settings


@pytest.mark.parametrize(
    ("kind", "name", "message", "failure"),
    [
        # Parts of a slice may fit.
        ("INSUFFICIENT_RESOURCES", "EXCEEDED_LOCAL_MEMORY_LIMIT", "2MB", QueryTooLarge),
        ("INSUFFICIENT_RESOURCES", "CLUSTER_OUT_OF_MEMORY", "killed", QueryTooLarge),
        # One of its messages is nested too deeply (Trino 476).
        (
            "INTERNAL_ERROR",
            "GENERIC_INTERNAL_ERROR",
            "Document nesting depth (1001) exceeds the maximum allowed (1000)",
            UndecodableMessage,
        ),
        # Somebody killed it, or our SQL is wrong: no message is to blame.
        ("USER_ERROR", "ADMINISTRATIVELY_KILLED", "killed by admin", QueryFailed),
        ("USER_ERROR", "COLUMN_NOT_FOUND", "no column", QueryFailed),
    ],
)
def test_a_failure_is_classed_by_what_can_be_done(
    kind: str, name: str, message: str, failure: type[Exception]
) -> None:
    error = TrinoQueryError({"errorType": kind, "errorName": name, "message": message}, "query-1")
    classed = TrinoAdapter(Settings())._failure(error)
    assert type(classed) is failure
    assert str(classed) == f"Trino query query-1 failed: {name}: {message}"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("REMOTE_TASK_ERROR", "Unexpected response from http://127.0.0.1:1/v1/task"),  # as it died
        ("TOO_MANY_REQUESTS_FAILED", "Encountered too many errors talking to a worker node"),
        ("REMOTE_HOST_GONE", "The node used to execute this query is no longer available"),
        ("PAGE_TRANSPORT_ERROR", "Error fetching http://127.0.0.1:1/v1/task"),
        ("NO_NODES_AVAILABLE", "No nodes available to run query"),  # it was the only one
    ],
)
def test_no_message_is_suspected_when_a_node_of_trino_is_away(name: str, message: str) -> None:
    failed = {"errorType": "INTERNAL_ERROR", "errorName": name, "message": message}
    classed = TrinoAdapter(Settings())._failure(TrinoQueryError(failed, "query-1"))
    assert type(classed) is ServerDown
    assert str(classed).startswith("Trino misses a node at http://127.0.0.1:18080")
    assert f"Trino query query-1 failed: {name}: {message}" in str(classed)


class Cursor(list[tuple[int, str | None]]):
    """The rows of a query that has ended."""

    stats: ClassVar = {"processedRows": 5}


@pytest.mark.parametrize(
    ("messages", "sizes"),
    [
        (["small"] * 5, [2, 2, 1]),
        (["x" * 5_000_000] * 5, [2, 2, 1]),
        (["x" * 9_000_000] * 3, [1, 1, 1]),  # as large as it may be, or larger: alone
        ([None, "", "small"], [2, 1]),
        ([], []),
    ],
)
def test_a_batch_is_bounded_by_rows_and_by_the_size_of_messages(
    messages: list[str | None], sizes: list[int]
) -> None:
    answer = TrinoAnswer(Cursor(enumerate(messages)), ["offset", "message"], QueryStats())
    assert [len(batch) for batch in answer.batches(2)] == sizes
    assert answer.stats.processed_rows == 5
