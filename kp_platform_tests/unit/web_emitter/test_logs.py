"""Requests for logs to Elasticsearch, and documents as values."""

from base64 import urlsafe_b64encode
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest
from elastic_transport import ApiResponseMeta, HttpHeaders, NodeConfig
from elasticsearch import ApiError
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from kp_platform_tests.unit.web_emitter.fakes import FakeFreshness, FakeNotes, FakeSink
from web_emitter.emitter.events import MAX_URI_LENGTH
from web_emitter.site.analysis.insights import ElasticsearchInsights
from web_emitter.site.analysis.log_query import LogQuery
from web_emitter.site.analysis.logs import (
    SAMPLE_SIZE,
    ElasticsearchLogs,
    EnrichedLog,
    LogPage,
)
from web_emitter.site.app import Searches, Sinks, create_app
from web_emitter.site.search import Cursor, SearchUnavailable, connection
from web_emitter.site.settings import SiteSettings

DOCUMENT = {
    "@timestamp": "2026-03-01T10:20:30.456Z",
    "uuid": "0b1c6b1e-6f0f-4d3b-9a57-0d6f4d1f2a01",
    "uri": "/x",
    "name": "kafka",
    "redis_key": "kafka",
    "redis_value": "https://kafka.apache.org/",
    "test_id": 2,
    "test_name": "kafka",
    "enrichment": {"state": "complete", "missing": []},
}


class Answer:
    """A response of the client: an object with a body."""

    def __init__(self, *documents: dict[str, Any], relation: str = "eq") -> None:
        self.body: dict[str, Any] = {
            "hits": {
                "total": {"value": len(documents), "relation": relation},
                "hits": [
                    {"_source": document, "sort": [9_000 - number, 3, 7]}
                    for number, document in enumerate(documents)
                ],
            },
            "aggregations": {"times": {"buckets": []}},
        }

    def __getitem__(self, key: str) -> Any:
        return self.body[key]


class FakeClient:
    """The one method that the search uses; returns its answers in turn and stores the requests."""

    def __init__(self, *answers: Answer | ApiError) -> None:
        self._answers = list(answers)
        self.requests: list[dict[str, Any]] = []

    async def search(self, **request: Any) -> Answer:
        self.requests.append(request)
        answer = self._answers.pop(0)
        if isinstance(answer, ApiError):
            raise answer
        return answer


def api_error(status: int) -> ApiError:
    meta = ApiResponseMeta(status, "1.1", HttpHeaders(), 0.0, NodeConfig("http", "x", 1))
    return ApiError("rejected", meta, {})


def newest(client: FakeClient, query: LogQuery) -> LogPage:
    logs = ElasticsearchLogs(client)  # type: ignore[arg-type]  # only its one method
    return anyio.run(logs.newest, query)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (LogQuery(), {"match_all": {}}),
        (LogQuery(name="kafka"), {"bool": {"filter": [{"term": {"name": "kafka"}}]}}),
        (LogQuery(uri="/a*"), {"bool": {"filter": [{"prefix": {"uri": "/a*"}}]}}),  # literal
        (
            LogQuery(name="k", uri="/"),
            {"bool": {"filter": [{"term": {"name": "k"}}, {"prefix": {"uri": "/"}}]}},
        ),
        (  # the longest prefix that Elasticsearch accepts
            LogQuery(uri="/" * 1_000),
            {"bool": {"filter": [{"prefix": {"uri": "/" * 1_000}}]}},
        ),
        (  # a longer one must equal the URI
            LogQuery(uri="/" * 1_001),
            {"bool": {"filter": [{"term": {"uri": "/" * 1_001}}]}},
        ),
        (  # the event was truncated there too
            LogQuery(uri="/" * (MAX_URI_LENGTH + 9)),
            {"bool": {"filter": [{"term": {"uri": "/" * MAX_URI_LENGTH}}]}},
        ),
        (  # longer than any keyword
            LogQuery(name="k" * 32_767),
            {"bool": {"filter": [{"match_none": {}}]}},
        ),
    ],
)
def test_a_query_becomes_filters(query: LogQuery, expected: dict[str, Any]) -> None:
    assert query.as_elasticsearch() == expected


def test_the_newest_fifty_are_requested_in_a_total_order() -> None:
    client = FakeClient(Answer(DOCUMENT))
    newest(client, LogQuery())
    (request,) = client.requests
    assert (request["index"], request["size"]) == (
        "log.index",
        51,
    )  # one more than shown
    assert "search_after" not in request
    assert [list(field) for field in request["sort"]] == [
        ["@timestamp"],
        ["partition"],
        ["offset"],
    ]
    assert request["ignore_unavailable"]
    assert not request["allow_partial_search_results"]


def test_documents_become_logs() -> None:
    found = newest(FakeClient(Answer(DOCUMENT, relation="gte")), LogQuery())
    assert found == LogPage(
        logs=(
            EnrichedLog(
                accessed_at="2026-03-01T10:20:30.456Z",
                uuid="0b1c6b1e-6f0f-4d3b-9a57-0d6f4d1f2a01",
                uri="/x",
                name="kafka",
                redis_key="kafka",
                redis_value="https://kafka.apache.org/",
                test_id=2,
                test_name="kafka",
                state="complete",
                missing=(),
            ),
        ),
        total=1,
        total_is_exact=False,
        anything_indexed=True,
    )


def test_a_full_page_has_the_cursor_of_the_next_one() -> None:
    assert newest(FakeClient(Answer(*[DOCUMENT] * 50)), LogQuery()).older is None
    found = newest(FakeClient(Answer(*[DOCUMENT] * 51)), LogQuery())
    assert len(found.logs) == 50
    assert found.older == Cursor(9_000 - 49, 3, 7, reach=10 * 49 + 50)


def test_an_older_page_is_searched_near_its_cursor_first() -> None:
    client = FakeClient(Answer(*[DOCUMENT] * 50), Answer(*[DOCUMENT] * 9), Answer(DOCUMENT))
    found = newest(client, LogQuery(name="kafka", after=Cursor(9_000, 3, 7, reach=20)))
    near, farther, everywhere = client.requests
    for request in (near, farther, everywhere):
        assert request["search_after"] == [9_000, 3, 7]
        assert request["track_total_hits"] is False
        assert "from" not in request
    name = {"term": {"name": "kafka"}}
    for request, start in ((near, 8_980), (farther, 7_000)):
        bounds = {"range": {"@timestamp": {"gte": start, "format": "epoch_millis"}}}
        assert request["query"] == {"bool": {"filter": [bounds, name]}}
    assert everywhere["query"] == {"bool": {"filter": [name]}}
    assert len(found.logs) == 1


def test_a_link_keeps_the_filters() -> None:
    cursor = Cursor(2, 3, 4, reach=5)
    query = LogQuery(name="a&b=c", uri="/x?y=%20", after=Cursor(1, 2, 3, reach=4))
    assert query.link() == "/analysis?name=a%26b%3Dc&uri=%2Fx%3Fy%3D%2520"
    assert query.link(after=cursor) == f"{query.link()}&after={cursor.token}"
    assert query.link(before=cursor) == f"{query.link()}&before={cursor.token}"
    assert LogQuery().link() == "/analysis"


@given(st.builds(Cursor, *[st.integers(-(2**63), 2**63 - 1)] * 3, st.integers(0, 2**63 - 1)))
def test_a_cursor_is_restored_from_a_link(cursor: Cursor) -> None:
    assert Cursor.from_token(cursor.token) == cursor


@given(st.text() | st.binary().map(lambda raw: urlsafe_b64encode(raw).decode()))
def test_an_invalid_token_is_a_value_error(token: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Cursor.from_token(token)


RANKED = {
    "kind": "name",
    "rank": 1,
    "key": "kafka",
    "accesses": 2,
    "window_seconds": 3_600,
    "events": 2,
    "computed_at": "2026-03-01T12:00:00Z",
}
COMPUTED_HOUR = {
    "hour": "2026-03-01T12:00:00Z",
    "accesses": 2,
    "distinct_names": 1,
    "distinct_uris": 1,
    "complete": 2,
    "share_complete": 1.0,
    "dead_letters": 0,
}


@pytest.mark.parametrize(
    ("path", "insights", "searches"),
    [
        ("/analysis", [RANKED, COMPUTED_HOUR], 3),  # logs, ranking, hours
        ("/analysis?name=kafka&uri=/", [DOCUMENT, DOCUMENT], 3),  # logs, times, names and URIs
        (f"/analysis?after={Cursor(1, 2, 3, reach=4).token}", [], 1),
    ],
)
def test_a_page_needs_few_searches(
    settings: SiteSettings, path: str, insights: list[dict[str, Any]], searches: int
) -> None:
    client: Any = FakeClient(Answer(*[DOCUMENT] * 51), *map(Answer, insights))
    logs, read = ElasticsearchLogs(client), ElasticsearchInsights(client)
    app = create_app(
        settings,
        sinks=Sinks(FakeSink(), FakeSink()),
        searches=Searches(logs, FakeNotes(), read, FakeFreshness()),
    )
    with TestClient(app) as reader:
        reader.get(path).raise_for_status()
    assert len(client.requests) == searches


def test_a_document_without_fields_is_a_log() -> None:
    (log,) = newest(FakeClient(Answer({})), LogQuery()).logs
    assert (log.uuid, log.test_id, log.state, log.missing) == ("", None, "", ())


def test_no_hit_without_a_filter_means_that_nothing_is_indexed() -> None:
    client = FakeClient(Answer())
    assert not newest(client, LogQuery()).anything_indexed
    assert len(client.requests) == 1


def test_a_filter_without_hits_is_followed_by_a_search_without_it() -> None:
    assert newest(FakeClient(Answer(), Answer(DOCUMENT)), LogQuery(name="x")).anything_indexed
    assert not newest(FakeClient(Answer(), Answer()), LogQuery(name="x")).anything_indexed


@pytest.mark.parametrize("status", [404, 503])
def test_a_search_is_repeated_when_its_index_disappears(status: int) -> None:
    """An index swap replaces it."""
    found = newest(FakeClient(api_error(status), Answer(DOCUMENT)), LogQuery())
    assert len(found.logs) == 1
    with pytest.raises(SearchUnavailable, match=str(status)):
        newest(FakeClient(api_error(status), api_error(status)), LogQuery())


def test_a_rejected_search_is_not_repeated() -> None:
    with pytest.raises(SearchUnavailable, match="400"):
        newest(FakeClient(api_error(400)), LogQuery())


def test_a_connection_error_is_reported_as_unavailable() -> None:
    async def ask() -> None:
        async with connection("http://127.0.0.1:1", 2.0) as client:
            logs = ElasticsearchLogs(client)
            with pytest.raises(SearchUnavailable, match="ConnectionError"):
                await logs.newest(LogQuery())
            with pytest.raises(SearchUnavailable, match="ConnectionError"):
                await logs.ping()

    anyio.run(ask)


def test_names_of_many_logs_are_counted_in_a_sample() -> None:
    many, some = Answer(), Answer()
    many.body["hits"]["total"]["value"] = 10 * SAMPLE_SIZE
    buckets = {"buckets": [{"key": "kafka", "doc_count": 7}]}
    some.body["aggregations"] = {"sample": {"name": buckets, "uri": buckets}}
    client = FakeClient(many, some)
    summary = anyio.run(
        ElasticsearchLogs(client).summary,  # type: ignore[arg-type]  # only its one method
        LogQuery(),
        datetime.now(UTC),
    )
    assert summary.sampled == SAMPLE_SIZE
    assert client.requests[1]["aggs"]["sample"]["random_sampler"]["probability"] == 0.1
