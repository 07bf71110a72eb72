"""Documents into their daily indices, each exactly once.

Belongs here: bulk `create` with the event's id, and the comparison with a document that has the id
already. Does not belong here: building documents (`documents.py`), retries (`bulk.py`).
"""

import time
from collections.abc import Sequence

from kp_platform.engine.bulk import send, send_all
from kp_platform.engine.documents import Document
from kp_platform.engine.errors import SliceError
from kp_platform.engine.ports import Documents
from kp_platform.engine.reports import Outcome
from kp_platform.flows.model import Flow

# The members that identify the message of a document, and its write.
MESSAGE = ("topic", "partition", "offset")
_WRITE = (*MESSAGE, "indexed_at")


def index_documents(store: Documents, flow: Flow, operations: Sequence[bytes]) -> Outcome:
    """Create the documents; raises what `bulk.send` raises."""
    if not operations:
        return Outcome()
    began = time.monotonic()
    if send_all(store, operations):
        return Outcome(indexed=len(operations), seconds=time.monotonic() - began)
    outcome = _index_each(store, flow, operations)
    outcome.seconds = time.monotonic() - began
    return outcome


def _index_each(store: Documents, flow: Flow, operations: Sequence[bytes]) -> Outcome:
    """Create the documents, with one result for each."""
    outcome = Outcome()
    existing: list[Document] = []
    for operation, result in zip(operations, send(store, operations), strict=True):
        if result.written:
            outcome.indexed += 1
        elif result.conflict:
            existing.append(Document(operation))
        else:
            outcome.rejected.append(Document(operation).rejected(result.error, result.reason))
    if existing:
        outcome.add(_compare_with_stored(store, flow, existing))
    return outcome


def _compare_with_stored(store: Documents, flow: Flow, documents: Sequence[Document]) -> Outcome:
    """The first message with an id is indexed; another one with other content is rejected."""
    stored = store.get([(document.index, document.id) for document in documents])
    outcome = Outcome()
    for document in documents:
        ours = document.body
        if (document.index, document.id) not in stored:
            raise SliceError(
                f"{document.index}/{document.id} existed and was deleted during the write"
            )
        theirs = stored[document.index, document.id].source
        if all(ours[name] == theirs[name] for name in _WRITE):
            outcome.indexed += 1  # by an earlier attempt of this request
        elif all(ours[name] == theirs[name] for name in MESSAGE):
            outcome.already_indexed += 1
        elif all(ours[name] == theirs[name] for name in flow.fields):
            outcome.duplicates += 1
        else:
            other = f"{theirs['topic']} {theirs['partition']}:{theirs['offset']}"
            detail = f"the id has other content at {other}"
            outcome.rejected.append(document.rejected("conflict", detail))
    return outcome
