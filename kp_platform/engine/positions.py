"""Positions: for each flow, topic id and partition, the next offset to index.

Belongs here: reading them, and moving them by compare-and-set. Does not belong here: deciding where
to (`offsets.py`). They live in Elasticsearch beside the documents, in `kp.positions`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from kp_platform.engine.errors import PositionConflict, SliceError
from kp_platform.engine.offsets import ALL_PARTITIONS, Plan, TopicState, plan
from kp_platform.engine.ports import Log
from kp_platform.engine.store import DocumentStore, Version, create, put, send
from kp_platform.flows.model import Flow
from web_emitter import contract

INDEX = contract.POSITIONS_INDEX


@dataclass(frozen=True, slots=True)
class Position:
    """The next offset to index of one partition. `version` is None when none was stored yet.
    `other_rows` is the size of the reference data, see `query.Keys`."""

    offset: int
    version: Version | None = None
    reference_rows: int = 0


def read(store: DocumentStore, flow: Flow, state: TopicState) -> dict[int, Position]:
    """The stored position of each partition of the topic that has one."""
    keys = {partition: (INDEX, _id(flow, state, partition)) for partition in state.partitions}
    stored = store.get(list(keys.values()))
    return {
        partition: Position(
            stored[key].source["position"],
            stored[key].version,
            stored[key].source.get("other_rows", 0),
        )
        for partition, key in keys.items()
        if key in stored
    }


def look(
    log: Log, store: DocumentStore, flow: Flow, assignment: range = ALL_PARTITIONS
) -> tuple[TopicState, dict[int, Position]]:
    """The topic and the positions as they are now, and fit to each other, of some partitions.

    Positions are read after the watermarks, so one that another run has just moved may lie past
    them. That is no log that lost its end: watermarks only grow, so they are read once more.
    """
    state = log.topic_state(flow.topic).of(assignment)
    held = read(store, flow, state)
    if all(held[part].offset <= state.partitions[part].high for part in held):
        return state, held
    again = log.topic_state(flow.topic).of(assignment)
    return again, held if again.topic_id == state.topic_id else read(store, flow, again)


def plan_from(state: TopicState, held: Mapping[int, Position], max_rows: int) -> Plan:
    """What to do next, given the topic and the positions."""
    return plan(state, offsets(held), max_rows)


def offsets(held: Mapping[int, Position]) -> dict[int, int]:
    """The bare offset of each position."""
    return {partition: position.offset for partition, position in held.items()}


def is_recreated(store: DocumentStore, flow: Flow, state: TopicState) -> bool:
    """Whether the flow's topic was read before under other ids only."""
    store.refresh(INDEX)
    seen = {stored.source["topic_id"] for stored in store.find(INDEX, "flow", flow.name)}
    return bool(seen) and state.topic_id not in seen


def move(
    store: DocumentStore,
    flow: Flow,
    state: TopicState,
    before: Mapping[int, Position],
    after: Mapping[int, int],
    *,
    reference_rows: int,
    writer: str,
    now: str,
) -> None:
    """Move each partition in `after` from its position in `before` to the offset given.

    `writer` tells this move from all others, so that a move whose answer got lost is known as ours
    when it is sent again. Raises SliceTaken when someone else moved one of the positions.
    """
    operations: dict[int, bytes] = {}
    for partition, offset in after.items():
        body = orjson.dumps(
            {
                "flow": flow.name,
                "topic": flow.topic,
                "topic_id": state.topic_id,
                "partition": partition,
                "position": offset,
                "other_rows": reference_rows,
                "writer": writer,
                "updated_at": now,
            }
        )
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
        _raise_unless_ours(store, flow, state, conflicts, writer)


def _raise_unless_ours(
    store: DocumentStore, flow: Flow, state: TopicState, partitions: list[int], writer: str
) -> None:
    stored = store.get([(INDEX, _id(flow, state, partition)) for partition in partitions])
    others = [s.source["partition"] for s in stored.values() if s.source["writer"] != writer]
    if others or len(stored) < len(partitions):
        raise PositionConflict(
            f"another run moved the position of {flow.topic} partitions {others}"
        )


def _id(flow: Flow, state: TopicState, partition: int) -> str:
    return f"{flow.name}:{state.topic_id}:{partition}"
