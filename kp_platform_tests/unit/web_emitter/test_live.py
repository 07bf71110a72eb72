"""Following the newest logs."""

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
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "POLL_SECONDS", 0.01)


def table(found: LogPage) -> str:
    return " ".join(log.uuid for log in found.logs)


def failure(error: SearchUnavailable) -> str:
    return f"down: {error}"


def stream(followers: LiveViewers, search: FakeLogs) -> AsyncIterator[str]:
    async def texts() -> AsyncIterator[str]:
        async for event in followers.stream(search, LogQuery(), table, failure):
            yield str(event.data)

    return texts()


def test_what_is_new_is_sent_and_what_is_not_is_not() -> None:
    search = FakeLogs((enriched_log(uuid="1"),))

    async def follow() -> None:
        events = stream(LiveViewers(), search)
        assert await anext(events) == "1"
        with anyio.move_on_after(0.1) as waited:
            await anext(events)
        assert waited.cancelled_caught
        events = stream(LiveViewers(), search)
        assert await anext(events) == "1"
        search.logs = (enriched_log(uuid="2"), *search.logs)
        assert await anext(events) == "2 1"

    anyio.run(follow)


def test_while_elasticsearch_is_down_the_stream_says_so_and_goes_on() -> None:
    search = FakeLogs((enriched_log(uuid="1"),))

    async def follow() -> None:
        events = stream(LiveViewers(), search)
        assert await anext(events) == "1"
        search.go_down()
        assert await anext(events) == "down: ConnectionError"
        search.failure = None
        assert await anext(events) == "1"

    anyio.run(follow)


def test_only_so_many_follow_at_once(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MAX_VIEWERS", 0)
    answer = client.get("/analysis/live")
    assert answer.status_code == 503
    assert "Too many" in answer.text


def test_one_that_leaves_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MAX_VIEWERS", 1)

    async def follow() -> None:
        followers = LiveViewers()
        events = followers.stream(FakeLogs(), LogQuery(), table, failure)
        await anext(events)
        assert followers.is_full
        await events.aclose()  # type: ignore[attr-defined]  # a generator
        assert not followers.is_full

    anyio.run(follow)


def test_a_wrong_link_is_told(client: TestClient) -> None:
    assert client.get("/analysis/live?from=x").status_code == 400


def test_the_page_follows_only_where_it_was_asked_to(client: TestClient, search: FakeLogs) -> None:
    search.logs = (enriched_log(),)
    page = client.get("/analysis?name=kafka").text
    assert "hx-sse:connect" not in page
    assert 'href="/analysis?name=kafka&amp;live=on"' in page
    page = client.get("/analysis?name=kafka&live=on").text
    assert 'hx-sse:connect="/analysis/live?name=kafka"' in page
    assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in page
    assert '<a href="/analysis?name=kafka" role="button" class="secondary">Pause</a>' in page


def test_a_page_that_can_not_follow_does_not_say_so(
    client: TestClient, search: FakeLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    search.logs = (enriched_log(),)
    monkeypatch.setattr(live, "MAX_VIEWERS", 0)
    text = client.get("/analysis?live=on").text
    assert "hx-sse:connect" not in text
    assert "View live" in text
