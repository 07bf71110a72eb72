"""The cases of the .toml files in this folder, as messages with expected results.

Belongs here: reading the files. Does not belong here: the cases, publishing them.

A case has a `name` and a reason, `why`. Its message is `value` in UTF-8 or in `encoding`, or `hex`,
or a `tombstone`. In `value`, $UUID is a new uuid for each case and run (or that of the case in
`same_uuid_as`), $TAIL its last twelve digits, and $FILL the texts of `fill`, a list of (text,
times). `timestamp` is in milliseconds since 1970. The expected result is `rejected` with a reason,
or `duplicate`, or else `indexed`.
"""

import json
import tomllib
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

FOLDER = Path(__file__).parent
NO_REFERENCES = ("mysql", "redis")


@dataclass(frozen=True)
class Indexed:
    """A document with exactly these fields."""

    uri: str = "/"
    name: str = "presto"
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rejected:
    """A dead letter with this reason and the message's bytes."""

    reason: str


@dataclass(frozen=True)
class Duplicate:
    """Neither a new document nor a dead letter: the event is indexed already."""


Expected = Indexed | Rejected | Duplicate


@dataclass(frozen=True)
class Case:
    """A message and its expected result."""

    name: str
    value: bytes | None
    expected: Expected
    why: str = "a valid neighbour"
    timestamp: int = 0
    compression: str = "none"
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


def malformed() -> list[Case]:
    """Messages that violate the contract."""
    return _cases("malformed")


def odd() -> list[Case]:
    """Unusual but valid messages."""
    return _cases("odd")


def nasty_strings() -> list[Case]:
    """Two events per string: one with the string as uri, encoded with escapes, and one with the
    string as name, in UTF-8."""
    cases: list[Case] = []
    for each in _read("nasty_strings")["string"]:
        times = each.get("times", 1)
        text, short = each["text"] * times, f"{each['text']!a} x {times}"
        of_uri = json.dumps({"uuid": str(uuid.uuid4()), "uri": text, "name": "presto"}).encode()
        of_name = orjson.dumps({"uuid": str(uuid.uuid4()), "uri": "/", "name": text})
        rejected = Rejected(each["rejected"]) if "rejected" in each else None
        uri, name = Indexed(uri=text), Indexed(name=text, missing=NO_REFERENCES)
        cases.append(Case(f"uri {short}", of_uri, rejected or uri, each["why"]))
        cases.append(Case(f"name {short}", of_name, rejected or name, each["why"]))
    return cases


def markup() -> list[str]:
    """The nasty strings that are markup on a page without escaping."""
    texts = [each["text"] for each in _read("nasty_strings")["string"]]
    return [text for text in texts if ("<" in text or "alert(" in text) and text.isprintable()]


def _cases(file: str) -> list[Case]:
    uuids: dict[str, str] = {}
    return [_case(each, uuids) for each in _read(file)["case"]]


def _read(file: str) -> dict[str, Any]:
    return tomllib.loads((FOLDER / f"{file}.toml").read_text(encoding="utf-8"))


def _case(each: dict[str, Any], uuids: dict[str, str]) -> Case:
    identity = uuids.get(each.get("same_uuid_as", "")) or str(uuid.uuid4())
    uuids[each["name"]] = identity
    filled = "".join(text * times for text, times in each.get("fill", []))
    return Case(
        name=each["name"],
        value=_value(each, identity, filled),
        expected=_expected(each, filled),
        why=each["why"],
        timestamp=each.get("timestamp", 0),
        compression=each.get("compression", "none"),
        key=bytes.fromhex(each["key_hex"]) if "key_hex" in each else None,
        headers=tuple((name, value.encode()) for name, value in each.get("headers", [])),
    )


def _value(each: dict[str, Any], identity: str, filled: str) -> bytes | None:
    if each.get("tombstone"):
        return None
    if "hex" in each:
        return bytes.fromhex(each["hex"])
    text = each["value"].replace("$UUID", identity).replace("$TAIL", identity[-12:])
    return str(text.replace("$FILL", filled)).encode(each.get("encoding", "utf-8"))


def _expected(each: dict[str, Any], filled: str) -> Expected:
    if "rejected" in each:
        return Rejected(each["rejected"])
    if each.get("duplicate"):
        return Duplicate()
    fields = dict(each.get("indexed", {}))
    missing = tuple(fields.pop("missing", ()))
    return Indexed(
        **{name: text.replace("$FILL", filled) for name, text in fields.items()}, missing=missing
    )
