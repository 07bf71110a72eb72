"""The few verbs the pipeline needs of a document store, and how its answers are classed.

Belongs here: the `DocumentStore` protocol, bulk operations as bytes, retries of rejected items.
Does not belong here: what is stored (`documents.py`, `positions.py`, `dead_letters.py`).
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import orjson
import stamina

from kp_platform.engine.counting import Extent, Group, Where
from kp_platform.engine.errors import BulkOverloaded, IndexBlocked, RequestTooLarge, SliceError

MAPPINGS = Path(__file__).with_name("mappings")
# Elasticsearch refuses bodies above http.max_content_length, 100 MB unless set lower.
MAX_REQUEST_BYTES = 10_000_000
RETRY_SECONDS = 60.0
# A replay blocks an index for about a second; who else does it has a reason.
BLOCKED_SECONDS = 10.0
_TOO_LARGE = "request_too_large"  # our word: such a request has no answer for each operation
_DOCUMENT_ERRORS = {
    "document_parsing_exception",
    "illegal_argument_exception",
    "mapper_parsing_exception",
    "strict_dynamic_mapping_exception",
    _TOO_LARGE,
}


@dataclass(frozen=True, slots=True)
class Version:
    """What compare-and-set compares."""

    seq_no: int
    primary_term: int


@dataclass(frozen=True, slots=True)
class Stored:
    """A document as it lies in the store."""

    source: dict[str, Any]
    version: Version


@dataclass(frozen=True, slots=True)
class Hit:
    """A document that a search found, and where it lies."""

    index: str
    id: str
    stored: Stored


@dataclass(frozen=True, slots=True)
class Reach:
    """Documents of one partition: the first and the last offset, and how many lie below the offset
    that was asked about."""

    first: int
    last: int
    below: int


class Snapshot(Protocol):
    """An index or alias as its searches saw it at one moment."""

    def differing(
        self, field: str, value: str, facts: Mapping[str, Any], size: int
    ) -> Iterator[list[Hit]]:
        """Pages of at most `size` documents whose keyword `field` equals `value` and of which one
        of `facts` (None: no value) is not as given. A long text may count as differing."""

    def groups(self, fields: Sequence[str], where: Where) -> Iterator[Group]:
        """The documents by the values of fields, in ascending order of these, None first. Counts
        are exact: each document is in one group."""

    def latest(self, where: Where, size: int, without: Sequence[str] = ()) -> Iterator[list[Hit]]:
        """Pages of at most `size` documents, the latest `where.field`, a date, first. The fields
        in `without` are not read."""

    def extent(self, where: Where) -> Extent:
        """How many documents there are, and the oldest value of `where.field`, a date."""

    def reach(self, where: Where, below: Mapping[int, int]) -> dict[int, Reach]:
        """How far the documents of each of these partitions reach."""


@dataclass(frozen=True, slots=True)
class ItemResult:
    """The answer to one operation of a bulk request: HTTP status, and an error's type and text."""

    status: int
    error: str = ""
    reason: str = ""

    @property
    def written(self) -> bool:
        return self.status in (200, 201)

    @property
    def absent(self) -> bool:
        """The document to delete was not there."""
        return self.status == 404 and not self.error

    @property
    def conflict(self) -> bool:
        return self.status == 409

    @property
    def rejected(self) -> bool:
        """The document itself is at fault; nothing but a list of known errors says so."""
        return self.error in _DOCUMENT_ERRORS

    @property
    def busy(self) -> bool:
        return self.status == 429 or self.status >= 500

    @property
    def blocked(self) -> bool:
        """By a person, or for a second by a replay."""
        return self.status == 403 or self.error == "index_closed_exception"


_WAITING = ItemResult(503, "", "not sent yet")


class DocumentStore(Protocol):
    """Elasticsearch, as far as the pipeline knows it."""

    def bulk(self, lines: bytes) -> Sequence[ItemResult]:
        """Apply NDJSON operations; one result for each, in order.

        Raises BulkOverloaded when the whole request was refused for now, RequestTooLarge for its
        size, SliceError for good.
        """

    def bulk_all(self, lines: bytes) -> bool:
        """Apply NDJSON operations; whether all went well. Cheaper than being told of each."""

    def get(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Stored]:
        """The documents that exist of these (index, id), as of now, searchable or not."""

    def find(self, index: str, field: str, value: str) -> list[Stored]:
        """Searchable documents whose keyword `field` equals `value`; at most 10,000."""

    def refresh(self, index: str) -> None:
        """Make everything written so far searchable."""

    def snapshot(self, index: str) -> AbstractContextManager[Snapshot]:
        """Everything searchable now, to be read while it goes on changing; empty when the index
        does not exist."""

    def counts(self, index: str, conditions: Sequence[Where]) -> list[int]:
        """How many searchable documents fulfil each condition; cheap, also for hundreds of them."""

    def hours(self, index: str, field: str, where: Where) -> list[datetime]:
        """The hours in which the date `field` of a searchable document lies, ascending."""

    def index_ids(self, index: str) -> dict[str, str]:
        """The indices behind an alias by name, each with the id that it got when it was made. One
        that has taken the place of another goes by the name of that one."""

    def make_index(self, name: str, template: Path) -> None:
        """Create an index as the index template in a JSON file makes them, but behind no alias."""

    def delete_index(self, name: str) -> None:
        """Delete the index that goes by a name, if it is there."""

    def sizes(self, index: str) -> dict[str, tuple[int, int]]:
        """The indices behind an alias, by name as in `index_ids`: documents, and bytes on disk."""

    def behind_no_alias(self, beginning: str) -> dict[str, datetime]:
        """Indices whose names begin like this and that no alias shows: when each was made."""

    def marks(self, index: str) -> dict[int, int]:
        """For each shard a number that grows with each write."""

    def written_since(self, index: str, marks: Mapping[int, int], size: int) -> Iterator[list[Hit]]:
        """Pages of at most `size` searchable documents that were written when the marks had these
        values, or later; of a shard that has none all documents."""

    def block_writes(self, index: str, blocked: bool) -> None:
        """Refuse writes to an index, or no more. When this returns, none is under way."""

    def swap_alias(self, name: str, new: str, alias: str, index_id: str | None) -> None:
        """Put the index `new` in the place of the one that goes by `name` and has this id, which is
        deleted; None: there is none. At one moment, for readers of `alias` and for writers to
        `name`. Raises SliceError when another one goes by the name; then nothing has changed."""

    def ensure_index(self, name: str, declaration: Path | None = None) -> None:
        """Create the index or template that a JSON file declares, if it is not there; without a
        file, the one of this package. Indices that were made before get the fields that it has
        now."""


def send_all(store: DocumentStore, operations: Sequence[bytes]) -> bool:
    """Whether all went well, by one request. If not, some may have: send them again by `send`, so
    only such that may be sent twice."""
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
    """An operation that deletes a document, if it is there."""
    return b"%b\n" % orjson.dumps({"delete": {"_index": index, "_id": identity}})


def send(
    store: DocumentStore, operations: Sequence[bytes], retry_seconds: float = RETRY_SECONDS
) -> list[ItemResult]:
    """Send operations by bulk; those that a busy server refused are sent again.

    Each result is written, absent, a conflict, or rejected for the document's own fault. Raises
    IndexBlocked at a write block or a closed index that stays, BulkOverloaded after
    `retry_seconds`, and SliceError for whatever else: a cluster in trouble must not turn good
    events into dead letters.
    """
    began = time.monotonic()

    def may_pass(error: Exception) -> bool:
        if isinstance(error, IndexBlocked):
            return time.monotonic() - began < min(BLOCKED_SECONDS, retry_seconds)
        return isinstance(error, BulkOverloaded)

    results = [_WAITING] * len(operations)
    waiting = list(range(len(operations)))
    for attempt in stamina.retry_context(
        on=may_pass, attempts=None, timeout=retry_seconds, wait_initial=0.1, wait_max=5.0
    ):
        with attempt:
            for request in _requests(operations, waiting):
                answer = _apply(store, [operations[index] for index in request])
                for index, result in zip(request, answer, strict=True):
                    results[index] = result
            waiting = [index for index in waiting if not _is_final(results[index])]
            if waiting:
                first = results[waiting[0]]
                raise (IndexBlocked if first.blocked else BulkOverloaded)(
                    f"{len(waiting)} of {len(operations)} operations refused: {first.reason}"
                )
    return results


def _apply(store: DocumentStore, operations: Sequence[bytes]) -> Sequence[ItemResult]:
    """One request, or more when it is too large, down to the one document that is."""
    try:
        return store.bulk(b"".join(operations))
    except RequestTooLarge as error:
        if len(operations) == 1:
            return [ItemResult(413, _TOO_LARGE, str(error))]
        middle = len(operations) // 2
        return [*_apply(store, operations[:middle]), *_apply(store, operations[middle:])]


def _requests(operations: Sequence[bytes], waiting: Sequence[int]) -> Iterator[list[int]]:
    """Runs of operations whose bodies stay below the size of one request."""
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
    """False when it is to be sent again. Raises SliceError."""
    if result.written or result.absent or result.conflict or result.rejected:
        return True
    if result.busy or result.blocked:
        return False
    raise SliceError(f"status {result.status}: {result.error}: {result.reason}")
