"""The overview above the logs of the analysis page: the ranking, and the accesses per hour."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from starlette.testclient import TestClient

from kp_platform_tests.unit.web_emitter.fakes import (
    FakeFreshness,
    FakeInsights,
    FakeLogs,
    FakeNotes,
    FakeSink,
    enriched_log,
    hour_of_access,
)
from kp_platform_tests.unit.web_emitter.html import Tags
from web_emitter.site.analysis.insights import HOUR, Popular, Ranking
from web_emitter.site.app import Searches, Sinks, create_app
from web_emitter.site.search import Cursor
from web_emitter.site.settings import SiteSettings


def this_hour() -> datetime:
    return datetime.now(UTC).replace(minute=0, second=0, microsecond=0)


def ranking(name: str = "kafka", uri: str = "/hello?from=home") -> Ranking:
    return Ranking(
        names=(Popular(rank=1, key=name, accesses=1_234), Popular(rank=2, key="p", accesses=5)),
        uris=(Popular(rank=1, key=uri, accesses=1_111),),
        window=timedelta(hours=1),
        events=1_239,
        computed_at=datetime.now(UTC) - timedelta(minutes=3),
    )


@pytest.fixture
def shown(search: FakeLogs, insights: FakeInsights) -> FakeInsights:
    """One log, a ranking, and two hours."""
    search.logs = (enriched_log(),)
    insights.newest_ranking = ranking()
    insights.all_hours = (
        hour_of_access(this_hour() - HOUR, accesses=1_500, dead_letters=3),
        hour_of_access(this_hour(), accesses=30, p95_delay_seconds=None),
    )
    return insights


def test_the_ranking_links_to_the_logs_of_each_entry_and_shows_its_age(
    client: TestClient, shown: FakeInsights
) -> None:
    page = Tags(client.get("/analysis").text)
    for text in ("Popular now", "1,234", "1,239 accesses in 60 min, counted 3 min ago"):
        assert text in page.text
    links = [link["href"] for link in page.named("a") if "title" in link]
    assert links == [
        "/analysis?name=kafka",
        "/analysis?name=p",
        "/analysis?uri=%2Fhello%3Ffrom%3Dhome",
    ]


def test_the_hours_are_accessible_bars_and_a_table(client: TestClient, shown: FakeInsights) -> None:
    page = Tags(client.get("/analysis").text)
    (picture,) = page.named("svg")
    assert picture["role"] == "group"
    assert picture["aria-labelledby"] == "chart-title chart-description"
    assert [each["id"] for each in page.named("desc")] == ["chart-description"]
    bars = [each for each in page.named("rect") if each["class"] == "bar"]
    assert [bar["height"] for bar in bars] == ["0"] * 22 + ["60.0", "1.2"]
    cells = [text for text in page.texts("td") if text.strip()]
    assert cells[:6] == ["30", "4", "17", "75.0%", "0", "1,500"]
    assert "1,530 in 24 h, at most 1,500 per bar" in page.text


def test_the_overview_of_a_filter_counts_its_logs(client: TestClient, search: FakeLogs) -> None:
    search.logs = (
        enriched_log(accessed_at="2026-03-01T10:20:30.456Z"),
        enriched_log(accessed_at="2026-03-01T10:20:31Z", uri="/b"),
        enriched_log(name="presto"),
    )
    path = "/analysis?name=kafka&from=2026-03-01T10:20&to=2026-03-01T10:21"
    page = Tags(client.get(path).text)
    assert "Most frequent" in page.text
    assert "2 logs" in page.text
    assert "Accesses per second" in page.text
    bars = [each for each in page.named("rect") if each["class"] == "bar"]
    assert [bar["height"] for bar in bars] == ["0"] * 30 + ["60.0"] * 2 + ["0"] * 28
    zoomed = "/analysis?name=kafka&from=2026-03-01T10%3A20%3A30&to=2026-03-01T10%3A20%3A31"
    assert zoomed in [link["href"] for link in page.named("a")]


def test_a_page_of_older_logs_has_no_overview(client: TestClient, shown: FakeInsights) -> None:
    cursor = Cursor(0, 0, 0, reach=0).token
    page = Tags(client.get(f"/analysis?after={cursor}").text)
    assert page.named("svg") == page.named("details") == []


@pytest.mark.parametrize("section", ["ranking", "hours"])
def test_each_section_of_the_overview_is_optional(
    client: TestClient, shown: FakeInsights, section: str
) -> None:
    if section == "ranking":
        shown.newest_ranking = None
    else:
        shown.all_hours = ()
    text = client.get("/analysis").text
    assert ("Popular now" in text) == (section != "ranking")
    assert ("Accesses per hour" in text) == (section != "hours")


def test_without_computed_figures_the_page_counts_the_logs_of_the_last_day(
    client: TestClient, search: FakeLogs
) -> None:
    search.logs = (enriched_log(accessed_at=datetime.now(UTC).isoformat(), uri="/new"),)
    page = Tags(client.get("/analysis").text)
    assert "Most frequent 1 log" in " ".join(page.text.split())
    assert "Accesses per 30 minutes 1 in 24 h" in " ".join(page.text.split())


def test_without_figures_and_recent_logs_the_page_shows_only_the_logs(
    client: TestClient, search: FakeLogs
) -> None:
    search.logs = (enriched_log(),)
    page = Tags(client.get("/analysis").text)
    assert page.named("details") == []
    assert "The newest 1 of 1 logs" in page.text


@pytest.mark.parametrize("failure", [None, RuntimeError("a bug"), KeyError("rank")])
def test_the_logs_are_shown_when_the_overview_fails(
    client: TestClient, shown: FakeInsights, failure: Exception | None
) -> None:
    shown.go_down()
    shown.failure = failure or shown.failure
    answer = client.get("/analysis")
    assert answer.status_code == 200
    assert "The newest 1 of 1 logs" in answer.text
    assert "Popular now" not in answer.text


def test_hostile_names_and_uris_are_escaped(client: TestClient, shown: FakeInsights) -> None:
    hostile = "\"'><script>alert(1)</script>{{7*7}}\u202e\x00&uri=x"
    shown.newest_ranking = ranking(hostile, hostile)
    page = Tags(client.get("/analysis").text)
    assert page.named("script") == []
    assert page.text.count("{{7*7}}\u202e␀&uri=x") == 2
    links = [link["href"] for link in page.named("a") if "script" in str(link["href"])]
    assert [str(link).partition("=")[0] for link in links] == ["/analysis?name", "/analysis?uri"]
    assert not any("&" in str(link) or "<" in str(link) for link in links)


class Rendezvous:
    """Each caller waits until three have arrived."""

    def __init__(self) -> None:
        self._barrier = asyncio.Barrier(3)

    async def ping(self) -> None:
        await asyncio.wait_for(self._barrier.wait(), 20)


class RendezvousLogs(Rendezvous, FakeLogs):
    """Logs that are returned when the other two searches have started too."""

    def __init__(self) -> None:
        Rendezvous.__init__(self)
        FakeLogs.__init__(self, (enriched_log(),))


class RendezvousInsights(FakeInsights):
    """Insights that are read concurrently with the logs."""

    def __init__(self, rendezvous: Rendezvous) -> None:
        super().__init__(ranking(), (hour_of_access(this_hour()),))
        self._rendezvous = rendezvous

    async def ping(self) -> None:
        await self._rendezvous.ping()


def test_the_three_searches_run_concurrently(settings: SiteSettings) -> None:
    logs, sink = RendezvousLogs(), FakeSink()
    searches = Searches(logs, FakeNotes(), RendezvousInsights(logs), FakeFreshness())
    with TestClient(create_app(settings, Sinks(sink, sink), searches)) as client:
        text = client.get("/analysis").text
    assert "The newest 1 of 1 logs" in text
    assert "Popular now" in text
    assert "Accesses per hour" in text
