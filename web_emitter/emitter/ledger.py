"""The book of one producer: every event stands in exactly one column, at any moment.

Belongs here: the columns and how an event moves between them. Does not belong here: Kafka
(`producer.py`) and the disk (`spool.py`).
"""

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from threading import Lock
from typing import Any

from web_emitter.emitter.spool import ACKED, WAITING, Place, Record

SLOW_DISK = "spool_slow"
"""Why an event is dropped when nothing is known to be wrong with the spool."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the events: accepted = acked + in_flight + spooled + dropped.

    `recovered` are those of the accepted that an earlier process had accepted and left on disk.
    `in_flight` is in memory, with librdkafka or on the way to the disk (with librdkafka it is on
    disk too, when that takes long); `spooled` is on disk only; `dropped` is lost, by the reason.
    """

    accepted: int = 0
    acked: int = 0
    in_flight: int = 0
    spooled: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    recovered: int = 0

    @property
    def balanced(self) -> bool:
        kept = self.acked + self.in_flight + self.spooled
        return self.accepted == kept + sum(self.dropped.values())

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True, eq=False)
class Pending:
    """An event in flight: with librdkafka, or waiting for the disk, or both."""

    record: Record
    since: float
    with_kafka: bool = True
    place: Place | None = None
    is_over: bool = False


class Ledger:
    """Written by the sending threads, by the one that serves delivery reports, and by the one that
    owns the spool; no call waits for anything but a few steps of another.

    At most `max_waiting` events, with bodies of `max_waiting_bytes`, wait for the disk alone, and
    at most `max_with_kafka` are with librdkafka. `obstacle` names what keeps them from the disk.
    """

    def __init__(self, max_with_kafka: int, max_waiting: int, max_waiting_bytes: int) -> None:
        self.obstacle = ""
        self._max_in_flight = max_with_kafka + max_waiting
        self._max_waiting = max_waiting
        self._max_waiting_bytes = max_waiting_bytes
        self._lock = Lock()
        self._is_closed = False
        self._accepted = self._acked = self._in_flight = self._spooled = self._recovered = 0
        self._dropped: Counter[str] = Counter()
        self._unwritten: dict[Pending, None] = {}  # oldest first
        self._waiting = self._waiting_bytes = 0
        self._settled: deque[tuple[Place, int]] = deque()

    def close(self) -> None:
        """No event is accepted any more."""
        with self._lock:
            self._is_closed = True

    def accept(self) -> str | None:
        """A new event, which may still have to be made. The reason when there is no room for it and
        it is dropped."""
        with self._lock:
            self._accepted += 1
            if not self._is_closed and self._in_flight < self._max_in_flight:
                self._in_flight += 1
                return None
            reason = "closed" if self._is_closed else self.obstacle or SLOW_DISK
            self._dropped[reason] += 1
            return reason

    def made(self, record: Record, since: float) -> Pending:
        """An accepted event, which goes to librdkafka, also after the end."""
        pending = Pending(record, since)
        with self._lock:
            self._unwritten[pending] = None
        return pending

    def not_made(self) -> None:
        """An accepted event that there will never be."""
        with self._lock:
            self._in_flight -= 1
            self._dropped["error"] += 1

    def recover(self, events: int) -> None:
        with self._lock:
            self._accepted += events
            self._recovered += events
            self._spooled += events

    def retry(self, place: Place, record: Record, now: float) -> Pending:
        """An event of the spool that goes to librdkafka."""
        with self._lock:
            self._spooled -= 1
            self._in_flight += 1
        return Pending(record, now, place=place)

    def ack(self, pending: Pending) -> None:
        with self._lock:
            self._acked += 1
            self._leave(pending)

    def drop(self, pending: Pending, reason: str) -> None:
        with self._lock:
            self._dropped[reason] += 1
            self._leave(pending)

    def give_back(self, pending: Pending) -> str | None:
        """librdkafka does not have it (any more): the spool does, or will. The reason when it will
        not and the event is dropped."""
        with self._lock:
            pending.with_kafka = False
            if pending.place is not None:
                self._stay(pending.place)
                return None
            size = len(pending.record.body)
            if self._waiting < self._max_waiting and (
                self._waiting_bytes + size <= self._max_waiting_bytes
            ):
                self._waiting += 1
                self._waiting_bytes += size
                return None
            reason = self.obstacle or SLOW_DISK
            pending.with_kafka = True  # it does not count among those that wait
            self._dropped[reason] += 1
            self._leave(pending)
            return reason

    def unwritten(self, before: float, limit: int) -> list[Pending]:
        """The oldest events of before a moment that are not on disk."""
        due: list[Pending] = []
        with self._lock:
            for pending in self._unwritten:
                if pending.since > before or len(due) == limit:
                    break
                due.append(pending)
        return due

    def wrote(self, pending: Pending, place: Place) -> None:
        """The event is on disk; it may have been delivered meanwhile."""
        with self._lock:
            if pending.is_over:
                self._settled.append((place, ACKED))
                return
            self._forget_unwritten(pending)
            pending.place = place
            if not pending.with_kafka:
                self._stay(place)

    def lose(self, place: Place) -> None:
        """An event of the spool cannot be read any more."""
        with self._lock:
            self._spooled -= 1
            self._dropped["spool_damaged"] += 1
            self._settled.append((place, ACKED))

    def take_waiting(self, limit: int) -> list[Pending]:
        """The oldest events that wait for the disk alone; they go to librdkafka again."""
        with self._lock:
            if not self._waiting or limit <= 0:
                return []
            waiting = (pending for pending in self._unwritten if not pending.with_kafka)
            taken = list(islice(waiting, limit))
            for pending in taken:
                self._wait_no_more(pending)
                pending.with_kafka = True
            return taken

    def settled(self) -> Iterator[tuple[Place, int]]:
        """What the spool has to be told, each once."""
        while self._settled:
            yield self._settled.popleft()

    def counts(self) -> Counts:
        with self._lock:
            return Counts(
                accepted=self._accepted,
                acked=self._acked,
                in_flight=self._in_flight,
                spooled=self._spooled,
                dropped=dict(self._dropped),
                recovered=self._recovered,
            )

    def _leave(self, pending: Pending) -> None:
        pending.is_over = True
        self._in_flight -= 1
        if pending.place is not None:
            self._settled.append((pending.place, ACKED))
        else:
            self._forget_unwritten(pending)

    def _stay(self, place: Place) -> None:
        self._in_flight -= 1
        self._spooled += 1
        self._settled.append((place, WAITING))

    def _forget_unwritten(self, pending: Pending) -> None:
        self._unwritten.pop(pending, None)
        if not pending.with_kafka:
            self._wait_no_more(pending)

    def _wait_no_more(self, pending: Pending) -> None:
        self._waiting -= 1
        self._waiting_bytes -= len(pending.record.body)
