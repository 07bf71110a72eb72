"""What the engine needs of its three servers: Kafka, Trino and Elasticsearch.

Belongs here: protocols, and the values that they exchange. Does not belong here: clients of the
servers (`adapters/`), SQL text (`sql.py`) and bulk requests (`bulk.py`).

`DocumentStore` is the sum of three protocols; a function asks for the narrowest one that it needs.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from kp_platform.engine.counting import Extent, Group, Where
from kp_platform.engine.offsets import OffsetRange, TopicState

# The mappings of the engine's own indices, `<index>.json`.
MAPPINGS = Path(__file__).with_name("mappings")

REQUEST_TOO_LARGE = "request_too_large"  # of this module: Elasticsearch gives such a body no type
_DOCUMENT_ERRORS = {
    "document_parsing_exception",
    "illegal_argument_exception",
    "mapper_parsing_exception",
    "strict_dynamic_mapping_exception",
    REQUEST_TOO_LARGE,
}


@dataclass(frozen=True, slots=True)
class RawMessage:
    """The bytes of a message; `value` is None for a tombstone."""

    key: bytes | None
    value: bytes | None


class Log(Protocol):
    """Kafka."""

    def topic_state(self, topic: str) -> TopicState:
        """The current topic id and watermarks; messages of an open transaction do not count."""

    def raw_messages(
        self, topic: str, offsets: Sequence[tuple[int, int]]
    ) -> dict[tuple[int, int], RawMessage]:
        """The messages at these (partition, offset), byte for byte."""

    def present(self, topic: str, offset_range: OffsetRange) -> set[int]:
        """The offsets of a range that hold a message. The others are markers of transactions,
        messages of aborted ones, or compacted away. Raises SliceError when the log ends before the
        range does."""

    def offsets_at(self, topic: str, moment: datetime) -> dict[int, int]:
        """For each partition the first offset whose timestamp is not before a moment; without one,
        the high watermark."""

    def commit(self, group: str, topic: str, offsets: Mapping[int, int]) -> None:
        """Mirror positions to a consumer group, best effort: a failure is logged, not raised."""


Row = Sequence[Any]


@dataclass(slots=True)
class QueryStats:
    """Statistics of a query; complete after its last row."""

    query_id: str = ""
    info_url: str = ""
    processed_rows: int = 0


class Answer(Protocol):
    """A running query: its column names, then its rows in batches, then its statistics."""

    columns: Sequence[str]
    stats: QueryStats

    def batches(self, rows: int) -> Iterator[Sequence[Row]]: ...


class QueryEngine(Protocol):
    """Trino."""

    def query(self, sql: str, parameters: Sequence[object]) -> AbstractContextManager[Answer]:
        """Run a query with its `?` bound to the parameters."""


@dataclass(frozen=True, slots=True)
class Version:
    """The version of a document, for compare-and-set."""

    seq_no: int
    primary_term: int


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored document."""

    source: dict[str, Any]
    version: Version


@dataclass(frozen=True, slots=True)
class Hit:
    """A document that a search returned, with its index and id."""

    index: str
    id: str
    stored: Stored


@dataclass(frozen=True, slots=True)
class Reach:
    """Documents of one partition: the first and the last offset, and how many have an offset below
    the given one."""

    first: int
    last: int
    below: int


class Snapshot(Protocol):
    """An index or alias as its searches return it at one moment."""

    def differing(
        self, field: str, value: str, expected: Mapping[str, Any], size: int
    ) -> Iterator[list[Hit]]:
        """Pages of at most `size` documents whose keyword `field` equals `value` and of which at
        least one field is not as in `expected` (None: no value). A long text may count as
        differing."""

    def groups(self, fields: Sequence[str], where: Where) -> Iterator[Group]:
        """The documents by the values of fields, in ascending order of these, None first. Counts
        are exact: each document is in one group."""

    def latest(self, where: Where, size: int, without: Sequence[str] = ()) -> Iterator[list[Hit]]:
        """Pages of at most `size` documents, the latest `where.field`, a date, first. The fields
        in `without` are not read."""

    def extent(self, where: Where) -> Extent:
        """The number of documents, and the oldest value of `where.field`, a date."""

    def reach(self, where: Where, below: Mapping[int, int]) -> dict[int, Reach]:
        """The offsets of the documents of each of these partitions."""


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
        """The document to delete did not exist."""
        return self.status == 404 and not self.error

    @property
    def conflict(self) -> bool:
        return self.status == 409

    @property
    def rejected(self) -> bool:
        """The document itself is at fault; only a list of known errors counts as such."""
        return self.error in _DOCUMENT_ERRORS

    @property
    def busy(self) -> bool:
        return self.status == 429 or self.status >= 500

    @property
    def blocked(self) -> bool:
        """By an operator, or for about a second by a replay."""
        return self.status == 403 or self.error == "index_closed_exception"


class Documents(Protocol):
    """Documents by id, and the indices that hold them."""

    def bulk(self, lines: bytes) -> Sequence[ItemResult]:
        """Apply NDJSON operations; one result for each, in order.

        Raises BulkOverloaded when the server is too busy for the whole request, RequestTooLarge for
        its size, SliceError for any other refusal.
        """

    def bulk_all(self, lines: bytes) -> bool:
        """Apply NDJSON operations; whether all succeeded. Cheaper than one result for each."""

    def get(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Stored]:
        """The existing documents of these (index, id), in real time: searchable or not."""

    def find(self, index: str, field: str, value: str) -> list[Stored]:
        """Searchable documents whose keyword `field` equals `value`; at most 10,000."""

    def refresh(self, index: str) -> None:
        """Make everything written until now searchable."""

    def ensure_index(self, name: str, declaration: Path | None = None) -> None:
        """Create the index or template that a JSON file declares, if it does not exist; without a
        file, the one of `MAPPINGS`. Existing indices get the fields that they lack."""


class DocumentReader(Protocol):
    """Searches, exact and without an upper limit."""

    def snapshot(self, index: str) -> AbstractContextManager[Snapshot]:
        """The searchable documents at this moment, while writes go on; empty when the index does
        not exist."""

    def counts(self, index: str, conditions: Sequence[Where]) -> list[int]:
        """How many searchable documents meet each condition; cheap, also for hundreds of them."""

    def hours(self, index: str, field: str, where: Where) -> list[datetime]:
        """The hours in which the date `field` of a searchable document lies, ascending."""


class IndexAdmin(Protocol):
    """Indices as a whole. An index that replaced another one goes by the name of that one."""

    def index_ids(self, index: str) -> dict[str, str]:
        """The indices behind an alias by name, each with its UUID."""

    def make_index(self, name: str, template: Path) -> None:
        """Create an index with the settings of the index template in a JSON file, without an
        alias."""

    def delete_index(self, name: str) -> None:
        """Delete the index of this name, if it exists."""

    def sizes(self, index: str) -> dict[str, tuple[int, int]]:
        """The indices behind an alias by name: number of documents, and bytes on disk."""

    def behind_no_alias(self, prefix: str) -> dict[str, datetime]:
        """Indices without an alias whose names have this prefix: when each was created."""

    def checkpoints(self, index: str) -> dict[int, int]:
        """For each shard a number that grows with each write."""

    def written_since(
        self, index: str, checkpoints: Mapping[int, int], size: int
    ) -> Iterator[list[Hit]]:
        """Pages of at most `size` searchable documents that were written after these checkpoints;
        all documents of a shard without one."""

    def block_writes(self, index: str, blocked: bool) -> None:
        """Block writes to an index, or lift the block. On return, no write is in progress."""

    def swap_alias(self, name: str, new: str, alias: str, index_id: str | None) -> None:
        """Replace the index that goes by `name` and has this id by `new`, and delete it; None: no
        index goes by the name. The change is atomic, for readers of `alias` and for writers to
        `name`. Raises SliceError when another index goes by the name; nothing has changed then."""


class DocumentStore(Documents, DocumentReader, IndexAdmin, Protocol):
    """Elasticsearch."""


@dataclass(frozen=True, slots=True)
class Servers:
    """The servers that a slice passes through."""

    log: Log
    query_engine: QueryEngine
    store: DocumentStore
