"""What is kept of messages that cannot be indexed, and of offsets that were never read.

Belongs here: dead letters (`kp.dead`) with their raw bytes and a reason, how they are found, given
another reason, dropped and removed; gaps (`kp.gaps`) with exact offsets. Does not belong here:
deciding that a message is bad (`documents.py`, `bulk.py`) and reading one again (`dead_replay.py`).

A letter that was dropped stays, without its bytes: its offset is still accounted for.
"""

import base64
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from kp_platform.engine.counting import EVER, Where
from kp_platform.engine.documents import DeadLetter
from kp_platform.engine.errors import SliceError
from kp_platform.engine.offsets import OffsetRange, TopicState
from kp_platform.engine.ports import RawMessage
from kp_platform.engine.store import DocumentStore, ItemResult, Version, create, delete, put, send
from kp_platform.flows.model import Flow

DEAD_INDEX = "kp.dead"
GAP_INDEX = "kp.gaps"
LONGEST_DETAIL = 1000
_BYTES = ("key", "value")
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class StoredDeadLetter:
    """A dead letter as it is kept; `source` lacks the bytes unless it was asked for by its id."""

    id: str
    source: dict[str, Any]
    version: Version

    @property
    def place(self) -> tuple[int, int]:
        """Partition and offset."""
        return self.source["partition"], self.source["offset"]

    @property
    def discarded_at(self) -> str | None:
        return self.source.get("dropped_at")

    def __str__(self) -> str:
        partition, offset = self.place
        return f"{self.source['topic']} {partition}:{offset}"


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters: those with the ids given, else those of the flow and of the reason, if any.
    Without ids those that were dropped are left out unless asked for."""

    ids: tuple[str, ...] = ()
    flow: str = ""
    reason: str = ""
    with_discarded: bool = False

    @property
    def where(self) -> Where:
        named = (("flow", self.flow), ("reason", self.reason))
        equal = tuple((field, value) for field, value in named if value)
        return Where("@timestamp", EVER, equal, () if self.with_discarded else ("dropped_at",))


@dataclass(frozen=True, slots=True)
class Tally:
    """How many letters there are: open ones by (flow, reason), and those that were dropped."""

    open: Counter[tuple[str, str]]
    dropped: int

    def by_flow(self) -> Counter[str]:
        return self._by(0)

    def by_reason(self) -> Counter[str]:
        return self._by(1)

    def __str__(self) -> str:
        reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(self.by_reason().items()))
        found = f"{self.open.total()} open dead letters{f' ({reasons})' if reasons else ''}"
        return f"{found}, {self.dropped} dropped"

    def _by(self, which: int) -> Counter[str]:
        counts: Counter[str] = Counter()
        for names, count in self.open.items():
            counts[names[which]] += count
        return counts


class NoSuchDeadLetter(Exception):
    """There is no dead letter with an id that was asked for."""


def store_dead_letters(
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
            "detail": _detail(letter),
            "key": _base64(message.key),
            "value": _base64(message.value),
        }
        identity = _identity(flow, state, letter.partition, letter.offset)
        operations.append(create(DEAD_INDEX, identity, orjson.dumps(body)))
    _send_letters(store, operations)


def read(store: DocumentStore, selection: Selection) -> list[StoredDeadLetter]:
    """The letters selected, the latest first. Raises NoSuchLetter."""
    if selection.ids:
        return [by_id(store, identity) for identity in dict.fromkeys(selection.ids)]
    return [letter for page in pages(store, selection, _PAGE) for letter in page]


def by_id(store: DocumentStore, identity: str) -> StoredDeadLetter:
    """A letter with its bytes. Raises NoSuchLetter."""
    stored = store.get([(DEAD_INDEX, identity)]).get((DEAD_INDEX, identity))
    if stored is None:
        raise NoSuchDeadLetter(f"there is no dead letter {printable(identity)}; see `kp dlq list`")
    return StoredDeadLetter(identity, stored.source, stored.version)


def pages(
    store: DocumentStore, selection: Selection, size: int
) -> Iterator[list[StoredDeadLetter]]:
    """Letters without their bytes, the latest first; as searchable now."""
    with store.snapshot(DEAD_INDEX) as snapshot:
        for hits in snapshot.latest(selection.where, size, without=_BYTES):
            yield [StoredDeadLetter(hit.id, hit.stored.source, hit.stored.version) for hit in hits]


def tally(store: DocumentStore, selection: Selection) -> Tally:
    """How many letters there are of those selected, dropped ones too; as searchable now."""
    where = replace(selection, with_discarded=True).where
    counted, dropped = Counter[tuple[str, str]](), 0
    with store.snapshot(DEAD_INDEX) as snapshot:
        groups = snapshot.groups(["flow", "reason", "dropped_at"], where)
        for (flow, reason, discarded_at), count in groups:
            if discarded_at is None:
                counted[flow, reason] += count
            else:
                dropped += count
    return Tally(counted, dropped)


def of_places(
    store: DocumentStore, flow: Flow, state: TopicState, places: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], StoredDeadLetter]:
    """The letters of messages at these (partition, offset), dropped ones too."""
    keys = {(DEAD_INDEX, _identity(flow, state, *place)): place for place in places}
    stored = store.get([*keys])
    return {
        keys[key]: StoredDeadLetter(key[1], each.source, each.version)
        for key, each in stored.items()
    }


def remove(store: DocumentStore, letters: Sequence[StoredDeadLetter]) -> None:
    """Take letters away whose messages are indexed. Raises what `store.send` raises."""
    if letters:
        send(store, [delete(DEAD_INDEX, letter.id) for letter in letters])


def give_reason(
    store: DocumentStore, letter: StoredDeadLetter, found: DeadLetter, now: str
) -> None:
    """Say why the message is still bad. A letter that somebody has just changed stays so."""
    source = by_id(store, letter.id).source | {
        "reason": found.reason,
        "detail": _detail(found),
        "replayed_at": now,
    }
    written = put(DEAD_INDEX, letter.id, orjson.dumps(source), expected=letter.version)
    _send_letters(store, [written])


def drop(store: DocumentStore, letters: Sequence[StoredDeadLetter], now: str) -> int:
    """Forget the bytes of letters, for good; returns how many. Letters that are dropped already,
    or that somebody has just changed, stay as they are. Raises what `store.send` raises."""
    operations = [
        put(
            DEAD_INDEX,
            letter.id,
            orjson.dumps(letter.source | dict.fromkeys(_BYTES) | {"dropped_at": now}),
            expected=letter.version,
        )
        for letter in letters
        if letter.discarded_at is None
    ]
    return sum(result.written for result in _send_letters(store, operations))


def raw_bytes(letter: StoredDeadLetter, field: str) -> bytes | None:
    """The key or the value of a letter that was asked for by its id; None when it has none."""
    kept = letter.source[field]
    return None if kept is None else base64.b64decode(kept)


def as_text(value: bytes | None, most: int) -> str | None:
    """At most so many bytes for people: as text, or in hex when they are not UTF-8."""
    if value is None:
        return None
    cut = f" ... {len(value)} bytes in all" if len(value) > most else ""
    try:
        value.decode()
    except UnicodeDecodeError:
        return f"hex {value[:most].hex(' ')}{cut}"
    return value[:most].decode(errors="ignore") + cut


def printable(text: str) -> str:
    """Text that does nothing to a terminal: controls, direction marks and other characters that
    have no shape are written as escapes."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


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


def _identity(flow: Flow, state: TopicState, partition: int, offset: int) -> str:
    return f"{flow.name}:{state.topic_id}:{partition}:{offset}"


def _common(flow: Flow, state: TopicState, partition: int, now: str) -> dict[str, Any]:
    return {
        "@timestamp": now,
        "flow": flow.name,
        "topic": flow.topic,
        "topic_id": state.topic_id,
        "partition": partition,
    }


def _send_letters(store: DocumentStore, operations: Sequence[bytes]) -> list[ItemResult]:
    results = send(store, operations) if operations else []
    for result in results:
        if result.rejected:
            raise SliceError(f"{DEAD_INDEX} refuses a letter: {result.error}: {result.reason}")
    return results


def _detail(letter: DeadLetter) -> str:
    """At most `LONGEST_DETAIL` characters that JSON can hold: a server's text may quote half of a
    character of the message."""
    return letter.detail[:LONGEST_DETAIL].encode(errors="replace").decode()


def _base64(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()
