"""Rows of the slice's query to documents, or to rejected messages with a reason.

Belongs here: the check of a message against its flow's contract, and the shape of a document.
Does not belong here: sending documents (`writer.py`) and storing dead letters (`dead_letters.py`).

The columns of a flow's SQL have the names of the document's fields, plus `message`, the text of the
message. Trino's JSON decoder is lenient (a number becomes a string, trailing garbage is ignored, a
lone surrogate becomes `?`), so the message itself is checked against the contract, and its own
values go into the document. They are compared with Trino's: of a message that is not UTF-8, Trino
lacks a field while the text has replacement characters.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any, Self

import orjson

from kp_platform.engine.ports import Row
from kp_platform.flows.model import AnyFlow, Flow, ReferenceRefresh

_NIL_UUID = "00000000-0000-0000-0000-000000000000"
_UUID = rf"(?!{_NIL_UUID})[0-9a-f]{{8}}-[0-9a-f]{{4}}-[0-9a-f]{{4}}-[0-9a-f]{{4}}-[0-9a-f]{{12}}"
# One index a day: a wrong clock must not create indices for arbitrary days.
_FIRST_DAY, _LAST_DAY = "2000-01-01", "2100-01-01"
_TIMESTAMP_LENGTH = len("2000-01-01 00:00:00.000")
_MILLISECOND = timedelta(milliseconds=1)
# The inside of a JSON string without escapes; a lone surrogate is not a character.
_TEXT = r'[^"\\\x00-\x1f\ud800-\udfff]*'
_MOST_CACHED = 10_000
# JSON is assembled as bytes, once per event: an index name and a UUID need no escaping, and the
# other parts are JSON already.
_OPERATION = b"""{"create":{"_index":"%b","_id":"%b"}}
{"@timestamp":"%bT%bZ",%b,%b,"partition":%d,"offset":%d,"indexed_at":"%b","delay_ms":%d}
"""

# Partition, offset and timestamp of a message; the timestamp as Trino writes it.
Coordinates = tuple[int, int, str]


class BadMessage(Exception):
    """A message that breaks its contract. `reason` is an identifier, `detail` a sentence."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class RejectedMessage:
    """A message that cannot be indexed, and the reason. Its bytes are read from the topic."""

    partition: int
    offset: int
    timestamp: str
    reason: str
    detail: str

    @classmethod
    def of(cls, coordinates: Coordinates, reason: str, detail: str) -> Self:
        partition, offset, timestamp = coordinates
        return cls(partition, offset, f"{timestamp.replace(' ', 'T')}Z", reason, detail)


def parse_message(message: str | bytes | None, flow: AnyFlow) -> dict[str, str]:
    """The flow's fields of a message. Unknown members are ignored; the last of a repeated one wins.

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
    if isinstance(flow, Flow) and not re.fullmatch(_UUID, event[flow.id_field]):
        raise BadMessage("bad_uuid", f"{flow.id_field} is not a lower-case, non-nil UUID")
    return event


def _plain(flow: AnyFlow) -> re.Pattern[str]:
    """Matches valid messages in the most common form: the flow's fields in order, without blanks
    and escapes. Its groups are the values."""
    forms = dict.fromkeys(flow.fields, _TEXT)
    if isinstance(flow, Flow):
        forms[flow.id_field] = _UUID
    members = (
        re.escape(orjson.dumps(name).decode()) + f':"({form})"' for name, form in forms.items()
    )
    return re.compile(r"\{" + ",".join(members) + r"\}")


class Columns:
    """The positions of the columns of a flow's query, and the check of a row against the contract.
    `reference` are the columns of reference data: those that are not part of the message.

    Raises ValueError when the SQL lacks a column, or returns one twice.
    """

    def __init__(self, flow: AnyFlow, columns: Sequence[str]) -> None:
        self.at = {name: position for position, name in enumerate(columns)}
        if len(self.at) < len(columns):
            raise ValueError(f"the SQL of flow {flow.name} returns a column twice: {columns}")
        own = {"@timestamp", "partition", "offset", "message", *flow.fields}
        needed = own.union(flow.references.values())
        if missing := sorted(needed - self.at.keys()):
            raise ValueError(f"the SQL of flow {flow.name} does not return {', '.join(missing)}")
        if isinstance(flow, ReferenceRefresh):
            own |= {*flow.target.fields}
        self.reference = {name: at for name, at in self.at.items() if name not in own}
        self._flow = flow
        self._timestamp, self._message = self.at["@timestamp"], self.at["message"]
        self.coordinates: Callable[[Row], Coordinates] = itemgetter(
            self.at["partition"], self.at["offset"], self._timestamp
        )
        self._compared = [(at, self.at[name], name) for at, name in enumerate(flow.fields)]
        # The pattern does not check allowed values: such messages are all parsed.
        self._plain = None if flow.allowed else _plain(flow)

    def event(self, row: Row) -> bytes:
        """The flow's fields of the row's message, as the inside of a JSON object. The columns of
        the same names have the same values. Raises BadMessage."""
        timestamp = row[self._timestamp]
        if len(timestamp) != _TIMESTAMP_LENGTH or not _FIRST_DAY <= timestamp < _LAST_DAY:
            raise BadMessage("bad_timestamp", f"{timestamp} is not a day of this century")
        message: str | None = row[self._message]
        if self._plain and message and (plain := self._plain.fullmatch(message)):
            values, members = plain.groups(), message[1:-1].encode()
        else:
            event = parse_message(message, self._flow)
            values, members = tuple(event.values()), orjson.dumps(event)[1:-1]
        for at, column, name in self._compared:
            if values[at] != row[column]:
                raise BadMessage("altered", f"Trino read another {name} than the message has")
        return members

    def rejected(self, row: Row) -> RejectedMessage | None:
        """The row's message, if it breaks its contract."""
        try:
            self.event(row)
        except BadMessage as bad:
            return RejectedMessage.of(self.coordinates(row), bad.reason, bad.detail)
        return None


@dataclass(frozen=True, slots=True)
class Batch:
    """The result of building rows: an operation of a bulk request for each document, and the
    rejected messages.

    `missing` counts the documents without data of a reference source; `indices` are those of the
    documents.
    """

    operations: list[bytes] = field(default_factory=list)
    rejected: list[RejectedMessage] = field(default_factory=list)
    missing: Counter[str] = field(default_factory=Counter)
    indices: set[str] = field(default_factory=set)


def builder(
    flow: Flow, columns: Columns, run_id: str = ""
) -> Callable[[Sequence[Row], str], Batch]:
    """A function from (rows, indexed_at) to documents; `indexed_at` is an ISO 8601 time in UTC,
    `run_id` the Dagster run that indexes them."""
    reference = _ReferenceCache(flow, columns.reference, run_id)
    identity = columns.at[flow.id_field]

    def build(rows: Sequence[Row], indexed_at: str) -> Batch:
        batch = Batch()
        days: dict[str, tuple[bytes, bytes]] = {}
        now = datetime.fromisoformat(indexed_at).replace(tzinfo=None)
        written = indexed_at.encode()
        for row in rows:
            partition, offset, timestamp = coordinates = columns.coordinates(row)
            try:
                members = columns.event(row)
            except BadMessage as bad:
                batch.rejected.append(RejectedMessage.of(coordinates, bad.reason, bad.detail))
                continue
            missing, reference_members = reference.members(row)
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
                reference_members,
                partition,
                offset,
                written,
                (now - datetime.fromisoformat(timestamp)) // _MILLISECOND,
            )
            batch.operations.append(operation)
        return batch

    return build


class Document:
    """The document of an operation, parsed from its bytes; only for few of them."""

    def __init__(self, operation: bytes) -> None:
        action, body = map(orjson.loads, operation.splitlines())
        self.body: dict[str, Any] = body
        self.index: str = action["create"]["_index"]
        self.id: str = action["create"]["_id"]

    @property
    def partition_offset(self) -> tuple[int, int]:
        return self.body["partition"], self.body["offset"]

    def rejected(self, reason: str, detail: str) -> RejectedMessage:
        return RejectedMessage(*self.partition_offset, self.body["@timestamp"], reason, detail)


class _ReferenceCache:
    """The members of a document that are the same for all events of a name, its reference data: a
    part of JSON, cached for many documents."""

    def __init__(self, flow: Flow, columns: Mapping[str, int], run_id: str) -> None:
        self._flow = flow
        self._run_id = run_id
        self._names, positions = list(columns), list(columns.values())
        # For one column or none, itemgetter does not return a tuple.
        self._values = itemgetter(*positions) if len(positions) > 1 else _tuple_of(positions)
        self._cached: dict[tuple[Any, ...], tuple[tuple[str, ...], bytes]] = {}

    def members(self, row: Row) -> tuple[tuple[str, ...], bytes]:
        """The reference sources without a row for the event, and the members of its document."""
        values = self._values(row)
        try:
            members = self._cached.get(values)
        except TypeError:  # an array of Trino is a list, which has no hash
            return self._build(values)
        if members is None:
            if len(self._cached) >= _MOST_CACHED:
                self._cached.clear()
            members = self._cached[values] = self._build(values)
        return members

    def _build(self, values: Sequence[Any]) -> tuple[tuple[str, ...], bytes]:
        flow = self._flow
        members: dict[str, Any] = dict(zip(self._names, values, strict=True))
        missing = tuple(s for s, column in flow.references.items() if members[column] is None)
        members["topic"] = flow.topic
        members["run_id"] = self._run_id or None
        if flow.references:
            members["enrichment"] = enrichment(missing, flow.references)
        return missing, orjson.dumps(members)[1:-1]


def _tuple_of(positions: Sequence[int]) -> Callable[[Row], tuple[Any, ...]]:
    return lambda row: tuple(row[position] for position in positions)


def enrichment(missing: Sequence[str], references: Mapping[str, str]) -> dict[str, Any]:
    """The member `enrichment` of a document, given its missing reference sources."""
    if not missing:
        state = "complete"
    else:
        state = "none" if len(missing) == len(references) else "partial"
    return {"state": state, "missing": list(missing)}
