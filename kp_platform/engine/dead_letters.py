"""The dead-letter queue, and the gaps: offsets that were never read.

Belongs here: dead letters (`kp.dead`) with their bytes and a reason: storing, reading, discarding
and removing them; gaps (`kp.gaps`) with exact offsets. Does not belong here: rejecting a message
(`documents.py`, `ports.py`) and processing one again (`operations/dead_letter_retry.py`).

A discarded dead letter stays without its bytes: its offset is still accounted for.
"""

import base64
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from kp_platform.engine.bulk import create, delete, put, send
from kp_platform.engine.counting import EVER, Where
from kp_platform.engine.documents import RejectedMessage
from kp_platform.engine.errors import SliceError
from kp_platform.engine.offsets import OffsetRange, TopicState
from kp_platform.engine.ports import (
    DocumentReader,
    Documents,
    DocumentStore,
    ItemResult,
    RawMessage,
    Version,
)
from kp_platform.flows.model import AnyFlow

DEAD_INDEX = "kp.dead"
GAP_INDEX = "kp.gaps"
LONGEST_DETAIL = 1000
_BYTES = ("key", "value")
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A stored dead letter; `source` has the bytes only if it was read by its id."""

    id: str
    source: dict[str, Any]
    version: Version

    @property
    def partition_offset(self) -> tuple[int, int]:
        return self.source["partition"], self.source["offset"]

    @property
    def discarded_at(self) -> str | None:
        return self.source.get("discarded_at")

    def __str__(self) -> str:
        partition, offset = self.partition_offset
        return f"{self.source['topic']} {partition}:{offset}"


@dataclass(frozen=True, slots=True)
class Selection:
    """The dead letters with the ids, else those of the flow and of the reason, if given. Without
    ids, discarded ones are left out unless requested."""

    ids: tuple[str, ...] = ()
    flow: str = ""
    reason: str = ""
    with_discarded: bool = False

    @property
    def where(self) -> Where:
        named = (("flow", self.flow), ("reason", self.reason))
        equal = tuple((field, value) for field, value in named if value)
        return Where("@timestamp", EVER, equal, () if self.with_discarded else ("discarded_at",))


@dataclass(frozen=True, slots=True)
class Tally:
    """The number of dead letters: open ones by (flow, reason), and discarded ones."""

    open: Counter[tuple[str, str]]
    discarded: int

    def by_flow(self) -> Counter[str]:
        return self._by(0)

    def by_reason(self) -> Counter[str]:
        return self._by(1)

    def __str__(self) -> str:
        reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(self.by_reason().items()))
        found = f"{self.open.total()} open dead letters{f' ({reasons})' if reasons else ''}"
        return f"{found}, {self.discarded} discarded"

    def _by(self, which: int) -> Counter[str]:
        counts: Counter[str] = Counter()
        for names, count in self.open.items():
            counts[names[which]] += count
        return counts


class NoSuchDeadLetter(Exception):
    """There is no dead letter with the id."""


def store(
    documents: Documents,
    flow: AnyFlow,
    state: TopicState,
    rejected: Sequence[RejectedMessage],
    raw: Mapping[tuple[int, int], RawMessage],
    now: str,
) -> None:
    """Store rejected messages as dead letters; existing ones stay as they are. `raw` is keyed by
    (partition, offset). Raises SliceError when one is refused, and what `bulk.send` raises."""
    operations = []
    for each in rejected:
        message = raw[each.partition, each.offset]
        body = _common(flow, state, each.partition, now) | {
            "offset": each.offset,
            "event_timestamp": each.timestamp,
            "reason": each.reason,
            "detail": _detail(each),
            "key": _base64(message.key),
            "value": _base64(message.value),
        }
        identity = _identity(flow, state, each.partition, each.offset)
        operations.append(create(DEAD_INDEX, identity, orjson.dumps(body)))
    _send(documents, operations)


def read(documents: DocumentStore, selection: Selection) -> list[DeadLetter]:
    """The selected dead letters, the latest first. Raises NoSuchDeadLetter."""
    if selection.ids:
        return [by_id(documents, identity) for identity in dict.fromkeys(selection.ids)]
    return [each for page in pages(documents, selection, _PAGE) for each in page]


def by_id(documents: Documents, identity: str) -> DeadLetter:
    """A dead letter with its bytes. Raises NoSuchDeadLetter."""
    stored = documents.get([(DEAD_INDEX, identity)]).get((DEAD_INDEX, identity))
    if stored is None:
        raise NoSuchDeadLetter(f"there is no dead letter {printable(identity)}; see `kp dlq list`")
    return DeadLetter(identity, stored.source, stored.version)


def pages(reader: DocumentReader, selection: Selection, size: int) -> Iterator[list[DeadLetter]]:
    """Searchable dead letters without their bytes, the latest first."""
    with reader.snapshot(DEAD_INDEX) as snapshot:
        for hits in snapshot.latest(selection.where, size, without=_BYTES):
            yield [DeadLetter(hit.id, hit.stored.source, hit.stored.version) for hit in hits]


def tally(reader: DocumentReader, selection: Selection) -> Tally:
    """The number of searchable dead letters of a selection, discarded ones included."""
    where = replace(selection, with_discarded=True).where
    counted, discarded = Counter[tuple[str, str]](), 0
    with reader.snapshot(DEAD_INDEX) as snapshot:
        groups = snapshot.groups(["flow", "reason", "discarded_at"], where)
        for (flow, reason, discarded_at), count in groups:
            if discarded_at is None:
                counted[flow, reason] += count
            else:
                discarded += count
    return Tally(counted, discarded)


def of_offsets(
    documents: Documents, flow: AnyFlow, state: TopicState, offsets: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], DeadLetter]:
    """The dead letters of messages at these (partition, offset), discarded ones included."""
    keys = {(DEAD_INDEX, _identity(flow, state, *each)): each for each in offsets}
    stored = documents.get([*keys])
    return {
        keys[key]: DeadLetter(key[1], each.source, each.version) for key, each in stored.items()
    }


def remove(documents: Documents, dead_letters: Sequence[DeadLetter]) -> None:
    """Remove dead letters whose messages are indexed. Raises what `bulk.send` raises."""
    if dead_letters:
        send(documents, [delete(DEAD_INDEX, each.id) for each in dead_letters])


def retry(documents: Documents, dead_letter: DeadLetter, found: RejectedMessage, now: str) -> None:
    """Record that a retry failed, and the reason. A dead letter that changed since it was read
    stays as it is."""
    source = by_id(documents, dead_letter.id).source | {
        "reason": found.reason,
        "detail": _detail(found),
        "retried_at": now,
    }
    written = put(DEAD_INDEX, dead_letter.id, orjson.dumps(source), expected=dead_letter.version)
    _send(documents, [written])


def discard(documents: Documents, dead_letters: Sequence[DeadLetter], now: str) -> int:
    """Delete the bytes of dead letters for good; returns the number of changed ones. Dead letters
    that are discarded already, or changed since they were read, stay as they are. Raises what
    `bulk.send` raises."""
    operations = [
        put(
            DEAD_INDEX,
            each.id,
            orjson.dumps(each.source | dict.fromkeys(_BYTES) | {"discarded_at": now}),
            expected=each.version,
        )
        for each in dead_letters
        if each.discarded_at is None
    ]
    return sum(result.written for result in _send(documents, operations))


def raw_bytes(dead_letter: DeadLetter, field: str) -> bytes | None:
    """The key or the value of a dead letter that was read by its id; None when it has none."""
    value = dead_letter.source[field]
    return None if value is None else base64.b64decode(value)


def as_text(value: bytes | None, most: int) -> str | None:
    """At most `most` bytes as text, or in hex when they are not UTF-8."""
    if value is None:
        return None
    cut = f" ... {len(value)} bytes in all" if len(value) > most else ""
    try:
        value.decode()
    except UnicodeDecodeError:
        return f"hex {value[:most].hex(' ')}{cut}"
    return value[:most].decode(errors="ignore") + cut


def printable(text: str) -> str:
    """Text that is safe to print on a terminal: control characters and other invisible ones are
    written as escapes."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def record_gaps(
    documents: Documents,
    flow: AnyFlow,
    state: TopicState,
    gaps: Sequence[OffsetRange],
    now: str,
) -> None:
    """Store offsets that retention deleted. A gap is identified by its start, so one that grew
    before its position moved is overwritten. Raises what `bulk.send` raises."""
    operations = []
    for gap in gaps:
        body = _common(flow, state, gap.partition, now) | {
            "start": gap.start,
            "end": gap.end,
            "reason": "retention",
        }
        identity = f"{flow.name}:{state.topic_id}:{gap.partition}:{gap.start}"
        operations.append(put(GAP_INDEX, identity, orjson.dumps(body)))
    send(documents, operations)


def _identity(flow: AnyFlow, state: TopicState, partition: int, offset: int) -> str:
    return f"{flow.name}:{state.topic_id}:{partition}:{offset}"


def _common(flow: AnyFlow, state: TopicState, partition: int, now: str) -> dict[str, Any]:
    return {
        "@timestamp": now,
        "flow": flow.name,
        "topic": flow.topic,
        "topic_id": state.topic_id,
        "partition": partition,
    }


def _send(documents: Documents, operations: Sequence[bytes]) -> list[ItemResult]:
    results = send(documents, operations) if operations else []
    for result in results:
        if result.rejected:
            raise SliceError(f"{DEAD_INDEX} refuses a dead letter: {result.error}: {result.reason}")
    return results


def _detail(message: RejectedMessage) -> str:
    """At most `LONGEST_DETAIL` characters that JSON can hold: the text of a server may quote a lone
    surrogate of the message."""
    return message.detail[:LONGEST_DETAIL].encode(errors="replace").decode()


def _base64(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()
