"""The index swap: a new daily index replaces the old one at one moment, without losing a document.

Belongs here: copying what only the old index has, and blocking writes during the swap. Does not
belong here: creating the documents of the new index (`replay.py`).

The new index goes by the name of the old one from then on, so writers and readers do not change.
Writes to the old index are refused for about a second, and retried until they reach the new one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from kp_platform.engine import index_registry
from kp_platform.engine.bulk import create, put, send
from kp_platform.engine.clock import utc_now
from kp_platform.engine.counting import EVER, Where
from kp_platform.engine.errors import SliceError
from kp_platform.engine.ports import DocumentStore
from kp_platform.flows.model import Flow

_PAGE = 5_000
# This many documents are copied within a second, while writes are blocked; more are copied before.
_FEW = 2_000
_MOST_ROUNDS = 20


@dataclass(frozen=True, slots=True)
class IndexState:
    """An index before the first document of its replacement was read: its UUID, None if it did not
    exist, and its `DocumentStore.checkpoints`."""

    index_id: str | None = None
    checkpoints: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NewIndex:
    """An index that is to replace another one: its own name and UUID."""

    name: str
    index_id: str


class SwapUnknown(SliceError):
    """Whether the swap was done is unknown: its answer was lost, or an error."""


def current_states(store: DocumentStore, flow: Flow, names: Sequence[str]) -> dict[str, IndexState]:
    """The current states of the indices that go by these names."""
    existing = store.index_ids(flow.index)
    return {
        name: IndexState(existing[name], store.checkpoints(name))
        if name in existing
        else IndexState()
        for name in names
    }


def swap(store: DocumentStore, flow: Flow, name: str, new: NewIndex, before: IndexState) -> None:
    """Replace the index that goes by `name`, if it exists, by `new`.

    Documents that the old index got after `before` are copied and overwrite those of the new one.
    Raises SwapUnknown when only the last step may have been done; both results are consistent.
    Raises SliceError, also when one of the two indices has been replaced, and what the store
    raises; then the old index is still in use.
    """
    index_id = store.index_ids(flow.index).get(name)
    if before.index_id not in (None, index_id):
        raise SliceError(f"{name} was deleted or swapped by another run during the replay")
    checkpoints, blocked = before.checkpoints, False
    if index_id is not None:
        _copy(store, name, new.name, {}, create)  # what the topic no longer holds
        checkpoints = _copy_until_few(store, name, new.name, before.checkpoints)
    try:
        if index_id is not None:
            _check_same(store, flow, name, index_id, new)
            index_registry.register_swap(store, flow, name, index_id, new.index_id, utc_now())
            blocked = True
            store.block_writes(name, True)
            _copy(store, name, new.name, checkpoints, put)
            _check_same(store, flow, name, index_id, new)
            _check_counts(store, name, new.name)
        store.refresh(new.name)
        _swap_alias(store, flow, name, new.name, index_id)
    except BaseException:
        if blocked:
            store.block_writes(name, False)
        raise
    index_registry.register(store, flow, [name], utc_now())


def _swap_alias(
    store: DocumentStore, flow: Flow, name: str, new: str, index_id: str | None
) -> None:
    try:
        store.swap_alias(name, new, flow.index, index_id)
    except Exception as error:
        raise SwapUnknown(
            f"whether {new} has replaced {name} is unknown: {error}; "
            "if not, `kp retention` deletes it after some days"
        ) from error


def _check_same(store: DocumentStore, flow: Flow, name: str, index_id: str, new: NewIndex) -> None:
    """An index may have been deleted, and recreated by a write."""
    if store.index_ids(flow.index).get(name) != index_id:
        raise SliceError(f"{name} was deleted or swapped by another run during the copy")
    if store.index_ids(new.name).get(new.name) != new.index_id:
        raise SliceError(f"{new.name} was deleted while it was filled")


def _copy_until_few(
    store: DocumentStore, name: str, new: str, checkpoints: Mapping[int, int]
) -> Mapping[int, int]:
    """Copy new documents until they are few; returns the checkpoints up to which all are copied."""
    for _ in range(_MOST_ROUNDS):
        reached = store.checkpoints(name)
        copied = _copy(store, name, new, checkpoints, put)
        checkpoints = reached
        if copied <= _FEW:
            break
    return checkpoints


def _copy(
    store: DocumentStore,
    name: str,
    new: str,
    checkpoints: Mapping[int, int],
    operation: Callable[[str, str, bytes], bytes],
) -> int:
    """Copy the documents that were written since the checkpoints; returns their number."""
    copied = 0
    store.refresh(name)
    for hits in store.written_since(name, checkpoints, _PAGE):
        lines = [operation(new, hit.id, orjson.dumps(hit.stored.source)) for hit in hits]
        for result in send(store, lines):
            if result.rejected:
                raise SliceError(f"{new} refuses a document: {result.error}: {result.reason}")
        copied += len(hits)
    return copied


def _check_counts(store: DocumentStore, name: str, new: str) -> None:
    store.refresh(new)
    old_count, new_count = _count(store, name), _count(store, new)
    if new_count < old_count:
        raise SliceError(
            f"{new} has {new_count} documents, {name} has {old_count}: they are not swapped"
        )


def _count(store: DocumentStore, index: str) -> int:
    with store.snapshot(index) as snapshot:
        return snapshot.extent(Where("@timestamp", EVER)).count
