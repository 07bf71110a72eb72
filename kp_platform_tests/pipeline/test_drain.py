"""The invariant on fakes: every offset below a position is indexed, dead, or in a recorded gap."""

import base64
import json
import uuid

import pytest

from kp_platform.flows import ACCESS_LOG
from kp_platform.pipeline.dead_letters import DEAD_INDEX, GAP_INDEX
from kp_platform.pipeline.drain import Limits, Pipeline
from kp_platform.pipeline.errors import (
    BulkOverloaded,
    IndexBlocked,
    QueryFailed,
    ShortAnswer,
    SliceTaken,
)
from kp_platform.pipeline.lag import partition_lags
from kp_platform.pipeline.store import ItemResult, Stored, create, send
from kp_platform.pipeline.stream import SliceReport
from kp_platform.reference import REFERENCE_VALUES, seed
from kp_platform_tests.fakes import FakeElasticsearch, FakeKafka, FakeMySQL, FakeRedis, FakeTrino

TOPIC = ACCESS_LOG.topic


class World:
    """A pipeline over fakes, with the topic made and the reference data loaded."""

    def __init__(self, slice_rows: int = 1000) -> None:
        self.kafka, self.mysql, self.redis = FakeKafka(), FakeMySQL(), FakeRedis()
        self.trino = FakeTrino(self.kafka, self.mysql, self.redis)
        self.store = FakeElasticsearch()
        self.kafka.create_topics({TOPIC: 3})
        seed(self.mysql, self.redis)
        limits = Limits(
            slice_rows=slice_rows, bulk_rows=7, follow_idle_seconds=0, max_run_seconds=30
        )
        self.pipeline = Pipeline(ACCESS_LOG, self.kafka, self.trino, self.store, limits)

    def access(self, count: int, name: str = "presto", partition: int | None = None) -> list[str]:
        ids = [str(uuid.uuid4()) for _ in range(count)]
        for number, identity in enumerate(ids):
            event = {"uuid": identity, "uri": f"/{identity}", "name": name}
            place = number % 3 if partition is None else partition
            self.kafka.produce(TOPIC, json.dumps(event).encode(), place)
        return ids

    def drain(self) -> list[SliceReport]:
        return [report for report in self.pipeline.drain() if report is not None]

    def stored(self, prefix: str) -> dict[str, Stored]:
        return {
            identity: stored
            for (index, identity), stored in self.store.documents.items()
            if index.startswith(prefix)
        }

    def lag(self) -> int:
        return sum(each.lag for each in partition_lags(ACCESS_LOG, self.kafka, self.store))


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def small_slices() -> World:
    return World(slice_rows=10)


def test_every_event_is_indexed_under_its_uuid_with_its_own_uri(world: World) -> None:
    ids = world.access(40)
    [report] = world.drain()
    documents = world.stored("log.index")
    assert sorted(documents) == sorted(ids)
    assert {key: each.source["uri"] for key, each in documents.items()} == {
        identity: f"/{identity}" for identity in ids
    }
    assert (report.rows, report.outcome.indexed, report.lag_after) == (40, 40, 0)
    assert world.lag() == 0


def test_each_document_carries_the_row_and_value_of_its_own_name(world: World) -> None:
    for name in REFERENCE_VALUES:
        world.access(5, name=name)
    world.drain()
    for stored in world.stored("log.index").values():
        name = stored.source["name"]
        assert stored.source["test_name"] == stored.source["redis_key"] == name
        assert stored.source["redis_value"] == REFERENCE_VALUES[name]
        assert stored.source["test_id"] == world.mysql.rows[name]


def test_an_event_without_reference_rows_is_indexed_all_the_same(world: World) -> None:
    ids = world.access(1, name="nobody")
    [report] = world.drain()
    assert world.stored("log.index")[ids[0]].source["enrichment"]["state"] == "none"
    assert report.missing == {"mysql": 1, "redis": 1}


def test_a_long_topic_is_read_in_slices_of_the_limit(small_slices: World) -> None:
    small_slices.access(95)
    reports = small_slices.drain()
    assert [report.rows for report in reports] == [10] * 9 + [5]
    assert len(small_slices.stored("log.index")) == 95


def test_a_second_run_finds_nothing_to_do(world: World) -> None:
    world.access(5)
    world.drain()
    assert world.drain() == []


def test_a_replay_of_the_same_offsets_adds_nothing(world: World) -> None:
    world.access(40)
    world.drain()
    before = world.stored("log.index")
    for key in [key for key in world.store.documents if key[0] == "kp.positions"]:
        del world.store.documents[key]
    [report] = world.drain()
    assert (report.outcome.indexed, report.outcome.already_there) == (0, 40)
    assert world.stored("log.index") == before


def test_a_run_killed_before_the_position_moved_is_redone_without_a_trace(world: World) -> None:
    world.access(20)
    state, held = world.pipeline.look()
    world.pipeline._index(
        state,
        world.pipeline.plan(state, held).slice or pytest.fail("nothing planned"),
        SliceReport(slice=None),
    )
    assert world.lag() == 20
    world.drain()
    assert len(world.stored("log.index")) == 20
    assert world.lag() == 0


def test_of_two_runs_on_the_same_slice_one_wins(world: World) -> None:
    world.access(20)
    state, held = world.pipeline.look()
    todo = world.pipeline.plan(state, held)
    world.pipeline.step(state, held, todo)
    with pytest.raises(SliceTaken):
        world.pipeline.step(state, held, todo)
    assert len(world.stored("log.index")) == 20
    assert world.lag() == 0


def test_the_loser_of_a_slice_ends_without_an_error(world: World) -> None:
    world.access(20)
    run = world.pipeline.drain()
    other = Pipeline(ACCESS_LOG, world.kafka, world.trino, world.store, world.pipeline.limits)
    query = world.trino.query

    def overtaken(sql: str, parameters: list[object]) -> object:
        world.trino.query = query  # type: ignore[method-assign]  # the other run comes first, once
        list(other.drain())
        return query(sql, parameters)

    world.trino.query = overtaken  # type: ignore[method-assign, assignment]  # see above
    assert list(run) == []
    assert len(world.stored("log.index")) == 20


def test_a_short_answer_fails_the_slice_and_moves_no_position(world: World) -> None:
    world.access(20)
    world.trino.drop = {(1, 3)}
    with pytest.raises(ShortAnswer, match="1 of 7 offsets of partition 1 did not come"):
        world.drain()
    assert world.lag() == 20


def test_a_failed_query_moves_no_position(world: World) -> None:
    world.access(20)
    world.trino.failure = "MySQL is down"
    with pytest.raises(QueryFailed, match="MySQL is down"):
        world.drain()
    assert world.lag() == 20
    assert world.stored("log.index") == {}


def test_a_malformed_message_becomes_a_dead_letter_with_its_bytes(world: World) -> None:
    ids = world.access(3, partition=1)
    world.kafka.produce(TOPIC, b"\xff not json", 1, key=b"k")
    ids += world.access(3, partition=1)
    [report] = world.drain()
    assert sorted(world.stored("log.index")) == sorted(ids)
    [letter] = world.stored(DEAD_INDEX).values()
    assert letter.source["reason"] == "not_json"
    assert (letter.source["partition"], letter.source["offset"]) == (1, 3)
    assert base64.b64decode(letter.source["value"]) == b"\xff not json"
    assert base64.b64decode(letter.source["key"]) == b"k"
    assert len(report.outcome.dead) == 1
    assert world.lag() == 0


def test_a_document_that_the_index_rejects_becomes_a_dead_letter(world: World) -> None:
    ids = world.access(9)
    world.store.refuse[ids[4]] = [ItemResult(400, "mapper_parsing_exception", "no")]
    world.drain()
    assert sorted(world.stored("log.index")) == sorted(set(ids) - {ids[4]})
    [letter] = world.stored(DEAD_INDEX).values()
    assert letter.source["reason"] == "mapper_parsing_exception"


def test_the_same_event_sent_twice_is_one_document_and_is_counted(world: World) -> None:
    event = json.dumps({"uuid": str(uuid.uuid4()), "uri": "/", "name": "kafka"}).encode()
    for _ in range(3):
        world.kafka.produce(TOPIC, event)
    [report] = world.drain()
    assert (report.outcome.indexed, report.outcome.duplicates) == (1, 2)
    assert world.stored(DEAD_INDEX) == {}


def test_another_event_with_a_taken_uuid_is_a_dead_letter(world: World) -> None:
    identity = str(uuid.uuid4())
    for uri in ("/first", "/second"):
        event = {"uuid": identity, "uri": uri, "name": "kafka"}
        world.kafka.produce(TOPIC, json.dumps(event).encode())
    world.drain()
    assert world.stored("log.index")[identity].source["uri"] == "/first"
    [letter] = world.stored(DEAD_INDEX).values()
    assert (letter.source["reason"], letter.source["offset"]) == ("conflict", 1)


def test_a_busy_server_is_asked_again_for_the_rejected_items_only(world: World) -> None:
    ids = world.access(7, partition=0)
    world.store.refuse[ids[2]] = [ItemResult(429, "es_rejected_execution_exception", "busy")] * 2
    [report] = world.drain()
    assert (report.outcome.indexed, report.outcome.already_there) == (7, 0)


def test_a_server_that_stays_busy_fails_the_operation() -> None:
    store = FakeElasticsearch()
    store.refuse["a"] = [ItemResult(503, "unavailable", "down")] * 1000
    with pytest.raises(BulkOverloaded, match="1 of 1 operations rejected: down"):
        send(store, [create("log.index-x", "a", b"{}")], retry_seconds=0.3)


def test_a_write_block_fails_the_slice_and_makes_no_dead_letters(world: World) -> None:
    ids = world.access(7)
    world.store.refuse[ids[2]] = [ItemResult(403, "cluster_block_exception", "read-only")]
    with pytest.raises(IndexBlocked, match="read-only"):
        world.drain()
    assert world.lag() == 7
    assert world.stored(DEAD_INDEX) == {}


def test_offsets_deleted_before_they_were_read_are_a_recorded_gap(world: World) -> None:
    world.access(10, partition=2)
    world.drain()
    world.access(10, partition=2)
    world.kafka.delete_records(TOPIC, 2, before=15)
    [report] = world.drain()
    [gap] = world.stored(GAP_INDEX).values()
    assert (gap.source["partition"], gap.source["start"], gap.source["end"]) == (2, 10, 15)
    assert [str(each) for each in report.gaps] == ["2:[10,15)"]
    assert len(world.stored("log.index")) == 15
    assert world.lag() == 0


def test_a_topic_made_again_is_read_from_its_start_and_old_documents_stay(world: World) -> None:
    world.access(10)
    world.drain()
    world.kafka.delete_topic(TOPIC)
    world.kafka.create_topics({TOPIC: 3})
    world.access(4)
    world.drain()
    assert len(world.stored("log.index")) == 14
    assert world.lag() == 0


def test_positions_are_mirrored_to_the_consumer_group(world: World) -> None:
    world.access(9)
    world.drain()
    assert world.kafka.committed(ACCESS_LOG.consumer_group, TOPIC) == {0: 3, 1: 3, 2: 3}


def test_reports_add_up() -> None:
    world = World(slice_rows=10)
    world.access(25)
    first, second, third = world.drain()
    total = first.followed_by(second).followed_by(third)
    assert (total.slices, total.rows, total.outcome.indexed) == (3, 25, 25)
    assert str(total.slice) == "0:[0,9) 1:[0,8) 2:[0,8)"
