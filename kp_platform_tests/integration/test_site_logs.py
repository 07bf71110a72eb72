"""Searching logs in a real Elasticsearch."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import anyio
import pytest
from elasticsearch import Elasticsearch

from kp_platform_tests.stack import ROOT, Stack
from web_emitter.site.analysis.log_query import LogQuery, Period
from web_emitter.site.analysis.logs import (
    ElasticsearchLogs,
    EnrichedLog,
    LogPage,
    Summary,
)
from web_emitter.site.search import Cursor, connection

MAPPING = ROOT / "kp_platform" / "flows" / "access_log" / "mapping.json"
NOON = 1_772_366_400_000  # 2026-03-01, in milliseconds since the epoch


@pytest.fixture
def real(stack: Stack) -> Iterator[Callable[[LogQuery], LogPage]]:
    """The search in an index with the mapping of the platform: sixty events of one millisecond,
    ten a minute apart, sixty an hour apart."""
    url, index = stack.settings.elasticsearch_url, f"test-logs-{uuid4()}"
    moments = [0] * 60 + [60_000 * n for n in range(1, 11)] + [3_600_000 * n for n in range(1, 61)]
    with closing(Elasticsearch(url, request_timeout=60)) as client:
        client.indices.create(
            index=index, mappings=json.loads(MAPPING.read_bytes())["template"]["mappings"]
        )
        operations: list[dict[str, Any]] = []
        for number, moment in enumerate(moments):
            position = {"@timestamp": NOON - moment, "partition": number % 4, "offset": number}
            operations += [{"index": {}}, position | {"uuid": f"{number}"}]
        assert not client.bulk(index=index, operations=operations, refresh=True)["errors"]

        def find(query: LogQuery) -> LogPage:
            async def ask() -> LogPage:
                async with connection(url, 60) as reader:
                    return await ElasticsearchLogs(reader, index).newest(query)

            return anyio.run(ask)

        yield find
        client.indices.delete(index=index)


def test_pages_show_each_log_once_and_the_newest_first(
    real: Callable[[LogQuery], LogPage],
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
def test_no_cursor_is_an_error(real: Callable[[LogQuery], LogPage], number: int) -> None:
    for cursor in (
        Cursor(number, 0, 0, reach=0),
        Cursor(NOON, number, 0, reach=0),
        Cursor(NOON, 0, number, reach=0),
        Cursor(NOON, 0, 0, reach=max(0, number)),
    ):
        assert real(LogQuery(after=cursor)).anything_indexed


@pytest.fixture
def written(stack: Stack) -> Iterator[Callable[..., Any]]:
    """Calls a method of the search in an index of these few logs."""
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
            position = {"@timestamp": NOON + 60_000 * minutes, "partition": 0, "offset": number}
            document = position | {"uuid": f"{number}", "uri": uri, "name": name}
            client.index(index=index, document=document)
        client.indices.refresh(index=index)

        def run(method: str, *arguments: Any) -> Any:
            async def ask() -> Any:
                async with connection(url, 60) as reader:
                    answer = getattr(ElasticsearchLogs(reader, index), method)(*arguments)
                    if method == "all":
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
def test_words_match_in_uri_and_name(
    written: Callable[..., Any], words: str, found: set[str]
) -> None:
    answer: LogPage = written("newest", LogQuery(words=words))
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


def test_one_document_is_found_by_its_uuid(written: Callable[..., Any]) -> None:
    assert written("one", "2").source["uri"] == "/hello"
    assert written("one", "9") is None


def test_all_documents_come_in_order_up_to_the_limit(
    written: Callable[..., Any],
) -> None:
    assert [each["uuid"] for each in written("all", LogQuery(), 100)] == ["3", "2", "1", "0"]
    assert [each["uuid"] for each in written("all", LogQuery(name="kafka"), 1)] == ["1"]


def test_newer_pages_equal_the_ones_before(real: Callable[[LogQuery], LogPage]) -> None:
    pages: list[LogPage] = [real(LogQuery())]
    while after := pages[-1].older:
        pages.append(real(LogQuery(after=after)))
    assert [len(page.logs) for page in pages] == [50, 50, 30]
    back = real(LogQuery(before=pages[2].newer))
    assert back.logs == pages[1].logs
    assert real(LogQuery(before=back.newer)).logs == pages[0].logs
    assert real(LogQuery(before=back.newer)).newer is None
