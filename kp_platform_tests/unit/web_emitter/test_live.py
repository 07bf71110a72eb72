"""The live view of the newest logs."""

from collections.abc import AsyncIterator

import anyio
import pytest
from starlette.testclient import TestClient

from kp_platform_tests.unit.web_emitter.fakes import FakeLogs, enriched_log
from web_emitter.site.analysis import live
from web_emitter.site.analysis.live import LiveViewers
from web_emitter.site.analysis.log_query import LogQuery
from web_emitter.site.analysis.logs import LogPage
from web_emitter.site.search import SearchUnavailable


@pytest.fixture(autouse=True)
def short_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "POLL_SECONDS", 0.01)


def table(logs: LogPage) -> str:
    return " ".join(log.uuid for log in logs.logs)


def failure(error: SearchUnavailable) -> str:
    return f"down: {error}"


def stream(viewers: LiveViewers, search: FakeLogs) -> AsyncIterator[str]:
    async def texts() -> AsyncIterator[str]:
        async for event in viewers.stream(search, LogQuery(), table, failure):
            yield str(event.data)

    return texts()


def test_the_table_is_sent_only_when_it_changes() -> None:
    search = FakeLogs((enriched_log(uuid="1"),))

    async def view() -> None:
        events = stream(LiveViewers(), search)
        assert await anext(events) == "1"
        with anyio.move_on_after(0.1) as waited:
            await anext(events)
        assert waited.cancelled_caught
        events = stream(LiveViewers(), search)
        assert await anext(events) == "1"
        search.logs = (enriched_log(uuid="2"), *search.logs)
        assert await anext(events) == "2 1"

    anyio.run(view)


def test_the_stream_reports_an_unavailable_elasticsearch_and_continues() -> None:
    search = FakeLogs((enriched_log(uuid="1"),))

    async def view() -> None:
        events = stream(LiveViewers(), search)
        assert await anext(events) == "1"
        search.go_down()
        assert await anext(events) == "down: ConnectionError"
        search.failure = None
        assert await anext(events) == "1"

    anyio.run(view)


def test_the_number_of_live_viewers_is_limited(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "MAX_VIEWERS", 0)
    answer = client.get("/analysis/live")
    assert answer.status_code == 503
    assert answer.text == "Too many live viewers; try again later.\n"


def test_a_viewer_that_disconnects_frees_a_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MAX_VIEWERS", 1)

    async def view() -> None:
        viewers = LiveViewers()
        events = viewers.stream(FakeLogs(), LogQuery(), table, failure)
        await anext(events)
        assert viewers.is_full
        await events.aclose()  # type: ignore[attr-defined]  # a generator
        assert not viewers.is_full

    anyio.run(view)


def test_an_invalid_live_link_is_a_400(client: TestClient) -> None:
    assert client.get("/analysis/live?from=x").status_code == 400


def test_the_page_is_live_only_on_request(client: TestClient, search: FakeLogs) -> None:
    search.logs = (enriched_log(),)
    page = client.get("/analysis?name=kafka").text
    assert "hx-sse:connect" not in page
    assert 'href="/analysis?name=kafka&amp;live=on"' in page
    page = client.get("/analysis?name=kafka&live=on").text
    assert 'hx-sse:connect="/analysis/live?name=kafka"' in page
    assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in page
    assert '<a href="/analysis?name=kafka" role="button" class="secondary">Pause</a>' in page


def test_a_page_over_the_limit_of_viewers_is_not_live(
    client: TestClient, search: FakeLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    search.logs = (enriched_log(),)
    monkeypatch.setattr(live, "MAX_VIEWERS", 0)
    text = client.get("/analysis?live=on").text
    assert "hx-sse:connect" not in text
    assert "View live" in text
