"""Questions for logs to Elasticsearch, and documents as values."""

from base64 import urlsafe_b64encode
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from kp_platform_tests.web_emitter.fakes import FakeNotes, FakeSink
from web_emitter.app import Searches, Sinks, create_app
from web_emitter.events import MAX_URI_LENGTH
from web_emitter.insights import ElasticsearchInsights
from web_emitter.logs import ElasticsearchLogs, EnrichedLog, Found, LogQuery
from web_emitter.search import Cursor, SearchUnavailable, connection
from web_emitter.settings import Settings

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
    """What the client returns: an object with a body."""

    def __init__(self, *documents: dict[str, Any], relation: str = "eq") -> None:
        self.body = {
            "hits": {
                "total": {"value": len(documents), "relation": relation},
                "hits": [
                    {"_source": document, "sort": [1_000 + number, document.get("uuid")]}
                    for number, document in enumerate(documents)
                ],
            }
        }

    def __getitem__(self, key: str) -> Any:
        return self.body[key]


class FakeClient:
    """The one verb that the search uses; gives its answers in turn and keeps the questions."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self.questions: list[dict[str, Any]] = []

    async def search(self, **question: Any) -> Answer:
        self.questions.append(question)
        return self._answers.pop(0)


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
        (  # the longest prefix that Elasticsearch takes
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


def test_the_newest_fifty_are_asked_for_in_a_total_order() -> None:
    client = FakeClient(Answer(DOCUMENT))
    newest(client, LogQuery())
    (question,) = client.questions
    assert (question["index"], question["size"]) == ("log.index", 51)  # one tells of more
    assert "search_after" not in question
    assert [list(field) for field in question["sort"]] == [["@timestamp"], ["uuid"]]
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


def test_a_full_page_tells_where_the_next_one_begins() -> None:
    assert newest(FakeClient(Answer(*[DOCUMENT] * 50)), LogQuery()).more_after is None
    found = newest(FakeClient(Answer(*[DOCUMENT] * 51)), LogQuery())
    assert len(found.logs) == 50
    assert found.more_after == Cursor(1_049, str(DOCUMENT["uuid"]))


def test_a_later_page_is_asked_for_by_its_place() -> None:
    client = FakeClient(Answer(DOCUMENT))
    newest(client, LogQuery(name="kafka", after=Cursor(1_049, "u")))
    (question,) = client.questions
    assert question["search_after"] == [1_049, "u"]
    assert question["track_total_hits"] is False
    assert "from" not in question
    assert question["query"] == LogQuery(name="kafka").as_elasticsearch()


def test_a_link_keeps_the_filters() -> None:
    query = LogQuery(name="a&b=c", uri="/x?y=%20", after=Cursor(1, "u"))
    assert query.link() == "/analysis?name=a%26b%3Dc&uri=%2Fx%3Fy%3D%2520"
    assert query.link(Cursor(2, "v")) == f"{query.link()}&after={Cursor(2, 'v').token}"
    assert LogQuery().link() == "/analysis"


@given(st.integers(-(2**63) + 1, 2**63 - 1), st.text(st.characters(codec="utf-8"), max_size=36))
def test_a_place_survives_a_link(milliseconds: int, uuid: str) -> None:
    place = Cursor(milliseconds, uuid)
    assert Cursor.from_token(place.token) == place


@given(st.text() | st.binary().map(lambda raw: urlsafe_b64encode(raw).decode()))
def test_what_is_no_token_is_a_value_error(token: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Cursor.from_token(token)


@pytest.mark.parametrize(
    ("path", "searches"),
    [
        ("/analysis", 3),  # logs, ranking, hours
        ("/analysis?name=kafka&uri=/", 1),
        (f"/analysis?after={Cursor(1, 'u').token}", 1),
    ],
)
def test_a_page_costs_few_searches(settings: Settings, path: str, searches: int) -> None:
    client: Any = FakeClient(*[Answer(DOCUMENT)] * 3)
    logs, insights = ElasticsearchLogs(client), ElasticsearchInsights(client)
    app = create_app(
        settings,
        sinks=Sinks(FakeSink(), FakeSink()),
        searches=Searches(logs=logs, notes=FakeNotes(), insights=insights),
    )
    with TestClient(app) as reader:
        reader.get(path).raise_for_status()
    assert len(client.questions) == searches


def test_a_document_of_another_hand_without_fields_is_still_a_log() -> None:
    (log,) = newest(FakeClient(Answer({})), LogQuery()).logs
    assert (log.uuid, log.test_id, log.state, log.missing) == ("", None, "", ())


def test_without_a_filter_no_hit_means_nothing_indexed() -> None:
    client = FakeClient(Answer())
    assert not newest(client, LogQuery()).anything_indexed
    assert len(client.questions) == 1


def test_with_a_filter_no_hit_is_asked_again_without_it() -> None:
    assert newest(FakeClient(Answer(), Answer(DOCUMENT)), LogQuery(name="x")).anything_indexed
    assert not newest(FakeClient(Answer(), Answer()), LogQuery(name="x")).anything_indexed


def test_an_elasticsearch_that_is_not_there_is_unavailable() -> None:
    async def ask() -> None:
        async with connection("http://127.0.0.1:1", 2.0) as client:
            logs = ElasticsearchLogs(client)
            with pytest.raises(SearchUnavailable, match="ConnectionError"):
                await logs.newest(LogQuery())
            with pytest.raises(SearchUnavailable, match="ConnectionError"):
                await logs.ping()

    anyio.run(ask)
