"""Recovery from what servers have lost: gaps, truncated partitions, a recreated topic, a missing
index.

Belongs here: what is recorded of a loss, and the positions that follow from it. Does not belong
here: moving the positions (`indexer.py`).
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kp_platform.engine import dead_letters, index_registry, positions
from kp_platform.engine.clock import utc_now
from kp_platform.engine.offsets import Plan, TopicState
from kp_platform.engine.ports import Documents, Log
from kp_platform.engine.positions import Position
from kp_platform.engine.reports import SliceReport
from kp_platform.flows.model import AnyFlow

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recovery:
    """A report of what can never be read, and the new position of each partition to move."""

    report: SliceReport
    moves: Mapping[int, int]


def missing_offsets(store: Documents, flow: AnyFlow, state: TopicState, plan: Plan) -> Recovery:
    """Record the gaps of a plan. Positions move to the end of each gap; truncated partitions are
    read from their start."""
    dead_letters.record_gaps(store, flow, state, plan.gaps, utc_now())
    report = _report(
        *(f"retention deleted {flow.topic} {gap} before it was read" for gap in plan.gaps),
        *(
            f"{flow.topic} has lost {lost} from its end; it is read from its start"
            for lost in plan.truncated
        ),
    )
    moves = {gap.partition: gap.end for gap in plan.gaps}
    moves |= {lost.partition: state.partitions[lost.partition].low for lost in plan.truncated}
    return Recovery(report, moves)


def recreated_topic(
    store: Documents, flow: AnyFlow, state: TopicState, stored: Mapping[int, Position]
) -> SliceReport | None:
    """A report when the topic has positions only under other ids; else None."""
    if stored or not positions.is_recreated(store, flow, state):
        return None
    return _report(f"topic {flow.topic} was deleted and recreated; it is read from its start")


def missing_indices(
    log: Log, flow: AnyFlow, stored: Mapping[int, Position], names: Sequence[str]
) -> Recovery:
    """Positions of all partitions go back to the first event of the days whose indices are missing;
    documents that exist stay as they are."""
    day = min(index_registry.first_moment(flow, name) for name in names)
    first = log.offsets_at(flow.topic, day)
    report = _report(
        f"{', '.join(names)} was deleted; {flow.topic} is reprocessed from {day:%Y-%m-%d}, "
        "as far as retention has kept it"
    )
    moves = {
        partition: first[partition]
        for partition, position in stored.items()
        if first[partition] < position.offset
    }
    return Recovery(report, moves)


def _report(*gaps: str) -> SliceReport:
    """Log what can never be read, and return it as a report."""
    for gap in gaps:
        logger.error(gap)
    return SliceReport(gaps=gaps)
