"""Servers in memory, written by hand, for tests of the pure parts, and a clock that does not wait.

Belongs here: one fake for each adapter. Each passes the same contract tests as the real server
(`integration/test_contracts.py`), so a test on a fake holds on the real one.
"""

import contextlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kp_platform.adapters.errors import TopicMissing
from kp_platform.engine.counting import Extent, Group, Where, iso
from kp_platform.engine.errors import (
    QueryFailed,
    QueryTooLarge,
    RequestTooLarge,
    SliceError,
    SuspectMessage,
    UndecodableMessage,
)
from kp_platform.engine.offsets import OffsetRange, TopicState, Watermarks
from kp_platform.engine.ports import (
    MAPPINGS,
    Hit,
    ItemResult,
    QueryStats,
    RawMessage,
    Reach,
    Row,
    Stored,
    Version,
)

_EPOCH_DAY = "2026-03-01"


@dataclass
class FakeTopic:
    """One topic: an id and, for each partition, its messages and its low watermark. None is the
    marker of a transaction."""

    topic_id: str
    messages: dict[int, list[RawMessage | None]]
    low: dict[int, int] = field(default_factory=dict)


class FakeClock:
    """A clock that moves only when something sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class FakeKafka:
    """Topics in memory."""

    def __init__(self) -> None:
        self.topics: dict[str, FakeTopic] = {}
        self.groups: dict[tuple[str, str], dict[int, int]] = {}
        self._created = 0

    def create_topics(self, topics: Mapping[str, int]) -> list[str]:
        new = [name for name in topics if name not in self.topics]
        for name in new:
            self._created += 1
            messages: dict[int, list[RawMessage | None]] = {
                partition: [] for partition in range(topics[name])
            }
            self.topics[name] = FakeTopic(f"id-{self._created}", messages)
        return new

    def delete_topic(self, topic: str) -> None:
        del self.topics[topic]

    def delete_records(self, topic: str, partition: int, before: int) -> None:
        self.topics[topic].low[partition] = before

    def produce(
        self, topic: str, value: bytes | None, partition: int = 0, key: bytes | None = None
    ) -> int:
        """Append a message; returns its offset."""
        messages = self.topics[topic].messages[partition]
        messages.append(RawMessage(key, value))
        return len(messages) - 1

    def end_transaction(self, topic: str, partition: int) -> None:
        """Append a marker, which is no message."""
        self.topics[topic].messages[partition].append(None)

    def topic_state(self, topic: str) -> TopicState:
        found = self._topic(topic)
        watermarks = {
            partition: Watermarks(found.low.get(partition, 0), len(messages))
            for partition, messages in found.messages.items()
        }
        return TopicState(topic, found.topic_id, watermarks)

    def raw_messages(
        self, topic: str, offsets: Sequence[tuple[int, int]]
    ) -> dict[tuple[int, int], RawMessage]:
        found = {}
        for partition, at in offsets:
            message = self._topic(topic).messages[partition][at]
            if message is None:
                raise SliceError(f"{topic} {partition} has no message at offset {at}")
            found[partition, at] = message
        return found

    def present(self, topic: str, offset_range: OffsetRange) -> set[int]:
        messages = self._topic(topic).messages[offset_range.partition]
        if len(messages) < offset_range.end:
            raise SliceError(f"{topic} {offset_range} ends at {len(messages)}")
        requested = range(offset_range.start, offset_range.end)
        return {at for at in requested if messages[at] is not None}

    def offsets_at(self, topic: str, moment: datetime) -> dict[int, int]:
        """Timestamps are those of FakeTrino."""
        return {
            partition: next(
                (at for at in range(each.low, each.high) if _time(at, "T") >= iso(moment)[:-1]),
                each.high,
            )
            for partition, each in self.topic_state(topic).partitions.items()
        }

    def commit(self, group: str, topic: str, offsets: Mapping[int, int]) -> None:
        self.groups.setdefault((group, topic), {}).update(offsets)

    def committed(self, group: str, topic: str) -> dict[int, int]:
        return dict(self.groups.get((group, topic), {}))

    def _topic(self, topic: str) -> FakeTopic:
        if topic not in self.topics:
            raise TopicMissing(topic, "memory")
        return self.topics[topic]


class FakeTrino:
    """The slice's query of the access log, or of the reference changes, and the ranking's, over
    fakes.

    `drop` are (partition, offset) that an answer leaves out; `failure` fails every query, `poison`
    are those that fail each query that reads them, `suspect` do so without a known cause; a query
    of more rows than `most_rows`, or `most_reference_rows` of reference data, is too large;
    `before_answer` and `after_answer` are called once, before and after the rows are read.
    """

    columns = (
        "@timestamp uuid uri name redis_key redis_value test_id test_name created_at "
        "partition offset message"
    ).split()
    change_columns = ("@timestamp", "source", "key", *columns[4:])
    ranking_columns = (
        "kind rank key accesses test_id test_name created_at redis_value "
        "last_uri last_uuid last_accessed_at computed_at"
    ).split()

    def __init__(self, kafka: FakeKafka, mysql: "FakeMySQL", redis: "FakeRedis") -> None:
        self.kafka, self.mysql, self.redis = kafka, mysql, redis
        self.drop: set[tuple[int, int]] = set()
        self.poison: set[tuple[int, int]] = set()
        self.suspect: set[tuple[int, int]] = set()
        self.most_rows: int | None = None
        self.most_reference_rows: int | None = None
        self.before_answer: Callable[[], object] | None = None
        self.after_answer: Callable[[], object] | None = None
        self.failure = ""
        self.queries: list[list[object]] = []

    @contextlib.contextmanager
    def query(self, sql: str, parameters: Sequence[object]) -> Iterator["FakeAnswer"]:
        self.queries.append(list(parameters))
        if self.failure:
            raise QueryFailed(self.failure)
        if call := self.before_answer:
            self.before_answer = None
            call()
        [topic] = set(re.findall(r"FROM kafka_tests\.([\w.]+)", sql.replace('"', "")))
        read = [
            (partition, at)
            for partition, start, end in _triples(parameters)
            for at in range(start, end)
        ]
        self._check(read)
        if "red_tests.access.ranking" in sql:
            yield FakeAnswer(self.ranking_columns, self._ranked(topic, parameters), QueryStats())
            return
        columns, rows, reference_rows = self._joined(topic, sql, parameters)
        if self.most_reference_rows is not None and reference_rows > self.most_reference_rows:
            raise QueryTooLarge("EXCEEDED_LOCAL_MEMORY_LIMIT")
        stats = QueryStats(f"query-{len(self.queries)}", "", len(read) + 2 * reference_rows)
        answer = FakeAnswer(columns, rows, stats)
        if call := self.after_answer:
            self.after_answer = None
            call()
        yield answer

    def _check(self, read: Sequence[tuple[int, int]]) -> None:
        """Raises what a query of these (partition, offset) fails with."""
        if self.most_rows is not None and len(read) > self.most_rows:
            raise QueryTooLarge("EXCEEDED_LOCAL_MEMORY_LIMIT")
        if self.poison.intersection(read):
            raise UndecodableMessage("Document nesting depth (1001) exceeds the maximum")
        if self.suspect.intersection(read):
            raise SuspectMessage("GENERIC_INTERNAL_ERROR: cause unknown")

    def _joined(
        self, topic: str, sql: str, parameters: Sequence[object]
    ) -> tuple[Sequence[str], list[Row], int]:
        """Columns and rows of a slice's query, or of that for its keys, and the number of rows of
        reference data that it reads."""
        columns = self.columns if topic == "analyze.action" else self.change_columns
        key_at = columns.index("redis_key") - 1  # the name, or the key of a change
        rows = [
            self._row(topic, columns, partition, offset)
            for partition, start, end in _triples(parameters)
            for offset in self._present(topic, partition, start, end)
        ]
        if distinct := re.search(r"SELECT DISTINCT (\w+) FROM slice", sql):
            keys = {row[key_at] for row in rows if row[key_at] is not None}
            return distinct.groups(), [(key,) for key in keys], 0
        if "IS NOT NULL" in sql:
            return columns, rows, len(self.mysql.rows) + len(self.redis.stored)
        listed = {each for each in parameters if isinstance(each, str)}
        at = key_at + 1
        without = [(*row[:at], *[None] * 5, *row[at + 5 :]) for row in rows]
        rows = [
            row if row[key_at] in listed else bare for row, bare in zip(rows, without, strict=True)
        ]
        return columns, rows, len(listed)

    def _ranked(self, topic: str, parameters: Sequence[object]) -> list[Row]:
        """The entries in Redis, each with its reference data and its latest event of the slice."""
        latest: dict[tuple[str, str], tuple[Any, ...]] = {}
        for partition, start, end in _triples(parameters):
            for offset in self._present(topic, partition, start, end):
                at, uuid, uri, name, *_ = self._row(topic, self.columns, partition, offset)
                for entry in (("name", name), ("uri", uri)):
                    latest[entry] = max(latest.get(entry, ("",)), (at, uri, uuid))
        rows: list[Row] = []
        for listed in self.redis.sorted_sets["ranking:entries"]:
            kind, rank, key, accesses, computed_at = (
                self.redis.hashes[listed][field]
                for field in ("kind", "rank", "key", "accesses", "computed_at")
            )
            name = key if kind == "name" else ""
            test_id, value = self.mysql.rows.get(name), self.redis.stored.get(name)
            created_at = test_id and f"{_EPOCH_DAY}T00:00:00Z"
            reference = test_id, test_id and name, created_at, value
            at, uri, uuid = latest.get((kind, key), (None, None, None))
            moment = at and f"{at.replace(' ', 'T')}Z"
            ranked = kind, int(rank), key, int(accesses)
            rows.append((*ranked, *reference, uri, uuid, moment, computed_at))
        return rows

    def _present(self, name: str, partition: int, start: int, end: int) -> Iterator[int]:
        topic = self.kafka.topics[name]
        low, high = topic.low.get(partition, 0), len(topic.messages[partition])
        for offset in range(max(start, low), min(end, high)):
            if (partition, offset) not in self.drop and topic.messages[partition][offset]:
                yield offset

    def _row(self, topic: str, columns: Sequence[str], partition: int, offset: int) -> Row:
        message = self.kafka.topics[topic].messages[partition][offset]
        value = message.value if message else None
        event = _lenient(value)
        name = event.get("name") or event.get("key") or ""
        test_id, url = self.mysql.rows.get(name), self.redis.stored.get(name)
        return (
            _time(offset, " "),
            *(event.get(field) for field in columns[1 : columns.index("redis_key")]),
            None if url is None else name,
            url,
            test_id,
            None if test_id is None else name,
            None if test_id is None else f"{_EPOCH_DAY}T00:00:00Z",
            partition,
            offset,
            None if value is None else value.decode(errors="replace"),
        )


@dataclass
class FakeAnswer:
    columns: Sequence[str]
    rows: list[Row]
    stats: QueryStats

    def batches(self, rows: int) -> Iterator[Sequence[Row]]:
        for at in range(0, len(self.rows), rows):
            yield self.rows[at : at + rows]


class FakeElasticsearch:
    """Indices in memory with versions, aliases by name prefix, and searches that need a refresh.
    `names` are the indices that have replaced others, by the name of these; those that are to do so
    are in `created`.

    `refuse` maps an id to results that its next operations get instead of being applied;
    `dies_after` is the number of bulk requests after which each one raises ConnectionError;
    larger requests than `largest_request` bytes are refused.
    """

    def __init__(self) -> None:
        self.documents: dict[tuple[str, str], Stored] = {}
        self.searchable: set[tuple[str, str]] = set()
        self.refuse: dict[str, list[ItemResult]] = {}
        self.requests = 0
        self.largest_request: int | None = None
        self.deletions: Counter[str] = Counter()
        self.dies_after: int | None = None
        self.names: dict[str, str] = {}
        self.created: dict[str, datetime] = {}
        self.blocked: set[str] = set()
        self._sequence = 0

    def bulk(self, lines: bytes) -> Sequence[ItemResult]:
        if self.requests == self.dies_after:
            raise ConnectionError
        if self.largest_request is not None and len(lines) > self.largest_request:
            raise RequestTooLarge(f"{len(lines)} bytes")
        if not lines:
            raise SliceError("Validation Failed: 1: no requests added;")
        self.requests += 1
        parsed = iter([json.loads(line) for line in lines.splitlines()])
        return [
            self._delete(action["delete"])
            if "delete" in action
            else self._apply(action, next(parsed))
            for action in parsed
        ]

    def bulk_all(self, lines: bytes) -> bool:
        """What is refused now is refused again by `bulk`."""
        refuse = {identity: list(results) for identity, results in self.refuse.items()}
        results = self.bulk(lines)
        self.refuse.update(refuse)
        return all(result.written or result.absent for result in results)

    def get(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Stored]:
        at = {key: (self._concrete(key[0]), key[1]) for key in keys}
        return {key: self.documents[at[key]] for key in keys if at[key] in self.documents}

    def find(self, index: str, field: str, value: str) -> list[Stored]:
        return [
            self.documents[key]
            for key in self.searchable
            if self._belongs(key[0], index) and self.documents[key].source.get(field) == value
        ]

    def count(self, index: str) -> int:
        return sum(self._belongs(key[0], index) for key in self.searchable)

    def refresh(self, index: str) -> None:
        found = {key for key in list(self.documents) if self._belongs(key[0], index)}
        self.searchable = self.searchable | found  # another thread may be reading the old set

    @contextlib.contextmanager
    def snapshot(self, index: str) -> Iterator["FakeSnapshot"]:
        yield FakeSnapshot(
            [
                Hit(*key, self.documents[key])
                for key in self.searchable
                if self._belongs(key[0], index)
            ]
        )

    def counts(self, index: str, conditions: Sequence[Where]) -> list[int]:
        with self.snapshot(index) as stored:
            return [stored.extent(condition).count for condition in conditions]

    def hours(self, index: str, field: str, where: Where) -> list[datetime]:
        with self.snapshot(index) as stored:
            found = {datetime.fromisoformat(source[field]) for source in stored.matching(where)}
        return sorted({each.replace(minute=0, second=0, microsecond=0) for each in found})

    def index_ids(self, index: str) -> dict[str, str]:
        known = {concrete: name for name, concrete in self.names.items()}
        stored = {*self.created, *(concrete for concrete, _ in self.documents)}
        names = {concrete for concrete in stored if self._belongs(concrete, index)}
        return {known.get(name, name): f"{name}-{self.deletions[name]}" for name in names}

    def make_index(self, name: str, template: Path) -> None:
        json.loads(template.read_text())
        self.created[name] = datetime.now(UTC)

    def sizes(self, index: str) -> dict[str, tuple[int, int]]:
        known = {concrete: name for name, concrete in self.names.items()}
        counted = Counter(key[0] for key in self.documents if self._belongs(key[0], index))
        return {known.get(name, name): (count, 100 * count) for name, count in counted.items()}

    def behind_no_alias(self, prefix: str) -> dict[str, datetime]:
        return {name: at for name, at in self.created.items() if name.startswith(prefix)}

    def checkpoints(self, index: str) -> dict[int, int]:
        return {0: self._sequence}

    def written_since(
        self, index: str, checkpoints: Mapping[int, int], size: int
    ) -> Iterator[list[Hit]]:
        with self.snapshot(index) as stored:
            found = [
                hit for hit in stored.hits if hit.stored.version.seq_no > checkpoints.get(0, -1)
            ]
        for at in range(0, len(found), size):
            yield found[at : at + size]

    def block_writes(self, index: str, blocked: bool) -> None:
        (self.blocked.add if blocked else self.blocked.discard)(self._concrete(index))

    def swap_alias(self, name: str, new: str, alias: str, index_id: str | None) -> None:
        old = self._concrete(name)
        if self.index_ids(alias).get(name) != index_id:
            raise SliceError(f"another index than before goes by the name {name}")
        self.delete_index(old)
        self.blocked.discard(old)
        del self.created[new]
        self.names[name] = new

    def _concrete(self, name: str) -> str:
        return self.names.get(name, name)

    def _belongs(self, concrete: str, index: str) -> bool:
        """By its own name, or the name it goes by."""
        known = {each: name for name, each in self.names.items()}
        name = known.get(concrete, concrete)
        return self._concrete(index) == concrete or name.startswith(f"{index}-")

    def delete_index(self, name: str) -> None:
        name = self._concrete(name)
        self.created.pop(name, None)
        self.names = {known: each for known, each in self.names.items() if each != name}
        self.deletions[name] += 1
        for key in [key for key in self.documents if key[0] == name]:
            del self.documents[key]
            self.searchable = self.searchable - {key}

    def ensure_index(self, name: str, declaration: Path | None = None) -> None:
        json.loads((declaration or MAPPINGS / f"{name}.json").read_text())

    def _delete(self, target: dict[str, Any]) -> ItemResult:
        key = (self._concrete(target["_index"]), target["_id"])
        self.searchable.discard(key)
        return ItemResult(404 if self.documents.pop(key, None) is None else 200)

    def _apply(self, action: dict[str, dict[str, Any]], source: dict[str, Any]) -> ItemResult:
        [(verb, target)] = action.items()
        key = (self._concrete(target["_index"]), target["_id"])
        if key[0] in self.blocked:
            return ItemResult(403, "cluster_block_exception", "index blocked")
        if refused := self.refuse.get(key[1]):
            return refused.pop(0)
        stored = self.documents.get(key)
        if (verb == "create" and stored) or not _version_fits(target, stored):
            return ItemResult(409, "version_conflict_engine_exception", "conflict")
        self._sequence += 1
        self.documents[key] = Stored(source, Version(self._sequence, 1))
        return ItemResult(200 if stored else 201)


@dataclass
class FakeSnapshot:
    hits: list[Hit]

    def differing(
        self, field: str, value: str, expected: Mapping[str, Any], size: int
    ) -> Iterator[list[Hit]]:
        found = [
            hit
            for hit in self.hits
            if (source := hit.stored.source).get(field) == value
            and any(source.get(name) != each for name, each in expected.items())
        ]
        for at in range(0, len(found), size):
            yield found[at : at + size]

    def groups(self, fields: Sequence[str], where: Where) -> Iterator[Group]:
        counted = Counter(
            tuple(_value(source, field) for field in fields) for source in self.matching(where)
        )
        in_order = sorted(counted, key=lambda values: [(v is not None, v) for v in values])
        return ((values, counted[values]) for values in in_order)

    def latest(self, where: Where, size: int, without: Sequence[str] = ()) -> Iterator[list[Hit]]:
        found = sorted(
            (hit for hit in self.hits if _fulfils(hit.stored.source, where)),
            key=lambda hit: hit.stored.source[where.field],
            reverse=True,
        )
        for at in range(0, len(found), size):
            yield [_without(hit, without) for hit in found[at : at + size]]

    def reach(self, where: Where, below: Mapping[int, int]) -> dict[int, Reach]:
        found: dict[int, list[int]] = {}
        for source in self.matching(where):
            found.setdefault(source["partition"], []).append(source["offset"])
        return {
            partition: Reach(min(at), max(at), sum(offset < below[partition] for offset in at))
            for partition, at in found.items()
            if partition in below
        }

    def extent(self, where: Where) -> Extent:
        times = [_value(source, where.field) for source in self.matching(where)]
        oldest = None if not times else datetime.fromisoformat(min(times))
        return Extent(len(times), oldest)

    def matching(self, where: Where) -> list[dict[str, Any]]:
        return [hit.stored.source for hit in self.hits if _fulfils(hit.stored.source, where)]


class FakeMySQL:
    """The table testing.tests in memory."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self.made = False

    def has_table(self) -> bool:
        return self.made

    def create_table(self) -> None:
        self.made = True

    def add_names(self, names: Sequence[str]) -> None:
        for name in names:
            self.rows.setdefault(name, len(self.rows) + 1)

    def touch(self, name: str) -> None:
        self.add_names([name])

    def ids(self) -> dict[str, int]:
        return dict(self.rows)


class FakeRedis:
    """String keys, sorted sets and hashes in memory."""

    def __init__(self) -> None:
        self.stored: dict[str, str] = {}
        self.sorted_sets: dict[str, dict[str, int]] = {}
        self.hashes: dict[str, dict[str, str]] = {}

    def set_values(self, values: Mapping[str, str]) -> None:
        self.stored.update(values)

    def values(self, keys: Sequence[str]) -> dict[str, str]:
        return {key: self.stored[key] for key in keys if key in self.stored}

    def replace(
        self,
        listing: str,
        sorted_sets: Mapping[str, Mapping[str, int]],
        hashes: Mapping[str, Mapping[str, str]],
    ) -> None:
        for key in self.sorted_sets.get(listing, {}):
            self.hashes.pop(key, None)
        self.sorted_sets.update({key: dict(scores) for key, scores in sorted_sets.items()})
        self.hashes.update({key: dict(fields) for key, fields in hashes.items()})

    def set_hash(self, key: str, fields: Mapping[str, str]) -> None:
        self.hashes[key] = dict(fields)

    def hash(self, key: str) -> dict[str, str]:
        return dict(self.hashes.get(key, {}))

    def highest(self, key: str, count: int) -> list[tuple[str, int]]:
        scores = self.sorted_sets.get(key, {})
        return sorted(scores.items(), key=lambda item: item[::-1], reverse=True)[:count]


def _fulfils(source: Mapping[str, Any], where: Where) -> bool:
    return (
        iso(where.window.start) <= (source.get(where.field) or "") < iso(where.window.end)
        and all(_value(source, field) == value for field, value in where.equal)
        and all(_value(source, field) is None for field in where.absent)
    )


def _without(hit: Hit, fields: Sequence[str]) -> Hit:
    kept = {name: value for name, value in hit.stored.source.items() if name not in fields}
    return replace(hit, stored=replace(hit.stored, source=kept))


def _time(offset: int, between: str) -> str:
    """The timestamp of each message: all are of one day, in the order of their offsets."""
    return f"{_EPOCH_DAY}{between}00:00:00.{offset % 1000:03}"


def _value(source: Mapping[str, Any], path: str) -> Any:
    """The value of a field, or of a field of an object: `enrichment.state`."""
    value: Any = source
    for name in path.split("."):
        value = (value or {}).get(name)
    return value


def _version_fits(target: Mapping[str, Any], stored: Stored | None) -> bool:
    if "if_seq_no" not in target:
        return True
    asked = Version(target["if_seq_no"], target["if_primary_term"])
    return stored is not None and stored.version == asked


def _triples(parameters: Sequence[object]) -> Iterator[tuple[int, int, int]]:
    numbers = [parameter for parameter in parameters if isinstance(parameter, int)]
    for at in range(0, len(numbers), 3):
        yield numbers[at], numbers[at + 1], numbers[at + 2]


def _lenient(value: bytes | None) -> dict[str, str]:
    """As Trino's JSON decoder does it: columns are NULL when the message is no JSON object."""
    try:
        event = json.loads(value or b"")
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}
