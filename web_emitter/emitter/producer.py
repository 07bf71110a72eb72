"""Producing events to Kafka: one class, bound to a topic by its settings, backed by a spool.

Belongs here: the librdkafka producer, its delivery reports, when an event moves to the spool and
back, shutdown. Does not belong here: events (`events.py`), their accounting (`ledger.py`), files
(`spool.py`) and which bindings exist (`settings.py`).

No call on a request's path waits or touches the disk. `publish` passes the event to librdkafka.
`defer` leaves that, and creating the event, to a thread that does it once for all events of the
last `_ROUND_SECONDS`, at a third of the cost (benchmark B6). Every half `spool.seconds` a thread
writes to the spool the events that are older than that and not acknowledged. So, whatever the
broker does, **kill -9 of a worker loses at most the events of the last `spool.seconds`** (0.2), and
of the duration of one write. Nothing is written while Kafka acknowledges within milliseconds.
Writing every event before it is produced would give the same bound, but costs a write per event
and delays it by one fsync. Events that librdkafka has no room for, or fails to deliver, wait in the
spool and are produced again with their uuid and timestamp, oldest first.

Only a delivery report proves delivery; an empty queue does not, because expired messages leave it
too. An expired message may have arrived: it is then on the topic twice, with one uuid. A producer
does not survive a fork, so each worker creates its own in the application's lifespan.
"""

import logging
import sys
from collections import defaultdict, deque
from collections.abc import Callable
from functools import partial
from math import ceil
from threading import Event as Signal
from threading import Thread
from time import monotonic, sleep
from typing import Any, Protocol

from confluent_kafka import KafkaError, KafkaException, Producer

from web_emitter.emitter.events import Event
from web_emitter.emitter.ledger import SLOW_DISK, Counts, Ledger, Pending
from web_emitter.emitter.rate_limit import RateLimitedLogger
from web_emitter.emitter.settings import ProducerSettings
from web_emitter.emitter.spool import Record, Spool, Status

_ROUND_SECONDS = 0.02
# Deferred events created without a pause: requests wait for a millisecond.
_CREATED_AT_ONCE = 100
# Reports of purged messages arrive within 100 microseconds, unless the CPU is busy.
_PURGE_SECONDS = 1.0
# Events in one write: at most 80 MB of notes, usually 300 kB.
_BATCH = 1_000
# Interval of the search for segments of dead workers, and segments per round: 50 ms of work.
_ADOPT_SECONDS = 1.0
_ADOPT_SEGMENTS = 8

# Errors of the message itself, which is dropped. After any other error it is produced again.
PERMANENT_ERRORS = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.INVALID_MSG,
        KafkaError.INVALID_MSG_SIZE,
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError._INVALID_ARG,
    }
)


class BrokersUnreachable(Exception):
    """No broker answered; the message is the reason."""


class Sink(Protocol):
    """Accepts events for one topic. Neither `publish` nor `defer` may block."""

    def publish(self, event: Event) -> bool:
        """True when the event was accepted for delivery, False when it was dropped."""
        ...

    def defer(self, create: Callable[[], Event]) -> bool:
        """`publish` for an event that another thread creates shortly afterwards."""
        ...

    def counts(self) -> Counts: ...

    def spool(self) -> Status: ...

    def brokers(self, timeout_seconds: float) -> int:
        """Number of brokers. Blocks up to the timeout; raises BrokersUnreachable."""
        ...

    def close(self, deadline_seconds: float) -> Counts: ...


class _LibrdkafkaLog:
    """The logger that librdkafka writes to, rate-limited by facility (FAIL, CONFWARN): without a
    broker it logs FAIL up to 20 times a second (measured with librdkafka 2.16)."""

    def __init__(self, logger: logging.Logger) -> None:
        self._loggers: defaultdict[str, RateLimitedLogger] = defaultdict(
            lambda: RateLimitedLogger(logger)
        )

    def log(self, level: int, message: str, facility: str, *values: object) -> None:
        self._loggers[facility].log(level, message, facility, *values)


class EventProducer:
    """A Sink on one Kafka topic. Raises KafkaException for options that librdkafka rejects.

    `start` starts two threads: one creates deferred events and serves delivery reports, one owns
    the spool. Without them, `produce_deferred` runs a round of the first thread and
    `maintain_spool` a round of the second.
    """

    def __init__(
        self,
        settings: ProducerSettings,
        logger: logging.Logger,
        *,
        spool: Spool | None = None,
        create_producer: Callable[..., Any] = Producer,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.settings = settings
        self._logger = logger
        self._clock = clock
        self._delivery_log = RateLimitedLogger(logger)
        self._spool_log = RateLimitedLogger(logger)
        self._ledger = Ledger(
            settings.queue_messages, settings.spool.max_waiting, settings.spool.max_waiting_bytes
        )
        self._deferred: deque[tuple[Callable[[], Event], float]] = deque()
        self._spool = spool or Spool(settings.spool.folder, settings.spool.max_bytes)
        self._spool_status = Status()
        self._adopt_at = float("-inf")
        self._is_closed = False
        self._stop_spool, self._stop_delivery = Signal(), Signal()
        self._producer = create_producer(settings.librdkafka(), logger=_LibrdkafkaLog(logger))
        self._spool_thread = Thread(
            target=self._run_spool, name=f"spool-{settings.topic}", daemon=True
        )
        self._delivery_thread = Thread(
            target=self._run_delivery, name=f"kafka-{settings.topic}", daemon=True
        )

    def start(self) -> None:
        self._spool_thread.start()
        self._delivery_thread.start()

    def publish(self, event: Event) -> bool:
        record = _record_of(event)
        if reason := self._ledger.accept():
            return self._dropped(reason)
        return self._produce(self._ledger.created(record, self._clock()))

    def defer(self, create: Callable[[], Event]) -> bool:
        if reason := self._ledger.accept():
            return self._dropped(reason)
        self._deferred.append((create, self._clock()))
        return True

    def produce_deferred(self) -> None:
        """Create the deferred events and pass them to librdkafka."""
        for number in range(1, len(self._deferred) + 1):
            try:
                create, accepted_at = self._deferred.popleft()
            except IndexError:
                return  # `close` empties the queue too
            try:
                record = _record_of(create())
            except Exception as error:
                self._ledger.creation_failed()
                self._delivery_log.warning("an event could not be created: %r", error)
            else:
                self._produce(self._ledger.created(record, accepted_at))
            if number % _CREATED_AT_ONCE == 0:
                sleep(0)

    def counts(self) -> Counts:
        return self._ledger.counts()

    def spool(self) -> Status:
        """As of the last round of the spool thread."""
        return self._spool_status

    def brokers(self, timeout_seconds: float) -> int:
        if self._is_closed:
            raise BrokersUnreachable("the producer is closed")
        try:
            return len(self._producer.list_topics(timeout=timeout_seconds).brokers)
        except KafkaException as error:
            raise BrokersUnreachable(error.args[0].str()) from None

    def maintain_spool(self) -> None:
        """One round of the spool thread. A failed step does not prevent the others: a full disk
        gets room only when events are read from it and delivered."""
        due = self._clock() - self.settings.spool.seconds / 2
        for step in (
            self._spool.open, self._settle, partial(self._write, due), self._replay, self._adopt,
        ):  # fmt: skip
            try:
                step()
            except OSError as error:
                self._spool_failed(error)
        self._spool_status = self._spool.status()

    def close(self, deadline_seconds: float) -> Counts:
        """Deliver events until the deadline and spool the rest. Then no event is in flight, and
        later ones are dropped. A second call only returns the counts."""
        if not self._is_closed:
            self._is_closed = True
            self._shut_down(deadline_seconds)
        return self.counts()

    def _shut_down(self, deadline_seconds: float) -> None:
        started = monotonic()
        self._ledger.close()
        _stop(self._delivery_thread, self._stop_delivery)
        self.produce_deferred()
        left = self._producer.flush(deadline_seconds)
        _stop(self._spool_thread, self._stop_spool)
        self._spool_the_rest()
        if left:
            self._producer.purge()
            self._producer.flush(_PURGE_SECONDS)
        self._producer.close()
        self._close_spool()
        counts = self.counts()
        self._logger.log(
            logging.WARNING if counts.dropped else logging.INFO,
            "producer of %s closed in %.1f s: %s",
            self.settings.topic,
            monotonic() - started,
            counts.as_json(),
        )

    def _spool_the_rest(self) -> None:
        if self._spool_thread.is_alive():
            self._spool_failed("the disk does not answer")
            return
        try:
            self._spool.open()
            self._write(float("inf"))
        except OSError as error:
            self._spool_failed(error)

    def _close_spool(self) -> None:
        """Drop the events that could not be written, and release the spool."""
        for pending in self._ledger.unwritten(float("inf"), sys.maxsize):
            self._ledger.drop(pending, self._ledger.spool_error or SLOW_DISK)
        if not self._spool_thread.is_alive():
            try:
                self._settle()
                self._spool_status = self._spool.status()
                self._spool.close()
            except OSError as error:
                self._spool_failed(error)

    def _spool_failed(self, reason: object) -> None:
        self._ledger.spool_error = "spool_failed"
        self._spool_log.warning("spool of %s: %s", self.settings.topic, reason)

    def _produce(self, pending: Pending) -> bool:
        record = pending.record
        try:
            self._producer.produce(
                self.settings.topic,
                record.body,
                headers=record.headers,
                timestamp=record.timestamp_ms,
                on_delivery=partial(self._report, pending),
            )
        except BufferError:
            return self._return_to_spool(pending)
        except KafkaException as error:
            return self._failed(pending, error.args[0])
        except Exception:
            self._ledger.drop(pending, "error")
            raise
        return True

    def _report(self, pending: Pending, error: KafkaError | None, message: object) -> None:
        if error is None:
            return self._ledger.ack(pending)
        self._failed(pending, error)

    def _failed(self, pending: Pending, error: KafkaError) -> bool:
        self._delivery_log.warning(
            "delivery to %s failed: %s %s", self.settings.topic, error.name(), error.str()
        )
        if error.code() in PERMANENT_ERRORS:
            self._ledger.drop(pending, error.name())
            return False
        return self._return_to_spool(pending)

    def _return_to_spool(self, pending: Pending) -> bool:
        reason = self._ledger.return_to_spool(pending)
        return reason is None or self._dropped(reason)

    def _dropped(self, reason: str) -> bool:
        self._delivery_log.warning("event for %s dropped: %s", self.settings.topic, reason)
        return False

    def _adopt(self) -> None:
        if self._clock() < self._adopt_at:
            return
        self._adopt_at = self._clock() + _ADOPT_SECONDS
        for events in self._spool.adopt(_ADOPT_SEGMENTS):
            self._ledger.recover(events)
            self._logger.info("adopted %d spooled events for %s", events, self.settings.topic)

    def _settle(self) -> None:
        for location, state in self._ledger.settled():
            self._spool.settle(location, state)

    def _write(self, before: float) -> None:
        while due := self._ledger.unwritten(before, _BATCH):
            locations = self._spool.append([pending.record for pending in due])
            for pending, location in zip(due, locations, strict=False):
                self._ledger.written(pending, location)
            self._ledger.spool_error = "" if len(locations) == len(due) else "spool_full"
            if self._ledger.spool_error:
                self._spool_log.warning("spool of %s is full", self.settings.topic)
                return

    def _replay(self) -> None:
        """Produce spooled events again, oldest first, then those that wait in memory for the disk.
        At most half of librdkafka's queue is used, which leaves room for new events."""
        if self._is_closed:
            return
        spool = self.settings.spool
        budget = min(
            ceil(spool.replay_per_second * spool.seconds / 2),
            max(1, self.settings.queue_messages // 2) - self._spool.sent,
        )
        taken = self._spool.take(budget)
        for location, record in taken:
            if record is None:
                self._ledger.unreadable(location)
            else:
                self._produce(self._ledger.retry(location, record, self._clock()))
        if self._ledger.spool_error:
            for pending in self._ledger.take_waiting(budget - len(taken)):
                self._produce(pending)

    def _run_spool(self) -> None:
        while not self._stop_spool.wait(self.settings.spool.seconds / 2):
            try:
                self.maintain_spool()
            except Exception as error:  # a defect; without this thread nothing reaches the disk
                self._spool_failed(repr(error))

    def _run_delivery(self) -> None:
        while not self._stop_delivery.wait(_ROUND_SECONDS):
            try:
                self.produce_deferred()
                self._producer.poll(0)
            except (
                Exception
            ) as error:  # from a log handler; without this thread no report is served
                self._delivery_log.warning("poll of %s: %r", self.settings.topic, error)


def _record_of(event: Event) -> Record:
    return Record(event.timestamp_ms, event.body(), event.headers())


def _stop(thread: Thread, signal: Signal) -> None:
    signal.set()
    if thread.is_alive():
        thread.join(_PURGE_SECONDS)
