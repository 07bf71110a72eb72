"""Queries for logs to Elasticsearch, and documents as values."""

import json
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import anyio
import pytest
from elastic_transport import ApiResponseMeta, HttpHeaders, NodeConfig
from elasticsearch import ApiError, Elasticsearch
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from kp_platform_tests.stack import ROOT, Stack
from kp_platform_tests.unit.web_emitter.fakes import FakeFreshness, FakeNotes, FakeSink
from web_emitter.emitter.events import MAX_URI_LENGTH
from web_emitter.emitter.settings import Settings
from web_emitter.site.app import Searches, Sinks, create_app
from web_emitter.site.insights import ElasticsearchInsights
from web_emitter.site.log_query import LogQuery, Period
from web_emitter.site.logs import SAMPLE, ElasticsearchLogs, EnrichedLog, Found, Summary
from web_emitter.site.search import Cursor, SearchUnavailable, connection

MAPPING = ROOT / "kp_platform" / "flows" / "access_log" / "mapping.json"
NOON = 1_772_366_400_000  # 2026-03-01, in milliseconds since the epoch
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
    """The one method that the search uses. Returns responses in turn and records the queries."""

    def __init__(self, *answers: Answer | ApiError) -> None:
        self._answers = list(answers)
        self.questions: list[dict[str, Any]] = []

    async def search(self, **question: Any) -> Answer:
        self.questions.append(question)
        answer = self._answers.pop(0)
        if isinstance(answer, ApiError):
            raise answer
        return answer


def refusal(status: int) -> ApiError:
    meta = ApiResponseMeta(status, "1.1", HttpHeaders(), 0.0, NodeConfig("http", "x", 1))
    return ApiError("refused", meta, {})


def newest(client: FakeClient, query: LogQuery) -> Found:
    logs = ElasticsearchLogs(client)  # type: ignore[arg-type]  # only its one verb
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
        (  # over it, the whole URI is meant
            LogQuery(uri="/" * 1_001),
            {"bool": {"filter": [{"term": {"uri": "/" * 1_001}}]}},
        ),
        (  # the event was cut there too
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


def test_the_newest_fifty_are_queried_in_a_total_order() -> None:
    client = FakeClient(Answer(DOCUMENT))
    newest(client, LogQuery())
    (question,) = client.questions
    assert (question["index"], question["size"]) == (
        "log.index",
        51,
    )  # the last one shows that there are more
    assert "search_after" not in question
    assert [list(field) for field in question["sort"]] == [
        ["@timestamp"],
        ["partition"],
        ["offset"],
    ]
    assert question["ignore_unavailable"]
    assert not question["allow_partial_search_results"]


def test_documents_become_logs() -> None:
    found = newest(FakeClient(Answer(DOCUMENT, relation="gte")), LogQuery())
    assert found == Found(
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


def test_a_full_page_has_a_cursor_of_the_next_page() -> None:
    assert newest(FakeClient(Answer(*[DOCUMENT] * 50)), LogQuery()).older is None
    found = newest(FakeClient(Answer(*[DOCUMENT] * 51)), LogQuery())
    assert len(found.logs) == 50
    assert found.older == Cursor(9_000 - 49, 3, 7, reach=10 * 49 + 50)


def test_an_older_page_is_searched_near_its_cursor_first() -> None:
    client = FakeClient(Answer(*[DOCUMENT] * 50), Answer(*[DOCUMENT] * 9), Answer(DOCUMENT))
    found = newest(client, LogQuery(name="kafka", after=Cursor(9_000, 3, 7, reach=20)))
    near, farther, everywhere = client.questions
    for question in (near, farther, everywhere):
        assert question["search_after"] == [9_000, 3, 7]
        assert question["track_total_hits"] is False
        assert "from" not in question
    name = {"term": {"name": "kafka"}}
    for question, start in ((near, 8_980), (farther, 7_000)):
        interval = {"range": {"@timestamp": {"gte": start, "format": "epoch_millis"}}}
        assert question["query"] == {"bool": {"filter": [interval, name]}}
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
def test_a_cursor_survives_a_link(cursor: Cursor) -> None:
    assert Cursor.from_token(cursor.token) == cursor


@pytest.fixture
def real(stack: Stack) -> Iterator[Callable[[LogQuery], Found]]:
    """The search in an index with the platform's mapping: sixty events of one millisecond,
    ten a minute apart, sixty an hour apart."""
    url, index = stack.settings.elasticsearch_url, f"test-logs-{uuid4()}"
    moments = [0] * 60 + [60_000 * n for n in range(1, 11)] + [3_600_000 * n for n in range(1, 61)]
    with closing(Elasticsearch(url, request_timeout=60)) as client:
        client.indices.create(
            index=index, mappings=json.loads(MAPPING.read_bytes())["template"]["mappings"]
        )
        operations: list[dict[str, Any]] = []
        for number, moment in enumerate(moments):
            key = {"@timestamp": NOON - moment, "partition": number % 4, "offset": number}
            operations += [{"index": {}}, key | {"uuid": f"{number}"}]
        assert not client.bulk(index=index, operations=operations, refresh=True)["errors"]

        def find(query: LogQuery) -> Found:
            async def ask() -> Found:
                async with connection(url, 60) as reader:
                    return await ElasticsearchLogs(reader, index).newest(query)

            return anyio.run(ask)

        yield find
        client.indices.delete(index=index)


def test_pages_show_each_log_once_and_the_newest_first(
    real: Callable[[LogQuery], Found],
) -> None:
    shown: list[EnrichedLog] = []
    pages, after = 0, None
    while pages == 0 or after:
        found = real(LogQuery(after=after))
        pages, after = pages + 1, found.older
        shown += found.logs
    assert pages == 3
    assert sorted(int(log.uuid) for log in shown) == list(range(130))
    assert [log.accessed_at for log in shown] == sorted(
        (log.accessed_at for log in shown), reverse=True
    )


@pytest.mark.parametrize("number", [-(2**63), -1, 0, 2**31 - 1, 2**63 - 1])
def test_no_cursor_is_an_error(real: Callable[[LogQuery], Found], number: int) -> None:
    for cursor in (
        Cursor(number, 0, 0, reach=0),
        Cursor(NOON, number, 0, reach=0),
        Cursor(NOON, 0, number, reach=0),
        Cursor(NOON, 0, 0, reach=max(0, number)),
    ):
        assert real(LogQuery(after=cursor)).anything_indexed


@given(st.text() | st.binary().map(lambda raw: urlsafe_b64encode(raw).decode()))
def test_an_invalid_token_is_a_value_error(token: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Cursor.from_token(token)


PLACE = {
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
        ("/analysis", [PLACE, COMPUTED_HOUR], 3),  # logs, ranking, hours
        ("/analysis?name=kafka&uri=/", [DOCUMENT, DOCUMENT], 3),  # logs, times, names and URIs
        (f"/analysis?after={Cursor(1, 2, 3, reach=4).token}", [], 1),
    ],
)
def test_a_page_costs_few_searches(
    settings: Settings, path: str, insights: list[dict[str, Any]], searches: int
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
    assert len(client.questions) == searches


def test_a_document_without_fields_is_a_log() -> None:
    (log,) = newest(FakeClient(Answer({})), LogQuery()).logs
    assert (log.uuid, log.test_id, log.state, log.missing) == ("", None, "", ())


def test_no_hit_without_a_filter_means_nothing_indexed() -> None:
    client = FakeClient(Answer())
    assert not newest(client, LogQuery()).anything_indexed
    assert len(client.questions) == 1


def test_no_hit_with_a_filter_is_queried_again_without_it() -> None:
    assert newest(FakeClient(Answer(), Answer(DOCUMENT)), LogQuery(name="x")).anything_indexed
    assert not newest(FakeClient(Answer(), Answer()), LogQuery(name="x")).anything_indexed


@pytest.mark.parametrize("status", [404, 503])
def test_a_search_is_repeated_when_an_index_disappears(status: int) -> None:
    """A replay has swapped the index."""
    found = newest(FakeClient(refusal(status), Answer(DOCUMENT)), LogQuery())
    assert len(found.logs) == 1
    with pytest.raises(SearchUnavailable, match=str(status)):
        newest(FakeClient(refusal(status), refusal(status)), LogQuery())


def test_a_refused_search_is_not_repeated() -> None:
    with pytest.raises(SearchUnavailable, match="400"):
        newest(FakeClient(refusal(400)), LogQuery())


def test_an_unreachable_elasticsearch_is_unavailable() -> None:
    async def ask() -> None:
        async with connection("http://127.0.0.1:1", 2.0) as client:
            logs = ElasticsearchLogs(client)
            with pytest.raises(SearchUnavailable, match="ConnectionError"):
                await logs.newest(LogQuery())
            with pytest.raises(SearchUnavailable, match="ConnectionError"):
                await logs.ping()

    anyio.run(ask)


@pytest.fixture
def written(stack: Stack) -> Iterator[Callable[..., Any]]:
    """Calls a method of the search on an index with these logs."""
    url, index = stack.settings.elasticsearch_url, f"test-logs-{uuid4()}"
    template = json.loads(MAPPING.read_bytes())["template"]
    logs = [
        ("/articles/12?page=3", "kafka", 0),
        ("/articles/13", "kafka", 1),
        ("/hello", "presto", 1),
        ("/caf%C3%A9", "two words", 90),
    ]
    with closing(Elasticsearch(url, request_timeout=60)) as client:
        client.indices.create(index=index, mappings=template["mappings"])
        for number, (uri, name, minutes) in enumerate(logs):
            key = {"@timestamp": NOON + 60_000 * minutes, "partition": 0, "offset": number}
            document = key | {"uuid": f"{number}", "uri": uri, "name": name}
            client.index(index=index, document=document)
        client.indices.refresh(index=index)

        def run(verb: str, *arguments: Any) -> Any:
            async def ask() -> Any:
                async with connection(url, 60) as reader:
                    answer = getattr(ElasticsearchLogs(reader, index), verb)(*arguments)
                    if verb == "all":
                        return [each async for batch in answer for each in batch]
                    return await answer

            return anyio.run(ask)

        yield run
        client.indices.delete(index=index)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("articles", {"0", "1"}),
        ("articles 12", {"0"}),
        ("ARTICLES -12", {"1"}),
        ("kafka articles", {"0", "1"}),  # one word in the URI, one in the name
        ("art*", {"0", "1"}),
        ("two", {"3"}),
        ("page 3", {"0"}),
        ("kaf", set()),
        ('"', set()),
        ("(((", set()),
    ],
)
def test_words_are_found_in_uri_and_name(
    written: Callable[..., Any], words: str, found: set[str]
) -> None:
    answer: Found = written("newest", LogQuery(words=words))
    assert {log.uuid for log in answer.logs} == found


def test_a_summary_counts_times_names_and_uris(written: Callable[..., Any]) -> None:
    start = datetime.fromtimestamp(NOON / 1_000, UTC)
    period = Period(start=start, end=start + timedelta(minutes=60))
    summary: Summary = written("summary", LogQuery(period=period), start)
    minute = timedelta(minutes=1)
    assert (summary.total, summary.step, summary.sampled) == (3, minute, None)
    assert summary.counts == {start: 1, start + minute: 2}
    assert [(each.key, each.accesses) for each in summary.names] == [("kafka", 2), ("presto", 1)]
    assert {each.key for each in summary.uris} == {"/articles/12?page=3", "/articles/13", "/hello"}


def test_a_summary_of_nothing_is_empty(written: Callable[..., Any]) -> None:
    summary: Summary = written("summary", LogQuery(name="nobody"), datetime.now(UTC))
    assert (summary.total, summary.counts, summary.names) == (0, {}, ())


def test_names_of_many_logs_are_counted_in_a_sample() -> None:
    many, some = Answer(), Answer()
    many.body["hits"]["total"]["value"] = 10 * SAMPLE
    buckets = {"buckets": [{"key": "kafka", "doc_count": 7}]}
    some.body["aggregations"] = {"sample": {"name": buckets, "uri": buckets}}
    client = FakeClient(many, some)
    summary = anyio.run(
        ElasticsearchLogs(client).summary,  # type: ignore[arg-type]  # only its one verb
        LogQuery(),
        datetime.now(UTC),
    )
    assert summary.sampled == SAMPLE
    assert client.questions[1]["aggs"]["sample"]["random_sampler"]["probability"] == 0.1


def test_one_document_is_found_by_its_uuid(written: Callable[..., Any]) -> None:
    assert written("one", "2").source["uri"] == "/hello"
    assert written("one", "9") is None


def test_all_documents_are_sorted_and_limited(
    written: Callable[..., Any],
) -> None:
    assert [each["uuid"] for each in written("all", LogQuery(), 100)] == ["3", "2", "1", "0"]
    assert [each["uuid"] for each in written("all", LogQuery(name="kafka"), 1)] == ["1"]


def test_pages_lead_back_to_the_previous_ones(real: Callable[[LogQuery], Found]) -> None:
    pages: list[Found] = [real(LogQuery())]
    while after := pages[-1].older:
        pages.append(real(LogQuery(after=after)))
    assert [len(page.logs) for page in pages] == [50, 50, 30]
    back = real(LogQuery(before=pages[2].newer))
    assert back.logs == pages[1].logs
    assert real(LogQuery(before=back.newer)).logs == pages[0].logs
    assert real(LogQuery(before=back.newer)).newer is None
