"""A short trial of a row of the fault matrix, and its verdict."""

from kp_platform_tests.fault_injection.ledger import Amounts
from kp_platform_tests.fault_injection.oracle import KINDS
from kp_platform_tests.fault_injection.rows import Row
from kp_platform_tests.fault_injection.trial import Laboratory, Result

AMOUNTS = Amounts(accesses=500, visits=60, notes=0, seconds=2.0)
SEED = 1


def check_row(laboratory: Laboratory, row: Row) -> Result:
    """Run one trial. Fails if the oracle finds anything wrong, or if the trial had a problem."""
    result = laboratory.run(row, trial=0, seed=SEED, amounts=AMOUNTS, with_change=False)
    assert result.counts == dict.fromkeys(KINDS, 0), (result.note, result.examples)
    assert not result.problem, result.note
    return result
