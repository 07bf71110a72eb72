"""One contract for each adapter, checked on the fake and on the real server."""

import json
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.adapters.errors import TopicMissing
from kp_platform.adapters.kafka import KafkaAdapter
from kp_platform.adapters.kafka_admin import KafkaAdmin
from kp_platform.adapters.mysql import MySQLAdapter
from kp_platform.adapters.redis import RedisAdapter
from kp_platform.adapters.trino import TrinoAdapter
from kp_platform.analytics.kpi import MAPPING as KPI_MAPPING
from kp_platform.analytics.ranking import SQL_PATH
from kp_platform.engine.bulk import create, delete, put, send
from kp_platform.engine.counting import HOUR, Extent, Where, Window, iso
from kp_platform.engine.errors import SliceError
from kp_platform.engine.offsets import OffsetRange, Slice, Watermarks
from kp_platform.engine.ports import Reach, Stored
from kp_platform.engine.reference_change import ReferenceChange
from kp_platform.engine.sql import keys_query, ranges_query, slice_query
from kp_platform.flows.builtin import ACCESS_LOG
from kp_platform.operations.reference_data import REFERENCE_VALUES, seed, set_reference
from kp_platform.settings import Settings
from kp_platform_tests.conftest import wait_for
from kp_platform_tests.fakes import FakeElasticsearch, FakeKafka, FakeMySQL, FakeRedis, FakeTrino
from kp_platform_tests.integration.events import Event, publish, transaction
from kp_platform_tests.stack import Stack


@pytest.fixture
def real(request: pytest.FixtureRequest) -> Callable[[], Stack]:
    """Connect to the shared stack, for tests of the real server only."""
    return lambda: request.getfixturevalue("quiet_stack")


def new_id() -> str:
    return str(uuid.uuid4())


def transact(kafka: Any, topic: str, values: Sequence[bytes]) -> None:
    """Write messages to partition 0 in one transaction."""
    if isinstance(kafka, FakeKafka):
        for value in values:
            kafka.produce(topic, value)
        kafka.end_transaction(topic, 0)
        return
    with transaction() as producer:
        for value in values:
            producer.produce(topic, value, partition=0)


def publish_nothing(changes: Sequence[ReferenceChange]) -> None:
    """Publishes nothing."""


class RealKafka(KafkaAdapter):
    """Both adapters of Kafka as one, like the fake."""

    def create_topics(self, topics: Mapping[str, int]) -> list[str]:
        return KafkaAdmin(self.settings).create_topics(topics)


class TestKafka:
    """`Log`, and the creation of topics."""

    @pytest.fixture(params=["fake", "real"])
    def kafka(self, request: pytest.FixtureRequest, real: Callable[[], Stack]) -> Any:
        if request.param == "fake":
            return FakeKafka()
        real()
        return RealKafka(Settings())

    def test_a_topic_is_created_once(self, kafka: Any) -> None:
        name = f"contract-{new_id()}"
        assert kafka.create_topics({name: 3}) == [name]
        assert kafka.create_topics({name: 3}) == []

    def test_a_new_topic_is_empty_and_has_an_id(self, kafka: Any) -> None:
        name = f"contract-{new_id()}"
        kafka.create_topics({name: 2})
        state = kafka.topic_state(name)
        assert state.partitions == {0: Watermarks(0, 0), 1: Watermarks(0, 0)}
        assert state.topic_id == kafka.topic_state(name).topic_id != ""

    def test_a_missing_topic_is_reported_by_name(self, kafka: Any) -> None:
        with pytest.raises(TopicMissing, match="topic no-such-topic does not exist"):
            kafka.topic_state("no-such-topic")

    def test_committed_offsets_can_be_read(self, kafka: Any) -> None:
        name = f"contract-{new_id()}"
        kafka.create_topics({name: 2})
        kafka.commit(f"group-{name}", name, {0: 5, 1: 7})
        kafka.commit(f"group-{name}", name, {1: 8})
        assert kafka.committed(f"group-{name}", name) == {0: 5, 1: 8}

    def test_raw_messages_are_the_bytes_that_were_sent(self, kafka: Any) -> None:
        kafka.create_topics({ACCESS_LOG.topic: 4})
        values = [b"\xff\x00raw", None, b"", b'{"a": 1}']
        if isinstance(kafka, FakeKafka):
            locations = [(1, kafka.produce(ACCESS_LOG.topic, value, 1)) for value in values]
        else:
            locations = publish(*values, partition=1)
        found = kafka.raw_messages(ACCESS_LOG.topic, [locations[0], locations[1], locations[2]])
        assert [found[location].value for location in locations[:3]] == values[:3]
        assert len(found) == 3

    def test_the_marker_of_a_transaction_is_an_offset_without_a_message(self, kafka: Any) -> None:
        name = f"contract-{new_id()}"
        kafka.create_topics({name: 1})
        transact(kafka, name, [b"0", b"1"])
        transact(kafka, name, [b"3"])
        whole = {0: Watermarks(0, 5)}  # a commit is answered before its marker is written
        wait_for(lambda: kafka.topic_state(name).partitions == whole, "both markers are written")
        assert kafka.present(name, OffsetRange(0, 0, 5)) == {0, 1, 3}
        assert kafka.present(name, OffsetRange(0, 1, 3)) == {1}
        assert kafka.present(name, OffsetRange(0, 4, 5)) == set()
        with pytest.raises(SliceError, match=r"0:\[1,6\) ends at 5"):
            kafka.present(name, OffsetRange(0, 1, 6))
        with pytest.raises(SliceError, match="no message at offset 2"):
            kafka.raw_messages(name, [(0, 1), (0, 2)])

    def test_the_offset_of_a_time_after_the_last_message_is_the_end(self, kafka: Any) -> None:
        name = f"contract-{new_id()}"
        kafka.create_topics({name: 2})
        if isinstance(kafka, FakeKafka):
            kafka.produce(name, b"{}")
        else:
            publish(b"{}", partition=0, topic=name, at=datetime(2026, 3, 1, tzinfo=UTC))
        assert kafka.offsets_at(name, datetime(2026, 3, 1, tzinfo=UTC)) == {0: 0, 1: 0}
        assert kafka.offsets_at(name, datetime(2026, 3, 2, tzinfo=UTC)) == {0: 1, 1: 0}


class TestElasticsearch:
    """`DocumentStore`."""

    @pytest.fixture(params=["fake", "real"])
    def store(self, request: pytest.FixtureRequest, real: Callable[[], Stack]) -> Any:
        if request.param == "fake":
            store: Any = FakeElasticsearch()
        else:
            real()
            store = ElasticsearchAdapter(Settings())
        for _ in range(2):  # repeatable
            for name in ("kp.positions", "kp.dead", "kp.gaps"):
                store.ensure_index(name)
            store.ensure_index("log.index", ACCESS_LOG.mapping)
            store.ensure_index("access.kpi", KPI_MAPPING)
        return store

    def test_create_writes_only_an_unused_id(self, store: Any) -> None:
        identity = new_id()
        first = create("kp.positions", identity, b'{"flow": "first"}')
        second = create("kp.positions", identity, b'{"flow": "second"}')
        results = [*store.bulk(first + second), *store.bulk(second)]
        assert [result.status for result in results] == [201, 409, 409]
        assert [result.conflict for result in results] == [False, True, True]
        [stored] = store.get([("kp.positions", identity)]).values()
        assert stored.source == {"flow": "first"}

    def test_bulk_all_reports_whether_all_operations_succeeded(self, store: Any) -> None:
        first, second, third = (("kp.positions", new_id()) for _ in range(3))
        body = b'{"flow": "first"}'
        assert store.bulk_all(create(*first, body) + create(*second, body))
        assert not store.bulk_all(create(*first, body) + create(*third, body))
        assert store.get([first, second, third]).keys() == {first, second, third}

    def test_an_empty_request_is_refused(self, store: Any) -> None:
        with pytest.raises(SliceError, match="no requests added"):
            store.bulk_all(b"")

    def test_put_with_a_version_is_compare_and_set(self, store: Any) -> None:
        key = ("kp.positions", new_id())
        store.bulk(put(*key, b'{"position": 1}'))
        seen: Stored = store.get([key])[key]
        [won] = store.bulk(put(*key, b'{"position": 2}', expected=seen.version))
        [lost] = store.bulk(put(*key, b'{"position": 3}', expected=seen.version))
        assert (won.written, lost.written, lost.conflict) == (True, False, True)
        assert store.get([key])[key].source == {"position": 2}

    def test_get_leaves_out_missing_documents(self, store: Any) -> None:
        assert store.get([("kp.positions", new_id()), ("no-such-index", "a")]) == {}
        assert store.get([]) == {}

    def test_a_recreated_index_has_another_id(self, store: Any) -> None:
        day = "log.index-2020.02.02"
        assert day not in store.index_ids("log.index")
        seen = []
        for _ in range(2):
            store.bulk(create(day, new_id(), b"{}"))
            seen.append(store.index_ids("log.index")[day])
            if isinstance(store, FakeElasticsearch):
                store.delete_index(day)
            else:
                store.client().indices.delete(index=day)
        assert seen[0] != seen[1]
        assert store.index_ids("no-such-alias") == {}

    def test_a_new_index_takes_over_the_name_of_another(self, store: Any) -> None:
        day = "log.index-2020.02.03"
        old, new_name, late = (new_id() for _ in range(3))

        def found(name: str) -> int:
            return len(store.find("log.index", "name", name))

        def named(name: str) -> bytes:
            return json.dumps({"name": name}).encode()

        send(store, [create(day, "old", named(old))])
        for round in range(2):
            new = f"log.index.{new_id()}-2020.02.03"
            store.make_index(new, ACCESS_LOG.mapping)
            send(store, [create(new, "new", named(new_name))])
            store.refresh(new)
            store.refresh("log.index")
            assert found(new_name) == 0
            before = store.index_ids("log.index")[day]
            store.swap_alias(day, new, "log.index", before)
            assert store.index_ids("log.index")[day] != before
            assert (found(new_name), found(old)) == (1, 0)
            send(store, [create(day, f"late-{round}", named(late))])
            key = (day, f"late-{round}")
            assert store.get([key, (day, "old")]).keys() == {key}
            send(store, [delete(day, "new")])
            store.refresh("log.index")
            assert found(late) == 1
        for wrong in (None, "another"):
            store.make_index(f"{new}-2", ACCESS_LOG.mapping)
            with pytest.raises(SliceError, match="another index"):
                store.swap_alias(day, f"{new}-2", "log.index", wrong)
            assert found(late) == 1
            store.delete_index(f"{new}-2")
        store.delete_index(new)
        assert day not in store.index_ids("log.index")
        store.delete_index(new)  # deleting a missing index is no error

    def test_a_new_index_is_behind_no_alias_until_the_swap(self, store: Any) -> None:
        day, marker = "log.index-2020.02.07", new_id()
        new = f"log.index.{marker}-2020.02.07"
        store.make_index(new, ACCESS_LOG.mapping)
        [(name, made_at)] = store.behind_no_alias(f"log.index.{marker}").items()
        assert name == new
        assert abs(datetime.now(UTC) - made_at) < timedelta(minutes=5)
        send(store, [create(new, new_id(), b"{}"), create(new, new_id(), b"{}")])
        store.refresh(new)
        assert day not in store.sizes("log.index")
        store.swap_alias(day, new, "log.index", None)
        documents, size = store.sizes("log.index")[day]
        assert documents == 2
        assert size > 0
        assert store.behind_no_alias(f"log.index.{marker}") == {}
        store.delete_index(day)  # by its alias
        assert day not in store.index_ids("log.index")
        assert store.sizes("no-such-alias") == {}

    def test_a_blocked_index_refuses_writes(self, store: Any) -> None:
        day = "log.index-2020.02.04"
        store.bulk(create(day, new_id(), b"{}"))
        store.block_writes(day, True)
        [refused] = store.bulk(create(day, new_id(), b"{}"))
        assert refused.blocked
        store.block_writes(day, False)
        assert [each.written for each in store.bulk(create(day, new_id(), b"{}"))] == [True]

    def test_documents_written_since_a_sequence_number_are_read_in_pages(self, store: Any) -> None:
        day = "log.index-2020.02.05"
        send(store, [create(day, f"before-{number}", b"{}") for number in range(5)])
        numbers = store.checkpoints(day)
        assert numbers.keys() == {0}
        send(store, [create(day, f"after-{number}", b"{}") for number in range(3)])
        send(store, [put(day, "before-2", b'{"name": "again"}')])
        store.refresh("log.index")
        since = list(store.written_since(day, numbers, 3))
        assert [len(page) for page in since] == [3, 1]
        found = {hit.id: hit for page in since for hit in page}
        assert found.keys() == {"after-0", "after-1", "after-2", "before-2"}
        assert found["before-2"].stored.source == {"name": "again"}
        everything = [hit.id for page in store.written_since(day, {}, 100) for hit in page]
        assert len(everything) == 8
        assert list(store.written_since(day, store.checkpoints(day), 3)) == []

    def test_a_snapshot_reports_the_offsets_of_partitions(self, store: Any) -> None:
        at = datetime(2020, 2, 6, tzinfo=UTC)
        day = "log.index-2020.02.06"
        for partition, offset in ((0, 7), (0, 9), (2, 3), (3, 5)):
            body = {"@timestamp": iso(at), "partition": partition, "offset": offset}
            send(store, [create(day, f"{partition}-{offset}", json.dumps(body).encode())])
        store.refresh("log.index")
        hour = Where("@timestamp", Window(at, at + HOUR))
        later = Where("@timestamp", Window(at + HOUR, at + 2 * HOUR))
        below = {0: 8, 1: 100, 2: 3}
        for index in ("log.index", day):
            with store.snapshot(index) as snapshot:
                assert snapshot.reach(hour, below) == {0: Reach(7, 9, 1), 2: Reach(3, 3, 0)}
                assert snapshot.reach(later, below) == {}
        with store.snapshot("no-such") as snapshot:
            assert snapshot.reach(hour, below) == {}

    def test_find_and_count_see_a_document_after_a_refresh(self, store: Any) -> None:
        flow = new_id()
        store.bulk(put("kp.positions", new_id(), json.dumps({"flow": flow}).encode()))
        store.refresh("kp.positions")
        assert [each.source for each in store.find("kp.positions", "flow", flow)] == [
            {"flow": flow}
        ]
        assert store.find("kp.positions", "flow", new_id()) == []
        assert store.count("kp.positions") >= 1

    def test_a_snapshot_returns_differing_documents(self, store: Any) -> None:
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

        def found(reference: dict[str, Any], size: int = 2) -> set[str]:
            with store.snapshot("log.index") as snapshot:
                pages = list(snapshot.differing("name", name, reference, size))
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
        long = "a value too long for a term"  # not indexed, so it may count as absent
        assert found({"test_id": 1, "redis_value": None}) | {long} == mine - {"no value"}

    def test_a_snapshot_is_stable_and_its_versions_detect_conflicts(self, store: Any) -> None:
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

    def test_delete_reports_whether_a_document_existed(self, store: Any) -> None:
        key = ("kp.positions", new_id())
        operations = [create(*key, b'{"position": 1}'), delete(*key), delete(*key)]
        results = send(store, operations)
        assert [result.written for result in results] == [True, True, False]
        assert [result.absent for result in results] == [False, False, True]
        assert store.get([key]) == {}


class TestCounting:
    """The counts of `DocumentStore`, in a year that no other test uses."""

    YEAR = 2003
    NOON = datetime(YEAR, 5, 6, 12, tzinfo=UTC)
    DAY = Where("@timestamp", Window(NOON - 12 * HOUR, NOON + 12 * HOUR))

    @pytest.fixture(params=["fake", "real"])
    def store(self, request: pytest.FixtureRequest, real: Callable[[], Stack]) -> Any:
        if request.param == "fake":
            store: Any = FakeElasticsearch()
        else:
            real()
            store = ElasticsearchAdapter(Settings())
        store.ensure_index("log.index", ACCESS_LOG.mapping)
        events = [
            (self.NOON, "/a", "presto", "complete", 7),
            (self.NOON + timedelta(milliseconds=1), "/a", "presto", "none", 7),
            (self.NOON + HOUR - timedelta(milliseconds=1), "/a", "", "complete", None),
            (self.NOON + HOUR, "/b", "presto", "complete", -3),
            (self.NOON + 3 * HOUR, "/b", "kafka", "complete", 7),
        ]
        for number, (moment, uri, name, state, delay) in enumerate(events):
            body: dict[str, Any] = {"@timestamp": iso(moment), "uri": uri, "name": name}
            body |= {"enrichment": {"state": state}} | ({"delay_ms": delay} if delay else {})
            index = f"log.index-{self.YEAR}.05.06"
            send(store, [put(index, f"counted-{number}", json.dumps(body).encode())])
        store.refresh("log.index")
        return store

    def test_groups_are_counted_exactly_and_sorted_with_none_first(self, store: Any) -> None:
        with store.snapshot("log.index") as snapshot:
            found = list(snapshot.groups(["delay_ms", "name"], self.DAY))
        assert found == [
            ((None, ""), 1),
            ((-3, "presto"), 1),
            ((7, "kafka"), 1),
            ((7, "presto"), 2),
        ]

    def test_a_window_includes_its_start_and_excludes_its_end(self, store: Any) -> None:
        hour = Where("@timestamp", Window(self.NOON, self.NOON + HOUR))
        with store.snapshot("log.index") as snapshot:
            assert list(snapshot.groups(["uri"], hour)) == [(("/a",), 3)]
            assert snapshot.extent(hour) == Extent(3, self.NOON)

    def test_conditions_are_counted_separately(self, store: Any) -> None:
        hour = Window(self.NOON, self.NOON + HOUR)
        conditions = [
            Where("@timestamp", hour),
            Where("@timestamp", hour, (("enrichment.state", "complete"),)),
            Where("@timestamp", hour, (("enrichment.state", "complete"), ("name", ""))),
            self.DAY,
        ]
        assert store.counts("log.index", conditions) == [3, 2, 1, 5]
        assert store.counts("log.index", [self.DAY] * 1_001) == [5] * 1_001
        assert store.counts("log.index", []) == []

    def test_the_latest_documents_are_read_in_pages_without_some_fields(self, store: Any) -> None:
        with store.snapshot("log.index") as snapshot:
            pages = list(snapshot.latest(self.DAY, 2, without=["uri", "enrichment"]))
            short = replace(self.DAY, equal=(("name", "presto"),), absent=("delay_ms",))
            assert list(snapshot.latest(short, 2)) == []
            absent = list(snapshot.latest(replace(self.DAY, absent=("delay_ms",)), 2))
        assert [len(page) for page in pages] == [2, 2, 1]
        hits = [hit for page in pages for hit in page]
        assert [hit.id for hit in hits] == [f"counted-{number}" for number in (4, 3, 2, 1, 0)]
        assert hits[0].stored.source == {
            "@timestamp": iso(self.NOON + 3 * HOUR),
            "name": "kafka",
            "delay_ms": 7,
        }
        assert [hit.id for page in absent for hit in page] == ["counted-2"]
        stored = store.get([(hits[0].index, hits[0].id)])[hits[0].index, hits[0].id]
        assert stored.version == hits[0].stored.version

    def test_hours_are_those_with_a_document(self, store: Any) -> None:
        assert store.hours("log.index", "@timestamp", self.DAY) == [
            self.NOON,
            self.NOON + HOUR,
            self.NOON + 3 * HOUR,
        ]

    def test_an_empty_window_and_a_missing_index_have_no_documents(self, store: Any) -> None:
        before = Window(self.NOON - HOUR, self.NOON)
        for index, where in [("log.index", Where("@timestamp", before)), ("no-such", self.DAY)]:
            with store.snapshot(index) as snapshot:
                assert list(snapshot.groups(["uri"], where)) == []
                assert snapshot.extent(where) == Extent(0, None)
            assert store.counts(index, [where]) == [0]
            assert store.hours(index, "@timestamp", where) == []

    def test_a_snapshot_does_not_include_later_writes(self, store: Any) -> None:
        hour = Where("@timestamp", Window(self.NOON + 5 * HOUR, self.NOON + 6 * HOUR))
        with store.snapshot("log.index") as snapshot:
            body = {"@timestamp": iso(hour.window.start), "uri": new_id()}
            late = (f"log.index-{self.YEAR}.05.06", new_id())
            send(store, [create(*late, json.dumps(body).encode())])
            store.refresh("log.index")
            assert snapshot.extent(hour).count == 0
        send(store, [delete(*late)])


def test_a_document_that_violates_the_mapping_is_refused_alone(
    quiet_stack: Stack,
) -> None:
    """Real server only: the fake checks no mapping."""
    store = ElasticsearchAdapter(Settings())
    store.ensure_index("log.index", ACCESS_LOG.mapping)
    lines = create("log.index-2020.01.01", new_id(), b'{"uuid": "a"}')
    lines += create("log.index-2020.01.01", new_id(), b'{"no such field": 1}')
    results = store.bulk(lines)
    assert [result.status for result in results] == [201, 400]
    assert results[1].error == "strict_dynamic_mapping_exception"


def test_an_existing_index_gets_new_fields(quiet_stack: Stack, tmp_path: Path) -> None:
    """Real server only: the fake has no mapping. A strict index refuses unknown fields."""
    store, name = ElasticsearchAdapter(Settings()), f"contract-{new_id()}"
    fields = {"old": {"type": "keyword"}}
    for added in ({}, {}, {"new": {"type": "date"}}):
        fields |= added
        body = {"mappings": {"dynamic": "strict", "properties": fields}}
        (tmp_path / f"{name}.json").write_text(json.dumps(body))
        store.ensure_index(name, tmp_path / f"{name}.json")
    indices = store.client().indices
    assert indices.get_mapping(index=name)[name]["mappings"]["properties"] == fields
    indices.put_settings(index=name, settings={"index.blocks.read_only": True})
    store.ensure_index(name, tmp_path / f"{name}.json")  # without new fields nothing is written
    indices.put_settings(index=name, settings={"index.blocks.read_only": None})
    indices.delete(index=name)


def test_a_changed_field_type_applies_to_the_next_day(quiet_stack: Stack, tmp_path: Path) -> None:
    """Real server only: the fake has no mapping."""
    store, name = ElasticsearchAdapter(Settings()), f"contract-{new_id()}"
    types = []
    for kind, day in (("keyword", "2020.01.01"), ("long", "2020.01.02")):
        mappings = {"properties": {"a": {"type": kind}, f"of-{kind}": {"type": "date"}}}
        template = {"aliases": {name: {}}, "settings": {}, "mappings": mappings}
        body = {"index_patterns": [f"{name}-*"], "priority": 200, "template": template}
        (tmp_path / f"{name}.json").write_text(json.dumps(body))
        store.ensure_index(name, tmp_path / f"{name}.json")
        store.bulk(create(f"{name}-{day}", new_id(), b"{}"))
    indices = store.client().indices
    for stored in indices.get_mapping(index=name).values():
        fields = stored["mappings"]["properties"]
        assert "of-long" in fields
        types.append(fields["a"]["type"])
    assert sorted(types) == ["keyword", "long"]
    indices.delete(index=f"{name}-2020.01.01,{name}-2020.01.02")
    indices.delete_index_template(name=name)


class TestReferenceData:
    """Reference data: the table in MySQL and the keys in Redis."""

    @pytest.fixture(params=["fake", "real"])
    def both_servers(
        self, request: pytest.FixtureRequest, real: Callable[[], Stack]
    ) -> tuple[Any, Any]:
        if request.param == "fake":
            return FakeMySQL(), FakeRedis()
        real()
        return MySQLAdapter(Settings()), RedisAdapter(Settings())

    def test_seeding_is_repeatable(self, both_servers: tuple[Any, Any]) -> None:
        mysql, redis = both_servers
        first = seed(mysql, redis, publish_nothing)
        ids = mysql.ids()
        assert (first.rows, first.keys) == (4, 4)
        published_changes: list[ReferenceChange] = []
        assert seed(mysql, redis, published_changes.extend) == first
        assert published_changes == []
        assert mysql.ids() == ids
        assert ids.keys() >= REFERENCE_VALUES.keys()
        assert redis.values([*REFERENCE_VALUES]) == REFERENCE_VALUES

    def test_seeding_restores_a_changed_value(self, both_servers: tuple[Any, Any]) -> None:
        mysql, redis = both_servers
        redis.set_values({"presto": "changed"})
        assert redis.values(["presto"]) == {"presto": "changed"}
        published_changes: list[ReferenceChange] = []
        seed(mysql, redis, published_changes.extend)
        assert redis.values(["presto"]) == {"presto": REFERENCE_VALUES["presto"]}
        assert ("redis", "presto") in [(each.source, each.key) for each in published_changes]

    def test_a_name_is_set_in_both_databases_and_keeps_its_id(
        self, both_servers: tuple[Any, Any]
    ) -> None:
        mysql, redis = both_servers
        name = new_id()
        published_changes: list[ReferenceChange] = []
        set_reference(mysql, redis, published_changes.extend, name, "https://first.example/")
        identity = mysql.ids()[name]
        set_reference(mysql, redis, published_changes.extend, name, "https://second.example/")
        assert mysql.ids()[name] == identity
        assert redis.values([name]) == {name: "https://second.example/"}
        both = [("mysql", name), ("redis", name)]
        assert [(each.source, each.key) for each in published_changes] == both * 2

    def test_a_name_is_a_bound_parameter(self, both_servers: tuple[Any, Any]) -> None:
        mysql, redis = both_servers
        seed(mysql, redis, publish_nothing)
        name, other = (f"'); DROP TABLE testing.tests; -- {new_id()}" for _ in range(2))
        mysql.add_names([name, new_id()])
        mysql.touch(other)
        assert mysql.ids().keys() >= {name, other}

    def test_an_empty_value_is_a_value(self, both_servers: tuple[Any, Any]) -> None:
        _, redis = both_servers
        name = new_id()
        redis.set_values({name: ""})
        assert redis.values([name, new_id()]) == {name: ""}


class TestRankingStore:
    """`RankingStore`: sorted sets and hashes in Redis."""

    @pytest.fixture(params=["fake", "real"])
    def ranking_store(self, request: pytest.FixtureRequest, real: Callable[[], Stack]) -> Any:
        if request.param == "fake":
            return FakeRedis()
        real()
        return RedisAdapter(Settings())

    def test_members_with_equal_scores_are_sorted_by_their_bytes_descending(
        self, ranking_store: Any
    ) -> None:
        key = f"contract-{new_id()}"
        scores = {"a": 1, "": 1, "b": 2, "é": 1, "😀": 1, "/" * 8_000: 3, "Z": 1}
        ranking_store.replace(key, {key: scores}, {})
        expected = [("/" * 8_000, 3), ("b", 2), ("😀", 1), ("é", 1), ("a", 1), ("Z", 1), ("", 1)]
        assert ranking_store.highest(key, 10) == expected
        assert ranking_store.highest(key, 2) == expected[:2]
        ranking_store.replace(key, {key: {}}, {})

    def test_replace_leaves_nothing_of_the_previous_value(self, ranking_store: Any) -> None:
        listing, first, second = (f"contract-{new_id()}" for _ in range(3))
        hashes = {first: {"key": "x", "old": "1"}, second: {"key": "y"}}
        ranking_store.replace(listing, {listing: {first: 1, second: 2}}, hashes)
        ranking_store.replace(listing, {listing: {first: 1}}, {first: {"key": "z"}})
        assert ranking_store.hash(first) == {"key": "z"}
        assert ranking_store.hash(second) == {}
        assert ranking_store.highest(listing, 10) == [(first, 1)]
        ranking_store.replace(listing, {listing: {}}, {})
        assert (ranking_store.hash(first), ranking_store.highest(listing, 10)) == ({}, [])

    def test_a_hash_is_replaced_completely(self, ranking_store: Any) -> None:
        key = f"contract-{new_id()}"
        ranking_store.set_hash(key, {"a": "1", "b": ""})
        ranking_store.set_hash(key, {"b": ""})
        assert ranking_store.hash(key) == {"b": ""}


def test_the_table_equals_that_of_the_example(quiet_stack: Stack) -> None:
    """Real server only: names, types, defaults and keys (M17)."""
    mysql = MySQLAdapter(Settings())
    mysql.create_table()
    with mysql._cursor() as cursor:
        cursor.execute("SHOW CREATE TABLE testing.tests")
        [(_, statement)] = cursor.fetchall()
    lines = [line.strip().rstrip(",") for line in statement.splitlines()]
    now = "CURRENT_TIMESTAMP"
    assert lines[1:-1] == [
        "`test_id` int(10) unsigned NOT NULL AUTO_INCREMENT",
        "`test_name` varchar(85) NOT NULL DEFAULT ''",
        f"`created_at` timestamp NOT NULL DEFAULT {now} ON UPDATE {now}",
        "PRIMARY KEY (`test_id`)",
        "UNIQUE KEY `UIDX_TESTS_NAME` (`test_name`)",
        "KEY `IDX_TESTS` (`test_name`,`test_id`)",
    ]


class TestTrino:
    """`QueryEngine` with the query of the access log."""

    @pytest.fixture(params=["fake", "real"])
    def harness(self, request: pytest.FixtureRequest, real: Callable[[], Stack]) -> tuple[Any, Any]:
        if request.param == "fake":
            kafka, mysql, redis = FakeKafka(), FakeMySQL(), FakeRedis()
            kafka.create_topics({ACCESS_LOG.topic: 4})
            seed(mysql, redis, publish_nothing)
            trino: Any = FakeTrino(kafka, mysql, redis)

            def send(*values: bytes) -> list[tuple[int, int]]:
                return [(3, kafka.produce(ACCESS_LOG.topic, value, 3)) for value in values]

            return trino, send
        real()
        seed(MySQLAdapter(Settings()), RedisAdapter(Settings()), publish_nothing)
        return TrinoAdapter(Settings()), lambda *values: publish(*values, partition=3)

    @staticmethod
    def rows(trino: Any, slice_: Slice, keys: Sequence[str] | None = None) -> list[dict[str, Any]]:
        with trino.query(*slice_query(ACCESS_LOG, slice_, keys)) as answer:
            found = [row for batch in answer.batches(2) for row in batch]
            names = answer.columns
        return sorted((dict(zip(names, r, strict=True)) for r in found), key=lambda r: r["offset"])

    def test_lookup_pushdown_returns_the_same_rows(self, harness: tuple[Any, Any]) -> None:
        trino, send = harness
        # Names that MySQL treats as equal to others, and names that break SQL without escaping.
        names = [
            "presto",
            "Presto",
            "presto ",
            "it's",
            '"',
            "\\",
            "? OR 1=1",
            "\U0001f600",
            "",
            "kafka",
        ]
        locations = send(*(Event(name=name).value for name in names), b"not json")
        slice_ = Slice((OffsetRange(3, locations[0][1], locations[-1][1] + 1),))
        with trino.query(*keys_query(ACCESS_LOG.sql, slice_, 10_001)) as answer:
            keys = [key for rows in answer.batches(100) for [key] in rows]
        assert sorted(keys) == sorted(names)
        assert self.rows(trino, slice_, keys) == self.rows(trino, slice_)
        assert [row["test_id"] for row in self.rows(trino, slice_, [])] == [None] * 11

    def test_a_query_returns_events_with_their_reference_data(
        self, harness: tuple[Any, Any]
    ) -> None:
        trino, send = harness
        events = [Event(name="presto"), Event(name="nobody"), Event(name="kafka")]
        locations = send(*(event.value for event in events))
        first, last = locations[0][1], locations[-1][1]
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
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}", found[0]["@timestamp"])

    def test_a_malformed_message_has_only_its_text(self, harness: tuple[Any, Any]) -> None:
        trino, send = harness
        [(_, offset)] = send(b"{not json")
        [row] = self.rows(trino, Slice((OffsetRange(3, offset, offset + 1),)))
        assert (row["uuid"], row["uri"], row["name"]) == (None, None, None)
        assert row["message"] == "{not json"

    def test_offsets_past_the_end_return_fewer_rows(self, harness: tuple[Any, Any]) -> None:
        trino, send = harness
        [(_, offset)] = send(Event().value)
        found = self.rows(trino, Slice((OffsetRange(3, offset, offset + 5),)))
        assert [row["offset"] for row in found] == [offset]

    def test_ranked_keys_are_sorted_with_reference_data_and_latest_event(
        self, harness: tuple[Any, Any]
    ) -> None:
        trino, send = harness
        ranking_store = trino.redis if isinstance(trino, FakeTrino) else RedisAdapter(Settings())
        unknown, presto = Event(name=f"nobody-{new_id()}"), Event(name="presto")
        [(_, first), (_, last)] = send(unknown.value, presto.value)
        uri = f"/{presto.uuid}"
        ranked = [("name", "presto"), ("name", unknown.name), ("name", ""), ("uri", uri)]
        hashes = {
            f"ranking:{kind}:{rank}": {
                "kind": kind,
                "rank": str(rank),
                "key": key,
                "accesses": "5",
                "computed_at": "now",
            }
            for rank, (kind, key) in enumerate(ranked, start=1)
        }
        listing = {key: order for order, key in enumerate(hashes)}
        ranking_store.replace("ranking:entries", {"ranking:entries": listing}, hashes)
        sql, parameters = ranges_query(
            SQL_PATH.read_text(), Slice((OffsetRange(3, first, last + 1),))
        )
        with trino.query(sql, parameters) as answer:
            rows = [row for batch in answer.batches(2) for row in batch]
            found = [dict(zip(answer.columns, row, strict=True)) for row in rows]
        ranking_store.replace("ranking:entries", {"ranking:entries": {}}, {})
        assert [(row["kind"], row["key"]) for row in found] == ranked
        assert [(row["rank"], row["accesses"]) for row in found] == [(n, 5) for n in (1, 2, 3, 4)]
        assert [row["redis_value"] for row in found] == [
            REFERENCE_VALUES["presto"],
            None,
            None,
            None,
        ]
        assert [row["test_name"] for row in found] == ["presto", None, None, None]
        assert found[0]["test_id"] > 0
        uuids = [presto.uuid, unknown.uuid, None, presto.uuid]
        assert [row["last_uuid"] for row in found] == uuids
        assert found[3]["last_uri"] == uri
        assert found[0]["last_accessed_at"].endswith("Z")
        assert {row["computed_at"] for row in found} == {"now"}
