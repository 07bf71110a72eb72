"""Reading the enriched logs.

Belongs here: requests for logs, and documents as values. Does not belong here: the query
(`log_query.py`), the connection (`search.py`), presentation (`pages.py`).
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol, Self

from web_emitter.contract import ACCESS_LOG_INDEX
from web_emitter.site.analysis.chart import step_of
from web_emitter.site.analysis.insights import TOP_SIZE, Popular
from web_emitter.site.analysis.log_query import LogQuery, Period, equal
from web_emitter.site.search import LATEST, NEWEST_FIRST, OLDEST_FIRST, Cursor, run_search

if TYPE_CHECKING:
    from elasticsearch import AsyncElasticsearch

PAGE_SIZE = 50
EXPORT_PAGE_SIZE = 1_000
# Above twice this number of logs, names and URIs are counted in a sample of this size: counting
# loads the URI of every log, and there may be as many different URIs as logs.
SAMPLE_SIZE = 20_000
_SECOND = timedelta(seconds=1)
# Factor by which the time range of a neighbouring page grows when it holds too few logs.
_REACH_FACTOR = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrichedLog:
    """One document as the page shows it. Missing fields are None or empty."""

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


# The origin of each field of a document, as displayed.
_MESSAGE, _METADATA = "Kafka, message value", "Kafka, message metadata"
_REDIS, _MYSQL = "Redis, red_tests.test.string", "MySQL, my_tests.testing.tests"
ORIGINS: Mapping[str, str] = {
    "@timestamp": "Kafka, message timestamp",
    "uuid": _MESSAGE,
    "uri": _MESSAGE,
    "name": _MESSAGE,
    "redis_key": _REDIS,
    "redis_value": _REDIS,
    "test_id": _MYSQL,
    "test_name": _MYSQL,
    "created_at": _MYSQL,
    "topic": _METADATA,
    "partition": _METADATA,
    "offset": _METADATA,
    "enrichment.state": "kp_platform, whether both sources have the name",
    "enrichment.missing": "kp_platform, sources without the name",
    "indexed_at": "kp_platform, time of the bulk request",
    "delay_ms": "kp_platform, milliseconds from the access to indexed_at",
    "run_id": "kp_platform, Dagster run that indexed it",
}


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a document and its origin."""

    name: str
    value: Any
    origin: str


def fields_of(document: Mapping[str, Any]) -> list[Field]:
    """The fields that every log has, then any others."""
    values = flat(document)
    known = [Field(name, values.pop(name, None), origin) for name, origin in ORIGINS.items()]
    return known + [Field(name, value, "unknown") for name, value in values.items()]


def flat(document: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a document by their full names, as Elasticsearch names them."""
    values: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, Mapping):
            values |= {f"{name}.{inner}": each for inner, each in flat(value).items()}
        else:
            values[name] = ", ".join(map(str, value)) if isinstance(value, list) else value
    return values


@dataclass(frozen=True, slots=True)
class LogPage:
    """One page of the logs of a query, newest first. `total` is None when it was not counted, which
    takes longer than the page itself, and a lower bound when it is not exact. `newer` and `older`
    are the cursors of the neighbouring pages."""

    logs: tuple[EnrichedLog, ...] = ()
    total: int | None = 0
    total_is_exact: bool = True
    anything_indexed: bool = False
    newer: Cursor | None = None
    older: Cursor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Counts of the logs of a query: for each `step` of its period (empty steps are omitted), and
    for the most frequent names and URIs. `sampled` is the size of the sample in which names and
    URIs were counted; None: in all logs."""

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
    """A complete document and its index."""

    index: str
    source: Mapping[str, Any]


class LogSearch(Protocol):
    """All methods raise SearchUnavailable."""

    async def newest(self, query: LogQuery) -> LogPage: ...

    async def summary(self, query: LogQuery, now: datetime) -> Summary: ...

    async def one(self, uuid: str) -> Document | None:
        """The document of an event. When several daily indices have one, the newest."""
        ...

    def all(self, query: LogQuery, limit: int) -> AsyncIterator[Sequence[Mapping[str, Any]]]:
        """The documents of a query in batches, newest first, at most `limit` in all."""
        ...

    async def ping(self) -> None: ...


class ElasticsearchLogs:
    """LogSearch on an Elasticsearch client."""

    def __init__(self, client: "AsyncElasticsearch", index: str = ACCESS_LOG_INDEX) -> None:
        self._client = client
        self._index = index

    async def newest(self, query: LogQuery) -> LogPage:
        hits = await self._page(query)
        if query.before is not None and len(hits["hits"]) <= PAGE_SIZE:
            return await self.newest(replace(query, before=None))  # a full page
        more = len(hits["hits"]) > PAGE_SIZE
        shown = hits["hits"][-PAGE_SIZE:] if query.before else hits["hits"][:PAGE_SIZE]
        anything = bool(shown) or (not query.is_overview and await self._has_any())
        total = hits.get("total", {"value": None, "relation": "gte"})
        first, last = Cursor.of_page(shown) if shown else (None, None)
        return LogPage(
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
        restricted = query.as_elasticsearch(Period(start=start, end=end).as_elasticsearch())
        times = {"field": "@timestamp", "fixed_interval": f"{step // _SECOND}s", "min_doc_count": 1}
        result = await self._run(
            query=restricted,
            size=0,
            track_total_hits=True,
            aggs={"times": {"date_histogram": times}},
        )
        total = result["hits"]["total"]["value"]
        aggregations = result.get("aggregations", {"times": {"buckets": []}})
        counts = {
            datetime.fromtimestamp(bucket["key"] / 1_000, UTC): bucket["doc_count"]
            for bucket in aggregations["times"]["buckets"]
        }
        names, uris = await self._popular(restricted, total) if total else ((), ())
        return Summary(
            start=start,
            end=end,
            step=step,
            total=total,
            counts=counts,
            names=names,
            uris=uris,
            sampled=SAMPLE_SIZE if total > 2 * SAMPLE_SIZE else None,
        )

    async def _popular(
        self, query: Mapping[str, Any], total: int
    ) -> tuple[tuple[Popular, ...], tuple[Popular, ...]]:
        # Global ordinals of millions of URIs would be rebuilt after each refresh.
        terms = {
            field: {"terms": {"field": field, "size": TOP_SIZE, "execution_hint": "map"}}
            for field in ("name", "uri")
        }
        # Elasticsearch accepts a probability of at most 0.5, or 1.
        share = 1.0 if total <= 2 * SAMPLE_SIZE else SAMPLE_SIZE / total
        sample = {"random_sampler": {"probability": share, "seed": 1}, "aggs": terms}
        result = await self._run(
            query=query, size=0, track_total_hits=False, aggs={"sample": sample}
        )
        counted = result["aggregations"]["sample"]
        return _popular(counted["name"]["buckets"]), _popular(counted["uri"]["buckets"])

    async def one(self, uuid: str) -> Document | None:
        result = await self._run(query=equal("uuid", uuid), sort=NEWEST_FIRST, size=1)
        hits = result["hits"]["hits"]
        return Document(hits[0]["_index"], hits[0]["_source"]) if hits else None

    async def all(self, query: LogQuery, limit: int) -> AsyncIterator[Sequence[Mapping[str, Any]]]:
        left, after = limit, query.after
        while left > 0:
            size = min(left, EXPORT_PAGE_SIZE)
            hits = (await self._search(replace(query, after=after), size))["hits"]
            if hits:
                yield [hit["_source"] for hit in hits]
                _, after = Cursor.of_page(hits)
            if len(hits) < size:
                return
            left -= size

    async def ping(self) -> None:
        # Not es.info(), which a minimal build of Elasticsearch does not answer.
        await self._search(LogQuery(), 0)

    async def _page(self, query: LogQuery) -> Mapping[str, Any]:
        """The hits of a page, and one more if there is one. A neighbouring page is searched in a
        short time range first, then in a longer one, to avoid sorting all events of its day."""
        if cursor := query.after or query.before:
            for reach in (cursor.reach, _REACH_FACTOR * cursor.reach):
                if query.after:
                    bounds = {"gte": max(0, cursor.milliseconds - reach)}
                else:
                    bounds = {"lte": min(cursor.milliseconds + reach, LATEST)}
                near = {"range": {"@timestamp": bounds | {"format": "epoch_millis"}}}
                hits = await self._search(query, PAGE_SIZE + 1, near)
                if len(hits["hits"]) > PAGE_SIZE:
                    return hits
        return await self._search(query, PAGE_SIZE + 1)

    async def _has_any(self) -> bool:
        return bool((await self._search(LogQuery(), 1))["hits"])

    async def _search(self, query: LogQuery, size: int, *filters: Any) -> Mapping[str, Any]:
        """Hits in the order of the page; before a cursor, those closest to it."""
        paging: dict[str, Any] = {}
        if cursor := query.after or query.before:
            paging = {"search_after": cursor.search_after, "track_total_hits": False}
        result = await self._run(
            query=query.as_elasticsearch(*filters),
            sort=OLDEST_FIRST if query.before else NEWEST_FIRST,
            size=size,
            **paging,
        )
        hits: dict[str, Any] = dict(result["hits"])
        if query.before:
            hits["hits"] = hits["hits"][::-1]
        return hits

    async def _run(self, **request: Any) -> Mapping[str, Any]:
        return await run_search(self._client, self._index, **request)


def _popular(buckets: Sequence[Mapping[str, Any]]) -> tuple[Popular, ...]:
    return tuple(
        Popular(rank=rank, key=bucket["key"], accesses=bucket["doc_count"])
        for rank, bucket in enumerate(buckets, 1)
    )
