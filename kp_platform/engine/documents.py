"""From a row of the slice's query to a document, or to the reason why it cannot become one.

Belongs here: the check of a message against its flow's contract, and the shape of a document.
Does not belong here: sending documents (`bulk.py`) and keeping dead letters (`dead_letters.py`).

The columns of a flow's SQL carry the names of the document's fields, and one more, `message`: the
message's text. Trino's JSON decoder is lenient (a number becomes a string, trailing garbage is
ignored, a lone surrogate becomes `?`), so the message itself is held to the contract, and what it
says goes into the document. What Trino read of it is compared: of a message that is no UTF-8 it
lacks a field, while the text has replacement characters.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any, Self

import orjson

from kp_platform.engine.sql import Row
from kp_platform.flows.model import Flow

_NIL_UUID = "00000000-0000-0000-0000-000000000000"
_UUID = rf"(?!{_NIL_UUID})[0-9a-f]{{8}}-[0-9a-f]{{4}}-[0-9a-f]{{4}}-[0-9a-f]{{4}}-[0-9a-f]{{12}}"
# One index a day: a wild clock must not open an index for each day of its imagination.
_FIRST_DAY, _LAST_DAY = "2000-01-01", "2100-01-01"
_TIMESTAMP_LENGTH = len("2000-01-01 00:00:00.000")
_MILLISECOND = timedelta(milliseconds=1)
# The inside of a JSON string that is written as it is read; a lone surrogate is no character.
_TEXT = r'[^"\\\x00-\x1f\ud800-\udfff]*'
_MOST_FACTS = 10_000
# JSON by hand, for there is one for each event: an index name and a UUID need no escaping, and the
# other parts are JSON already.
_OPERATION = b"""{"create":{"_index":"%b","_id":"%b"}}
{"@timestamp":"%bT%bZ",%b,%b,"partition":%d,"offset":%d,"indexed_at":"%b","delay_ms":%d}
"""


# Partition, offset and timestamp of a message, this as Trino writes it.
Place = tuple[int, int, str]


class BadMessage(Exception):
    """A message that breaks its contract. `reason` is one of a few words, `detail` a sentence."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that cannot be indexed, and why. Its raw bytes are read again from the topic."""

    partition: int
    offset: int
    timestamp: str
    reason: str
    detail: str

    @classmethod
    def of(cls, place: Place, reason: str, detail: str) -> Self:
        partition, offset, timestamp = place
        return cls(partition, offset, f"{timestamp.replace(' ', 'T')}Z", reason, detail)


def parse_message(message: str | bytes | None, flow: Flow) -> dict[str, str]:
    """The flow's fields of a message; unknown members are ignored, of a repeated one the last wins.

    Raises BadMessage.
    """
    if not message:
        raise BadMessage("empty", "the message has no value")
    try:
        value = orjson.loads(message)
    except orjson.JSONDecodeError as error:
        raise BadMessage("not_json", str(error)) from None
    if not isinstance(value, dict):
        raise BadMessage("not_an_object", f"the JSON value is a {type(value).__name__}")
    for name in flow.fields:
        if name not in value:
            raise BadMessage("missing_field", f"{name} is missing")
        if not isinstance(value[name], str):
            kind = type(value[name]).__name__
            raise BadMessage("wrong_type", f"{name} is a {kind}, not a string")
    event = {name: value[name] for name in flow.fields}
    for name, values in flow.allowed.items():
        if event[name] not in values:
            raise BadMessage("bad_value", f"{name} is none of {', '.join(values)}")
    if flow.rewrites is None and not re.fullmatch(_UUID, event[flow.id_field]):
        raise BadMessage("bad_uuid", f"{flow.id_field} is not a lower-case, non-nil UUID")
    return event


def _plain(flow: Flow) -> re.Pattern[str]:
    """Matches messages that keep the contract and are written as most are: the flow's fields in
    order, without blanks and escapes. Its groups are their values."""
    forms = dict.fromkeys(flow.fields, _TEXT)
    if flow.rewrites is None:
        forms[flow.id_field] = _UUID
    members = (
        re.escape(orjson.dumps(name).decode()) + f':"({form})"' for name, form in forms.items()
    )
    return re.compile(r"\{" + ",".join(members) + r"\}")


class Columns:
    """Where the columns of a flow's query stand, and the check of a row against the contract.
    `facts` are those that tell nothing of the message, only of what it was joined with.

    Raises ValueError when the SQL lacks a column.
    """

    def __init__(self, flow: Flow, columns: Sequence[str]) -> None:
        self.at = {name: position for position, name in enumerate(columns)}
        own = {"@timestamp", "partition", "offset", "message", *flow.fields}
        needed = own.union(flow.references.values())
        if missing := sorted(needed - self.at.keys()):
            raise ValueError(f"{flow.query} does not return {', '.join(missing)}")
        self.facts = {name: at for name, at in self.at.items() if name not in own}
        self._flow = flow
        self._timestamp, self._message = self.at["@timestamp"], self.at["message"]
        self.place: Callable[[Row], Place] = itemgetter(
            self.at["partition"], self.at["offset"], self._timestamp
        )
        self._compared = [(place, self.at[name], name) for place, name in enumerate(flow.fields)]
        # Which values are allowed, the pattern does not know: such messages are all parsed.
        self._plain = None if flow.allowed else _plain(flow)

    def event(self, row: Row) -> bytes:
        """The flow's fields of the row's message, as the inside of a JSON object; the row's columns
        of the same names have the same values. Raises BadMessage."""
        timestamp = row[self._timestamp]
        if len(timestamp) != _TIMESTAMP_LENGTH or not _FIRST_DAY <= timestamp < _LAST_DAY:
            raise BadMessage("bad_timestamp", f"{timestamp} is not a day of this century")
        message: str | None = row[self._message]
        if self._plain and message and (plain := self._plain.fullmatch(message)):
            values, members = plain.groups(), message[1:-1].encode()
        else:
            event = parse_message(message, self._flow)
            values, members = tuple(event.values()), orjson.dumps(event)[1:-1]
        for place, column, name in self._compared:
            if values[place] != row[column]:
                raise BadMessage("altered", f"Trino read another {name} than the message has")
        return members

    def defect(self, row: Row) -> DeadLetter | None:
        """The dead letter that the row's message is, if it breaks its contract."""
        try:
            self.event(row)
        except BadMessage as bad:
            return DeadLetter.of(self.place(row), bad.reason, bad.detail)
        return None


@dataclass(frozen=True, slots=True)
class Batch:
    """What rows have become: an operation of a bulk request for each document, and dead letters.

    `missing` counts the documents that lack a reference source, `indices` are written to.
    """

    operations: list[bytes] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    missing: Counter[str] = field(default_factory=Counter)
    indices: set[str] = field(default_factory=set)


def builder(
    flow: Flow, columns: Columns, run_id: str = ""
) -> Callable[[Sequence[Row], str], Batch]:
    """A function from (rows, indexed_at) to documents; `indexed_at` is an ISO 8601 time in UTC,
    `run_id` the Dagster run that indexes them."""
    facts = _Facts(flow, columns.facts, run_id)
    identity = columns.at[flow.id_field]

    def build(rows: Sequence[Row], indexed_at: str) -> Batch:
        batch = Batch()
        days: dict[str, tuple[bytes, bytes]] = {}
        now = datetime.fromisoformat(indexed_at).replace(tzinfo=None)
        written = indexed_at.encode()
        for row in rows:
            partition, offset, timestamp = columns.place(row)
            try:
                members = columns.event(row)
            except BadMessage as bad:
                batch.dead.append(
                    DeadLetter.of((partition, offset, timestamp), bad.reason, bad.detail)
                )
                continue
            missing, known = facts.of(row)
            if missing:
                batch.missing.update(missing)
            day = timestamp[:10]
            if day not in days:
                index = flow.daily_index(day)
                batch.indices.add(index)
                days[day] = index.encode(), day.encode()
            index_name, date = days[day]
            operation = _OPERATION % (
                index_name,
                row[identity].encode(),
                date,
                timestamp[11:].encode(),
                members,
                known,
                partition,
                offset,
                written,
                (now - datetime.fromisoformat(timestamp)) // _MILLISECOND,
            )
            batch.operations.append(operation)
        return batch

    return build


class Document:
    """What an operation says, read again for the few of which more must be known."""

    def __init__(self, operation: bytes) -> None:
        action, body = map(orjson.loads, operation.splitlines())
        self.body: dict[str, Any] = body
        self.index: str = action["create"]["_index"]
        self.id: str = action["create"]["_id"]

    def dead(self, reason: str, detail: str) -> DeadLetter:
        body = self.body
        return DeadLetter(body["partition"], body["offset"], body["@timestamp"], reason, detail)


class _Facts:
    """What is the same for all events of a name: their reference data, as a part of JSON that is
    made once for many documents."""

    def __init__(self, flow: Flow, columns: Mapping[str, int], run_id: str) -> None:
        self._flow = flow
        self._run_id = run_id
        self._names, places = list(columns), list(columns.values())
        # Of one column or none it would be no tuple.
        self._values = itemgetter(*places) if len(places) > 1 else _each_of(places)
        self._made: dict[tuple[Any, ...], tuple[tuple[str, ...], bytes]] = {}

    def of(self, row: Row) -> tuple[tuple[str, ...], bytes]:
        """The sources that have nothing on the event, and the members of its document."""
        values = self._values(row)
        try:
            made = self._made.get(values)
        except TypeError:  # an array of Trino is a list, which has no hash
            return self._make(values)
        if made is None:
            if len(self._made) >= _MOST_FACTS:
                self._made.clear()
            made = self._made[values] = self._make(values)
        return made

    def _make(self, values: Sequence[Any]) -> tuple[tuple[str, ...], bytes]:
        flow = self._flow
        facts: dict[str, Any] = dict(zip(self._names, values, strict=True))
        missing = tuple(s for s, column in flow.references.items() if facts[column] is None)
        facts["topic"] = flow.topic
        facts["run_id"] = self._run_id or None
        if flow.references:
            facts["enrichment"] = enrichment(missing, flow.references)
        return missing, orjson.dumps(facts)[1:-1]


def _each_of(places: Sequence[int]) -> Callable[[Row], tuple[Any, ...]]:
    return lambda row: tuple(row[place] for place in places)


def enrichment(missing: Sequence[str], references: Mapping[str, str]) -> dict[str, Any]:
    """What a document says of its reference data."""
    if not missing:
        state = "complete"
    else:
        state = "none" if len(missing) == len(references) else "partial"
    return {"state": state, "missing": list(missing)}
