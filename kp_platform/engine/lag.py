"""The lag of each partition of a flow, from the positions and never from a consumer group.

Belongs here: lag as values. Does not belong here: printing it (`cli/`).
"""

from dataclasses import dataclass

from kp_platform.engine import positions
from kp_platform.engine.ports import Documents, Log
from kp_platform.flows.model import AnyFlow


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """`position` is None when no event of the partition is indexed yet; all in offsets."""

    flow: str
    topic: str
    partition: int
    low: int
    high: int
    position: int | None
    lag: int


def partition_lags(flow: AnyFlow, log: Log, store: Documents) -> list[PartitionLag]:
    """One value for each partition of the flow's topic, in order."""
    state, stored = positions.read_consistent(log, store, flow)
    lags = []
    for partition, watermarks in sorted(state.partitions.items()):
        position = stored[partition].offset if partition in stored else None
        lags.append(
            PartitionLag(
                flow=flow.name,
                topic=flow.topic,
                partition=partition,
                low=watermarks.low,
                high=watermarks.high,
                position=position,
                lag=watermarks.high - watermarks.start(position),
            )
        )
    return lags
