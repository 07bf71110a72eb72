"""How far each partition of a flow is behind, from the positions and never from a consumer group.

Belongs here: lag as values. Does not belong here: printing it (`cli.py`).
"""

from dataclasses import dataclass

from kp_platform.engine import positions
from kp_platform.engine.ports import Log
from kp_platform.engine.store import DocumentStore
from kp_platform.flows.model import Flow


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """`position` is None when nothing of the partition was indexed yet; all in offsets."""

    flow: str
    topic: str
    partition: int
    low: int
    high: int
    position: int | None
    lag: int


def partition_lags(flow: Flow, log: Log, store: DocumentStore) -> list[PartitionLag]:
    """One value for each partition of the flow's topic, in order."""
    state, held = positions.look(log, store, flow)
    lags = []
    for partition, marks in sorted(state.partitions.items()):
        position = held[partition].offset if partition in held else None
        lags.append(
            PartitionLag(
                flow=flow.name,
                topic=flow.topic,
                partition=partition,
                low=marks.low,
                high=marks.high,
                position=position,
                lag=marks.high - marks.start(position),
            )
        )
    return lags
