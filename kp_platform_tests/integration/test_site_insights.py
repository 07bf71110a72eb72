"""Reading ranking and KPIs from Elasticsearch; the same contract tests on fake and real."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import anyio
import pytest
from elasticsearch import Elasticsearch

from kp_platform_tests.stack import ROOT, Stack
from kp_platform_tests.unit.web_emitter.fakes import FakeInsights, hour_of_access
from web_emitter.contract import KPI_INDEX, RANKING_INDEX
from web_emitter.site.analysis.insights import (
    HOUR,
    ElasticsearchInsights,
    HourOfAccess,
    Insights,
    Popular,
    Ranking,
)
from web_emitter.site.search import connection

NOW = datetime(2026, 3, 1, 10, 20, 30, tzinfo=UTC)
CURRENT = datetime(2026, 3, 1, 10, tzinfo=UTC)


def ranked(kind: str, rank: int, key: str, computed_at: str = "2026-03-01T10:20:00Z") -> Any:
    """A document of the ranking as the platform writes it, without reference data."""
    return {
        "kind": kind,
        "rank": rank,
        "key": key,
        "accesses": 100 - rank,
        "window_seconds": 3_600,
        "events": 1_234,
        "computed_at": computed_at,
        "last_accessed_at": None,
    }


def hour_document(hour: HourOfAccess, scope: str = "all") -> dict[str, Any]:
    name = {"name": "kafka"} if scope == "name" else {}
    return asdict(hour) | {"scope": scope, "hour": hour.hour.isoformat()} | name


class RealInsights:
    """Two separate indices with the mappings of the platform, and the requests to them."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client = Elasticsearch(url, request_timeout=60)
        identity = uuid4()
        self.ranking_index, self.kpi_index = f"test-ranking-{identity}", f"test-kpi-{identity}"

    def write(self, index: str, documents: list[dict[str, Any]]) -> None:
        """The mappings are strict: a field that the platform does not write is rejected."""
        name = RANKING_INDEX if index == self.ranking_index else KPI_INDEX
        declared = json.loads((ROOT / "kp_platform" / "analytics" / f"{name}.json").read_text())
        self._client.indices.create(index=index, **declared)
        for document in documents:
            self._client.index(index=index, document=document)
        self._client.indices.refresh(index=index)

    def read(self, method: Callable[[Insights], Any]) -> Any:
        async def read() -> Any:
            async with connection(self._url, 60) as client:
                insights = ElasticsearchInsights(client, self.ranking_index, self.kpi_index)
                return await method(insights)

        return anyio.run(read)

    def delete(self) -> None:
        for index in (self.ranking_index, self.kpi_index):
            self._client.indices.delete(index=index, ignore_unavailable=True)
        self._client.close()


@pytest.fixture
def real(stack: Stack) -> Iterator[RealInsights]:
    insights = RealInsights(stack.settings.elasticsearch_url)
    yield insights
    insights.delete()


@pytest.fixture(params=["fake", "real"])
def hours_of(request: pytest.FixtureRequest) -> Callable[..., tuple[HourOfAccess, ...]]:
    """Returns a search over the given hours."""

    def find(*hours: HourOfAccess) -> tuple[HourOfAccess, ...]:
        if request.param == "fake":
            return anyio.run(FakeInsights(hours=hours).hours, NOW)
        real: RealInsights = request.getfixturevalue("real")
        documents = [hour_document(hour, scope) for hour in hours for scope in ("all", "name")]
        real.write(real.kpi_index, documents)
        found: tuple[HourOfAccess, ...] = real.read(lambda insights: insights.hours(NOW))
        return found

    return find


def test_the_hours_of_the_last_day_are_sorted_oldest_first(
    hours_of: Callable[..., tuple[HourOfAccess, ...]],
) -> None:
    first, last = hour_of_access(CURRENT - 23 * HOUR), hour_of_access(CURRENT, accesses=7)
    too_old, future = hour_of_access(CURRENT - 24 * HOUR), hour_of_access(CURRENT + HOUR)
    assert hours_of(last, too_old, future, first) == (first, last)


def test_an_hour_without_a_delay_has_none(
    hours_of: Callable[..., tuple[HourOfAccess, ...]],
) -> None:
    idle = hour_of_access(CURRENT, accesses=0, share_complete=0.0, p95_delay_seconds=None)
    assert hours_of(idle) == (idle,)


def test_the_ranking_has_five_keys_of_each_kind_sorted_by_rank(real: RealInsights) -> None:
    documents = [
        ranked(kind, rank, f"{kind}-{rank}") for rank in range(7, 0, -1) for kind in ("name", "uri")
    ]
    real.write(real.ranking_index, documents)
    found = real.read(lambda insights: insights.ranking())
    assert found == Ranking(
        names=tuple(Popular(rank=n, key=f"name-{n}", accesses=100 - n) for n in range(1, 6)),
        uris=tuple(Popular(rank=n, key=f"uri-{n}", accesses=100 - n) for n in range(1, 6)),
        window=timedelta(hours=1),
        events=1_234,
        computed_at=datetime(2026, 3, 1, 10, 20, tzinfo=UTC),
    )


def test_documents_of_an_older_computation_are_ignored(real: RealInsights) -> None:
    real.write(
        real.ranking_index,
        [
            ranked("name", 1, "now"),
            ranked("name", 2, "before", "2026-03-01T09:00:00Z"),
            ranked("uri", 1, "/before", "2026-03-01T09:00:00Z"),
        ],
    )
    found = real.read(lambda insights: insights.ranking())
    assert [each.key for each in found.names] == ["now"]
    assert found.uris == ()


def test_without_a_computation_there_is_no_ranking_and_no_hour(real: RealInsights) -> None:
    def found() -> tuple[Ranking | None, tuple[HourOfAccess, ...]]:
        ranking = real.read(lambda insights: insights.ranking())
        return ranking, real.read(lambda insights: insights.hours(NOW))

    assert found() == (None, ())  # no index
    real.write(real.ranking_index, [])
    real.write(real.kpi_index, [])
    assert found() == (None, ())
