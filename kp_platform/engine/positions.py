"""Positions: for each flow, topic id and partition, the next offset to index.

Belongs here: reading them, and moving them by compare-and-set. Does not belong here: planning the
next offsets (`offsets.py`). Positions are stored in Elasticsearch, in index `kp.positions`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from kp_platform.engine.bulk import create, put, send
from kp_platform.engine.errors import PositionConflict, SliceError
from kp_platform.engine.offsets import ALL_PARTITIONS, Plan, TopicState, plan
from kp_platform.engine.ports import Documents, Log, Version
from kp_platform.flows.model import AnyFlow
from web_emitter import contract

INDEX = contract.POSITIONS_INDEX


@dataclass(frozen=True, slots=True)
class Position:
    """The next offset to index of one partition. `version` is None when no position is stored.
    `reference_rows` is the size of the reference data, see `LookupPushdown`."""

    offset: int
    version: Version | None = None
    reference_rows: int = 0


def read(store: Documents, flow: AnyFlow, state: TopicState) -> dict[int, Position]:
    """The stored position of each partition of the topic that has one."""
    keys = {partition: (INDEX, _id(flow, state, partition)) for partition in state.partitions}
    stored = store.get(list(keys.values()))
    return {
        partition: Position(
            stored[key].source["position"],
            stored[key].version,
            stored[key].source.get("reference_rows", 0),
        )
        for partition, key in keys.items()
        if key in stored
    }


def read_consistent(
    log: Log, store: Documents, flow: AnyFlow, assignment: range = ALL_PARTITIONS
) -> tuple[TopicState, dict[int, Position]]:
    """The current topic and its positions, consistent with each other, of the assigned partitions.

    Positions are read after the watermarks, so a position that another run has just moved may lie
    past them. That is not a truncated log: watermarks only grow, so they are read once more.
    """
    state = log.topic_state(flow.topic).of(assignment)
    stored = read(store, flow, state)
    if all(stored[partition].offset <= state.partitions[partition].high for partition in stored):
        return state, stored
    later = log.topic_state(flow.topic).of(assignment)
    return later, stored if later.topic_id == state.topic_id else read(store, flow, later)


def plan_from(state: TopicState, positions: Mapping[int, Position], max_rows: int) -> Plan:
    """What to do next, given the topic and the positions."""
    return plan(state, offsets(positions), max_rows)


def offsets(positions: Mapping[int, Position]) -> dict[int, int]:
    """The bare offset of each position."""
    return {partition: position.offset for partition, position in positions.items()}


def is_recreated(store: Documents, flow: AnyFlow, state: TopicState) -> bool:
    """Whether the flow has positions only under other ids of its topic."""
    store.refresh(INDEX)
    seen = {stored.source["topic_id"] for stored in store.find(INDEX, "flow", flow.name)}
    return bool(seen) and state.topic_id not in seen


@dataclass(frozen=True, slots=True)
class Commit:
    """What is stored with each position of one move.

    `writer` is unique to the move: a move whose answer got lost is recognized by it when it is sent
    again.
    """

    writer: str
    now: str
    reference_rows: int = 0


def move(
    store: Documents,
    flow: AnyFlow,
    state: TopicState,
    before: Mapping[int, Position],
    after: Mapping[int, int],
    commit: Commit,
) -> None:
    """Move each partition in `after` from its position in `before` to the offset given.

    Raises PositionConflict when another run moved one of the positions.
    """
    operations: dict[int, bytes] = {}
    for partition, offset in after.items():
        body = orjson.dumps(_body(flow, state, partition, offset, commit))
        identity = _id(flow, state, partition)
        version = before[partition].version if partition in before else None
        if version is None:
            operations[partition] = create(INDEX, identity, body)
        else:
            operations[partition] = put(INDEX, identity, body, expected=version)
    results = dict(zip(operations, send(store, list(operations.values())), strict=True))
    for result in results.values():
        if result.rejected:
            raise SliceError(f"{INDEX} refuses a position: {result.error}: {result.reason}")
    if conflicts := [partition for partition in results if results[partition].conflict]:
        _raise_unless_ours(store, flow, state, conflicts, commit.writer)


def _body(
    flow: AnyFlow, state: TopicState, partition: int, offset: int, commit: Commit
) -> dict[str, Any]:
    read_by_the_site = contract.PositionDocument(
        flow=flow.name,
        topic=flow.topic,
        topic_id=state.topic_id,
        partition=partition,
        position=offset,
    )
    return read_by_the_site | {
        "reference_rows": commit.reference_rows,
        "writer": commit.writer,
        "updated_at": commit.now,
    }


def _raise_unless_ours(
    store: Documents, flow: AnyFlow, state: TopicState, partitions: list[int], writer: str
) -> None:
    stored = store.get([(INDEX, _id(flow, state, partition)) for partition in partitions])
    sources = [each.source for each in stored.values()]
    moved = [source["partition"] for source in sources if source["writer"] != writer]
    if moved or len(stored) < len(partitions):
        raise PositionConflict(f"another run moved the position of {flow.topic} partitions {moved}")


def _id(flow: AnyFlow, state: TopicState, partition: int) -> str:
    return f"{flow.name}:{state.topic_id}:{partition}"
