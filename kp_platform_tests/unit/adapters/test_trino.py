"""How failed queries are classified by Trino's answer, and the size of batches.

`integration/test_indexing.py` stops the servers behind Trino for real.
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
        # A smaller slice may fit.
        ("INSUFFICIENT_RESOURCES", "EXCEEDED_LOCAL_MEMORY_LIMIT", "2MB", QueryTooLarge),
        ("INSUFFICIENT_RESOURCES", "CLUSTER_OUT_OF_MEMORY", "killed", QueryTooLarge),
        # One of its messages is nested too deeply (Trino 476).
        (
            "INTERNAL_ERROR",
            "GENERIC_INTERNAL_ERROR",
            "Document nesting depth (1001) exceeds the maximum allowed (1000)",
            UndecodableMessage,
        ),
        # It was killed, or the SQL is wrong: no message is the cause.
        ("USER_ERROR", "ADMINISTRATIVELY_KILLED", "killed by admin", QueryFailed),
        ("USER_ERROR", "COLUMN_NOT_FOUND", "no column", QueryFailed),
    ],
)
def test_a_failure_is_classified_by_its_remedy(
    kind: str, name: str, message: str, failure: type[Exception]
) -> None:
    error = TrinoQueryError({"errorType": kind, "errorName": name, "message": message}, "query-1")
    classified = TrinoAdapter(Settings())._failure(error)
    assert type(classified) is failure
    assert str(classified) == f"Trino query query-1 failed: {name}: {message}"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "REMOTE_TASK_ERROR",
            "Unexpected response from http://127.0.0.1:1/v1/task",
        ),  # at its death
        ("TOO_MANY_REQUESTS_FAILED", "Encountered too many errors talking to a worker node"),
        ("REMOTE_HOST_GONE", "The node used to execute this query is no longer available"),
        ("PAGE_TRANSPORT_ERROR", "Error fetching http://127.0.0.1:1/v1/task"),
        ("NO_NODES_AVAILABLE", "No nodes available to run query"),  # the only node was lost
    ],
)
def test_no_message_is_suspect_when_a_trino_node_is_lost(name: str, message: str) -> None:
    failed = {"errorType": "INTERNAL_ERROR", "errorName": name, "message": message}
    classified = TrinoAdapter(Settings())._failure(TrinoQueryError(failed, "query-1"))
    assert type(classified) is ServerDown
    assert str(classified).startswith("Trino has lost a node at http://127.0.0.1:18080")
    assert f"Trino query query-1 failed: {name}: {message}" in str(classified)


class Cursor(list[tuple[int, str | None]]):
    """The rows of a finished query."""

    stats: ClassVar = {"processedRows": 5}


@pytest.mark.parametrize(
    ("messages", "sizes"),
    [
        (["small"] * 5, [2, 2, 1]),
        (["x" * 5_000_000] * 5, [2, 2, 1]),
        (["x" * 9_000_000] * 3, [1, 1, 1]),  # at or above the limit: alone
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
