"""Hand-written fakes of the servers that the emitter uses, with their state in memory.

Belongs here: librdkafka's producer, a spool, a sink and the searches. Does not belong here:
requests and assertions.
"""

import errno
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

from confluent_kafka import KafkaError

from web_emitter.emitter.events import AccessEvent, Event, FullTextEvent
from web_emitter.emitter.ledger import Counts
from web_emitter.emitter.producer import BrokersUnreachable
from web_emitter.emitter.spool import Location, Record, Spool, Status
from web_emitter.site.analysis.chart import EPOCH, step_of
from web_emitter.site.analysis.insights import HOUR, HOURS, HourOfAccess, Popular, Ranking
from web_emitter.site.analysis.log_query import LogQuery
from web_emitter.site.analysis.logs import Document, EnrichedLog, LogPage, Summary
from web_emitter.site.notes.search import Note, NotePage, NoteQuery, Piece
from web_emitter.site.search import Cursor, SearchUnavailable
from web_emitter.site.status.freshness import Freshness


class Message(NamedTuple):
    """A message in librdkafka's queue."""

    record: Record
    on_delivery: Callable[[KafkaError | None, object], None]


class FakeLibrdkafka:
    """The part of confluent_kafka.Producer that the emitter uses. Messages stay in its queue until
    a test delivers or fails them; `flush` delivers all of them while the broker `is_up`."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.queue: list[Message] = []
        self.delivered: list[Record] = []
        self.is_up = False
        self.is_purged = False

    def produce(
        self,
        topic: str,
        value: bytes,
        *,
        headers: list[Any],
        timestamp: int,
        on_delivery: Callable[[KafkaError | None, object], None],
    ) -> None:
        if len(self.queue) >= self.capacity:
            raise BufferError("Local: Queue full")
        self.queue.append(Message(Record(timestamp, value, headers), on_delivery))

    def deliver(self, count: int) -> None:
        for message in self._next(count):
            self.delivered.append(message.record)
            message.on_delivery(None, None)

    def fail(self, count: int, code: int) -> None:
        for message in self._next(count):
            message.on_delivery(KafkaError(code), None)

    def poll(self, timeout: float) -> int:
        return 0

    def flush(self, timeout: float) -> int:
        if self.is_purged:
            self.fail(len(self.queue), KafkaError._PURGE_QUEUE)
        if self.is_up:
            self.deliver(len(self.queue))
        return len(self.queue)

    def purge(self) -> None:
        self.is_purged = True

    def close(self) -> None:
        pass

    def _next(self, count: int) -> list[Message]:
        messages, self.queue[:count] = self.queue[:count], []
        return messages


class MortalSpool(Spool):
    """A real spool whose disk can be full and whose process can be killed."""

    disk_is_full = False
    during_a_write: Callable[[], object] = staticmethod(lambda: None)

    def append(self, records: Sequence[Record]) -> list[Location]:
        self.during_a_write()
        if self.disk_is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().append(records)

    def die(self) -> None:
        """Release the locks, as the kernel does for a killed process."""
        self._seal()
        self._unlock()


class FakeSink:
    """Stores the published events unless it is full; `failure` is raised instead. `broker_count` is
    the number of brokers."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.failure: Exception | None = None
        self.is_full = False
        self.broker_count = 1
        self.broker_requests = 0
        self.closed = False

    def publish(self, event: Event) -> bool:
        if self.failure is not None:
            raise self.failure
        if not self.is_full:
            self.events.append(event)
        return not self.is_full

    def defer(self, create: Callable[[], Event]) -> bool:
        return self.publish(create())

    def counts(self) -> Counts:
        return Counts(accepted=len(self.events), acked=len(self.events))

    def spool(self) -> Status:
        return Status()

    def brokers(self, timeout_seconds: float) -> int:
        self.broker_requests += 1
        if not self.broker_count:
            raise BrokersUnreachable("Local: Broker transport failure")
        return self.broker_count

    def close(self, deadline_seconds: float) -> Counts:
        self.closed = True
        return self.counts()

    @property
    def access_events(self) -> list[AccessEvent]:
        return [event for event in self.events if isinstance(event, AccessEvent)]

    @property
    def uris(self) -> list[str]:
        return [event.uri for event in self.access_events]

    @property
    def texts(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, FullTextEvent)]


class MayFail:
    """A search that raises `failure` when it is set."""

    failure: Exception | None = None

    def go_down(self) -> None:
        self.failure = SearchUnavailable("ConnectionError")

    async def ping(self) -> None:
        if self.failure is not None:
            raise self.failure


class FakeLogs(MayFail):
    """Searches `logs`, which are newest first; `documents` are complete ones by uuid; `exported`
    are the queries of `all`."""

    def __init__(self, logs: tuple[EnrichedLog, ...] = ()) -> None:
        self.logs = logs
        self.documents: dict[str, Document] = {}
        self.exported: list[LogQuery] = []

    async def newest(self, query: LogQuery) -> LogPage:
        await self.ping()
        logs = self._matching(query)
        cursors = [Cursor(0, 0, number, reach=0) for number in range(len(logs))]
        start = cursors.index(query.after) + 1 if query.after else 0
        if query.before:
            start = max(0, cursors.index(query.before) - 50)
        shown = logs[start : start + 50]
        return LogPage(
            shown,
            None if query.after or query.before else len(logs),
            anything_indexed=bool(self.logs),
            newer=cursors[start] if start and shown else None,
            older=cursors[start + 49] if len(logs) > start + 50 else None,
        )

    async def summary(self, query: LogQuery, now: datetime) -> Summary:
        await self.ping()
        start, end = query.period.bounds(now)
        step = step_of(start, end)
        logs = [log for log in self._matching(query) if start <= _accessed_at(log) < end]
        counts = Counter(at - (at - EPOCH) % step for at in map(_accessed_at, logs))
        return Summary(
            start=start,
            end=end,
            step=step,
            total=len(logs),
            counts=counts,
            names=_most(log.name for log in logs),
            uris=_most(log.uri for log in logs),
        )

    async def one(self, uuid: str) -> Document | None:
        await self.ping()
        return self.documents.get(uuid)

    async def all(self, query: LogQuery, limit: int) -> AsyncIterator[list[dict[str, Any]]]:
        await self.ping()
        self.exported.append(query)
        for log in self._matching(query)[:limit]:
            yield [{"uuid": log.uuid, "uri": log.uri, "name": log.name}]

    def _matching(self, query: LogQuery) -> tuple[EnrichedLog, ...]:
        words = _words(query.words)
        return tuple(
            log
            for log in self.logs
            if query.name in {"", log.name}
            and log.uri.startswith(query.uri)
            and words <= _words(f"{log.uri} {log.name}")
        )


def _most(texts: Iterable[str]) -> tuple[Popular, ...]:
    return tuple(
        Popular(rank=rank, key=text, accesses=count)
        for rank, (text, count) in enumerate(Counter(texts).most_common(5), 1)
    )


def _accessed_at(log: EnrichedLog) -> datetime:
    return datetime.fromisoformat(log.accessed_at)


class FakeFreshness(MayFail):
    """The `answer` of a test, by default empty."""

    def __init__(self) -> None:
        self.answer: Freshness | None = None

    async def now(self) -> Freshness:
        await self.ping()
        return self.answer or Freshness(now=datetime.now(UTC))


class FakeNotes(MayFail):
    """Searches `notes` for all words; operators are not supported."""

    def __init__(self, notes: tuple[Note, ...] = ()) -> None:
        self.notes = notes

    async def search(self, query: NoteQuery) -> NotePage:
        await self.ping()
        written = [note for note in self.notes if note.text.strip()]
        newest = sorted(written, key=lambda note: note.registered_at, reverse=True)
        words = _words(query.words)
        found = [_highlighted(note, words) for note in newest if words <= _words(note.text)]
        if query.is_search and not words:
            found = []
        return NotePage(tuple(found[:50]), len(found), anything_registered=bool(written))


def _words(text: str) -> set[str]:
    return {word.lower() for word in re.findall(r"\w+", text)}


def _highlighted(note: Note, words: set[str]) -> Note:
    if not words:
        return note
    pieces: list[Piece] = []
    for text in filter(None, re.split(r"(\w+)", note.text)):
        if text.lower() in words:
            pieces.append(Piece(text, is_hit=True))
        elif pieces and not pieces[-1].is_hit:
            pieces[-1] = Piece(pieces[-1].text + text)
        else:
            pieces.append(Piece(text))
    return replace(note, fragments=(tuple(pieces),))


class FakeInsights(MayFail):
    """A ranking and hours, as the platform computes them."""

    def __init__(
        self, ranking: Ranking | None = None, hours: tuple[HourOfAccess, ...] = ()
    ) -> None:
        self.newest_ranking = ranking
        self.all_hours = hours

    async def ranking(self) -> Ranking | None:
        await self.ping()
        return self.newest_ranking

    async def hours(self, now: datetime) -> tuple[HourOfAccess, ...]:
        await self.ping()
        current = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        last = [each for each in self.all_hours if current - HOURS * HOUR < each.hour <= current]
        return tuple(sorted(last, key=lambda each: each.hour))


def hour_of_access(
    hour: datetime,
    *,
    accesses: int = 120,
    share_complete: float = 0.75,
    dead_letters: int = 0,
    p95_delay_seconds: float | None = 0.84,
) -> HourOfAccess:
    """The numbers of one hour; a test sets only the fields that it checks."""
    return HourOfAccess(
        hour=hour,
        accesses=accesses,
        distinct_names=4,
        distinct_uris=17,
        complete=round(accesses * share_complete),
        share_complete=share_complete,
        dead_letters=dead_letters,
        p95_delay_seconds=p95_delay_seconds,
    )


def enriched_log(
    *,
    uuid: str = "0b1c6b1e-6f0f-4d3b-9a57-0d6f4d1f2a01",
    accessed_at: str = "2026-03-01T10:20:30.456Z",
    uri: str = "/hello?from=home",
    name: str = "kafka",
    redis_value: str | None = "https://kafka.apache.org/",
    test_id: int | None = 2,
    missing: tuple[str, ...] = (),
) -> EnrichedLog:
    """One complete log; a test sets only the fields that it checks."""
    return EnrichedLog(
        accessed_at=accessed_at,
        uuid=uuid,
        uri=uri,
        name=name,
        redis_key=None if redis_value is None else name,
        redis_value=redis_value,
        test_id=test_id,
        test_name=None if test_id is None else name,
        state="partial" if missing else "complete",
        missing=missing,
    )
