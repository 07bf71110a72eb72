"""Events to Kafka: one class, bound to a topic by its settings, with a spool behind it.

Belongs here: the librdkafka producer, its delivery reports, when an event goes to the spool and
back, the end. Does not belong here: what an event is (`events.py`), the book (`ledger.py`), files
(`spool.py`) and which bindings exist (`settings.py`).

Nothing here waits or touches the disk on a request's path. `send` hands the event to librdkafka;
`defer` leaves that, and making the event, to a thread that does it for all events of the last
`_ROUND_SECONDS` at once, which costs a third [ran: benchmark B6]. Every half
`spool.seconds` a thread writes to the spool the events that were sent half of them ago and are not
acknowledged. So, whatever the broker does, **kill -9 of a worker loses at most the events of the
last `spool.seconds`** (0.2), and of the time that one write takes. While Kafka acknowledges within
milliseconds nothing is written. Writing every event before it is sent would promise as much, but
costs a write for each event and delays it by one fsync. What librdkafka has no room for, or gives
up, waits in the spool and is sent again with its uuid and timestamp, oldest first.

Only a delivery report proves delivery; an empty queue does not, for messages leave it by expiring
too. A message that expires may have arrived: it is on the topic twice then, under one uuid. A
producer does not survive a fork, so each worker makes its own, in the application's lifespan.
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
# Deferred events made in one go: a millisecond in which no request goes on.
_MADE_AT_ONCE = 100
# Reports of purged messages are there at once: 100 microseconds, unless the CPU is taken.
_PURGE_SECONDS = 1.0
# Events in one write: at most 80 MB of notes, usually 300 kB.
_BATCH = 1_000
# Looking for what dead workers left, and how many segments at once: 50 ms of work.
_ADOPT_SECONDS = 1.0
_ADOPT_SEGMENTS = 8

# Errors of the message itself: it will never be taken. After any other it is sent again.
HOPELESS = frozenset(
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
    """No broker answered; the message says why."""


class Sink(Protocol):
    """Where events go. Neither verb may wait; what `defer` raises the middleware counts and
    hides."""

    def send(self, event: Event) -> bool:
        """Whether the event was taken, to be delivered; False: it was dropped."""
        ...

    def defer(self, make: Callable[[], Event]) -> bool:
        """The same for an event that is made a moment later, in another thread."""
        ...

    def counts(self) -> Counts: ...

    def spool(self) -> Status: ...

    def brokers(self, timeout_seconds: float) -> int:
        """How many brokers are known. Blocks up to the timeout; raises BrokersUnreachable."""
        ...

    def close(self, deadline_seconds: float) -> Counts: ...


class _LibrdkafkaLog:
    """The application's logger as librdkafka sees it, each facility (FAIL, CONFWARN) throttled:
    while a broker is away it says FAIL up to twenty times a second [ran]."""

    def __init__(self, logger: logging.Logger) -> None:
        self._throttles: defaultdict[str, RateLimitedLogger] = defaultdict(
            lambda: RateLimitedLogger(logger)
        )

    def log(self, level: int, message: str, facility: str, *values: object) -> None:
        self._throttles[facility].log(level, message, facility, *values)


class EventProducer:
    """A Sink on one Kafka topic. Raises KafkaException for options that librdkafka refuses.

    After `start` two threads do what the sender does not wait for: one makes deferred events and
    serves the delivery reports, one owns the spool. Without them, `hand_over` does a round of the
    first and `keep` one of the second.
    """

    def __init__(
        self,
        settings: ProducerSettings,
        logger: logging.Logger,
        *,
        spool: Spool | None = None,
        make: Callable[..., Any] = Producer,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.settings = settings
        self._logger = logger
        self._clock = clock
        self._throttle = RateLimitedLogger(logger)
        self._spool_throttle = RateLimitedLogger(logger)
        self._ledger = Ledger(
            settings.queue_messages, settings.spool.max_waiting, settings.spool.max_waiting_bytes
        )
        self._deferred: deque[tuple[Callable[[], Event], float]] = deque()
        self._spool = spool or Spool(settings.spool.folder, settings.spool.max_bytes)
        self._spool_status = Status()
        self._adopt_at = float("-inf")
        self._is_closed = False
        self._stop_keeping, self._stop_polling = Signal(), Signal()
        self._producer = make(settings.librdkafka(), logger=_LibrdkafkaLog(logger))
        self._keeping = Thread(target=self._keep_on, name=f"spool-{settings.topic}", daemon=True)
        self._polling = Thread(
            target=self._serve_reports, name=f"kafka-{settings.topic}", daemon=True
        )

    def start(self) -> None:
        self._keeping.start()
        self._polling.start()

    def send(self, event: Event) -> bool:
        record = _record_of(event)
        if reason := self._ledger.accept():
            return self._dropped(reason)
        return self._produce(self._ledger.made(record, self._clock()))

    def defer(self, make: Callable[[], Event]) -> bool:
        if reason := self._ledger.accept():
            return self._dropped(reason)
        self._deferred.append((make, self._clock()))
        return True

    def hand_over(self) -> None:
        """Makes the deferred events and hands them to librdkafka."""
        for number in range(1, len(self._deferred) + 1):
            try:
                make, since = self._deferred.popleft()
            except IndexError:
                return  # the end does the same
            try:
                record = _record_of(make())
            except Exception as error:
                self._ledger.not_made()
                self._throttle.warning("an event could not be made: %r", error)
            else:
                self._produce(self._ledger.made(record, since))
            if number % _MADE_AT_ONCE == 0:
                sleep(0)

    def counts(self) -> Counts:
        return self._ledger.counts()

    def spool(self) -> Status:
        """As of the last round."""
        return self._spool_status

    def brokers(self, timeout_seconds: float) -> int:
        if self._is_closed:
            raise BrokersUnreachable("the producer is closed")
        try:
            return len(self._producer.list_topics(timeout=timeout_seconds).brokers)
        except KafkaException as error:
            raise BrokersUnreachable(error.args[0].str()) from None

    def keep(self) -> None:
        """One round of the spool's thread. What fails keeps no other step from its work: a full
        disk gets room again only by what is read from it and sent."""
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
        """Delivers what it can within the deadline and spools the rest. Then nothing is in flight,
        and later events are dropped. Closing again only tells the numbers again."""
        if not self._is_closed:
            self._is_closed = True
            self._end(deadline_seconds)
        return self.counts()

    def _end(self, deadline_seconds: float) -> None:
        started = monotonic()
        self._ledger.close()
        _stop(self._polling, self._stop_polling)
        self.hand_over()
        left = self._producer.flush(deadline_seconds)
        _stop(self._keeping, self._stop_keeping)
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
        if self._keeping.is_alive():
            self._spool_failed("the disk does not answer")
            return
        try:
            self._spool.open()
            self._write(float("inf"))
        except OSError as error:
            self._spool_failed(error)

    def _close_spool(self) -> None:
        """What is in memory only, because it could not be written, is lost."""
        for pending in self._ledger.unwritten(float("inf"), sys.maxsize):
            self._ledger.drop(pending, self._ledger.obstacle or SLOW_DISK)
        if not self._keeping.is_alive():
            try:
                self._settle()
                self._spool_status = self._spool.status()
                self._spool.close()
            except OSError as error:
                self._spool_failed(error)

    def _spool_failed(self, reason: object) -> None:
        self._ledger.obstacle = "spool_failed"
        self._spool_throttle.warning("spool of %s: %s", self.settings.topic, reason)

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
            return self._give_back(pending)
        except KafkaException as error:
            return self._refused(pending, error.args[0])
        except Exception:
            self._ledger.drop(pending, "error")
            raise
        return True

    def _report(self, pending: Pending, error: KafkaError | None, message: object) -> None:
        if error is None:
            return self._ledger.ack(pending)
        self._refused(pending, error)

    def _refused(self, pending: Pending, error: KafkaError) -> bool:
        self._throttle.warning(
            "delivery to %s failed: %s %s", self.settings.topic, error.name(), error.str()
        )
        if error.code() in HOPELESS:
            self._ledger.drop(pending, error.name())
            return False
        return self._give_back(pending)

    def _give_back(self, pending: Pending) -> bool:
        reason = self._ledger.give_back(pending)
        return reason is None or self._dropped(reason)

    def _dropped(self, reason: str) -> bool:
        self._throttle.warning("event for %s dropped: %s", self.settings.topic, reason)
        return False

    def _adopt(self) -> None:
        if self._clock() < self._adopt_at:
            return
        self._adopt_at = self._clock() + _ADOPT_SECONDS
        for events in self._spool.adopt(_ADOPT_SEGMENTS):
            self._ledger.recover(events)
            self._logger.info("took over %d events for %s", events, self.settings.topic)

    def _settle(self) -> None:
        for place, state in self._ledger.settled():
            self._spool.settle(place, state)

    def _write(self, before: float) -> None:
        while due := self._ledger.unwritten(before, _BATCH):
            places = self._spool.append([pending.record for pending in due])
            for pending, place in zip(due, places, strict=False):
                self._ledger.wrote(pending, place)
            self._ledger.obstacle = "" if len(places) == len(due) else "spool_full"
            if self._ledger.obstacle:
                self._spool_throttle.warning("spool of %s is full", self.settings.topic)
                return

    def _replay(self) -> None:
        """The oldest first, then those that wait in memory because the disk has no room. At a pace
        that leaves room for new events: at most half of librdkafka's queue."""
        if self._is_closed:
            return
        spool = self.settings.spool
        budget = min(
            ceil(spool.replay_per_second * spool.seconds / 2),
            max(1, self.settings.queue_messages // 2) - self._spool.sent,
        )
        taken = self._spool.take(budget)
        for place, record in taken:
            if record is None:
                self._ledger.lose(place)
            else:
                self._produce(self._ledger.retry(place, record, self._clock()))
        if self._ledger.obstacle:
            for pending in self._ledger.take_waiting(budget - len(taken)):
                self._produce(pending)

    def _keep_on(self) -> None:
        while not self._stop_keeping.wait(self.settings.spool.seconds / 2):
            try:
                self.keep()
            except Exception as error:  # a defect; without this thread nothing reaches the disk
                self._spool_failed(repr(error))

    def _serve_reports(self) -> None:
        while not self._stop_polling.wait(_ROUND_SECONDS):
            try:
                self.hand_over()
                self._producer.poll(0)
            except Exception as error:  # a log handler's: without this thread no report comes
                self._throttle.warning("poll of %s: %r", self.settings.topic, error)


def _record_of(event: Event) -> Record:
    return Record(event.timestamp_ms, event.body(), event.headers())


def _stop(thread: Thread, signal: Signal) -> None:
    signal.set()
    if thread.is_alive():
        thread.join(_PURGE_SECONDS)
