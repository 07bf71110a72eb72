"""A cluster of three brokers and two Trino workers under faults."""

from kp_platform_tests.conftest import OFFSETS
from kp_platform_tests.fault_injection.harness import FaultHarness
from kp_platform_tests.fault_injection.rows import QUICK_ON_CLUSTER
from kp_platform_tests.fault_injection.trial import Laboratory
from kp_platform_tests.integration.trials import check_row
from kp_platform_tests.stack import TEMPO, temporary_stack


def test_a_cluster_loses_nothing_when_a_broker_a_worker_and_a_run_are_killed() -> None:
    with temporary_stack("cluster", OFFSETS, is_cluster=True, **TEMPO) as stack:
        laboratory = Laboratory.of(FaultHarness(stack.settings, stack.variables), alone=True)
        result = check_row(laboratory, QUICK_ON_CLUSTER)
    assert "12 partitions" in result.note
