"""The load of a trial, and the ledger that is kept of it.

Belongs here: what is sent, how fast, and what is known of each send before and after it. Does not
belong here: what became of it (`oracle.py`).

Two ways lead in: straight to Kafka, where the uuid is ours and an acknowledgement is known; and by
HTTP to the emitter, which makes the uuid, so that such an event is known by its uri.
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

from kp_platform_tests.fault_injection.servers import Servers, silent

ACCESSES = "analyze.action"
NOTES = "fulltext.register"
NAMES = ("presto", "kafka", "laravel", "elasticsearch", "nobody")
TICK_SECONDS = 0.02
# Below the time after which the server closes a connection that is idle.
IDLE_SECONDS = 2.0


class State(StrEnum):
    """UNKNOWN from before a send until its answer, and when none came: the event may be there."""

    UNKNOWN = "unknown"
    ACCEPTED = "accepted"
    ACKED = "acked"
    FAILED = "failed"


@dataclass(slots=True)
class Entry:
    """One message sent straight to Kafka. `is_bad`: it breaks its contract on purpose."""

    topic: str
    digest: bytes
    is_bad: bool = False
    state: State = State.UNKNOWN
    partition: int = -1
    offset: int = -1


def digest(*texts: str) -> bytes:
    """sha256 of an event's members besides its uuid."""
    return hashlib.sha256("\0".join(texts).encode()).digest()


@dataclass(slots=True)
class Ledger:
    """Messages by uuid (a bad one by the sha256 of its value, in hex), visits by uri."""

    entries: dict[str, Entry] = field(default_factory=dict)
    visits: dict[str, State] = field(default_factory=dict)

    def count(self, state: State) -> int:
        states = [entry.state for entry in self.entries.values()]
        return states.count(state) + list(self.visits.values()).count(state)


class KafkaWriter:
    """Writes to Kafka and keeps the ledger.

    Without idempotence: a retry after a lost answer makes a duplicate on the topic, which must not
    become one in the index.
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
                "topic.metadata.refresh.interval.ms": 2_000,  # sees added partitions soon
            },
            logger=silent,
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
        """A message whose right place are the dead letters; the value must be unique."""
        content = hashlib.sha256(value).digest()
        self._send(content.hex(), Entry(topic, content, is_bad=True), value)

    def poll(self, seconds: float = 0.0) -> None:
        self._producer.poll(seconds)

    def flush(self, seconds: float) -> int:
        """How many messages have no answer yet."""
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
            except KafkaException:  # e.g. the topic is away just now
                entry.state = State.FAILED
                return None


class Visitor:
    """One keep-alive connection to the emitter. `seconds` has the time of each answer, `errors`
    how many visits got none or one of 500 and above."""

    def __init__(self, servers: Servers, ledger: Ledger) -> None:
        parts = urlsplit(servers.emitter)
        self._address = (parts.hostname or "", parts.port)
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
    """How many messages of each kind a load has, and how long it takes to send them."""

    accesses: int
    visits: int
    notes: int
    seconds: float

    @property
    def total(self) -> int:
        return self.accesses + self.visits + self.notes

    @classmethod
    def of(cls, events: int, seconds: float) -> "Amounts":
        """A fifth by HTTP, as far as one connection has it (200 requests a second)."""
        visits = min(events // 5, int(200 * seconds))
        notes = events // 20
        return cls(accesses=events - visits - notes, visits=visits, notes=notes, seconds=seconds)


class Load:
    """Messages at a steady rate from two threads, until all are sent.

    Accesses bear five names and `late_name`, of which no reference row exists at first.
    """

    def __init__(
        self, servers: Servers, ledger: Ledger, amounts: Amounts, marker: str, chance: random.Random
    ) -> None:
        self.late_name = f"late-{marker}"
        self.visitor = Visitor(servers, ledger)
        self._writer = KafkaWriter(servers, ledger)
        self._amounts = amounts
        self._marker = marker
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
        """A few accesses before the load."""
        for number in range(20):
            self._writer.access(f"/{self._marker}/first/{number}", "kafka")
        self._writer.flush(30)

    def finish(self, partitions: Iterable[int]) -> None:
        """One access more for each partition: its position moves once after everything healed."""
        for partition in partitions:
            self._writer.access(f"/{self._marker}/last/{partition}", "kafka", partition)
        self._writer.flush(60)

    @property
    def progress(self) -> float:
        """From 0 to 1: the share of the accesses that is sent."""
        return self._written / max(1, self._amounts.accesses)

    def pause(self) -> None:
        """Returns when everything sent was answered."""
        self._running.clear()
        self._writer.flush(60)

    def go_on(self) -> None:
        self._running.set()

    def stop(self) -> None:
        self._stop.set()
        self._running.set()

    def join(self, seconds: float) -> bool:
        """Whether all is sent and answered in time."""
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
            self._writer.access(f"/{self._marker}/{number}?page=é'\"<b>", name)
            if number % every == 0 and written < notes:
                self._writer.note(f"note {written} of {self._marker}: größer\n")
                written += 1
            self._written = number + 1

    def _visit(self) -> None:
        for number in self._steadily(self._amounts.visits):
            if self.visitor.visit(f"/{self._marker}/visit/{number}") is not State.ACCEPTED:
                self._stop.wait(0.05)
        self.visitor.close()

    def _steadily(self, count: int) -> Iterable[int]:
        """The numbers below `count`, spread over the seconds of the load; pauses do not count."""
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
