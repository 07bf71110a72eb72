"""The delivery ledger of one producer: at any time every event is in exactly one state.

Belongs here: the states and the transitions between them. Does not belong here: Kafka
(`producer.py`) and the disk (`spool.py`).
"""

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from threading import Lock
from typing import Any

from web_emitter.emitter.spool import ACKED, WAITING, Location, Record

SLOW_DISK = "spool_slow"
"""The reason of a drop when the spool has reported no error."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Number of events by state: accepted = acked + in_flight + spooled + dropped.

    `recovered` is the part of `accepted` that an earlier process accepted and left on disk.
    `in_flight` events are in memory, in librdkafka's queue or waiting for the disk (slow ones in
    librdkafka's queue are on disk too); `spooled` events are on disk only; `dropped` events are
    lost, by reason.
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
    """An event in flight: in librdkafka's queue (`is_produced`), waiting for the disk, or both."""

    record: Record
    accepted_at: float
    is_produced: bool = True
    location: Location | None = None
    is_done: bool = False


class Ledger:
    """Used by the publishing threads, by the thread that serves delivery reports, and by the thread
    that owns the spool. A call holds the lock for a few instructions only.

    At most `max_waiting` events, with bodies of `max_waiting_bytes`, wait for the disk only, and at
    most `max_produced` are in librdkafka's queue. `spool_error` is why events do not reach the
    disk, or empty.
    """

    def __init__(self, max_produced: int, max_waiting: int, max_waiting_bytes: int) -> None:
        self.spool_error = ""
        self._max_in_flight = max_produced + max_waiting
        self._max_waiting = max_waiting
        self._max_waiting_bytes = max_waiting_bytes
        self._lock = Lock()
        self._is_closed = False
        self._accepted = self._acked = self._in_flight = self._spooled = self._recovered = 0
        self._dropped: Counter[str] = Counter()
        self._unwritten: dict[Pending, None] = {}  # oldest first
        self._waiting = self._waiting_bytes = 0
        self._settled: deque[tuple[Location, int]] = deque()

    def close(self) -> None:
        """Stop accepting events."""
        with self._lock:
            self._is_closed = True

    def accept(self) -> str | None:
        """Count a new event, which may not be created yet. Returns the reason when it is dropped
        because there is no room, else None."""
        with self._lock:
            self._accepted += 1
            if not self._is_closed and self._in_flight < self._max_in_flight:
                self._in_flight += 1
                return None
            reason = "closed" if self._is_closed else self.spool_error or SLOW_DISK
            self._dropped[reason] += 1
            return reason

    def created(self, record: Record, accepted_at: float) -> Pending:
        """The record of an accepted event, which is produced even when the ledger is closed."""
        pending = Pending(record, accepted_at)
        with self._lock:
            self._unwritten[pending] = None
        return pending

    def creation_failed(self) -> None:
        """Drop an accepted event whose record could not be created."""
        with self._lock:
            self._in_flight -= 1
            self._dropped["error"] += 1

    def recover(self, events: int) -> None:
        """Count events that were adopted from the spool of a dead process."""
        with self._lock:
            self._accepted += events
            self._recovered += events
            self._spooled += events

    def retry(self, location: Location, record: Record, now: float) -> Pending:
        """A spooled event that is produced again."""
        with self._lock:
            self._spooled -= 1
            self._in_flight += 1
        return Pending(record, now, location=location)

    def ack(self, pending: Pending) -> None:
        with self._lock:
            self._acked += 1
            self._finish(pending)

    def drop(self, pending: Pending, reason: str) -> None:
        with self._lock:
            self._dropped[reason] += 1
            self._finish(pending)

    def return_to_spool(self, pending: Pending) -> str | None:
        """The event is not in librdkafka's queue (any more): it stays on disk or waits for it.
        Returns the reason when it is dropped because there is no room, else None."""
        with self._lock:
            pending.is_produced = False
            if pending.location is not None:
                self._keep_spooled(pending.location)
                return None
            size = len(pending.record.body)
            if self._waiting < self._max_waiting and (
                self._waiting_bytes + size <= self._max_waiting_bytes
            ):
                self._waiting += 1
                self._waiting_bytes += size
                return None
            reason = self.spool_error or SLOW_DISK
            pending.is_produced = True  # it is not counted as waiting
            self._dropped[reason] += 1
            self._finish(pending)
            return reason

    def unwritten(self, before: float, limit: int) -> list[Pending]:
        """The oldest events that were accepted before a time and are not on disk."""
        due: list[Pending] = []
        with self._lock:
            for pending in self._unwritten:
                if pending.accepted_at > before or len(due) == limit:
                    break
                due.append(pending)
        return due

    def written(self, pending: Pending, location: Location) -> None:
        """The event is on disk; it may have been delivered during the write."""
        with self._lock:
            if pending.is_done:
                self._settled.append((location, ACKED))
                return
            self._remove_unwritten(pending)
            pending.location = location
            if not pending.is_produced:
                self._keep_spooled(location)

    def unreadable(self, location: Location) -> None:
        """Drop a spooled event that can no longer be read."""
        with self._lock:
            self._spooled -= 1
            self._dropped["spool_damaged"] += 1
            self._settled.append((location, ACKED))

    def take_waiting(self, limit: int) -> list[Pending]:
        """The oldest events that wait for the disk only; they are produced again."""
        with self._lock:
            if not self._waiting or limit <= 0:
                return []
            waiting = (pending for pending in self._unwritten if not pending.is_produced)
            taken = list(islice(waiting, limit))
            for pending in taken:
                self._stop_waiting(pending)
                pending.is_produced = True
            return taken

    def settled(self) -> Iterator[tuple[Location, int]]:
        """The new states of spooled records; each is returned once."""
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

    def _finish(self, pending: Pending) -> None:
        pending.is_done = True
        self._in_flight -= 1
        if pending.location is not None:
            self._settled.append((pending.location, ACKED))
        else:
            self._remove_unwritten(pending)

    def _keep_spooled(self, location: Location) -> None:
        self._in_flight -= 1
        self._spooled += 1
        self._settled.append((location, WAITING))

    def _remove_unwritten(self, pending: Pending) -> None:
        self._unwritten.pop(pending, None)
        if not pending.is_produced:
            self._stop_waiting(pending)

    def _stop_waiting(self, pending: Pending) -> None:
        self._waiting -= 1
        self._waiting_bytes -= len(pending.record.body)
