"""Reading the enriched logs.

Belongs here: questions for logs, and documents as values. Does not belong here: what is asked for
(`log_query.py`), the connection (`search.py`), how logs look (`pages.py`).
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol, Self

from web_emitter.emitter.settings import ACCESS_LOG_INDEX
from web_emitter.site.chart import step_of
from web_emitter.site.insights import MOST_POPULAR, Popular
from web_emitter.site.log_query import LogQuery, Period, equal
from web_emitter.site.search import LATEST, NEWEST_FIRST, OLDEST_FIRST, Cursor, ask

if TYPE_CHECKING:
    from elasticsearch import AsyncElasticsearch

PAGE_SIZE = 50
EXPORT_PAGE_SIZE = 1_000
# Of more logs than these, names and URIs are counted in a sample: a URI's text is looked up for
# each of them, and there may be as many as logs.
SAMPLE = 20_000
_SECOND = timedelta(seconds=1)
# How many times farther from its neighbour a page is looked for, when near it there is too little.
_FARTHER = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrichedLog:
    """One document as the page shows it. What a document lacks is None, or empty text."""

    accessed_at: str
    uuid: str
    uri: str
    name: str
    redis_key: str | None
    redis_value: str | None
    test_id: int | None
    test_name: str | None
    state: str
    missing: tuple[str, ...]

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        enrichment = document.get("enrichment") or {}
        return cls(
            accessed_at=str(document.get("@timestamp", "")),
            uuid=document.get("uuid", ""),
            uri=document.get("uri", ""),
            name=document.get("name", ""),
            redis_key=document.get("redis_key"),
            redis_value=document.get("redis_value"),
            test_id=document.get("test_id"),
            test_name=document.get("test_name"),
            state=enrichment.get("state", ""),
            missing=tuple(enrichment.get("missing") or ()),
        )


# Where each field of a document comes from, in words.
_MESSAGE, _PLACE = "Kafka, in the message", "Kafka, the message's place"
_REDIS, _MYSQL = "Redis, red_tests.test.string", "MySQL, my_tests.testing.tests"
ORIGINS: Mapping[str, str] = {
    "@timestamp": "Kafka, the message's timestamp",
    "uuid": _MESSAGE,
    "uri": _MESSAGE,
    "name": _MESSAGE,
    "redis_key": _REDIS,
    "redis_value": _REDIS,
    "test_id": _MYSQL,
    "test_name": _MYSQL,
    "created_at": _MYSQL,
    "topic": _PLACE,
    "partition": _PLACE,
    "offset": _PLACE,
    "enrichment.state": "kp_platform, whether both had the name",
    "enrichment.missing": "kp_platform, which of them had not",
    "indexed_at": "kp_platform, when it was sent to Elasticsearch",
    "delay_ms": "kp_platform, milliseconds from the access to that",
    "run_id": "kp_platform, the Dagster run that sent it",
}


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a document, and where it comes from."""

    name: str
    value: Any
    origin: str


def fields_of(document: Mapping[str, Any]) -> list[Field]:
    """Those that every log has, and after them what another hand may have written."""
    values = flat(document)
    known = [Field(name, values.pop(name, None), origin) for name, origin in ORIGINS.items()]
    return known + [Field(name, value, "unknown") for name, value in values.items()]


def flat(document: Mapping[str, Any]) -> dict[str, Any]:
    """Members of objects by the names that Elasticsearch has for them."""
    values: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, Mapping):
            values |= {f"{name}.{inner}": each for inner, each in flat(value).items()}
        else:
            values[name] = ", ".join(map(str, value)) if isinstance(value, list) else value
    return values


@dataclass(frozen=True, slots=True)
class Found:
    """Logs of a query, newest first, how many it has ("at least", when not exact; None: not
    counted, which would take longer than to find them), and the places next to which there are
    newer and older ones."""

    logs: tuple[EnrichedLog, ...] = ()
    total: int | None = 0
    total_is_exact: bool = True
    anything_indexed: bool = False
    newer: Cursor | None = None
    older: Cursor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The logs of a query in numbers: how many there are in each `step` of its period (steps
    without any are left out), and the names and URIs that most of them have. `sampled` is the size
    of the sample in which these were counted; None: all were."""

    start: datetime
    end: datetime
    step: timedelta
    total: int = 0
    counts: Mapping[datetime, int] = field(default_factory=dict)
    names: tuple[Popular, ...] = ()
    uris: tuple[Popular, ...] = ()
    sampled: int | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A whole document, and the index in which it lies."""

    index: str
    source: Mapping[str, Any]


class LogSearch(Protocol):
    """All verbs raise SearchUnavailable."""

    async def newest(self, query: LogQuery) -> Found: ...

    async def summary(self, query: LogQuery, now: datetime) -> Summary: ...

    async def one(self, uuid: str) -> Document | None:
        """The document of an event; of several, which days apart can have, the newest."""
        ...

    def all(self, query: LogQuery, most: int) -> AsyncIterator[Sequence[Mapping[str, Any]]]:
        """The documents of a query in batches, newest first, at most so many in all."""
        ...

    async def ping(self) -> None: ...


class ElasticsearchLogs:
    """LogSearch on an Elasticsearch client."""

    def __init__(self, client: "AsyncElasticsearch", index: str = ACCESS_LOG_INDEX) -> None:
        self._client = client
        self._index = index

    async def newest(self, query: LogQuery) -> Found:
        hits = await self._page(query)
        if query.before is not None and len(hits["hits"]) <= PAGE_SIZE:
            return await self.newest(replace(query, before=None))  # a whole page, not its rest
        more = len(hits["hits"]) > PAGE_SIZE
        shown = hits["hits"][-PAGE_SIZE:] if query.before else hits["hits"][:PAGE_SIZE]
        anything = bool(shown) or (not query.is_overview and await self._has_any())
        total = hits.get("total", {"value": None, "relation": "gte"})
        first, last = Cursor.at_the_ends(shown) if shown else (None, None)
        return Found(
            logs=tuple(EnrichedLog.from_document(hit["_source"]) for hit in shown),
            total=total["value"],
            total_is_exact=total["relation"] == "eq",
            anything_indexed=anything,
            newer=None if query.is_first_page else first,
            older=last if more or query.before else None,
        )

    async def summary(self, query: LogQuery, now: datetime) -> Summary:
        start, end = query.period.bounds(now)
        step = step_of(start, end)
        asked = query.as_elasticsearch(Period(start=start, end=end).as_elasticsearch())
        times = {"field": "@timestamp", "fixed_interval": f"{step // _SECOND}s", "min_doc_count": 1}
        answer = await self._ask(
            query=asked,
            size=0,
            track_total_hits=True,
            aggs={"times": {"date_histogram": times}},
        )
        total = answer["hits"]["total"]["value"]
        aggregations = answer.get("aggregations", {"times": {"buckets": []}})
        counts = {
            datetime.fromtimestamp(bucket["key"] / 1_000, UTC): bucket["doc_count"]
            for bucket in aggregations["times"]["buckets"]
        }
        names, uris = await self._popular(asked, total) if total else ((), ())
        return Summary(
            start=start,
            end=end,
            step=step,
            total=total,
            counts=counts,
            names=names,
            uris=uris,
            sampled=SAMPLE if total > 2 * SAMPLE else None,
        )

    async def _popular(
        self, asked: Mapping[str, Any], total: int
    ) -> tuple[tuple[Popular, ...], tuple[Popular, ...]]:
        # Ordinals of millions of URIs would be made again after each refresh.
        terms = {
            field: {"terms": {"field": field, "size": MOST_POPULAR, "execution_hint": "map"}}
            for field in ("name", "uri")
        }
        # Elasticsearch takes a probability of at most one half, or of one.
        share = 1.0 if total <= 2 * SAMPLE else SAMPLE / total
        sample = {"random_sampler": {"probability": share, "seed": 1}, "aggs": terms}
        answer = await self._ask(
            query=asked, size=0, track_total_hits=False, aggs={"sample": sample}
        )
        found = answer["aggregations"]["sample"]
        return _popular(found["name"]["buckets"]), _popular(found["uri"]["buckets"])

    async def one(self, uuid: str) -> Document | None:
        answer = await self._ask(query=equal("uuid", uuid), sort=NEWEST_FIRST, size=1)
        hits = answer["hits"]["hits"]
        return Document(hits[0]["_index"], hits[0]["_source"]) if hits else None

    async def all(self, query: LogQuery, most: int) -> AsyncIterator[Sequence[Mapping[str, Any]]]:
        left, after = most, query.after
        while left > 0:
            size = min(left, EXPORT_PAGE_SIZE)
            hits = (await self._search(replace(query, after=after), size))["hits"]
            if hits:
                yield [hit["_source"] for hit in hits]
                _, after = Cursor.at_the_ends(hits)
            if len(hits) < size:
                return
            left -= size

    async def ping(self) -> None:
        # Not es.info(): a minimal build does not answer it.
        await self._search(LogQuery(), 0)

    async def _page(self, query: LogQuery) -> Mapping[str, Any]:
        """The hits of a page, and one more if there is one. A page next to another is first looked
        for near it, and then not quite so near: else all events of its day would be sorted for it.
        """
        if at := query.after or query.before:
            for reach in (at.reach, _FARTHER * at.reach):
                if query.after:
                    span = {"gte": max(0, at.milliseconds - reach)}
                else:
                    span = {"lte": min(at.milliseconds + reach, LATEST)}
                near = {"range": {"@timestamp": span | {"format": "epoch_millis"}}}
                hits = await self._search(query, PAGE_SIZE + 1, near)
                if len(hits["hits"]) > PAGE_SIZE:
                    return hits
        return await self._search(query, PAGE_SIZE + 1)

    async def _has_any(self) -> bool:
        return bool((await self._search(LogQuery(), 1))["hits"])

    async def _search(self, query: LogQuery, size: int, *filters: Any) -> Mapping[str, Any]:
        """Hits in the order of the page; before a place, those next to it."""
        behind: dict[str, Any] = {}
        if at := query.after or query.before:
            behind = {"search_after": at.place, "track_total_hits": False}
        answer = await self._ask(
            query=query.as_elasticsearch(*filters),
            sort=OLDEST_FIRST if query.before else NEWEST_FIRST,
            size=size,
            **behind,
        )
        hits: dict[str, Any] = dict(answer["hits"])
        if query.before:
            hits["hits"] = hits["hits"][::-1]
        return hits

    async def _ask(self, **question: Any) -> Mapping[str, Any]:
        return await ask(self._client, self._index, **question)


def _popular(buckets: Sequence[Mapping[str, Any]]) -> tuple[Popular, ...]:
    return tuple(
        Popular(rank=rank, key=bucket["key"], accesses=bucket["doc_count"])
        for rank, bucket in enumerate(buckets, 1)
    )
