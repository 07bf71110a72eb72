"""The load of a trial, and the ledger of sent messages.

Belongs here: sending at a rate, and the state of each message before and after sending. Does not
belong here: what is stored afterwards (`oracle.py`).

Messages are sent in two ways: to Kafka directly, with a uuid of the ledger and an acknowledgement;
and by HTTP to the emitter, which creates the uuid, so that the ledger identifies them by uri.
"""

import hashlib
import http.client
import random
import threading
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

import orjson
from confluent_kafka import KafkaException, Producer

from kp_platform_tests.fault_injection.servers import Servers, quiet_logger

ACCESSES = "analyze.action"
NOTES = "fulltext.register"
NAMES = ("presto", "kafka", "laravel", "elasticsearch", "nobody")
TICK_SECONDS = 0.02
# Below the server's timeout for idle connections.
IDLE_SECONDS = 2.0


class State(StrEnum):
    """UNKNOWN from before sending until the response, and without one: the event may be stored."""

    UNKNOWN = "unknown"
    ACCEPTED = "accepted"
    ACKED = "acked"
    FAILED = "failed"


@dataclass(slots=True)
class Entry:
    """One message sent to Kafka directly. `is_bad`: it violates its contract on purpose."""

    topic: str
    digest: bytes
    is_bad: bool = False
    state: State = State.UNKNOWN
    partition: int = -1
    offset: int = -1


def digest(*texts: str) -> bytes:
    """sha256 of an event's members except its uuid."""
    return hashlib.sha256("\0".join(texts).encode()).digest()


@dataclass(slots=True)
class Ledger:
    """Messages by uuid (bad ones by the hex sha256 of the value), visits by uri."""

    entries: dict[str, Entry] = field(default_factory=dict)
    visits: dict[str, State] = field(default_factory=dict)

    def count(self, state: State) -> int:
        states = [entry.state for entry in self.entries.values()]
        return states.count(state) + list(self.visits.values()).count(state)


class KafkaWriter:
    """Writes to Kafka and records in the ledger.

    It is not idempotent: a retry after a lost response duplicates the message on the topic, which
    must not duplicate it in the index.
    """

    def __init__(self, servers: Servers, ledger: Ledger) -> None:
        self._ledger = ledger
        self._producer = Producer(
            {
                "bootstrap.servers": servers.kafka,
                "acks": "all",
                "linger.ms": 5,
                "message.timeout.ms": 300_000,
                "queue.buffering.max.messages": 1_000_000,
                "reconnect.backoff.max.ms": 1_000,
                "topic.metadata.refresh.interval.ms": 2_000,  # detects added partitions early
            },
            logger=quiet_logger,
        )

    def access(self, uri: str, name: str, partition: int = -1) -> None:
        identity = str(uuid.uuid4())
        value = {"uuid": identity, "uri": uri, "name": name}
        self._send(identity, Entry(ACCESSES, digest(uri, name)), orjson.dumps(value), partition)

    def note(self, text: str) -> None:
        identity = str(uuid.uuid4())
        value = {"uuid": identity, "text": text}
        self._send(identity, Entry(NOTES, digest(text)), orjson.dumps(value))

    def bad(self, value: bytes, topic: str = ACCESSES) -> None:
        """A message that must become a dead letter; the value must be unique."""
        content = hashlib.sha256(value).digest()
        self._send(content.hex(), Entry(topic, content, is_bad=True), value)

    def poll(self, seconds: float = 0.0) -> None:
        self._producer.poll(seconds)

    def flush(self, seconds: float) -> int:
        """Returns the number of messages without an acknowledgement."""
        return self._producer.flush(seconds)

    def _send(self, identity: str, entry: Entry, value: bytes, partition: int = -1) -> None:
        self._ledger.entries[identity] = entry

        def delivered(error: object, message: Any) -> None:
            if error is None:
                entry.partition, entry.offset = message.partition(), message.offset()
                entry.state = State.ACKED
            else:
                entry.state = State.FAILED

        while True:
            try:
                return self._producer.produce(
                    entry.topic, value, partition=partition, on_delivery=delivered
                )
            except BufferError:
                self._producer.poll(0.1)
            except KafkaException:  # e.g. the topic does not exist at the moment
                entry.state = State.FAILED
                return None


class Visitor:
    """One keep-alive connection to the emitter. `seconds` are the response times, `errors` is the
    number of visits without a response or with a status >= 500."""

    def __init__(self, servers: Servers, ledger: Ledger) -> None:
        address = urlsplit(servers.emitter)
        self._address = (address.hostname or "", address.port)
        self._ledger = ledger
        self._connection: http.client.HTTPConnection | None = None
        self._used = 0.0
        self.seconds: list[float] = []
        self.errors = 0

    def visit(self, uri: str) -> State:
        self._ledger.visits[uri] = State.UNKNOWN
        self._ledger.visits[uri] = state = self._visit(uri)
        self.errors += state is not State.ACCEPTED
        return state

    def _visit(self, uri: str) -> State:
        began = time.monotonic()
        if began - self._used > IDLE_SECONDS:
            self.close()
        if self._connection is None:
            self._connection = http.client.HTTPConnection(*self._address, timeout=10)
        try:
            self._connection.request("GET", uri)
            answer = self._connection.getresponse()
            answer.read()
        except ConnectionRefusedError:
            self.close()
            return State.FAILED
        except (OSError, http.client.HTTPException):
            self.close()
            return State.UNKNOWN
        self._used = time.monotonic()
        self.seconds.append(self._used - began)
        return State.FAILED if answer.status >= 500 else State.ACCEPTED

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """The number of messages of each kind in a load, and the seconds to send them in."""

    accesses: int
    visits: int
    notes: int
    seconds: float

    @property
    def total(self) -> int:
        return self.accesses + self.visits + self.notes

    @classmethod
    def of(cls, events: int, seconds: float) -> "Amounts":
        """A fifth by HTTP, at most 200 requests/s, which is the limit of one connection."""
        visits = min(events // 5, int(200 * seconds))
        notes = events // 20
        return cls(accesses=events - visits - notes, visits=visits, notes=notes, seconds=seconds)


class Load:
    """Sends messages at a steady rate from two threads, until all are sent.

    Accesses have one of five names or `late_name`, which has no reference data at first.
    """

    def __init__(
        self, servers: Servers, ledger: Ledger, amounts: Amounts, key: str, chance: random.Random
    ) -> None:
        self.late_name = f"late-{key}"
        self.visitor = Visitor(servers, ledger)
        self._writer = KafkaWriter(servers, ledger)
        self._amounts = amounts
        self._key = key
        self._chance = chance
        self._written = 0
        self._running = threading.Event()
        self._running.set()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=each, name=each.__name__, daemon=True)
            for each in (self._write, self._visit)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def warm_up(self) -> None:
        """Send a few accesses before the load."""
        for number in range(20):
            self._writer.access(f"/{self._key}/first/{number}", "kafka")
        self._writer.flush(30)

    def finish(self, partitions: Iterable[int]) -> None:
        """Send one more access per partition, so that each position moves after the repair."""
        for partition in partitions:
            self._writer.access(f"/{self._key}/last/{partition}", "kafka", partition)
        self._writer.flush(60)

    @property
    def progress(self) -> float:
        """The share of the accesses that is sent, from 0 to 1."""
        return self._written / max(1, self._amounts.accesses)

    def pause(self) -> None:
        """Stop sending; returns when everything sent is acknowledged."""
        self._running.clear()
        self._writer.flush(60)

    def resume(self) -> None:
        self._running.set()

    def stop(self) -> None:
        self._stop.set()
        self._running.set()

    def join(self, seconds: float) -> bool:
        """Whether everything is sent and acknowledged in time."""
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.1, until - time.monotonic()))
        left = self._writer.flush(max(0.1, until - time.monotonic()))
        return left == 0 and self.progress == 1.0

    def write_bad(self, values: Iterable[bytes]) -> None:
        for value in values:
            self._writer.bad(value)
        self._writer.flush(30)

    def _write(self) -> None:
        accesses, notes = self._amounts.accesses, self._amounts.notes
        every = max(1, accesses // max(1, notes))
        written = 0
        for number in self._steadily(accesses):
            chosen = self._chance.random()
            name = self.late_name if chosen < 0.02 else self._chance.choice(NAMES)
            self._writer.access(f"/{self._key}/{number}?page=é'\"<b>", name)
            if number % every == 0 and written < notes:
                self._writer.note(f"note {written} of {self._key}: größer\n")
                written += 1
            self._written = number + 1

    def _visit(self) -> None:
        for number in self._steadily(self._amounts.visits):
            if self.visitor.visit(f"/{self._key}/visit/{number}") is not State.ACCEPTED:
                self._stop.wait(0.05)
        self.visitor.close()

    def _steadily(self, count: int) -> Iterable[int]:
        """The numbers below `count`, spread over the seconds of the load without its pauses."""
        rate = count / self._amounts.seconds
        began, number = time.monotonic(), 0
        while number < count and not self._stop.is_set():
            if not self._running.is_set():
                paused = time.monotonic()
                self._running.wait()
                began += time.monotonic() - paused
            due = min(count, int((time.monotonic() - began) * rate) + 1)
            yield from range(number, due)
            number = max(number, due)
            self._writer.poll()
            self._stop.wait(TICK_SECONDS)
