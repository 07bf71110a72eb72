"""Whose fault a failed query is, as far as Trino's own answer tells; servers that are down behind it
are stopped for real in `integration/test_pipeline.py`."""

import pytest
from trino.exceptions import TrinoQueryError

from kp_platform.pipeline.errors import MessageUnreadable, QueryFailed, QueryTooLarge
from kp_platform.resources.trino import TrinoResource


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
            MessageUnreadable,
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
    classed = TrinoResource()._failure(error)
    assert type(classed) is failure
    assert str(classed) == f"Trino query query-1 failed: {name}: {message}"
