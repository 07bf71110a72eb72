"""One contract for each connection, held on the fake and on the real server alike."""

import json
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from kp_platform.changes import ReferenceChange
from kp_platform.flows import ACCESS_LOG
from kp_platform.pipeline.offsets import OffsetRange, Slice, Watermarks
from kp_platform.pipeline.query import slice_query
from kp_platform.pipeline.store import Stored, create, put
from kp_platform.reference import REFERENCE_VALUES, seed, set_reference
from kp_platform.resources.elasticsearch import ElasticsearchResource
from kp_platform.resources.errors import TopicMissing
from kp_platform.resources.kafka import KafkaResource
from kp_platform.resources.mysql import MySQLResource
from kp_platform.resources.redis import RedisResource
from kp_platform.resources.trino import TrinoResource
from kp_platform_tests.conftest import Stack
from kp_platform_tests.fakes import FakeElasticsearch, FakeKafka, FakeMySQL, FakeRedis, FakeTrino
from kp_platform_tests.integration.events import Event, publish


@pytest.fixture
def real(request: pytest.FixtureRequest) -> Callable[[], Stack]:
    """Starts the stack only for those who ask for the real server."""
    return lambda: request.getfixturevalue("quiet_stack")


def new_id() -> str:
    return str(uuid.uuid4())


def unheard(changes: Sequence[ReferenceChange]) -> None:
    """Announces to nobody."""


class TestKafka:
    """`Log` and the making of topics."""

    @pytest.fixture(params=["fake", "real"])
    def kafka(self, request: pytest.FixtureRequest, real: Callable[[], Stack]) -> Any:
        if request.param == "fake":
            return FakeKafka()
        real()
        return KafkaResource()

    def test_a_topic_is_made_once(self, kafka: Any) -> None:
        name = f"contract-{new_id()}"
        assert kafka.create_topics({name: 3}) == [name]
        assert kafka.create_topics({name: 3}) == []

    def test_a_new_topic_is_empty_and_has_an_id(self, kafka: Any) -> None:
        name = f"contract-{new_id()}"
        kafka.create_topics({name: 2})
        state = kafka.topic_state(name)
        assert state.partitions == {0: Watermarks(0, 0), 1: Watermarks(0, 0)}
        assert state.topic_id == kafka.topic_state(name).topic_id != ""

    def test_a_missing_topic_is_named(self, kafka: Any) -> None:
        with pytest.raises(TopicMissing, match="topic no-such-topic does not exist"):
            kafka.topic_state("no-such-topic")

    def test_committed_offsets_are_read_back(self, kafka: Any) -> None:
        name = f"contract-{new_id()}"
        kafka.create_topics({name: 2})
        kafka.commit(f"group-{name}", name, {0: 5, 1: 7})
        kafka.commit(f"group-{name}", name, {1: 8})
        assert kafka.committed(f"group-{name}", name) == {0: 5, 1: 8}

    def test_raw_messages_are_the_bytes_that_were_sent(self, kafka: Any) -> None:
        kafka.create_topics({ACCESS_LOG.topic: ACCESS_LOG.partitions})
        values = [b"\xff\x00raw", None, b"", b'{"a": 1}']
        if isinstance(kafka, FakeKafka):
            places = [(1, kafka.produce(ACCESS_LOG.topic, value, 1)) for value in values]
        else:
            places = publish(*values, partition=1)
        found = kafka.raw_messages(ACCESS_LOG.topic, [places[0], places[1], places[2]])
        assert [found[place].value for place in places[:3]] == values[:3]
        assert len(found) == 3


class TestElasticsearch:
    """`DocumentStore`."""

    @pytest.fixture(params=["fake", "real"])
    def store(self, request: pytest.FixtureRequest, real: Callable[[], Stack]) -> Any:
        if request.param == "fake":
            store: Any = FakeElasticsearch()
        else:
            real()
            store = ElasticsearchResource()
        for name in ("kp.positions", "kp.dead", "kp.gaps", "log.index"):
            store.ensure_index(name)
            store.ensure_index(name)  # again is safe
        return store

    def test_create_writes_only_a_free_id(self, store: Any) -> None:
        identity = new_id()
        first = create("kp.positions", identity, b'{"flow": "first"}')
        second = create("kp.positions", identity, b'{"flow": "second"}')
        results = [*store.bulk(first + second), *store.bulk(second)]
        assert [result.status for result in results] == [201, 409, 409]
        assert [result.conflict for result in results] == [False, True, True]
        [held] = store.get([("kp.positions", identity)]).values()
        assert held.source == {"flow": "first"}

    def test_put_with_a_version_is_compare_and_set(self, store: Any) -> None:
        key = ("kp.positions", new_id())
        store.bulk(put(*key, b'{"position": 1}'))
        seen: Stored = store.get([key])[key]
        [won] = store.bulk(put(*key, b'{"position": 2}', expected=seen.version))
        [lost] = store.bulk(put(*key, b'{"position": 3}', expected=seen.version))
        assert (won.written, lost.written, lost.conflict) == (True, False, True)
        assert store.get([key])[key].source == {"position": 2}

    def test_get_leaves_out_what_is_not_there(self, store: Any) -> None:
        assert store.get([("kp.positions", new_id()), ("no-such-index", "a")]) == {}
        assert store.get([]) == {}

    def test_find_and_count_see_a_document_after_a_refresh(self, store: Any) -> None:
        flow = new_id()
        store.bulk(put("kp.positions", new_id(), json.dumps({"flow": flow}).encode()))
        store.refresh("kp.positions")
        assert [each.source for each in store.find("kp.positions", "flow", flow)] == [
            {"flow": flow}
        ]
        assert store.find("kp.positions", "flow", new_id()) == []
        assert store.count("kp.positions") >= 1

    def test_a_snapshot_gives_what_differs_as_it_was(self, store: Any) -> None:
        name, day = new_id(), "log.index-2020.01.02"
        bodies: dict[str, dict[str, Any]] = {
            "same": {"name": name, "test_id": 1, "redis_value": "a"},
            "other value": {"name": name, "test_id": 1, "redis_value": "b"},
            "no value": {"name": name, "test_id": 1, "redis_value": None},
            "empty value": {"name": name, "test_id": 1, "redis_value": ""},
            "a value too long for a term": {
                "name": name,
                "test_id": 1,
                "redis_value": "x" * 40_000,
            },
            "another name": {"name": new_id(), "test_id": 1, "redis_value": "b"},
        }
        ids = {what: new_id() for what in bodies}
        for what, body in bodies.items():
            store.bulk(create(day, ids[what], json.dumps(body).encode()))
        store.refresh("log.index")

        def found(facts: dict[str, Any], size: int = 2) -> set[str]:
            with store.snapshot("log.index") as snapshot:
                pages = list(snapshot.differing("name", name, facts, size))
            assert all(0 < len(page) <= size for page in pages)
            hits = [hit for page in pages for hit in page]
            assert all(hit.stored.source == bodies[what_of[hit.id]] for hit in hits)
            return {what_of[hit.id] for hit in hits}

        what_of = {identity: what for what, identity in ids.items()}
        mine = bodies.keys() - {"another name"}
        assert found({"test_id": 1, "redis_value": "a"}) == mine - {"same"}
        assert found({"test_id": 1, "redis_value": ""}) == mine - {"empty value"}
        assert found({"test_id": None, "redis_value": "a"}) == mine
        assert found({"test_id": 1, "redis_value": "y" * 40_000}) == mine
        long = "a value too long for a term"  # not in the index, so it may pass for none
        assert found({"test_id": 1, "redis_value": None}) | {long} == mine - {"no value"}

    def test_a_snapshot_does_not_move_and_its_versions_guard(self, store: Any) -> None:
        name, key = new_id(), ("log.index-2020.01.02", new_id())
        store.bulk(create(*key, json.dumps({"name": name, "test_id": 1}).encode()))
        store.refresh("log.index")
        with store.snapshot("log.index") as snapshot:
            store.bulk(put(*key, json.dumps({"name": name, "test_id": 2}).encode()))
            store.refresh("log.index")
            [[hit]] = snapshot.differing("name", name, {"test_id": 3}, 10)
        assert (hit.index, hit.id, hit.stored.source["test_id"]) == (*key, 1)
        [late] = store.bulk(put(*key, b"{}", expected=hit.stored.version))
        assert late.conflict

    def test_a_snapshot_of_an_alias_without_indices_is_empty(self, store: Any) -> None:
        with store.snapshot(f"no-such-index-{new_id()}") as snapshot:
            assert list(snapshot.differing("name", "x", {"test_id": 1}, 10)) == []

    def test_the_alias_holds_what_its_daily_indices_hold(self, store: Any) -> None:
        identity = new_id()
        before = store.count("log.index")
        body = json.dumps({"uuid": identity}).encode()
        store.bulk(create("log.index-2020.01.01", identity, body))
        store.refresh("log.index")
        assert [each.source for each in store.find("log.index", "uuid", identity)] == [
            {"uuid": identity}
        ]
        assert store.count("log.index") == before + 1


def test_one_document_against_the_mapping_does_not_keep_its_neighbours_out(
    quiet_stack: Stack,
) -> None:
    """Of the real server only: the fake checks no mapping, it is told what to refuse."""
    store = ElasticsearchResource()
    store.ensure_index("log.index")
    lines = create("log.index-2020.01.01", new_id(), b'{"uuid": "a"}')
    lines += create("log.index-2020.01.01", new_id(), b'{"no such field": 1}')
    results = store.bulk(lines)
    assert [result.status for result in results] == [201, 400]
    assert results[1].error == "strict_dynamic_mapping_exception"


class TestReferenceData:
    """MySQL's table and Redis's keys."""

    @pytest.fixture(params=["fake", "real"])
    def both_servers(
        self, request: pytest.FixtureRequest, real: Callable[[], Stack]
    ) -> tuple[Any, Any]:
        if request.param == "fake":
            return FakeMySQL(), FakeRedis()
        real()
        return MySQLResource(), RedisResource()

    def test_seeding_loads_all_and_again_changes_nothing(
        self, both_servers: tuple[Any, Any]
    ) -> None:
        mysql, redis = both_servers
        first = seed(mysql, redis, unheard)
        ids = mysql.ids()
        assert (first.rows, first.keys) == (4, 4)
        announced: list[ReferenceChange] = []
        assert seed(mysql, redis, announced.extend) == first
        assert announced == []
        assert mysql.ids() == ids
        assert ids.keys() >= REFERENCE_VALUES.keys()
        assert redis.values([*REFERENCE_VALUES]) == REFERENCE_VALUES

    def test_seeding_sets_a_changed_value_back(self, both_servers: tuple[Any, Any]) -> None:
        mysql, redis = both_servers
        redis.set_values({"presto": "changed"})
        assert redis.values(["presto"]) == {"presto": "changed"}
        announced: list[ReferenceChange] = []
        seed(mysql, redis, announced.extend)
        assert redis.values(["presto"]) == {"presto": REFERENCE_VALUES["presto"]}
        assert ("redis", "presto") in [(each.source, each.key) for each in announced]

    def test_a_name_is_set_in_both_and_keeps_its_id(self, both_servers: tuple[Any, Any]) -> None:
        mysql, redis = both_servers
        name = new_id()
        announced: list[ReferenceChange] = []
        set_reference(mysql, redis, announced.extend, name, "https://first.example/")
        identity = mysql.ids()[name]
        set_reference(mysql, redis, announced.extend, name, "https://second.example/")
        assert mysql.ids()[name] == identity
        assert redis.values([name]) == {name: "https://second.example/"}
        both = [("mysql", name), ("redis", name)]
        assert [(each.source, each.key) for each in announced] == both * 2

    def test_a_name_is_bound_and_never_sql(self, both_servers: tuple[Any, Any]) -> None:
        mysql, redis = both_servers
        seed(mysql, redis, unheard)
        name, other = (f"'); DROP TABLE testing.tests; -- {new_id()}" for _ in range(2))
        mysql.add_names([name, new_id()])
        mysql.touch(other)
        assert mysql.ids().keys() >= {name, other}

    def test_an_absent_key_has_no_value_and_an_empty_one_has(
        self, both_servers: tuple[Any, Any]
    ) -> None:
        _, redis = both_servers
        name = new_id()
        redis.set_values({name: ""})
        assert redis.values([name, new_id()]) == {name: ""}


class TestTrino:
    """`QueryEngine`, for the slice's query of the access log."""

    @pytest.fixture(params=["fake", "real"])
    def world(self, request: pytest.FixtureRequest, real: Callable[[], Stack]) -> tuple[Any, Any]:
        if request.param == "fake":
            kafka, mysql, redis = FakeKafka(), FakeMySQL(), FakeRedis()
            kafka.create_topics({ACCESS_LOG.topic: ACCESS_LOG.partitions})
            seed(mysql, redis, unheard)
            trino: Any = FakeTrino(kafka, mysql, redis)

            def send(*values: bytes) -> list[tuple[int, int]]:
                return [(3, kafka.produce(ACCESS_LOG.topic, value, 3)) for value in values]

            return trino, send
        real()
        seed(MySQLResource(), RedisResource(), unheard)
        return TrinoResource(), lambda *values: publish(*values, partition=3)

    @staticmethod
    def rows(trino: Any, part: Slice) -> list[dict[str, Any]]:
        with trino.query(*slice_query(ACCESS_LOG, part)) as answer:
            found = [row for batch in answer.batches(2) for row in batch]
            names = answer.columns
        return sorted((dict(zip(names, r, strict=True)) for r in found), key=lambda r: r["offset"])

    def test_a_slice_is_its_events_with_their_rows_and_values(self, world: tuple[Any, Any]) -> None:
        trino, send = world
        events = [Event(name="presto"), Event(name="nobody"), Event(name="kafka")]
        places = send(*(event.value for event in events))
        first, last = places[0][1], places[-1][1]
        found = self.rows(trino, Slice((OffsetRange(3, first, last + 1),)))
        assert [row["offset"] for row in found] == [first, first + 1, first + 2]
        assert [row["partition"] for row in found] == [3, 3, 3]
        assert [row["uuid"] for row in found] == [event.uuid for event in events]
        assert [row["uri"] for row in found] == [f"/{event.uuid}" for event in events]
        assert [row["message"].encode() for row in found] == [event.value for event in events]
        assert [row["redis_key"] for row in found] == ["presto", None, "kafka"]
        assert [row["redis_value"] for row in found] == [
            REFERENCE_VALUES["presto"],
            None,
            REFERENCE_VALUES["kafka"],
        ]
        assert [row["test_name"] for row in found] == ["presto", None, "kafka"]
        assert found[0]["test_id"] > 0
        assert found[1]["test_id"] is None
        assert found[0]["@timestamp"].endswith("Z")

    def test_a_malformed_message_has_no_columns_but_its_text(self, world: tuple[Any, Any]) -> None:
        trino, send = world
        [(_, offset)] = send(b"{not json")
        [row] = self.rows(trino, Slice((OffsetRange(3, offset, offset + 1),)))
        assert (row["uuid"], row["uri"], row["name"]) == (None, None, None)
        assert row["message"] == "{not json"

    def test_offsets_past_the_end_come_back_as_fewer_rows(self, world: tuple[Any, Any]) -> None:
        trino, send = world
        [(_, offset)] = send(Event().value)
        found = self.rows(trino, Slice((OffsetRange(3, offset, offset + 5),)))
        assert [row["offset"] for row in found] == [offset]
