"""B11: the throughput of two concurrent runs of one flow, relative to one run.

Belongs here: the two contenders on a cluster, and their figure. Does not belong here: a
contender's run (`throughput.py`).
"""

from collections.abc import Iterator

from kp_platform_tests.benchmarks.measure import Spread
from kp_platform_tests.benchmarks.report import Figure, Result
from kp_platform_tests.benchmarks.session import Session
from kp_platform_tests.benchmarks.throughput import (
    OURS,
    TWO_RUNS,
    Comparison,
    costs_table,
    in_turns,
)


def results(session: Session) -> Iterator[Result]:
    with session.stack(is_cluster=True) as stack:
        comparison = Comparison(stack, session.folder, session.events)
        rounds = in_turns(comparison, [OURS, TWO_RUNS], session)
    ratio = Spread.of([turns[TWO_RUNS].rate / turns[OURS].rate for turns in rounds])
    yield Result(
        "B11",
        "two concurrent runs",
        f"{session.events:,} accesses in {stack.settings.topic_partitions} partitions, on three "
        f"brokers and {stack.settings.trino_workers} Trino workers on this machine; all documents "
        "are verified. One run reads all partitions, or two runs read half of them each. Time is "
        "measured from the start of the first run to the end of the last.",
        [Figure("documents/s, two runs relative to one", "", f"{ratio:.2f}")],
        costs_table([OURS, TWO_RUNS], rounds),
    )
