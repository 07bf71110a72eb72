"""Reading the ranking and the hourly KPIs that the platform computes from the logs.

Belongs here: the requests, and documents as values. Does not belong here: computing them (the
platform does), presentation (`overview.py`, `chart.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol, Self

from web_emitter.contract import KPI_INDEX, RANKING_INDEX
from web_emitter.site.search import run_search

if TYPE_CHECKING:
    from elasticsearch import AsyncElasticsearch

TOP_SIZE = 5
HOURS = 24
HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Popular:
    """One name or URI and the number of its accesses in the window of the ranking."""

    rank: int
    key: str
    accesses: int

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        return cls(rank=document["rank"], key=document["key"], accesses=document["accesses"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """The most popular names and URIs among the `events` of the window before `computed_at`."""

    names: tuple[Popular, ...]
    uris: tuple[Popular, ...]
    window: timedelta
    events: int
    computed_at: datetime

    @classmethod
    def from_documents(cls, documents: Sequence[Mapping[str, Any]]) -> Self:
        """From documents sorted by rank; of several computations the newest is used."""
        newest = max(document["computed_at"] for document in documents)
        current = [document for document in documents if document["computed_at"] == newest]
        return cls(
            names=_of_kind("name", current),
            uris=_of_kind("uri", current),
            window=timedelta(seconds=current[0]["window_seconds"]),
            events=current[0]["events"],
            computed_at=datetime.fromisoformat(newest),
        )


def _of_kind(kind: str, documents: Sequence[Mapping[str, Any]]) -> tuple[Popular, ...]:
    return tuple(
        Popular.from_document(document) for document in documents if document["kind"] == kind
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HourOfAccess:
    """The KPIs of one hour over all names. `hour` is its start, in UTC."""

    hour: datetime
    accesses: int
    distinct_names: int
    distinct_uris: int
    complete: int
    share_complete: float
    dead_letters: int
    p95_delay_seconds: float | None

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        return cls(
            hour=datetime.fromisoformat(document["hour"]).astimezone(UTC),
            accesses=document["accesses"],
            distinct_names=document["distinct_names"],
            distinct_uris=document["distinct_uris"],
            complete=document["complete"],
            share_complete=document["share_complete"],
            dead_letters=document["dead_letters"],
            p95_delay_seconds=document.get("p95_delay_seconds"),
        )


class Insights(Protocol):
    """Both methods raise SearchUnavailable."""

    async def ranking(self) -> Ranking | None:
        """The newest ranking, or None when none has been computed."""
        ...

    async def hours(self, now: datetime) -> tuple[HourOfAccess, ...]:
        """The computed hours among the last HOURS hours, oldest first."""
        ...


class ElasticsearchInsights:
    """Insights on an Elasticsearch client."""

    def __init__(
        self,
        client: "AsyncElasticsearch",
        ranking_index: str = RANKING_INDEX,
        kpi_index: str = KPI_INDEX,
    ) -> None:
        self._client = client
        self._ranking_index = ranking_index
        self._kpi_index = kpi_index

    async def ranking(self) -> Ranking | None:
        documents = await self._documents(
            self._ranking_index,
            query={"range": {"rank": {"lte": TOP_SIZE}}},
            sort=[
                {"computed_at": {"order": "desc", "unmapped_type": "date"}},
                {"rank": {"order": "asc", "unmapped_type": "integer"}},
            ],
            size=2 * TOP_SIZE,
        )
        return Ranking.from_documents(documents) if documents else None

    async def hours(self, now: datetime) -> tuple[HourOfAccess, ...]:
        current = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        documents = await self._documents(
            self._kpi_index,
            query={
                "bool": {
                    "filter": [
                        {"term": {"scope": "all"}},
                        {
                            "range": {
                                "hour": {
                                    "gt": (current - HOURS * HOUR).isoformat(),
                                    "lte": current.isoformat(),
                                }
                            }
                        },
                    ]
                }
            },
            sort=[{"hour": {"order": "asc", "unmapped_type": "date"}}],
            size=HOURS,
        )
        return tuple(HourOfAccess.from_document(document) for document in documents)

    async def _documents(self, index: str, **request: Any) -> list[Mapping[str, Any]]:
        result = await run_search(self._client, index, **request)
        return [hit["_source"] for hit in result["hits"]["hits"]]
