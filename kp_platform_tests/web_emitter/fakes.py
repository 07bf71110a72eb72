"""Hand-written stand-ins of the servers the emitter speaks to, with their state in memory.

Belongs here: a sink and a search. Does not belong here: requests and assertions.
"""

from web_emitter.events import AccessEvent, Event
from web_emitter.producer import BrokersUnreachable, Counts
from web_emitter.search import EnrichedLog, Found, LogQuery, SearchUnavailable


class FakeSink:
    """Keeps what it is sent; `failure` is raised instead, and without brokers none is known."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.failure: Exception | None = None
        self.broker_count = 1
        self.broker_questions = 0
        self.closed = False

    def send(self, event: Event) -> None:
        if self.failure is not None:
            raise self.failure
        self.events.append(event)

    def counts(self) -> Counts:
        return Counts(accepted=len(self.events), acked=len(self.events))

    def brokers(self, timeout_seconds: float) -> int:
        self.broker_questions += 1
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


class FakeSearch:
    """Finds among `logs`, newest first as they stand; `failure` is raised instead."""

    def __init__(self, logs: tuple[EnrichedLog, ...] = ()) -> None:
        self.logs = logs
        self.failure: Exception | None = None

    async def newest(self, query: LogQuery) -> Found:
        await self.ping()
        logs = tuple(
            log
            for log in self.logs
            if query.name in {"", log.name} and log.uri.startswith(query.uri)
        )
        return Found(logs[:50], len(logs), anything_indexed=bool(self.logs))

    async def ping(self) -> None:
        if self.failure is not None:
            raise self.failure

    def go_down(self) -> None:
        self.failure = SearchUnavailable("ConnectionError")


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
    """One complete log; each test states only the fields it is about."""
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
