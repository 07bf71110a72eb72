"""The oracle: compares what was sent with what is stored, and shares no code with the platform.

Belongs here: reading the whole topic (K), the whole index (E), dead letters (D), gaps (G),
positions and their mirror with plain clients, and counting what does not fit. Does not belong here:
sending (`ledger.py`), faults (`rows.py`). Imports neither kp_platform nor web_emitter; a test holds
that.

- lost: below its position, and in none of E, D, G; or acknowledged, and not on the topic; or a good
  event in the dead letters.
- duplicate: a uuid in two documents, or a visit with two uuids.
- phantom: a document, dead letter or event that nobody sent.
- wrong: a field that differs from ledger, topic and reference rows; a message altered on its way.
- unseen: on the topic, and not passed by the position though all is quiet.
- inconsistent: position, high watermark and mirrored commit differ; an offset both in E and D.
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
from kp_platform_tests.fault_injection.servers import Search, Servers, silent

KINDS = ("lost", "duplicate", "phantom", "wrong", "unseen", "inconsistent")
EXAMPLES = 10
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_READ_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Stream:
    """A topic with what the platform makes of it; `index` is empty where it makes no documents."""

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


class Place(NamedTuple):
    """Where a message lies; a topic that is made again has another id."""

    topic_id: str
    partition: int
    offset: int


class Message(NamedTuple):
    place: Place
    timestamp: int  # milliseconds since the epoch
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Edges:
    """A topic at one moment: its id, and the low and high watermark of each partition."""

    topic_id: str
    marks: Mapping[int, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Mark:
    """The moment from which on a check looks: a trial's start."""

    at_ms: int
    edges: Mapping[str, Edges]
    entries: int
    visits: int


@dataclass(slots=True)
class Verdict:
    """How many of each kind, with up to ten examples, and how much was looked at. `delays`:
    milliseconds from event to document, of the access log, by partition."""

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
    """MySQL's rows and Redis's values of now."""

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
    """Of one stack. It keeps what it once archived of a topic that is about to lose messages."""

    def __init__(self, servers: Servers, ledger: Ledger, *, alone: bool) -> None:
        """`alone`: nobody but the ledger's owner writes to the topics."""
        self.servers = servers
        self.ledger = ledger
        self._alone = alone
        # Of a client that is collected the futures never complete.
        self.admin: AdminClient = servers.admin()
        self._archive: dict[str, dict[Place, Message]] = {each.topic: {} for each in STREAMS}

    def mark(self) -> Mark:
        edges = {each.topic: self.edges(each.topic) for each in STREAMS}
        now = int(time.time() * 1_000)
        return Mark(now, edges, len(self.ledger.entries), len(self.ledger.visits))

    def edges(self, topic: str) -> Edges:
        """Raises KafkaException when the broker does not answer."""
        try:
            return self._edges(topic)
        except KafkaException:
            # Once a broker was killed, a client may never find the controller again [ran].
            self.admin = self.servers.admin()
            raise

    def _edges(self, topic: str) -> Edges:
        described = self.admin.describe_topics(TopicCollection([topic]), request_timeout=10)
        about = described[topic].result()
        parts = [TopicPartition(topic, each.id) for each in about.partitions]
        low = self._offsets(parts, OffsetSpec.earliest())
        high = self._offsets(parts, OffsetSpec.latest())
        marks = {part: (low[part], high[part]) for part in low}
        return Edges(str(about.topic_id), marks)

    def _offsets(self, parts: list[TopicPartition], spec: OffsetSpec) -> dict[int, int]:
        asked = self.admin.list_offsets({part: spec for part in parts}, request_timeout=10)
        return {part.partition: asked[part].result().offset for part in parts}

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

    def committed(self, stream: Stream, edges: Edges) -> dict[int, int]:
        """The mirror that lag tools read."""
        parts = [TopicPartition(stream.topic, part) for part in edges.marks]
        consumer = Consumer(
            {"bootstrap.servers": self.servers.kafka, "group.id": stream.group}, logger=silent
        )
        with contextlib.closing(consumer):
            answer = consumer.committed(parts, timeout=10)
        return {part.partition: part.offset for part in answer if part.offset >= 0}

    def behind(self, goals: Mapping[str, Edges] | None = None) -> dict[str, int]:
        """For each flow how many offsets lie between its positions and the goals' high watermarks,
        those of now if none are given. A topic that was made again has nothing left to wait for."""
        left = {}
        with self.servers.search() as search:
            for stream in STREAMS:
                now = self.edges(stream.topic)
                goal = goals[stream.topic] if goals else now
                held = self._positions(search, stream, now.topic_id)
                if goal.topic_id != now.topic_id:
                    goal = now
                left[stream.flow] = sum(
                    max(0, high - max(low, held.get(part, low)))
                    for part, (low, high) in goal.marks.items()
                )
        return left

    def mirrored(self, since: Mark) -> bool:
        """Whether each flow's commits equal its positions."""
        for stream in STREAMS:
            edges = self.edges(stream.topic)
            held = self.positions(stream, edges.topic_id)
            committed = self.committed(stream, edges)
            if any(
                committed.get(part) != held.get(part) for part in self.moved(edges, stream, since)
            ):
                return False
        return True

    def moved(self, edges: Edges, stream: Stream, since: Mark | None) -> list[int]:
        """The partitions to judge: on a shared stack those that messages came to since the mark,
        for others may have left a mirror behind."""
        before = since.edges[stream.topic] if since else edges
        if since is None or self._alone or before.topic_id != edges.topic_id:
            return list(edges.marks)
        return [part for part, marks in edges.marks.items() if before.marks.get(part) != marks]

    def archive(self) -> None:
        """Keep what the topics hold now; called before a fault that deletes messages."""
        for stream in STREAMS:
            edges = self.edges(stream.topic)
            for message in self._read(stream.topic, edges, {}):
                self._archive[stream.topic][message.place] = message

    def check(self, since: Mark | None = None) -> Verdict:
        """Everything since a mark, or everything there is. All must be quiet."""
        verdict = Verdict()
        references = References(self.servers.rows(), self.servers.redis_values())
        with self.servers.search() as search:
            for stream in STREAMS:
                _FlowCheck(self, search, stream, references, since, verdict).run()
        return verdict

    def _read(self, topic: str, edges: Edges, starts: Mapping[int, int]) -> Iterator[Message]:
        """Every message from the starts, or the low watermarks, to the high ones."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.servers.kafka,
                "group.id": "oracle",
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
            },
            logger=silent,
        )
        left = {
            part: (max(low, starts.get(part, low)), high)
            for part, (low, high) in edges.marks.items()
            if max(low, starts.get(part, low)) < high
        }
        deadline = time.monotonic() + _READ_SECONDS
        with contextlib.closing(consumer):
            consumer.assign([TopicPartition(topic, part, at) for part, (at, _) in left.items()])
            while left:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{topic}: no message of {left} in {_READ_SECONDS} s")
                for message in consumer.consume(10_000, timeout=0.2):
                    deadline = time.monotonic() + _READ_SECONDS
                    part, offset, error = message.partition(), message.offset(), message.error()
                    assert part is not None
                    if error is not None:
                        if error.code() != KafkaError._PARTITION_EOF:
                            raise RuntimeError(f"{topic} {part}: {error}")
                        left.pop(part, None)
                        continue
                    assert offset is not None
                    if part in left and offset >= left[part][1] - 1:
                        del left[part]
                    place = Place(edges.topic_id, part, offset)
                    yield Message(place, message.timestamp()[1], message.value())

    def check_ranking(self) -> Verdict:
        """Redis's sorted sets and index access.ranking against a count of the log's documents.

        Raises LookupError while no ranking of the newest document is there.
        """
        verdict = Verdict()
        with self.servers.values() as client, self.servers.search() as search:
            state: Any = client.hgetall("ranking:state")
            if not state:
                raise LookupError("never ranked")
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
                places = sorted((hit["_source"] for hit in hits), key=lambda each: each["rank"])
                _compare_ranking(
                    verdict,
                    f"ranking of {kind}s in access.ranking",
                    [(each["accesses"], each["key"].encode()) for each in places],
                    expected,
                )
            verdict.sizes["ranked"] = sum(counted["name"].values())
        return verdict


def _compare_ranking(verdict: Verdict, where: str, found: list[Any], expected: list[Any]) -> None:
    if len(found) != len(expected):
        verdict.add("wrong", f"{where}: {len(found)} places, expected {len(expected)}")
    for rank, (ours, theirs) in enumerate(zip(found, expected, strict=False), start=1):
        if ours != theirs:
            verdict.add("wrong", f"{where}, place {rank}: {ours}, expected {theirs}")


def _iso(milliseconds: int) -> str:
    moment = _EPOCH + timedelta(milliseconds=milliseconds)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _FlowCheck:
    """One flow, checked once."""

    def __init__(
        self,
        oracle: Oracle,
        search: Search,
        stream: Stream,
        references: References,
        since: Mark | None,
        verdict: Verdict,
    ) -> None:
        self._oracle, self._search, self._stream = oracle, search, stream
        self._references, self._since, self._verdict = references, since, verdict
        self._facts: dict[str, dict[str, Any]] = {}
        self._by_uuid: dict[str, list[tuple[Message, dict[str, str]]]] = defaultdict(list)
        self._bad: dict[Place, Message] = {}
        self._in_index: set[Place] = set()
        self._uuids: set[str] = set()
        self._dead: dict[Place, dict[str, Any]] = {}

    def run(self) -> None:
        edges = self._oracle.edges(self._stream.topic)
        self._edges = edges
        self._held = self._oracle._positions(self._search, self._stream, edges.topic_id)
        self._messages = self._topic()
        self._gaps = [hit["_source"] for hit in self._kept("kp.gaps")]
        self._dead = {self._place(each): each for each in self._letters()}
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

    # What there is

    def _topic(self) -> dict[Place, Message]:
        archived = self._oracle._archive[self._stream.topic].values()
        messages = {each.place: each for each in archived if self._is_new(each.place)}
        starts = {}
        if self._since and self._since.edges[self._stream.topic].topic_id == self._edges.topic_id:
            marks = self._since.edges[self._stream.topic].marks
            starts = {part: high for part, (_, high) in marks.items()}
        for message in self._oracle._read(self._stream.topic, self._edges, starts):
            messages[message.place] = message
        return messages

    def _is_new(self, place: Place) -> bool:
        if self._since is None:
            return True
        before = self._since.edges[self._stream.topic]
        if place.topic_id != before.topic_id:
            return place.topic_id == self._edges.topic_id
        _, high = before.marks.get(place.partition, (0, 0))
        return place.offset >= high

    def _kept(self, index: str) -> Iterator[dict[str, Any]]:
        return self._search.scan(index, {"term": {"flow": self._stream.flow}})

    def _letters(self) -> Iterator[dict[str, Any]]:
        letters = (hit["_source"] for hit in self._kept("kp.dead"))
        return (each for each in letters if self._is_new(self._place(each)))

    @staticmethod
    def _place(letter: Mapping[str, Any]) -> Place:
        return Place(letter["topic_id"], letter["partition"], letter["offset"])

    def _sort_messages(self) -> None:
        """By uuid; those that are no event, or a bad one by the ledger, by place."""
        members = {"access_log": ("uri", "name"), "full_text": ("text",)}.get(self._stream.flow)
        for message in self._messages.values():
            event = _event(message.value, ("uuid", *members)) if members else None
            if event is None or self._is_known_bad(message):
                self._bad[message.place] = message
            else:
                self._by_uuid[event["uuid"]].append((message, event))

    def _is_known_bad(self, message: Message) -> bool:
        identity = hashlib.sha256(message.value or b"").hexdigest()
        entry = self._oracle.ledger.entries.get(identity)
        return entry is not None and entry.is_bad

    # What does not fit

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
            if self._is_mine(source):
                self._verdict.add("phantom", f"{where} {source}")
            return
        if identity in self._uuids:
            self._verdict.add("duplicate", f"{where} is another document of {identity}")
        self._uuids.add(identity)
        at = source.get("partition"), source.get("offset")
        for message, event in sent:
            if (message.place.partition, message.place.offset) == at:
                self._in_index.add(message.place)
                if self._stream.topic == ACCESSES:
                    self._verdict.delays[message.place.partition].append(source["delay_ms"])
                self._compare(where, hit, self._expected(message, event))
                return
        self._verdict.add("wrong", f"{where} names {at}, where {identity} never was")

    def _is_mine(self, source: Mapping[str, Any]) -> bool:
        """On a shared stack documents of others may have any timestamp."""
        return self._oracle._alone or source.get("uuid") in self._oracle.ledger.entries

    def _expected(self, message: Message, event: Mapping[str, str]) -> dict[str, Any]:
        shared = {
            "@timestamp": _iso(message.timestamp),
            **event,
            "partition": message.place.partition,
            "offset": message.place.offset,
            "topic": self._stream.topic,
        }
        if "text" in event:
            return shared | {"length": len(event["text"].strip())}
        name = event["name"]
        if name not in self._facts:
            self._facts[name] = self._references.of(name)
        return shared | self._facts[name]

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
            wrong["run_id"] = (run_id, "the run that indexed it")
        if wrong:
            self._verdict.add("wrong", f"{where}: {wrong}")

    def _check_dead_letters(self) -> None:
        for place, letter in self._dead.items():
            message = self._messages.get(place)
            if message is None:
                self._verdict.add("phantom", f"dead letter {place}")
                continue
            value = letter["value"]
            if message.value != (None if value is None else base64.b64decode(value)):
                self._verdict.add("wrong", f"dead letter {place} has other bytes")
            if place in self._in_index:
                self._verdict.add("inconsistent", f"{place} is a document and a dead letter")
            if place not in self._bad and self._is_ours(message):
                self._verdict.add("lost", f"dead letter {letter['reason']} of a good event {place}")

    def _is_ours(self, message: Message) -> bool:
        if self._oracle._alone:
            return True
        event = _event(message.value, ("uuid",))
        return event is not None and event["uuid"] in self._oracle.ledger.entries

    def _check_settled(self, message: Message) -> None:
        place = message.place
        if place in self._in_index or place in self._dead or self._is_in_gap(place):
            return
        is_event = self._stream.index and place not in self._bad
        if is_event:
            event = _event(message.value, ("uuid",))
            if event is not None and event["uuid"] in self._uuids:  # a duplicate on the topic
                self._verdict.sizes["duplicates on the topic"] += 1
                return
        passed = place.topic_id != self._edges.topic_id
        passed = passed or place.offset < self._held.get(place.partition, 0)
        if not passed:
            self._verdict.add("unseen", f"{place} of {self._stream.topic}")
        elif self._stream.index:  # a change that was applied leaves no document
            self._verdict.add("lost", f"{place} of {self._stream.topic} {message.value!r}")

    def _is_in_gap(self, place: Place) -> bool:
        return any(
            gap["topic_id"] == place.topic_id
            and gap["partition"] == place.partition
            and gap["start"] <= place.offset < gap["end"]
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
            self._check_strangers()

    def _check_entry(self, identity: str, entry: Entry) -> None:
        self._verdict.sizes[f"sent {entry.state}"] += 1
        sent = self._by_uuid.get(identity)
        if sent:
            for message, event in sent:
                if digest(*(text for key, text in event.items() if key != "uuid")) != entry.digest:
                    self._verdict.add("wrong", f"{message.place} is not what was sent")
        elif entry.state is State.ACKED and not any(
            gap["partition"] == entry.partition and gap["start"] <= entry.offset < gap["end"]
            for gap in self._gaps
        ):
            at = f"{entry.topic} {entry.partition}:{entry.offset}"
            self._verdict.add("lost", f"{identity} was acknowledged at {at}, and is not there")

    def _check_visits(self) -> None:
        """Accepted is not acknowledged: what the emitter had to give up is counted as dropped, for
        the caller to compare with what the emitter says of it."""
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

    def _check_strangers(self) -> None:
        ledger = self._oracle.ledger
        for identity, sent in self._by_uuid.items():
            if identity not in ledger.entries and sent[0][1].get("uri") not in ledger.visits:
                self._verdict.add("phantom", f"{sent[0][0].place} {identity} is in no ledger")

    def _check_positions(self) -> None:
        committed = self._oracle.committed(self._stream, self._edges)
        for part in self._oracle.moved(self._edges, self._stream, self._since):
            low, high = self._edges.marks[part]
            position = self._held.get(part)
            at = f"{self._stream.topic} {part}: position {position}"
            if position is None:
                if low < high:
                    self._verdict.add("inconsistent", f"{at}, high {high}")
                continue
            if position != high:
                self._verdict.add("inconsistent", f"{at}, high {high}")
            if committed.get(part) != position:
                self._verdict.add("inconsistent", f"{at}, committed {committed.get(part)}")


def _event(value: bytes | None, members: Iterable[str]) -> dict[str, str] | None:
    """The members of a message in this order, or None when it is no event."""
    try:
        found = orjson.loads(value or b"")
        event = {name: found[name] for name in members}
    except (orjson.JSONDecodeError, TypeError, KeyError):
        return None
    return event if all(isinstance(text, str) for text in event.values()) else None
