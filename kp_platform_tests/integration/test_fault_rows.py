"""A short trial of the rows of the fault matrix that leave a shared stack as it was.

`make faults` runs all rows, longer and more often; its results are in docs/faults.md.
"""

from collections.abc import Iterator

import pytest

from kp_platform_tests.conftest import OFFSETS
from kp_platform_tests.fault_injection.harness import FaultHarness
from kp_platform_tests.fault_injection.ledger import Amounts
from kp_platform_tests.fault_injection.oracle import KINDS
from kp_platform_tests.fault_injection.rows import QUICK, QUICK_ON_CLUSTER, Row
from kp_platform_tests.fault_injection.trial import Laboratory, Result
from kp_platform_tests.stack import Stack, temporary_stack

AMOUNTS = Amounts(accesses=500, visits=60, notes=0, seconds=2.0)
SEED = 1


@pytest.fixture(scope="module", autouse=True)
def repaired(stack: Stack) -> Iterator[None]:
    """What a trial that failed has left stopped is started again for the other tests."""
    yield
    stack.kp("up")


@pytest.mark.parametrize("row", QUICK, ids=lambda row: f"{row.key}-{row.name.replace(' ', '-')}")
def test_nothing_is_lost_doubled_or_wrong_after(row: Row, whole_stack: Stack) -> None:
    harness = FaultHarness(whole_stack.settings, whole_stack.variables)
    judge(Laboratory.of(harness, alone=False), row)


def judge(laboratory: Laboratory, row: Row) -> Result:
    result = laboratory.run(row, trial=0, seed=SEED, amounts=AMOUNTS, with_change=False)
    assert result.counts == dict.fromkeys(KINDS, 0), (result.note, result.examples)
    assert not result.problem, result.note
    return result


def test_a_cluster_survives_that_a_broker_a_worker_and_a_run_are_killed() -> None:
    tempo = {"follow_idle_seconds": 5, "sensor_wait_seconds": 5}
    with temporary_stack("cluster", OFFSETS, is_cluster=True, **tempo) as stack:
        laboratory = Laboratory.of(FaultHarness(stack.settings, stack.variables), alone=True)
        result = judge(laboratory, QUICK_ON_CLUSTER)
    assert "12 partitions" in result.note
