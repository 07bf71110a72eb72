"""Documents into their daily indices, each exactly once.

Belongs here: bulk `create` with the event's id, and what an id that is taken means.
Does not belong here: making documents (`documents.py`), retries of busy servers (`store.py`).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from kp_platform.engine.documents import DeadLetter, Document
from kp_platform.engine.errors import SliceError
from kp_platform.engine.store import DocumentStore, send, send_all
from kp_platform.flows.model import Flow

_PLACE = ("topic", "partition", "offset")
_WRITE = (*_PLACE, "indexed_at")


@dataclass(slots=True)
class Outcome:
    """What became of messages: `indexed` now, `already_there` from an earlier read of the same
    offset, `duplicates` of an event that stands at another offset, `applied` changes, or `dead`,
    which become `buried`, by reason, when their slice is done: a run may have millions.
    `rewritten` counts the documents that followed a change, or that a replay made again, and
    `outside` the messages that a replay was not asked for."""

    indexed: int = 0
    already_there: int = 0
    duplicates: int = 0
    applied: int = 0
    refreshed: int = 0
    outside: int = 0
    dead: list[DeadLetter] = field(default_factory=list)
    dead_lettered: Counter[str] = field(default_factory=Counter)

    @property
    def settled(self) -> int:
        """How many messages are accounted for."""
        seen = self.indexed + self.already_there + self.duplicates + self.applied
        return seen + len(self.dead) + self.dead_lettered.total()

    def store_dead_letters(self) -> None:
        """Keep only the reasons of the dead letters, which are stored now."""
        self.dead_lettered.update(letter.reason for letter in self.dead)
        self.dead.clear()

    def add(self, other: "Outcome") -> None:
        self.indexed += other.indexed
        self.already_there += other.already_there
        self.duplicates += other.duplicates
        self.applied += other.applied
        self.refreshed += other.refreshed
        self.outside += other.outside
        self.dead += other.dead
        self.dead_lettered += other.dead_lettered


def index_documents(store: DocumentStore, flow: Flow, operations: Sequence[bytes]) -> Outcome:
    """Create the documents; raises what `store.send` raises."""
    if not operations:
        return Outcome()
    if send_all(store, operations):
        return Outcome(indexed=len(operations))
    outcome = Outcome()
    taken: list[Document] = []
    for operation, result in zip(operations, send(store, operations), strict=True):
        if result.written:
            outcome.indexed += 1
        elif result.conflict:
            taken.append(Document(operation))
        else:
            outcome.dead.append(Document(operation).dead(result.error, result.reason))
    if taken:
        outcome.add(_compare_with_stored(store, flow, taken))
    return outcome


def _compare_with_stored(
    store: DocumentStore, flow: Flow, documents: Sequence[Document]
) -> Outcome:
    """The first message with an id wins; another with other content is a dead letter."""
    stored = store.get([(document.index, document.id) for document in documents])
    outcome = Outcome()
    for document in documents:
        ours = document.body
        if (document.index, document.id) not in stored:
            raise SliceError(
                f"{document.index}/{document.id} was taken and is gone: deleted just now"
            )
        theirs = stored[document.index, document.id].source
        if all(ours[name] == theirs[name] for name in _WRITE):
            outcome.indexed += 1  # by a request that was sent before this one
        elif all(ours[name] == theirs[name] for name in _PLACE):
            outcome.already_there += 1
        elif all(ours[name] == theirs[name] for name in flow.fields):
            outcome.duplicates += 1
        else:
            place = f"{theirs['topic']} {theirs['partition']}:{theirs['offset']}"
            outcome.dead.append(document.dead("conflict", f"the id has other content at {place}"))
    return outcome
