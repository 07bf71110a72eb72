"""A daily index exchanged for one that was made anew, at one moment and without losing a document.

Belongs here: what the old index alone has is carried over, writers wait while the two change
places. Does not belong here: making the documents of the new one (`replay.py`).

The new index goes by the name of the old from then on, so writers and readers know nothing of it.
Writes to the old one are refused for about a second, and sent again until they reach the new one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from kp_platform.engine import index_registry
from kp_platform.engine.counting import EVER, Where
from kp_platform.engine.errors import SliceError
from kp_platform.engine.loader import utc_now
from kp_platform.engine.store import DocumentStore, create, put, send
from kp_platform.flows.model import Flow

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


class SwapUnknown(SliceError):
    """Whether one index has taken the place of another: the answer was lost, or an error."""


def see(store: DocumentStore, flow: Flow, names: Sequence[str]) -> dict[str, Seen]:
    """The indices that go by these names, as they are now."""
    there = store.index_ids(flow.index)
    return {
        name: Seen(there[name], store.marks(name)) if name in there else Seen() for name in names
    }


def exchange(
    store: DocumentStore, flow: Flow, name: str, new: str, new_id: str, seen: Seen
) -> None:
    """Put `new`, whose id is `new_id`, in the place of the index that goes by `name`, if there is
    one.

    What that was given since it was seen is in the new one too, and wins over what is there. Raises
    NotKnown when only the last step may have been done, which is safe to be left so. Raises
    SliceError, also when one of the two is another one by now, and what the store raises; then the
    old index is still in its place.
    """
    index_id = store.index_ids(flow.index).get(name)
    if seen.index_id not in (None, index_id):
        raise SliceError(f"{name} was deleted or exchanged by another while it was made again")
    marks, blocks = seen.marks, False
    if index_id is not None:
        _copy(store, name, new, {}, create)  # what the topic does not hold any more
        marks = _follow(store, name, new, seen.marks)
    try:
        if index_id is not None:
            _check_same(store, flow, name, index_id, new, new_id)
            index_registry.register_swap(store, flow, name, index_id, new_id, utc_now())
            blocks = True
            store.block_writes(name, True)
            _copy(store, name, new, marks, put)
            _check_same(store, flow, name, index_id, new, new_id)
            _check_counts(store, name, new)
        store.refresh(new)
        _take_place(store, flow, name, new, index_id)
    except BaseException:
        if blocks:
            store.block_writes(name, False)
        raise
    index_registry.register(store, flow, [name], utc_now())


def _take_place(
    store: DocumentStore, flow: Flow, name: str, new: str, index_id: str | None
) -> None:
    try:
        store.swap_alias(name, new, flow.index, index_id)
    except Exception as error:
        raise SwapUnknown(
            f"{new} was to take the place of {name}: {error}; "
            "if it has not, `kp retention` deletes it in some days"
        ) from error


def _check_same(
    store: DocumentStore, flow: Flow, name: str, index_id: str, new: str, new_id: str
) -> None:
    """Somebody may have deleted one, and a write have made it again."""
    if store.index_ids(flow.index).get(name) != index_id:
        raise SliceError(f"{name} was deleted or exchanged by another while it was copied")
    if store.index_ids(new).get(new) != new_id:
        raise SliceError(f"{new} was deleted while it was filled")


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


def _check_counts(store: DocumentStore, name: str, new: str) -> None:
    store.refresh(new)
    held, found = (_count(store, each) for each in (name, new))
    if found < held:
        raise SliceError(f"{new} has {found} documents, {name} has {held}: they are not exchanged")


def _count(store: DocumentStore, index: str) -> int:
    with store.snapshot(index) as snapshot:
        return snapshot.extent(Where("@timestamp", EVER)).count
