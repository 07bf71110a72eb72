"""The registry of the daily indices that hold a flow's documents.

Belongs here: registering each index with its UUID, and which of the registered indices are missing.
Does not belong here: moving positions back to index their events again (`recovery.py`).

An index is registered before the position passes the first events in it. Before an index is deleted
for good it is unregistered; before it is swapped, the UUID of its replacement is registered.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from kp_platform.engine.bulk import create, delete, put, send
from kp_platform.engine.errors import SliceError
from kp_platform.engine.ports import Documents, DocumentStore
from kp_platform.flows.model import AnyFlow, Flow

INDEX = "kp.indices"
# What follows the flow's index in the name of an index that a replay creates: the time of its
# creation, and its day.
_REPLAYED = re.compile(r"\.\d{14}[0-9a-f]{4}-[\d.]{10}")


def register(store: DocumentStore, flow: AnyFlow, names: Collection[str], now: str) -> None:
    """Register indices that were just written to. Raises SliceError when one of them was deleted,
    or deleted and recreated, since it was registered: its earlier documents are missing."""
    if not names:
        return
    registered, existing, gone = _compare(store, flow, names)
    if gone:  # or swapped between two reads
        registered, existing, gone = _compare(store, flow, names)
    if gone:
        raise SliceError(f"index {gone[0]} was deleted while it was written to")
    operations = []
    for name in names:
        body = _body(flow, name, existing[name], now)
        if name not in registered:
            operations.append(create(INDEX, _id(flow, name), body))
        elif registered[name]["index_id"] != existing[name]:
            operations.append(put(INDEX, _id(flow, name), body))
    if operations:
        send(store, operations)
        store.refresh(INDEX)


def _compare(
    store: DocumentStore, flow: AnyFlow, names: Collection[str]
) -> tuple[dict[str, dict[str, Any]], dict[str, str], list[str]]:
    """The registry entries of indices, the UUIDs of those that exist, and the missing names."""
    stored = store.get([(INDEX, _id(flow, name)) for name in names])
    registered = {each.source["index"]: each.source for each in stored.values()}
    existing = store.index_ids(flow.index)
    gone = [
        name
        for name in names
        if name not in existing or (name in registered and not _exists(registered[name], existing))
    ]
    return registered, existing, gone


def missing(store: DocumentStore, flow: AnyFlow) -> list[str]:
    """The registered indices that do not exist any more, or whose name another index has."""

    def gone() -> list[str]:
        registered = [each.source for each in store.find(INDEX, "flow", flow.name)]
        existing = store.index_ids(flow.index) if registered else {}
        return sorted(each["index"] for each in registered if not _exists(each, existing))

    return gone() and gone()


def register_swap(
    store: Documents, flow: Flow, name: str, index_id: str, next_id: str, now: str
) -> None:
    """Register which index may replace another one, registered or not, from now on."""
    send(store, [put(INDEX, _id(flow, name), _body(flow, name, index_id, now, next_id))])
    store.refresh(INDEX)


def unregister(store: Documents, flow: AnyFlow, names: Iterable[str]) -> None:
    """Remove indices from the registry."""
    send(store, [delete(INDEX, _id(flow, name)) for name in names])
    store.refresh(INDEX)


def first_moment(flow: AnyFlow, name: str) -> datetime:
    """The start of the day (UTC) whose events lie in a daily index. Raises ValueError."""
    day = name.removeprefix(f"{flow.index}-")
    return datetime.strptime(day, "%Y.%m.%d").replace(tzinfo=UTC)


def is_replayed(flow: Flow, name: str) -> bool:
    """Whether an index was created by a replay of the flow, by its name."""
    return name.startswith(flow.index) and _REPLAYED.fullmatch(name[len(flow.index) :]) is not None


def _exists(registered: Mapping[str, Any], existing: Mapping[str, str]) -> bool:
    """Whether a registered index exists, or the one that was registered to replace it."""
    known = (registered["index_id"], registered.get("next_id"))
    return existing.get(registered["index"], "") in known


def _body(flow: AnyFlow, name: str, index_id: str, now: str, next_id: str | None = None) -> bytes:
    fields = {"flow": flow.name, "index": name, "index_id": index_id, "next_id": next_id}
    return orjson.dumps({"@timestamp": now, **fields})


def _id(flow: AnyFlow, name: str) -> str:
    return f"{flow.name}:{name}"
