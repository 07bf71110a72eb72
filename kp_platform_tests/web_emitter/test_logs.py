"""Questions for logs to Elasticsearch, and documents as values."""

from typing import Any

import anyio
import pytest

from web_emitter.events import MAX_URI_LENGTH
from web_emitter.logs import ElasticsearchLogs, EnrichedLog, Found, LogQuery
from web_emitter.search import SearchUnavailable, connection

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
                "hits": [{"_source": document} for document in documents],
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
    assert (question["index"], question["size"]) == ("log.index", 50)
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
