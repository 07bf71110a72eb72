"""The daily indices that hold a flow's documents: when one is gone, its events are read again.

Belongs here: noting each index with the id that Elasticsearch gave it, and telling which of the
noted ones are not there any more. Does not belong here: moving positions back (`drain.py`).

An index is noted before the position passes the first events that lie in it. Who deletes an index
for good removes its note first; who exchanges it notes first which one will take its place.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from kp_platform.engine.errors import SliceError
from kp_platform.engine.store import DocumentStore, create, delete, put, send
from kp_platform.flows.model import Flow

INDEX = "kp.indices"
# How the name of an index that a replay makes goes on after that of the flow's index: when it was
# made, and its day.
_REPLAYED = re.compile(r"\.\d{14}[0-9a-f]{4}-[\d.]{10}")


def register(store: DocumentStore, flow: Flow, names: Collection[str], now: str) -> None:
    """Remember indices that were just written to. Raises SliceError when one of them was deleted,
    or deleted and made again, since it was noted: what it held is missing."""
    noted, there, gone = _look(store, flow, names)
    if gone:  # or exchanged between two reads
        noted, there, gone = _look(store, flow, names)
    if gone:
        raise SliceError(f"index {gone[0]} was deleted while it was written to")
    operations = []
    for name in names:
        body = _body(flow, name, there[name], now)
        if name not in noted:
            operations.append(create(INDEX, _id(flow, name), body))
        elif noted[name]["index_id"] != there[name]:
            operations.append(put(INDEX, _id(flow, name), body))
    if operations:
        send(store, operations)
        store.refresh(INDEX)


def _look(
    store: DocumentStore, flow: Flow, names: Collection[str]
) -> tuple[dict[str, dict[str, Any]], dict[str, str], list[str]]:
    """The notes of indices, the ids of those that are there, and which of the names are gone."""
    stored = store.get([(INDEX, _id(flow, name)) for name in names])
    noted = {each.source["index"]: each.source for each in stored.values()}
    there = store.index_ids(flow.index)
    gone = [n for n in names if n not in there or (n in noted and not _is_there(noted[n], there))]
    return noted, there, gone


def missing(store: DocumentStore, flow: Flow) -> list[str]:
    """The noted indices that are not there any more, or only another one of the same name."""

    def gone() -> list[str]:
        noted = [each.source for each in store.find(INDEX, "flow", flow.name)]
        there = store.index_ids(flow.index) if noted else {}
        return sorted(each["index"] for each in noted if not _is_there(each, there))

    return gone() and gone()


def register_swap(
    store: DocumentStore, flow: Flow, name: str, index_id: str, next_id: str, now: str
) -> None:
    """Remember which index may take the place of another, noted or not, from now on."""
    send(store, [put(INDEX, _id(flow, name), _body(flow, name, index_id, now, next_id))])
    store.refresh(INDEX)


def unregister(store: DocumentStore, flow: Flow, names: Iterable[str]) -> None:
    """Remove the notes of indices."""
    send(store, [delete(INDEX, _id(flow, name)) for name in names])
    store.refresh(INDEX)


def first_moment(flow: Flow, name: str) -> datetime:
    """The start of the day (UTC) whose events lie in a daily index."""
    day = name.removeprefix(f"{flow.index}-")
    return datetime.strptime(day, "%Y.%m.%d").replace(tzinfo=UTC)


def is_replayed(flow: Flow, name: str) -> bool:
    """Whether an index was made by a replay of the flow, by its name."""
    return name.startswith(flow.index) and _REPLAYED.fullmatch(name[len(flow.index) :]) is not None


def _is_there(noted: Mapping[str, Any], there: Mapping[str, str]) -> bool:
    """Whether a noted index is there, or the one that was to take its place."""
    return there.get(noted["index"], "") in (noted["index_id"], noted.get("next_id"))


def _body(flow: Flow, name: str, index_id: str, now: str, next_id: str | None = None) -> bytes:
    fields = {"flow": flow.name, "index": name, "index_id": index_id, "next_id": next_id}
    return orjson.dumps({"@timestamp": now, **fields})


def _id(flow: Flow, name: str) -> str:
    return f"{flow.name}:{name}"
