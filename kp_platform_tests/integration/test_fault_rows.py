"""A short trial of the rows of the fault matrix that leave a shared stack as it was.

`make faults` runs all rows, longer and repeatedly; its results are in docs/faults.md.
"""

from collections.abc import Iterator

import pytest

from kp_platform_tests.fault_injection.harness import FaultHarness
from kp_platform_tests.fault_injection.rows import QUICK, Row
from kp_platform_tests.fault_injection.trial import Laboratory
from kp_platform_tests.integration.trials import check_row
from kp_platform_tests.stack import Stack


@pytest.fixture(scope="module", autouse=True)
def restarted(stack: Stack) -> Iterator[None]:
    """Start for the other tests what a failed trial has left stopped."""
    yield
    stack.kp("up")


@pytest.mark.parametrize("row", QUICK, ids=lambda row: f"{row.key}-{row.name.replace(' ', '-')}")
def test_nothing_is_lost_duplicated_or_wrong_after(row: Row, whole_stack: Stack) -> None:
    harness = FaultHarness(whole_stack.settings, whole_stack.variables)
    check_row(Laboratory.of(harness, alone=False), row)
