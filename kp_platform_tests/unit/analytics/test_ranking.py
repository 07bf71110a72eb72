"""The ranking over servers in memory: order, replacement, and when it is due."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlglot
import sqlglot.expressions

from kp_platform.analytics.ranking import MAPPING, SQL_PATH, Ranking, RankingConflict, most_accessed
from kp_platform.engine.bulk import create, delete
from kp_platform.engine.counting import iso
from kp_platform.engine.indexer import Indexer, Limits
from kp_platform.engine.ports import Servers
from kp_platform.flows.builtin import ACCESS_LOG
from kp_platform_tests.fakes import FakeElasticsearch, FakeKafka, FakeMySQL, FakeRedis, FakeTrino
from kp_platform_tests.stack import ROOT

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


class Harness:
    """A ranking on fakes, with methods that fill the log and the topic."""

    def __init__(self) -> None:
        self.kafka, self.mysql, self.redis = FakeKafka(), FakeMySQL(), FakeRedis()
        self.store = FakeElasticsearch()
        self.trino = FakeTrino(self.kafka, self.mysql, self.redis)
        self.kafka.create_topics({ACCESS_LOG.topic: 2})
        self.ranking = Ranking(
            flow=ACCESS_LOG,
            log=self.kafka,
            engine=self.trino,
            store=self.store,
            ranking_store=self.redis,
            window_seconds=3600,
            size=3,
        )
        self._count = 0

    def accessed(self, *names: str, at: datetime = NOON - MINUTE) -> list[str]:
        """Documents of the access log, one for each name; their ids."""
        ids = []
        for name in names:
            self._count += 1
            ids.append(f"id-{self._count}")
            body = {"@timestamp": iso(at), "name": name, "uri": f"/{name}"}
            self.store.bulk(create("log.index-2026.03.01", ids[-1], json.dumps(body).encode()))
        self.store.refresh(ACCESS_LOG.index)
        return ids

    def documents(self, kind: str) -> list[dict[str, Any]]:
        found = self.store.find("access.ranking", "kind", kind)
        return sorted((each.source for each in found), key=lambda each: each["rank"])


@pytest.fixture
def harness() -> Harness:
    return Harness()


@pytest.mark.parametrize(
    ("counted", "expected"),
    [
        ([("a", 1), ("b", 3), ("c", 2)], [("b", 3), ("c", 2), ("a", 1)]),  # by accesses
        ([("b", 1), ("c", 1), ("a", 1)], [("c", 1), ("b", 1), ("a", 1)]),  # then as ZREVRANGE
        ([("Z", 1), ("é", 1), ("😀", 1)], [("😀", 1), ("é", 1), ("Z", 1)]),  # by bytes
        ([("", 5)], [("", 5)]),  # an anonymous visitor
        ([("a", 1), ("b", 1), ("c", 1), ("d", 1)], [("d", 1), ("c", 1), ("b", 1)]),  # at most three
        ([], []),
    ],
)
def test_the_order_of_ranked_keys(
    counted: Sequence[tuple[str, int]], expected: list[tuple[str, int]]
) -> None:
    assert most_accessed(counted, 3) == expected


def test_the_ranking_is_stored_in_redis_and_in_the_index(harness: Harness) -> None:
    harness.mysql.rows["presto"] = 7
    harness.redis.stored["presto"] = "https://prestodb.io/"
    harness.accessed("presto", "kafka", "presto", "a", "b")
    report = harness.ranking.compute(NOON)
    assert (report.events, report.ranked) == (5, {"name": 3, "uri": 3})
    assert harness.redis.highest("ranking:names", 10) == [("presto", 2), ("kafka", 1), ("b", 1)]
    assert harness.redis.highest("ranking:uris", 1) == [("/presto", 2)]
    first, second, third = harness.documents("name")
    assert first == {
        "kind": "name",
        "rank": 1,
        "key": "presto",
        "accesses": 2,
        "test_id": 7,
        "test_name": "presto",
        "created_at": "2026-03-01T00:00:00Z",
        "redis_value": "https://prestodb.io/",
        "last_uri": None,
        "last_uuid": None,
        "last_accessed_at": None,
        "window_seconds": 3600,
        "events": 5,
        "computed_at": "2026-03-01T12:00:00.000Z",
    }
    assert [second["key"], third["key"]] == ["kafka", "b"]
    assert harness.documents("uri")[0]["redis_value"] is None


def test_events_outside_the_window_are_not_ranked(harness: Harness) -> None:
    harness.accessed("a", at=NOON - 61 * MINUTE)
    harness.accessed("b", at=NOON - 60 * MINUTE)  # the first moment of the window
    harness.accessed("c", at=NOON)  # its end is not part of it
    assert harness.ranking.compute(NOON).events == 1
    assert harness.redis.highest("ranking:names", 10) == [("b", 1)]
    assert harness.ranking.compute(NOON + 61 * MINUTE).events == 0
    assert harness.redis.highest("ranking:names", 10) == []
    assert harness.documents("name") == harness.documents("uri") == []
    assert list(harness.redis.hashes) == ["ranking:state"]


def test_the_latest_events_are_searched_among_indexed_and_decodable_offsets(
    harness: Harness,
) -> None:
    limits = Limits(slice_rows=50, bulk_rows=50, follow_idle_seconds=0, max_run_seconds=60)
    indexer = Indexer(ACCESS_LOG, Servers(harness.kafka, harness.trino, harness.store), limits)
    for number in range(9):
        uuid = f"00000000-0000-4000-8000-00000000000{number}"
        value = json.dumps({"uuid": uuid, "uri": "/", "name": "presto"}).encode()
        harness.kafka.produce(ACCESS_LOG.topic, value, number % 2)
    harness.trino.poison.add((0, 1))
    list(indexer.run())
    harness.kafka.produce(ACCESS_LOG.topic, b"not indexed yet", 1)
    ranking = replace(harness.ranking, recent_offsets=3)
    ranking.compute(datetime(2026, 3, 1, 0, 1, tzinfo=UTC))
    assert harness.trino.queries[-1] == [0, 2, 5, 1, 1, 4]
    [found] = harness.documents("name")
    assert found["last_uuid"] == "00000000-0000-4000-8000-000000000008"


def test_an_empty_topic_is_queried_past_its_end(harness: Harness) -> None:
    harness.accessed("presto")
    harness.ranking.compute(NOON)
    assert harness.trino.queries == [[0, 0, 1]]


def test_a_ranking_replaced_by_another_run_is_a_conflict(harness: Harness) -> None:
    harness.accessed("presto")
    harness.trino.before_answer = lambda: replace(harness.ranking, size=1).compute(NOON + MINUTE)
    with pytest.raises(RankingConflict, match="another ranking than that of 2026-03-01T12:00:00"):
        harness.ranking.compute(NOON)
    assert harness.documents("name")[0]["computed_at"] == iso(NOON + MINUTE)


def test_a_first_ranking_is_due_when_there_are_accesses(harness: Harness) -> None:
    assert harness.ranking.is_due(NOON, 60) == (False, "0 events in the last 3600 s, never ranked")
    harness.accessed("presto")
    assert harness.ranking.is_due(NOON, 60) == (True, "1 events in the last 3600 s, never ranked")


def test_a_ranking_is_due_only_when_an_access_entered_or_left_the_window(harness: Harness) -> None:
    [first] = harness.accessed("a", at=NOON - 59 * MINUTE)
    harness.accessed("b")
    harness.ranking.compute(NOON)
    assert harness.ranking.is_due(NOON, 0) == (False, "2 events in the last 3600 s, ranked 2")
    late = harness.accessed("c", at=NOON - 30 * MINUTE)
    assert harness.ranking.is_due(NOON, 0) == (True, "3 events in the last 3600 s, ranked 2")
    harness.ranking.compute(NOON)
    one_left_one_entered = NOON + 2 * MINUTE
    harness.accessed("d")
    assert harness.ranking.is_due(one_left_one_entered, 0) == (
        True,
        "3 events in the last 3600 s, ranked 3",
    )
    harness.store.bulk(
        delete("log.index-2026.03.01", first) + delete("log.index-2026.03.01", *late)
    )
    assert harness.ranking.is_due(NOON, 0)[0]


def test_a_ranking_is_not_due_within_its_pause(harness: Harness) -> None:
    harness.accessed("a")
    harness.ranking.compute(NOON)
    harness.accessed("b")
    assert harness.ranking.is_due(NOON + MINUTE / 2, 60) == (False, "ranked 1 events 30 s ago")
    assert harness.ranking.is_due(NOON + MINUTE, 60)[0]


def test_changed_settings_make_a_ranking_due(harness: Harness) -> None:
    harness.accessed("a")
    harness.ranking.compute(NOON)
    assert replace(harness.ranking, size=2).is_due(NOON, 0)[0]
    assert replace(harness.ranking, window_seconds=60 * 60 + 1).is_due(NOON, 0)[0]


def test_the_ranking_of_a_killed_run_is_due_again(harness: Harness) -> None:
    harness.accessed("a")
    harness.trino.failure = "the run is killed here"
    with pytest.raises(Exception, match="killed"):
        harness.ranking.compute(NOON)
    assert harness.redis.highest("ranking:names", 10) == [("a", 1)]
    assert harness.ranking.is_due(NOON, 60) == (True, "1 events in the last 3600 s, never ranked")


def test_the_file_can_be_pasted_into_the_trino_cli() -> None:
    text = SQL_PATH.read_text()
    assert "_partition_id = 0 AND _partition_offset >= 0 AND _partition_offset < 100" in text
    assert "?" not in text
    assert "ORDER BY entries.kind, entries.rank" in text


def test_the_columns_of_the_sql_are_the_fields_of_the_mapping() -> None:
    parsed = sqlglot.parse_one(SQL_PATH.read_text(), dialect="trino")
    assert isinstance(parsed, sqlglot.expressions.Select)
    mappings = json.loads(MAPPING.read_text())["mappings"]
    assert {*parsed.named_selects, "window_seconds", "events"} == set(mappings["properties"])
    assert mappings["dynamic"] == "strict"
    assert mappings["_meta"]["version"] >= 1


def test_the_table_file_matches_the_hashes(harness: Harness) -> None:
    harness.accessed("presto")
    harness.ranking.compute(NOON)
    table = json.loads((ROOT / "presto_etc" / "redis" / "ranking.json").read_text())
    assert table["key"]["name"] == "ranking:entries"
    fields = {field["name"]: field["mapping"] for field in table["value"]["fields"]}
    assert fields == {name: name for name in harness.redis.hash("ranking:name:1")}
    catalog = (ROOT / "presto_etc" / "catalog" / "red_tests.properties").read_text()
    assert f"{table['schemaName']}.{table['tableName']}" in catalog
