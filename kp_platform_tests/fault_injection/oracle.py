"""The oracle: compares sent messages with stored data, and shares no code with the platform.

Belongs here: reading the whole topic (K), the whole index (E), dead letters (D), gaps (G),
positions and committed offsets with plain clients, and counting deviations. Does not belong here:
sending (`ledger.py`), faults (`rows.py`). A test checks that it imports neither kp_platform nor
web_emitter.

- lost: below its position, and in none of E, D, G; or acknowledged, and not on the topic; or a
  valid event in the dead letters.
- duplicate: a uuid in two documents, or a visit with two uuids.
- phantom: a document, dead letter or event that was not sent.
- wrong: a field that differs from ledger, topic and reference data; a message altered in transit.
- unseen: on the topic and not below the position, although the stack is idle.
- inconsistent: position, high watermark and committed offset differ; an offset both in E and D.
"""

import base64
import contextlib
import hashlib
import heapq
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple

import orjson
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from kp_platform_tests.fault_injection.ledger import ACCESSES, NOTES, Entry, Ledger, State, digest
from kp_platform_tests.fault_injection.servers import Search, Servers, quiet_logger

KINDS = ("lost", "duplicate", "phantom", "wrong", "unseen", "inconsistent")
EXAMPLES = 10
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_READ_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Stream:
    """A topic and the index of its documents; `index` is empty if the flow writes no documents."""

    flow: str
    topic: str
    index: str

    @property
    def group(self) -> str:
        return f"kp-{self.flow.replace('_', '-')}"


STREAMS = (
    Stream("access_log", ACCESSES, "log.index"),
    Stream("full_text", NOTES, "fulltext.register"),
    Stream("reference_changes", "reference.changed", ""),
)


class Location(NamedTuple):
    """The coordinates of a message; a recreated topic has another id."""

    topic_id: str
    partition: int
    offset: int


class Message(NamedTuple):
    location: Location
    timestamp: int  # milliseconds since the epoch
    value: bytes | None


@dataclass(frozen=True, slots=True)
class TopicOffsets:
    """A snapshot of a topic: its id, and the low and high watermark of each partition."""

    topic_id: str
    watermarks: Mapping[int, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The start of the data that a check covers, e.g. the start of a trial."""

    at_ms: int
    offsets: Mapping[str, TopicOffsets]
    entries: int
    visits: int


@dataclass(slots=True)
class Verdict:
    """The number of deviations of each kind with up to ten examples, and the number of checked
    records. `delays`: milliseconds from event to document of the access log, by partition."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    sizes: Counter[str] = field(default_factory=Counter)
    delays: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))

    def add(self, kind: str, example: str, count: int = 1) -> None:
        self.counts[kind] += count
        if len(self.examples[kind]) < EXAMPLES:
            self.examples[kind].append(example[:300])

    @property
    def is_clean(self) -> bool:
        return not any(self.counts[kind] for kind in KINDS)


@dataclass(slots=True)
class References:
    """The current rows of MySQL and values of Redis."""

    rows: Mapping[str, tuple[int, str]]
    values: Mapping[str, str]

    def of(self, name: str) -> dict[str, Any]:
        number, created_at = self.rows.get(name, (None, None))
        value = self.values.get(name)
        present = {"mysql": number, "redis": value}
        missing = [source for source, found in present.items() if found is None]
        state = ("complete", "partial", "none")[len(missing)]
        return {
            "redis_key": None if value is None else name,
            "redis_value": value,
            "test_id": number,
            "test_name": None if number is None else name,
            "created_at": created_at,
            "enrichment": {"state": state, "missing": missing},
        }


class Oracle:
    """The oracle of one stack. It keeps archived messages of topics that then lose messages."""

    def __init__(self, servers: Servers, ledger: Ledger, *, alone: bool) -> None:
        """`alone`: only the owner of the ledger writes to the topics."""
        self.servers = servers
        self.ledger = ledger
        self._alone = alone
        # Futures of a garbage-collected client never complete.
        self.admin: AdminClient = servers.admin()
        self._archive: dict[str, dict[Location, Message]] = {each.topic: {} for each in STREAMS}

    def checkpoint(self) -> Checkpoint:
        offsets = {each.topic: self.topic_offsets(each.topic) for each in STREAMS}
        now = int(time.time() * 1_000)
        return Checkpoint(now, offsets, len(self.ledger.entries), len(self.ledger.visits))

    def topic_offsets(self, topic: str) -> TopicOffsets:
        """Raises KafkaException when the broker does not answer."""
        try:
            return self._topic_offsets(topic)
        except KafkaException:
            # After a broker is killed, a client may never find the controller again (observed
            # with confluent-kafka 2.16.1)
            self.admin = self.servers.admin()
            raise

    def _topic_offsets(self, topic: str) -> TopicOffsets:
        described = self.admin.describe_topics(TopicCollection([topic]), request_timeout=10)
        about = described[topic].result()
        partitions = [TopicPartition(topic, each.id) for each in about.partitions]
        low = self._offsets(partitions, OffsetSpec.earliest())
        high = self._offsets(partitions, OffsetSpec.latest())
        watermarks = {partition: (low[partition], high[partition]) for partition in low}
        return TopicOffsets(str(about.topic_id), watermarks)

    def _offsets(self, partitions: list[TopicPartition], spec: OffsetSpec) -> dict[int, int]:
        asked = self.admin.list_offsets(
            {partition: spec for partition in partitions}, request_timeout=10
        )
        return {partition.partition: asked[partition].result().offset for partition in partitions}

    def positions(self, stream: Stream, topic_id: str) -> dict[int, int]:
        with self.servers.search() as search:
            return self._positions(search, stream, topic_id)

    def _positions(self, search: Search, stream: Stream, topic_id: str) -> dict[int, int]:
        query = {"bool": {"filter": [{"term": {"flow": stream.flow}}]}}
        return {
            hit["_source"]["partition"]: hit["_source"]["position"]
            for hit in search.scan("kp.positions", query)
            if hit["_source"]["topic_id"] == topic_id
        }

    def committed(self, stream: Stream, offsets: TopicOffsets) -> dict[int, int]:
        """Committed offsets of the consumer group, which lag tools read."""
        partitions = [TopicPartition(stream.topic, partition) for partition in offsets.watermarks]
        consumer = Consumer(
            {"bootstrap.servers": self.servers.kafka, "group.id": stream.group}, logger=quiet_logger
        )
        with contextlib.closing(consumer):
            answer = consumer.committed(partitions, timeout=10)
        return {
            partition.partition: partition.offset for partition in answer if partition.offset >= 0
        }

    def lag(self, goals: Mapping[str, TopicOffsets] | None = None) -> dict[str, int]:
        """Offsets between the positions of each flow and the high watermarks of `goals`, or the
        current high watermarks by default and for a topic recreated since."""
        left = {}
        with self.servers.search() as search:
            for stream in STREAMS:
                now = self.topic_offsets(stream.topic)
                goal = goals[stream.topic] if goals else now
                positions = self._positions(search, stream, now.topic_id)
                if goal.topic_id != now.topic_id:
                    goal = now
                left[stream.flow] = sum(
                    max(0, high - max(low, positions.get(partition, low)))
                    for partition, (low, high) in goal.watermarks.items()
                )
        return left

    def is_mirrored(self, since: Checkpoint) -> bool:
        """Whether the committed offsets of each flow equal its positions."""
        for stream in STREAMS:
            offsets = self.topic_offsets(stream.topic)
            positions = self.positions(stream, offsets.topic_id)
            committed = self.committed(stream, offsets)
            if any(
                committed.get(partition) != positions.get(partition)
                for partition in self.partitions_to_check(offsets, stream, since)
            ):
                return False
        return True

    def partitions_to_check(
        self, offsets: TopicOffsets, stream: Stream, since: Checkpoint | None
    ) -> list[int]:
        """The partitions to check: on a shared stack only those with messages since the checkpoint,
        because other tests may have left commits that differ."""
        before = since.offsets[stream.topic] if since else offsets
        if since is None or self._alone or before.topic_id != offsets.topic_id:
            return list(offsets.watermarks)
        return [
            partition
            for partition, watermarks in offsets.watermarks.items()
            if before.watermarks.get(partition) != watermarks
        ]

    def archive(self) -> None:
        """Store the current messages of the topics; called before a fault that deletes some."""
        for stream in STREAMS:
            offsets = self.topic_offsets(stream.topic)
            for message in self._read(stream.topic, offsets, {}):
                self._archive[stream.topic][message.location] = message

    def check(self, since: Checkpoint | None = None) -> Verdict:
        """Check all data, or all data since a checkpoint. The stack must be idle."""
        verdict = Verdict()
        references = References(self.servers.rows(), self.servers.redis_values())
        with self.servers.search() as search:
            for stream in STREAMS:
                _FlowCheck(self, search, stream, references, since, verdict).run()
        return verdict

    def _read(
        self, topic: str, offsets: TopicOffsets, starts: Mapping[int, int]
    ) -> Iterator[Message]:
        """Every message from the starts, by default the low watermarks, to the high watermarks."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.servers.kafka,
                "group.id": "oracle",
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
            },
            logger=quiet_logger,
        )
        ranges = {
            partition: (max(low, starts.get(partition, low)), high)
            for partition, (low, high) in offsets.watermarks.items()
            if max(low, starts.get(partition, low)) < high
        }
        with contextlib.closing(consumer):
            for partition, offset, message in _consume(consumer, topic, ranges):
                location = Location(offsets.topic_id, partition, offset)
                yield Message(location, message.timestamp()[1], message.value())

    def check_ranking(self) -> Verdict:
        """Compare Redis's sorted sets and index access.ranking with a count of log documents.

        Raises LookupError while the ranking does not include the newest document.
        """
        verdict = Verdict()
        with self.servers.values() as client, self.servers.search() as search:
            state: Any = client.hgetall("ranking:state")
            if not state:
                raise LookupError("no ranking was computed yet")
            end = datetime.fromisoformat(state["computed_at"])
            start = end - timedelta(seconds=int(state["window_seconds"]))
            counted = {"name": Counter[str](), "uri": Counter[str]()}
            window = {"range": {"@timestamp": {"gte": start.isoformat()}}}
            for hit in search.scan("log.index", window, ["name", "uri", "@timestamp"]):
                source = hit["_source"]
                if datetime.fromisoformat(source["@timestamp"]) >= end:
                    raise LookupError(f"{source['@timestamp']} is later than the ranking of {end}")
                counted["name"][source["name"]] += 1
                counted["uri"][source["uri"]] += 1
            for kind, counts in counted.items():
                expected = heapq.nlargest(
                    int(state["size"]), ((number, key.encode()) for key, number in counts.items())
                )
                found: Any = client.zrevrange(f"ranking:{kind}s", 0, -1, withscores=True)
                _compare_ranking(
                    verdict,
                    f"ranking of {kind}s in Redis",
                    [(int(score), str(key).encode()) for key, score in found],
                    expected,
                )
                hits = search.scan("access.ranking", {"term": {"kind": kind}})
                entries = sorted((hit["_source"] for hit in hits), key=lambda each: each["rank"])
                _compare_ranking(
                    verdict,
                    f"ranking of {kind}s in access.ranking",
                    [(each["accesses"], each["key"].encode()) for each in entries],
                    expected,
                )
            verdict.sizes["ranked"] = sum(counted["name"].values())
        return verdict


def _consume(
    consumer: Consumer, topic: str, ranges: Mapping[int, tuple[int, int]]
) -> Iterator[tuple[int, int, Any]]:
    """Partition, offset and message of every message in these half-open ranges. Raises TimeoutError
    when no message arrives for `_READ_SECONDS`."""
    consumer.assign([TopicPartition(topic, number, start) for number, (start, _) in ranges.items()])
    left = {number: end for number, (_, end) in ranges.items()}
    deadline = time.monotonic() + _READ_SECONDS
    while left:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{topic}: no message of {left} in {_READ_SECONDS} s")
        for message in consumer.consume(10_000, timeout=0.2):
            deadline = time.monotonic() + _READ_SECONDS
            partition, offset, error = message.partition(), message.offset(), message.error()
            assert partition is not None
            if error is not None:
                if error.code() != KafkaError._PARTITION_EOF:
                    raise RuntimeError(f"{topic} {partition}: {error}")
                left.pop(partition, None)
                continue
            assert offset is not None
            if partition in left and offset >= left[partition] - 1:
                del left[partition]
            yield partition, offset, message


def _compare_ranking(verdict: Verdict, where: str, found: list[Any], expected: list[Any]) -> None:
    if len(found) != len(expected):
        verdict.add("wrong", f"{where}: {len(found)} entries, expected {len(expected)}")
    for rank, (ours, theirs) in enumerate(zip(found, expected, strict=False), start=1):
        if ours != theirs:
            verdict.add("wrong", f"{where}, rank {rank}: {ours}, expected {theirs}")


def _iso(milliseconds: int) -> str:
    moment = _EPOCH + timedelta(milliseconds=milliseconds)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _FlowCheck:
    """One check of one flow."""

    def __init__(
        self,
        oracle: Oracle,
        search: Search,
        stream: Stream,
        references: References,
        since: Checkpoint | None,
        verdict: Verdict,
    ) -> None:
        self._oracle, self._search, self._stream = oracle, search, stream
        self._references, self._since, self._verdict = references, since, verdict
        self._reference: dict[str, dict[str, Any]] = {}
        self._by_uuid: dict[str, list[tuple[Message, dict[str, str]]]] = defaultdict(list)
        self._bad: dict[Location, Message] = {}
        self._in_index: set[Location] = set()
        self._uuids: set[str] = set()
        self._dead: dict[Location, dict[str, Any]] = {}

    def run(self) -> None:
        offsets = self._oracle.topic_offsets(self._stream.topic)
        self._offsets = offsets
        self._stored = self._oracle._positions(self._search, self._stream, offsets.topic_id)
        self._messages = self._topic()
        self._gaps = [hit["_source"] for hit in self._records("kp.gaps")]
        self._dead = {self._location(each): each for each in self._dead_letters()}
        self._sort_messages()
        if self._stream.index:
            self._check_documents()
        self._check_dead_letters()
        for message in self._messages.values():
            self._check_settled(message)
        if self._stream.index:
            self._check_ledger()
        self._check_positions()
        self._verdict.sizes[f"{self._stream.flow} messages"] += len(self._messages)
        self._verdict.sizes[f"{self._stream.flow} documents"] += len(self._in_index)
        self._verdict.sizes[f"{self._stream.flow} dead letters"] += len(self._dead)

    # Reading

    def _topic(self) -> dict[Location, Message]:
        archived = self._oracle._archive[self._stream.topic].values()
        messages = {each.location: each for each in archived if self._is_new(each.location)}
        starts = {}
        if (
            self._since
            and self._since.offsets[self._stream.topic].topic_id == self._offsets.topic_id
        ):
            watermarks = self._since.offsets[self._stream.topic].watermarks
            starts = {partition: high for partition, (_, high) in watermarks.items()}
        for message in self._oracle._read(self._stream.topic, self._offsets, starts):
            messages[message.location] = message
        return messages

    def _is_new(self, location: Location) -> bool:
        if self._since is None:
            return True
        before = self._since.offsets[self._stream.topic]
        if location.topic_id != before.topic_id:
            return location.topic_id == self._offsets.topic_id
        _, high = before.watermarks.get(location.partition, (0, 0))
        return location.offset >= high

    def _records(self, index: str) -> Iterator[dict[str, Any]]:
        return self._search.scan(index, {"term": {"flow": self._stream.flow}})

    def _dead_letters(self) -> Iterator[dict[str, Any]]:
        sources = (hit["_source"] for hit in self._records("kp.dead"))
        return (each for each in sources if self._is_new(self._location(each)))

    @staticmethod
    def _location(dead_letter: Mapping[str, Any]) -> Location:
        return Location(dead_letter["topic_id"], dead_letter["partition"], dead_letter["offset"])

    def _sort_messages(self) -> None:
        """Group valid events by uuid; keep all other messages by location."""
        members = {"access_log": ("uri", "name"), "full_text": ("text",)}.get(self._stream.flow)
        for message in self._messages.values():
            event = _event(message.value, ("uuid", *members)) if members else None
            if event is None or self._is_known_bad(message):
                self._bad[message.location] = message
            else:
                self._by_uuid[event["uuid"]].append((message, event))

    def _is_known_bad(self, message: Message) -> bool:
        identity = hashlib.sha256(message.value or b"").hexdigest()
        entry = self._oracle.ledger.entries.get(identity)
        return entry is not None and entry.is_bad

    # Comparing

    def _check_documents(self) -> None:
        since = [{"range": {"@timestamp": {"gte": self._since.at_ms}}}] if self._since else []
        for hit in self._search.scan(self._stream.index, {"bool": {"filter": since}}):
            self._check_document(hit)

    def _check_document(self, hit: Mapping[str, Any]) -> None:
        source = hit["_source"]
        identity = source.get("uuid", "")
        where = f"{hit['_index']}/{hit['_id']}"
        sent = self._by_uuid.get(identity)
        if not sent:
            if self._is_sent(source):
                self._verdict.add("phantom", f"{where} {source}")
            return
        if identity in self._uuids:
            self._verdict.add("duplicate", f"{where} is a second document of {identity}")
        self._uuids.add(identity)
        at = source.get("partition"), source.get("offset")
        for message, event in sent:
            if (message.location.partition, message.location.offset) == at:
                self._in_index.add(message.location)
                if self._stream.topic == ACCESSES:
                    self._verdict.delays[message.location.partition].append(source["delay_ms"])
                self._compare(where, hit, self._expected(message, event))
                return
        self._verdict.add("wrong", f"{where} has offset {at}, which is not one of {identity}")

    def _is_sent(self, source: Mapping[str, Any]) -> bool:
        """On a shared stack, documents of other tests may have any timestamp."""
        return self._oracle._alone or source.get("uuid") in self._oracle.ledger.entries

    def _expected(self, message: Message, event: Mapping[str, str]) -> dict[str, Any]:
        shared = {
            "@timestamp": _iso(message.timestamp),
            **event,
            "partition": message.location.partition,
            "offset": message.location.offset,
            "topic": self._stream.topic,
        }
        if "text" in event:
            return shared | {"length": len(event["text"].strip())}
        name = event["name"]
        if name not in self._reference:
            self._reference[name] = self._references.of(name)
        return shared | self._reference[name]

    def _compare(self, where: str, hit: Mapping[str, Any], expected: dict[str, Any]) -> None:
        source = dict(hit["_source"])
        indexed_at, delay = source.pop("indexed_at", ""), source.pop("delay_ms", None)
        run_id = source.pop("run_id", None)
        wrong = {
            name: (source.get(name), expected.get(name))
            for name in source.keys() | expected.keys()
            if name not in source or name not in expected or source[name] != expected[name]
        }
        day = expected["@timestamp"][:10].replace("-", ".")
        if hit["_index"] != f"{self._stream.index}-{day}":
            wrong["_index"] = (hit["_index"], day)
        if hit["_id"] != expected["uuid"]:
            wrong["_id"] = (hit["_id"], expected["uuid"])
        took = datetime.fromisoformat(indexed_at) - datetime.fromisoformat(expected["@timestamp"])
        if took != timedelta(milliseconds=delay):
            wrong["delay_ms"] = (delay, took)
        if not run_id:
            wrong["run_id"] = (run_id, "the id of the run")
        if wrong:
            self._verdict.add("wrong", f"{where}: {wrong}")

    def _check_dead_letters(self) -> None:
        for location, dead_letter in self._dead.items():
            message = self._messages.get(location)
            if message is None:
                self._verdict.add("phantom", f"dead letter {location}")
                continue
            value = dead_letter["value"]
            if message.value != (None if value is None else base64.b64decode(value)):
                self._verdict.add("wrong", f"dead letter {location} has other bytes")
            if location in self._in_index:
                self._verdict.add("inconsistent", f"{location} is a document and a dead letter")
            if location not in self._bad and self._is_sent_message(message):
                self._verdict.add(
                    "lost", f"dead letter {dead_letter['reason']} of a valid event {location}"
                )

    def _is_sent_message(self, message: Message) -> bool:
        if self._oracle._alone:
            return True
        event = _event(message.value, ("uuid",))
        return event is not None and event["uuid"] in self._oracle.ledger.entries

    def _check_settled(self, message: Message) -> None:
        location = message.location
        if location in self._in_index or location in self._dead or self._is_in_gap(location):
            return
        is_event = self._stream.index and location not in self._bad
        if is_event:
            event = _event(message.value, ("uuid",))
            if event is not None and event["uuid"] in self._uuids:  # a duplicate on the topic
                self._verdict.sizes["duplicates on the topic"] += 1
                return
        passed = location.topic_id != self._offsets.topic_id
        passed = passed or location.offset < self._stored.get(location.partition, 0)
        if not passed:
            self._verdict.add("unseen", f"{location} of {self._stream.topic}")
        elif self._stream.index:  # a reference change writes no document
            self._verdict.add("lost", f"{location} of {self._stream.topic} {message.value!r}")

    def _is_in_gap(self, location: Location) -> bool:
        return any(
            gap["topic_id"] == location.topic_id
            and gap["partition"] == location.partition
            and gap["start"] <= location.offset < gap["end"]
            for gap in self._gaps
        )

    def _check_ledger(self) -> None:
        entries = self._oracle.ledger.entries
        first = self._since.entries if self._since else 0
        for identity, entry in islice(entries.items(), first, None):
            if entry.topic == self._stream.topic and not entry.is_bad:
                self._check_entry(identity, entry)
        if self._stream.topic == ACCESSES:
            self._check_visits()
        if self._oracle._alone:
            self._check_unknown_events()

    def _check_entry(self, identity: str, entry: Entry) -> None:
        self._verdict.sizes[f"sent {entry.state}"] += 1
        sent = self._by_uuid.get(identity)
        if sent:
            for message, event in sent:
                if digest(*(text for key, text in event.items() if key != "uuid")) != entry.digest:
                    self._verdict.add("wrong", f"{message.location} differs from the sent message")
        elif entry.state is State.ACKED and not any(
            gap["partition"] == entry.partition and gap["start"] <= entry.offset < gap["end"]
            for gap in self._gaps
        ):
            at = f"{entry.topic} {entry.partition}:{entry.offset}"
            self._verdict.add(
                "lost", f"{identity} was acknowledged at {at}, and is not on the topic"
            )

    def _check_visits(self) -> None:
        """Accepted does not mean acknowledged: accepted visits without an event are counted as
        dropped, and the caller compares that number with the emitter's counts."""
        uuids: dict[str, set[str]] = defaultdict(set)
        for identity, sent in self._by_uuid.items():
            for _, event in sent:
                uuids[event["uri"]].add(identity)
        first = self._since.visits if self._since else 0
        for uri, state in islice(self._oracle.ledger.visits.items(), first, None):
            self._verdict.sizes[f"visits {state}"] += 1
            if len(uuids[uri]) > 1:
                self._verdict.add("duplicate", f"visit {uri} is {len(uuids[uri])} events")
            if state is State.ACCEPTED and not uuids[uri]:
                self._verdict.sizes["dropped"] += 1
                self._verdict.examples["dropped"] = [uri]

    def _check_unknown_events(self) -> None:
        ledger = self._oracle.ledger
        for identity, sent in self._by_uuid.items():
            if identity not in ledger.entries and sent[0][1].get("uri") not in ledger.visits:
                self._verdict.add(
                    "phantom", f"{sent[0][0].location} {identity} is not in the ledger"
                )

    def _check_positions(self) -> None:
        committed = self._oracle.committed(self._stream, self._offsets)
        for partition in self._oracle.partitions_to_check(self._offsets, self._stream, self._since):
            low, high = self._offsets.watermarks[partition]
            position = self._stored.get(partition)
            at = f"{self._stream.topic} {partition}: position {position}"
            if position is None:
                if low < high:
                    self._verdict.add("inconsistent", f"{at}, high {high}")
                continue
            if position != high:
                self._verdict.add("inconsistent", f"{at}, high {high}")
            if committed.get(partition) != position:
                self._verdict.add("inconsistent", f"{at}, committed {committed.get(partition)}")


def _event(value: bytes | None, members: Iterable[str]) -> dict[str, str] | None:
    """The members of a message in this order, or None if it is not an event."""
    try:
        found = orjson.loads(value or b"")
        event = {name: found[name] for name in members}
    except (orjson.JSONDecodeError, TypeError, KeyError):
        return None
    return event if all(isinstance(text, str) for text in event.values()) else None
