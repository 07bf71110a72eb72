"""From a row of the slice's query to a document, or to the reason why it cannot become one.

Belongs here: the check of a message against its flow's contract, and the shape of a document.
Does not belong here: sending documents (`bulk.py`) and keeping dead letters (`dead_letters.py`).

The columns of a flow's SQL carry the names of the document's fields, and one more, `message`: the
message's text. Trino's JSON decoder is lenient (a number becomes a string, trailing garbage is
ignored, a lone surrogate becomes `?`), so the message itself is parsed and held to the contract.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any, NamedTuple

import orjson

from kp_platform.flows import Flow

Row = Sequence[Any]

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_NIL_UUID = "00000000-0000-0000-0000-000000000000"
# One index a day: a wild clock must not open an index for each day of its imagination.
_FIRST_DAY, _LAST_DAY = "2000-01-01", "2100-01-01"
_MILLISECOND = timedelta(milliseconds=1)
_MOST_FACTS = 10_000
# JSON by hand, for there is one for each event: an index name and a UUID need no escaping, and the
# other parts are JSON already.
_OPERATION = b"""{"create":{"_index":"%b","_id":"%b"}}
{"@timestamp":"%b",%b,%b,"partition":%d,"offset":%d,"indexed_at":"%b","delay_ms":%d}
"""


class BadMessage(Exception):
    """A message that breaks its contract. `reason` is one of a few words, `detail` a sentence."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Document(NamedTuple):
    """A document ready for a bulk request, with where it came from. A tuple, for there is one for
    each event."""

    index_name: str
    id: str
    partition: int
    offset: int
    timestamp: str
    missing: tuple[str, ...]
    operation: bytes

    @property
    def body(self) -> bytes:
        return self.operation.split(b"\n")[1]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that cannot be indexed, and why. Its raw bytes are read again from the topic."""

    partition: int
    offset: int
    timestamp: str
    reason: str
    detail: str


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
    _check_values(event, flow)
    return event


def _check_values(event: Mapping[str, str], flow: Flow) -> None:
    """Raises BadMessage for a value that the flow does not allow."""
    for name, values in flow.allowed.items():
        if event[name] not in values:
            raise BadMessage("bad_value", f"{name} is none of {', '.join(values)}")
    if flow.rewrites is None:
        identity = event[flow.id_field]
        if not _UUID.fullmatch(identity) or identity == _NIL_UUID:
            raise BadMessage("bad_uuid", f"{flow.id_field} is not a lower-case, non-nil UUID")


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
            raise ValueError(f"{flow.sql_path.name} does not return {', '.join(missing)}")
        self.facts = {name: at for name, at in self.at.items() if name not in own}
        self._flow = flow
        self._place = self.at["partition"], self.at["offset"], self.at["@timestamp"]
        self._message = self.at["message"]
        self._fields = [(name, self.at[name]) for name in flow.fields]

    def place(self, row: Row) -> tuple[int, int, str]:
        """Partition, offset and timestamp of the row's message."""
        partition, offset, timestamp = self._place
        return row[partition], row[offset], row[timestamp]

    def event(self, row: Row) -> bytes:
        """The JSON of the flow's fields of the row's message. Raises BadMessage."""
        timestamp = row[self._place[2]]
        if not _FIRST_DAY <= timestamp < _LAST_DAY:
            raise BadMessage("bad_timestamp", f"{timestamp} is not a day of this century")
        event = {name: row[position] for name, position in self._fields}
        written, message = orjson.dumps(event), row[self._message]
        # Most messages are written just like that, which is sooner seen than they are parsed.
        if message and written == message.encode():
            _check_values(event, self._flow)
            return written
        for name, value in parse_message(message, self._flow).items():
            if value != event[name]:
                raise BadMessage("altered", f"Trino read another {name} than the message has")
        return written

    def defect(self, row: Row) -> DeadLetter | None:
        """The dead letter that the row's message is, if it breaks its contract."""
        try:
            self.event(row)
        except BadMessage as bad:
            return DeadLetter(*self.place(row), bad.reason, bad.detail)
        return None


def builder(flow: Flow, columns: Sequence[str]) -> Callable[[Row, str], Document | DeadLetter]:
    """A function from (row, indexed_at) to a document or a dead letter, for rows of `columns`.

    `indexed_at` is an ISO 8601 time in UTC. Raises ValueError when the SQL lacks a column.
    """
    known = Columns(flow, columns)
    facts = _Facts(flow, known.facts)
    place, checked, identity = known.place, known.event, known.at[flow.id_field]

    @functools.lru_cache
    def index_of(day: str) -> str:
        return f"{flow.index}-{day.replace('-', '.')}"

    def build(row: Row, indexed_at: str) -> Document | DeadLetter:
        partition, offset, timestamp = place(row)
        try:
            event = checked(row)
        except BadMessage as bad:
            return DeadLetter(partition, offset, timestamp, bad.reason, bad.detail)
        missing, known_facts = facts.of(row)
        index = index_of(timestamp[:10])
        operation = _OPERATION % (
            index.encode(),
            row[identity].encode(),
            timestamp.encode(),
            event[1:-1],
            known_facts,
            partition,
            offset,
            indexed_at.encode(),
            milliseconds_between(timestamp, indexed_at),
        )
        return Document(index, row[identity], partition, offset, timestamp, missing, operation)

    return build


class _Facts:
    """What is the same for all events of a name: their reference data, as a part of JSON that is
    made once for many documents."""

    def __init__(self, flow: Flow, columns: Mapping[str, int]) -> None:
        self._flow = flow
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
        if flow.references:
            facts["enrichment"] = enrichment(missing, flow.references)
        return missing, orjson.dumps(facts)[1:-1]


def _each_of(places: Sequence[int]) -> Callable[[Row], tuple[Any, ...]]:
    return lambda row: tuple(row[place] for place in places)


def milliseconds_between(earlier: str, later: str) -> int:
    """From one ISO 8601 time to another; negative when the clocks disagree."""
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)) // _MILLISECOND


def enrichment(missing: Sequence[str], references: Mapping[str, str]) -> dict[str, Any]:
    """What a document says of its reference data."""
    if not missing:
        state = "complete"
    else:
        state = "none" if len(missing) == len(references) else "partial"
    return {"state": state, "missing": list(missing)}
