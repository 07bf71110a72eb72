"""Bulk requests: operations as bytes, and retries of what a busy server refused.

Belongs here: the NDJSON of an operation, the size of a request, and which results are final. Does
not belong here: what is stored (`documents.py`, `positions.py`, `dead_letters.py`).
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import orjson
import stamina

from kp_platform.engine.errors import BulkOverloaded, IndexBlocked, RequestTooLarge, SliceError
from kp_platform.engine.ports import REQUEST_TOO_LARGE, Documents, ItemResult, Version

# Elasticsearch refuses bodies above http.max_content_length, 100 MB unless set lower.
MAX_REQUEST_BYTES = 10_000_000
RETRY_SECONDS = 60.0
# A replay blocks an index for about a second; a longer block is an operator's.
BLOCKED_SECONDS = 10.0
_NOT_SENT = ItemResult(503, "", "not sent yet")


def send_all(store: Documents, operations: Sequence[bytes]) -> bool:
    """Send operations by one request; whether all succeeded.

    On False some may have succeeded: send all of them again with `send`. Only for operations that
    may be sent twice.
    """
    lines = b"".join(operations)
    if len(lines) > MAX_REQUEST_BYTES:
        return False
    try:
        return store.bulk_all(lines)
    except (BulkOverloaded, RequestTooLarge):
        return False


def create(index: str, identity: str, body: bytes) -> bytes:
    """An operation that writes a document only if its id is free."""
    action = orjson.dumps({"create": {"_index": index, "_id": identity}})
    return b"%b\n%b\n" % (action, body)


def put(index: str, identity: str, body: bytes, expected: Version | None = None) -> bytes:
    """An operation that writes a document, if `expected` is given only over that version."""
    target: dict[str, Any] = {"_index": index, "_id": identity}
    if expected is not None:
        target |= {"if_seq_no": expected.seq_no, "if_primary_term": expected.primary_term}
    return b"%b\n%b\n" % (orjson.dumps({"index": target}), body)


def delete(index: str, identity: str) -> bytes:
    """An operation that deletes a document, if it exists."""
    return b"%b\n" % orjson.dumps({"delete": {"_index": index, "_id": identity}})


def send(
    store: Documents, operations: Sequence[bytes], retry_seconds: float = RETRY_SECONDS
) -> list[ItemResult]:
    """Send operations by bulk requests; retry those that a busy server refused.

    Each result is written, absent, a conflict, or rejected for the document's own fault. Raises
    IndexBlocked at a write block or a closed index that stays, BulkOverloaded after
    `retry_seconds`, and SliceError for any other error: the state of the cluster must not turn good
    events into dead letters.
    """
    began = time.monotonic()

    def may_pass(error: Exception) -> bool:
        if isinstance(error, IndexBlocked):
            return time.monotonic() - began < min(BLOCKED_SECONDS, retry_seconds)
        return isinstance(error, BulkOverloaded)

    results = [_NOT_SENT] * len(operations)
    waiting = list(range(len(operations)))
    for attempt in stamina.retry_context(
        on=may_pass, attempts=None, timeout=retry_seconds, wait_initial=0.1, wait_max=5.0
    ):
        with attempt:
            for request in _requests(operations, waiting):
                parts = [operations[index] for index in request]
                try:
                    answer = store.bulk(b"".join(parts))
                except RequestTooLarge as error:
                    answer = _in_parts(store, parts, error)
                for index, result in zip(request, answer, strict=True):
                    results[index] = result
            waiting = [index for index in waiting if not _is_final(results[index])]
            if waiting:
                first = results[waiting[0]]
                raise (IndexBlocked if first.blocked else BulkOverloaded)(
                    f"{len(waiting)} of {len(operations)} operations refused: {first.reason}"
                )
    return results


def _in_parts(
    store: Documents, operations: Sequence[bytes], error: RequestTooLarge
) -> Sequence[ItemResult]:
    """The results of a request that was too large, split in two down to a single document."""
    if len(operations) == 1:
        return [ItemResult(413, REQUEST_TOO_LARGE, str(error))]
    middle = len(operations) // 2
    results: list[ItemResult] = []
    for half in (operations[:middle], operations[middle:]):
        try:
            results += store.bulk(b"".join(half))
        except RequestTooLarge as smaller:
            results += _in_parts(store, half, smaller)
    return results


def _requests(operations: Sequence[bytes], waiting: Sequence[int]) -> Iterator[list[int]]:
    """Consecutive operations whose bodies together fit into one request."""
    request: list[int] = []
    size = 0
    for index in waiting:
        if request and size + len(operations[index]) > MAX_REQUEST_BYTES:
            yield request
            request, size = [], 0
        request.append(index)
        size += len(operations[index])
    if request:
        yield request


def _is_final(result: ItemResult) -> bool:
    """False when the operation must be sent again. Raises SliceError."""
    if result.written or result.absent or result.conflict or result.rejected:
        return True
    if result.busy or result.blocked:
        return False
    raise SliceError(f"status {result.status}: {result.error}: {result.reason}")
