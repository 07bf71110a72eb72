"""From a row of the slice's query to a document, or to the reason why it cannot become one.

Belongs here: the check of a message against its flow's contract, and the shape of a document.
Does not belong here: sending documents (`bulk.py`) and keeping dead letters (`dead_letters.py`).

The columns of a flow's SQL carry the names of the document's fields, and one more, `message`: the
message's text. Trino's JSON decoder is lenient (a number becomes a string, trailing garbage is
ignored, a lone surrogate becomes `?`), so the message itself is parsed and held to the contract.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson

from kp_platform.flows import Flow

Row = Sequence[Any]

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_NIL_UUID = "00000000-0000-0000-0000-000000000000"
# One index a day: a wild clock must not open an index for each day of its imagination.
_FIRST_DAY, _LAST_DAY = "2000-01-01", "2100-01-01"
_MILLISECOND = timedelta(milliseconds=1)


class BadMessage(Exception):
    """A message that breaks its contract. `reason` is one of a few words, `detail` a sentence."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Document:
    """A document ready for a bulk request, with where it came from."""

    index: str
    id: str
    partition: int
    offset: int
    timestamp: str
    missing: tuple[str, ...]
    body: bytes


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
    for name, values in flow.allowed.items():
        if event[name] not in values:
            raise BadMessage("bad_value", f"{name} is none of {', '.join(values)}")
    if flow.rewrites is None:
        identity = event[flow.id_field]
        if not _UUID.fullmatch(identity) or identity == _NIL_UUID:
            raise BadMessage("bad_uuid", f"{flow.id_field} is not a lower-case, non-nil UUID")
    return event


class Columns:
    """Where the columns of a flow's query stand, and the check of a row against the contract.

    Raises ValueError when the SQL lacks a column.
    """

    def __init__(self, flow: Flow, columns: Sequence[str]) -> None:
        self.at = {name: position for position, name in enumerate(columns)}
        needed = {"@timestamp", "partition", "offset", "message", *flow.fields}
        needed.update(flow.references.values())
        if missing := sorted(needed - self.at.keys()):
            raise ValueError(f"{flow.sql_path.name} does not return {', '.join(missing)}")
        self._flow = flow
        self._place = self.at["partition"], self.at["offset"], self.at["@timestamp"]
        self._message = self.at["message"]
        self._fields = [(name, self.at[name]) for name in flow.fields]

    def place(self, row: Row) -> tuple[int, int, str]:
        """Partition, offset and timestamp of the row's message."""
        partition, offset, timestamp = self._place
        return row[partition], row[offset], row[timestamp]

    def defect(self, row: Row) -> DeadLetter | None:
        """The dead letter that the row's message is, if it breaks its contract."""
        partition, offset, timestamp = self.place(row)
        try:
            if not _FIRST_DAY <= timestamp < _LAST_DAY:
                raise BadMessage("bad_timestamp", f"{timestamp} is not a day of this century")
            event = parse_message(row[self._message], self._flow)
            for name, position in self._fields:
                if event[name] != row[position]:
                    raise BadMessage("altered", f"Trino read another {name} than the message has")
        except BadMessage as bad:
            return DeadLetter(partition, offset, timestamp, bad.reason, bad.detail)
        return None


def builder(flow: Flow, columns: Sequence[str]) -> Callable[[Row, str], Document | DeadLetter]:
    """A function from (row, indexed_at) to a document or a dead letter, for rows of `columns`.

    `indexed_at` is an ISO 8601 time in UTC. Raises ValueError when the SQL lacks a column.
    """
    known = Columns(flow, columns)
    kept = [(name, position) for name, position in known.at.items() if name != "message"]
    identity = known.at[flow.id_field]
    references = [(source, known.at[column]) for source, column in flow.references.items()]

    def build(row: Row, indexed_at: str) -> Document | DeadLetter:
        if dead := known.defect(row):
            return dead
        partition, offset, timestamp = known.place(row)
        missing = tuple(source for source, position in references if row[position] is None)
        document = {name: row[position] for name, position in kept}
        document["topic"] = flow.topic
        document["indexed_at"] = indexed_at
        document["delay_ms"] = milliseconds_between(timestamp, indexed_at)
        if references:
            document["enrichment"] = enrichment(missing, flow.references)
        return Document(
            index=f"{flow.index}-{timestamp[:10].replace('-', '.')}",
            id=row[identity],
            partition=partition,
            offset=offset,
            timestamp=timestamp,
            missing=missing,
            body=orjson.dumps(document),
        )

    return build


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
