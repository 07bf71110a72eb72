"""Events to Kafka: one class, bound to a topic by its settings, and the book it keeps.

Belongs here: the librdkafka producer, its delivery reports, its end. Does not belong here: what an
event is (`events.py`) and which bindings exist (`settings.py`).

`send` never waits: a full queue is a counted drop. Only a delivery report proves delivery; an empty
queue does not, for messages leave it by expiring too. A producer does not survive a fork, so each
worker makes its own, in the application's lifespan.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from threading import Event as Signal
from threading import Lock, Thread
from time import monotonic
from typing import Any, Literal, Protocol

from confluent_kafka import KafkaError, KafkaException, Producer

from web_emitter.events import Event
from web_emitter.settings import ProducerSettings
from web_emitter.throttle import Throttle

_POLL_SECONDS = 0.1
# Reports of purged messages are there at once: 100 microseconds, unless the CPU is taken.
_PURGE_SECONDS = 1.0


class BrokersUnreachable(Exception):
    """No broker answered; the message says why."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the events: accepted = acked + in_flight + failed + dropped, at any moment.

    `failed` events were given to librdkafka and their delivery was reported as failed, by the name
    of the error (of _PURGE_INFLIGHT the broker may hold a copy); `dropped` ones never came so far.
    """

    accepted: int = 0
    acked: int = 0
    in_flight: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)

    @property
    def balanced(self) -> bool:
        lost = sum(self.failed.values()) + sum(self.dropped.values())
        return self.accepted == self.acked + self.in_flight + lost

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Sink(Protocol):
    """Where events go. `send` must not wait; what it raises the middleware counts and hides."""

    def send(self, event: Event) -> bool:
        """Whether the event was taken, to be delivered; False: it was dropped."""
        ...

    def counts(self) -> Counts: ...

    def brokers(self, timeout_seconds: float) -> int:
        """How many brokers are known. Blocks up to the timeout; raises BrokersUnreachable."""
        ...

    def close(self, deadline_seconds: float) -> Counts: ...


class Ledger:
    """The book of one producer: each event moves from accepted to exactly one other column.

    Written by the sending threads and by the thread that serves the delivery reports.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._accepted = self._acked = self._in_flight = 0
        self._failed: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()

    def accept(self) -> None:
        with self._lock:
            self._accepted += 1
            self._in_flight += 1

    def ack(self) -> None:
        with self._lock:
            self._in_flight -= 1
            self._acked += 1

    def fail(self, reason: str) -> None:
        with self._lock:
            self._in_flight -= 1
            self._failed[reason] += 1

    def drop(self, reason: str) -> None:
        with self._lock:
            self._in_flight -= 1
            self._dropped[reason] += 1

    def counts(self) -> Counts:
        with self._lock:
            return Counts(
                self._accepted,
                self._acked,
                self._in_flight,
                dict(self._failed),
                dict(self._dropped),
            )


class _LibrdkafkaLog:
    """The application's logger as librdkafka sees it, each facility (FAIL, CONFWARN) throttled:
    while a broker is away it says FAIL up to twenty times a second [ran]."""

    def __init__(self, logger: logging.Logger) -> None:
        self._throttles: defaultdict[str, Throttle] = defaultdict(lambda: Throttle(logger))

    def log(self, level: int, message: str, facility: str, *values: object) -> None:
        self._throttles[facility].log(level, message, facility, *values)


class EventProducer:
    """A Sink on one Kafka topic. Raises KafkaException for options that librdkafka refuses."""

    def __init__(self, settings: ProducerSettings, logger: logging.Logger) -> None:
        self.settings = settings
        self._logger = logger
        self._throttle = Throttle(logger)
        self._ledger = Ledger()
        self._closed = False
        self._stop = Signal()
        self._producer = Producer(settings.librdkafka(), logger=_LibrdkafkaLog(logger))
        self._thread = Thread(
            target=self._serve_reports, name=f"kafka-{settings.topic}", daemon=True
        )
        self._thread.start()

    def send(self, event: Event) -> bool:
        self._ledger.accept()
        if self._closed:
            return self._drop("closed")
        try:
            self._producer.produce(
                self.settings.topic,
                event.body(),
                headers=event.headers(),
                timestamp=event.timestamp_ms,
                on_delivery=self._report,
            )
        except BufferError:
            return self._drop("queue_full")
        except KafkaException as error:
            return self._drop(error.args[0].name())
        except Exception:
            self._drop("error")
            raise
        return True

    def counts(self) -> Counts:
        return self._ledger.counts()

    def brokers(self, timeout_seconds: float) -> int:
        if self._closed:
            raise BrokersUnreachable("the producer is closed")
        try:
            return len(self._producer.list_topics(timeout=timeout_seconds).brokers)
        except KafkaException as error:
            raise BrokersUnreachable(error.args[0].str()) from None

    def close(self, deadline_seconds: float) -> Counts:
        """Delivers what it can within the deadline; the rest fails, counted. Then nothing is in
        flight, and later events are dropped. Closing again only tells the numbers again."""
        if not self._closed:
            self._closed = True
            self._end(deadline_seconds)
        return self.counts()

    def _end(self, deadline_seconds: float) -> None:
        started = monotonic()
        if self._producer.flush(deadline_seconds):
            self._producer.purge()
            self._producer.flush(_PURGE_SECONDS)
        self._stop.set()
        self._thread.join(_PURGE_SECONDS)
        self._producer.close()
        counts = self.counts()
        level = logging.WARNING if counts.failed or counts.dropped else logging.INFO
        self._logger.log(
            level,
            "producer of %s closed in %.1f s: %s",
            self.settings.topic,
            monotonic() - started,
            counts.as_json(),
        )

    def _serve_reports(self) -> None:
        while not self._stop.is_set():
            try:
                self._producer.poll(_POLL_SECONDS)
            except Exception as error:  # a log handler's: without this thread no report comes
                self._throttle.warning("poll of %s: %r", self.settings.topic, error)

    def _report(self, error: KafkaError | None, message: object) -> None:
        if error is None:
            return self._ledger.ack()
        self._ledger.fail(error.name())
        self._throttle.warning(
            "delivery to %s failed: %s %s", self.settings.topic, error.name(), error.str()
        )

    def _drop(self, reason: str) -> Literal[False]:
        self._ledger.drop(reason)
        self._throttle.warning("event for %s dropped: %s", self.settings.topic, reason)
        return False
