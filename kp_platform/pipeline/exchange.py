"""A daily index exchanged for one that was made anew, at one moment and without losing a document.

Belongs here: what the old index alone has is carried over, writers wait while the two change
places. Does not belong here: making the documents of the new one (`replay.py`).

The new index goes by the name of the old from then on, so writers and readers know nothing of it.
Writes to the old one are refused for about a second, and sent again until they reach the new one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from kp_platform.flows import Flow
from kp_platform.pipeline import indices
from kp_platform.pipeline.counting import EVER, Where
from kp_platform.pipeline.errors import SliceError
from kp_platform.pipeline.store import DocumentStore, create, put, send
from kp_platform.pipeline.stream import utc_now

_PAGE = 5_000
# So few documents are copied within a second, while writers wait; more are copied before.
_FEW = 2_000
_MOST_ROUNDS = 20


@dataclass(frozen=True, slots=True)
class Seen:
    """An index as it was before the first document of the one that is to replace it was read: its
    id, None if it was not there, and `store.marks` of it."""

    index_id: str | None = None
    marks: Mapping[int, int] = field(default_factory=dict)


def see(store: DocumentStore, flow: Flow, names: Sequence[str]) -> dict[str, Seen]:
    """The indices that go by these names, as they are now."""
    there = store.index_ids(flow.index)
    return {
        name: Seen(there[name], store.marks(name)) if name in there else Seen() for name in names
    }


def exchange(store: DocumentStore, flow: Flow, name: str, new: str, seen: Seen) -> None:
    """Put `new` in the place of the index that goes by `name`, if there is one.

    What that was given since it was seen is in the new one too, and wins over what is there. Raises
    SliceError, also when it is another one by now, and what the store raises; then the old index is
    still in its place, unless only the answer to the last step was lost.
    """
    there = store.index_ids(flow.index)
    if seen.index_id not in (None, there.get(name)):
        raise SliceError(f"{name} was deleted or exchanged by another while it was made again")
    try:
        if name in there:
            _copy(store, name, new, {}, create)  # what the topic does not hold any more
            marks = _follow(store, name, new, seen.marks)
            indices.expect(store, flow, name, there[name], store.index_ids(new)[new], utc_now())
            store.block_writes(name, True)
            _copy(store, name, new, marks, put)
            _check(store, name, new)
        store.refresh(new)
        store.take_place(name, new, flow.index)
    except BaseException:
        if name in there:
            store.block_writes(name, False)
        raise
    indices.note(store, flow, [name], utc_now())


def _follow(
    store: DocumentStore, name: str, new: str, marks: Mapping[int, int]
) -> Mapping[int, int]:
    """Copy what comes until it is little; returns the marks up to which all is there."""
    for _ in range(_MOST_ROUNDS):
        reached = store.marks(name)
        copied = _copy(store, name, new, marks, put)
        marks = reached
        if copied <= _FEW:
            break
    return marks


def _copy(
    store: DocumentStore,
    name: str,
    new: str,
    marks: Mapping[int, int],
    operation: Callable[[str, str, bytes], bytes],
) -> int:
    """Copy the documents that were written since the marks; returns how many these were."""
    copied = 0
    store.refresh(name)
    for hits in store.written_since(name, marks, _PAGE):
        lines = [operation(new, hit.id, orjson.dumps(hit.stored.source)) for hit in hits]
        for result in send(store, lines):
            if result.rejected:
                raise SliceError(f"{new} refuses a document: {result.error}: {result.reason}")
        copied += len(hits)
    return copied


def _check(store: DocumentStore, name: str, new: str) -> None:
    store.refresh(new)
    held, found = (_count(store, each) for each in (name, new))
    if found < held:
        raise SliceError(f"{new} has {found} documents, {name} has {held}: they are not exchanged")


def _count(store: DocumentStore, index: str) -> int:
    with store.snapshot(index) as snapshot:
        return snapshot.extent(Where("@timestamp", EVER)).count
