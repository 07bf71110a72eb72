"""The upgrade of stored documents from earlier versions.

Belongs here: rewriting documents whose field names have changed, and deleting indices that are no
longer used. Does not belong here: new fields of existing indices (`Documents.ensure_index`).
"""

import orjson

from kp_platform.engine.bulk import put, send
from kp_platform.engine.counting import EVER, Where
from kp_platform.engine.dead_letters import DEAD_INDEX
from kp_platform.engine.ports import DocumentStore

# Replaced by `kp.heartbeats`.
_UNUSED_INDEX = "kp.leases"
# Old and new name of the fields of a dead letter.
_RENAMED = {"replayed_at": "retried_at", "dropped_at": "discarded_at"}
# A dead letter may have a megabyte.
_PAGE = 100


def upgrade(store: DocumentStore) -> int:
    """Upgrade what an earlier version has stored; returns the number of rewritten documents.

    Can be repeated, also after an interruption; without anything to do it takes seven requests. A
    document that changes during the upgrade stays as it is until the next one.
    """
    store.delete_index(_UNUSED_INDEX)
    store.ensure_index(DEAD_INDEX)
    return sum(_rename(store, field) for field in _RENAMED)


def _rename(store: DocumentStore, field: str) -> int:
    """Rename the fields of all dead letters that have this one."""
    where = Where(field, EVER)
    store.refresh(DEAD_INDEX)
    if store.counts(DEAD_INDEX, [where]) == [0]:  # an index that is new has no such field
        return 0
    rewritten = 0
    with store.snapshot(DEAD_INDEX) as snapshot:
        for hits in snapshot.latest(where, _PAGE):
            operations = []
            for hit in hits:
                source = {
                    _RENAMED.get(name, name): value for name, value in hit.stored.source.items()
                }
                body = orjson.dumps(source)
                operations.append(put(DEAD_INDEX, hit.id, body, expected=hit.stored.version))
            rewritten += sum(result.written for result in send(store, operations))
    return rewritten
