"""The daily indices that hold a flow's documents: when one is gone, its events are read again.

Belongs here: noting each index with the id that Elasticsearch gave it, and telling which of the
noted ones are not there any more. Does not belong here: moving positions back (`drain.py`).

An index is noted before the position passes the first events that lie in it. Who deletes an index
for good removes its note first.
"""

from collections.abc import Iterable
from datetime import UTC, datetime

import orjson

from kp_platform.flows import Flow
from kp_platform.pipeline.errors import SliceError
from kp_platform.pipeline.store import DocumentStore, create, delete, send

INDEX = "kp.indices"


def note(store: DocumentStore, flow: Flow, names: Iterable[str], now: str) -> None:
    """Remember indices that were just written to. Raises SliceError when one of them was deleted,
    or deleted and made again, since it was noted: what it held is missing."""
    keys = {name: (INDEX, _id(flow, name)) for name in names}
    noted = store.get(list(keys.values()))
    there = store.index_ids(flow.index)
    operations = []
    for name, key in keys.items():
        if name not in there or (key in noted and noted[key].source["index_id"] != there[name]):
            raise SliceError(f"index {name} was deleted while it was written to")
        if key not in noted:
            body = {"@timestamp": now, "flow": flow.name, "index": name, "index_id": there[name]}
            operations.append(create(INDEX, key[1], orjson.dumps(body)))
    if operations:
        send(store, operations)
        store.refresh(INDEX)


def deleted(store: DocumentStore, flow: Flow) -> list[str]:
    """The noted indices that are not there any more, or only another one of the same name."""
    noted = [each.source for each in store.find(INDEX, "flow", flow.name)]
    there = store.index_ids(flow.index) if noted else {}
    return sorted(each["index"] for each in noted if there.get(each["index"]) != each["index_id"])


def forget(store: DocumentStore, flow: Flow, names: Iterable[str]) -> None:
    """Remove the notes of indices."""
    send(store, [delete(INDEX, _id(flow, name)) for name in names])
    store.refresh(INDEX)


def first_moment(flow: Flow, name: str) -> datetime:
    """The start of the day (UTC) whose events lie in a daily index."""
    day = name.removeprefix(f"{flow.index}-")
    return datetime.strptime(day, "%Y.%m.%d").replace(tzinfo=UTC)


def _id(flow: Flow, name: str) -> str:
    return f"{flow.name}:{name}"
