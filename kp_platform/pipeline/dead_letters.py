"""What is kept of messages that cannot be indexed, and of offsets that were never read.

Belongs here: dead letters (`kp.dead`) with their raw bytes and a reason, gaps (`kp.gaps`) with
exact offsets. Does not belong here: deciding that a message is bad (`documents.py`, `bulk.py`).
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from kp_platform.flows import Flow
from kp_platform.pipeline.documents import DeadLetter
from kp_platform.pipeline.errors import SliceError
from kp_platform.pipeline.log import RawMessage
from kp_platform.pipeline.offsets import OffsetRange, TopicState
from kp_platform.pipeline.store import DocumentStore, create, put, send

DEAD_INDEX = "kp.dead"
GAP_INDEX = "kp.gaps"


def bury(
    store: DocumentStore,
    flow: Flow,
    state: TopicState,
    letters: Sequence[DeadLetter],
    raw: Mapping[tuple[int, int], RawMessage],
    now: str,
) -> None:
    """Store dead letters; one that is there already stays as it is. `raw` is keyed by
    (partition, offset). Raises SliceError when one is refused, and what `store.send` raises."""
    operations = []
    for letter in letters:
        message = raw[letter.partition, letter.offset]
        body = _common(flow, state, letter.partition, now) | {
            "offset": letter.offset,
            "event_timestamp": letter.timestamp,
            "reason": letter.reason,
            "detail": letter.detail[:1000],
            "key": _base64(message.key),
            "value": _base64(message.value),
        }
        identity = f"{flow.name}:{state.topic_id}:{letter.partition}:{letter.offset}"
        operations.append(create(DEAD_INDEX, identity, orjson.dumps(body)))
    for result in send(store, operations):
        if result.rejected:
            raise SliceError(f"{DEAD_INDEX} refuses a letter: {result.error}: {result.reason}")


def record_gaps(
    store: DocumentStore,
    flow: Flow,
    state: TopicState,
    gaps: Sequence[OffsetRange],
    now: str,
) -> None:
    """Store offsets that retention deleted. A gap is known by its start, so one that grew before
    its position moved is written over. Raises what `store.send` raises."""
    operations = []
    for gap in gaps:
        body = _common(flow, state, gap.partition, now) | {
            "start": gap.start,
            "end": gap.end,
            "reason": "retention",
        }
        identity = f"{flow.name}:{state.topic_id}:{gap.partition}:{gap.start}"
        operations.append(put(GAP_INDEX, identity, orjson.dumps(body)))
    send(store, operations)


def _common(flow: Flow, state: TopicState, partition: int, now: str) -> dict[str, Any]:
    return {
        "@timestamp": now,
        "flow": flow.name,
        "topic": flow.topic,
        "topic_id": state.topic_id,
        "partition": partition,
    }


def _base64(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()
