"""The cases of the .toml files beside this module, as messages with the answers they must get.

Belongs here: reading the files. Does not belong here: the cases, and what sends them.

A case has a `name` and says `why` it is there. Its message is `value` in UTF-8 or in `encoding`, or
`hex`, or a `tombstone`. In `value`, $UUID is another uuid in each case and each run (`same_uuid_as`
names the case whose uuid it is), $TAIL its last twelve digits, and $FILL what `fill` lists as
(text, times). `timestamp` is in milliseconds since 1970. The answer is `dead` with a reason, or
`duplicate`, or else `indexed`.
"""

import json
import tomllib
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

FOLDER = Path(__file__).parent
NOWHERE = ("mysql", "redis")


@dataclass(frozen=True)
class Indexed:
    """A document with exactly these fields."""

    uri: str = "/"
    name: str = "presto"
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dead:
    """A dead letter with the reason, and with the message's bytes."""

    reason: str


@dataclass(frozen=True)
class Counted:
    """Neither: the event is a document already."""


Answer = Indexed | Dead | Counted


@dataclass(frozen=True)
class Case:
    """A message, and what must become of it."""

    name: str
    value: bytes | None
    answer: Answer
    why: str = "a good neighbour"
    timestamp: int = 0
    compression: str = "none"
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


def malformed() -> list[Case]:
    """Messages that break the contract."""
    return _cases("malformed")


def odd() -> list[Case]:
    """Messages that are odd and valid."""
    return _cases("odd")


def nasty_strings() -> list[Case]:
    """Two events of each string: one has it as its uri, the other as its name. The first is written
    with escapes, the second in UTF-8."""
    cases: list[Case] = []
    for each in _read("nasty_strings")["string"]:
        times = each.get("times", 1)
        text, short = each["text"] * times, f"{each['text']!a} x {times}"
        of_uri = json.dumps({"uuid": str(uuid.uuid4()), "uri": text, "name": "presto"}).encode()
        of_name = orjson.dumps({"uuid": str(uuid.uuid4()), "uri": "/", "name": text})
        dead = Dead(each["dead"]) if "dead" in each else None
        uri, name = Indexed(uri=text), Indexed(name=text, missing=NOWHERE)
        cases.append(Case(f"uri {short}", of_uri, dead or uri, each["why"]))
        cases.append(Case(f"name {short}", of_name, dead or name, each["why"]))
    return cases


def markup() -> list[str]:
    """The nasty strings that would be markup on a careless page."""
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
        answer=_answer(each, filled),
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


def _answer(each: dict[str, Any], filled: str) -> Answer:
    if "dead" in each:
        return Dead(each["dead"])
    if each.get("duplicate"):
        return Counted()
    fields = dict(each.get("indexed", {}))
    missing = tuple(fields.pop("missing", ()))
    return Indexed(
        **{name: text.replace("$FILL", filled) for name, text in fields.items()}, missing=missing
    )
