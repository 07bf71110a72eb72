"""The indexer on the real servers, without Dagster's daemon: exact slices, exact documents."""

import uuid
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.adapters.errors import ServerDown
from kp_platform.adapters.kafka import KafkaAdapter
from kp_platform.adapters.mysql import MySQLAdapter
from kp_platform.adapters.redis import RedisAdapter
from kp_platform.engine.errors import IndexBlocked, PositionConflict, SliceError
from kp_platform.engine.indexer import Indexer, Limits
from kp_platform.engine.lag import partition_lags
from kp_platform.engine.offsets import OffsetRange, Slice
from kp_platform.engine.reports import SliceReport
from kp_platform.flows.builtin import ACCESS_LOG
from kp_platform.local.supervisor import Supervisor
from kp_platform.operations.reference_data import REFERENCE_VALUES
from kp_platform.settings import Settings
from kp_platform.wiring import servers
from kp_platform_tests.conftest import wait_for
from kp_platform_tests.integration.events import (
    Event,
    dead_letters,
    documents,
    publish,
    transaction,
)
from kp_platform_tests.stack import Stack

LIMITS = Limits(slice_rows=50_000, bulk_rows=5_000, follow_idle_seconds=0, max_run_seconds=300)


@pytest.fixture
def indexer(quiet_stack: Stack) -> Indexer:
    """An indexer that has indexed the events of other tests."""
    indexer = Indexer(
        ACCESS_LOG,
        servers(Settings()),
        LIMITS,
    )
    indexed_by(indexer)
    return indexer


def indexed_by(indexer: Indexer) -> list[SliceReport]:
    return [report for report in indexer.run() if report is not None]


def dimension_rows() -> int:
    """Reference rows in a query's statistics: Trino counts each at the scan and at the join."""
    rows = len(MySQLAdapter(Settings()).ids())
    with RedisAdapter(Settings())._client() as client:
        keys = sum(1 for _ in client.scan_iter(_type="string"))
    assert min(rows, keys) >= len(REFERENCE_VALUES)
    return 2 * (rows + keys)


def lag(indexer: Indexer) -> int:
    kafka, store = indexer.servers.log, indexer.servers.store
    return sum(each.lag for each in partition_lags(ACCESS_LOG, kafka, store))


def test_events_of_one_name_keep_their_own_uri_and_uuid(indexer: Indexer) -> None:
    """The example joins by name with LIMIT 1 and may index another event's uri (M15)."""
    events = [Event(name="kafka") for _ in range(50)]
    publish(*(event.value for event in events))
    indexed_by(indexer)
    found = documents(*(event.uuid for event in events))
    assert {each["uuid"]: each["uri"] for each in found} == {e.uuid: f"/{e.uuid}" for e in events}
    assert len(found) == 50


def test_each_document_has_the_row_and_value_of_its_name(indexer: Indexer) -> None:
    events = [Event(name=name) for name in REFERENCE_VALUES for _ in range(5)]
    publish(*(event.value for event in events))
    indexed_by(indexer)
    ids = MySQLAdapter(Settings()).ids()
    found = documents(*(event.uuid for event in events))
    assert len(found) == 20
    for document in found:
        name = document["name"]
        assert document["redis_key"] == document["test_name"] == name
        assert document["redis_value"] == REFERENCE_VALUES[name]
        assert document["test_id"] == ids[name]
        assert document["created_at"].endswith("Z")
        assert document["enrichment"] == {"state": "complete", "missing": []}


def test_every_partition_is_read(indexer: Indexer) -> None:
    """The example reads partition 0 only."""
    events = [Event() for _ in range(4)]
    for partition, event in enumerate(events):
        publish(event.value, partition=partition)
    indexed_by(indexer)
    found = documents(*(event.uuid for event in events))
    assert [each["partition"] for each in found] == [0, 1, 2, 3]


def test_an_empty_redis_value_is_a_value_and_a_missing_row_is_reported(indexer: Indexer) -> None:
    name = f"empty-{uuid.uuid4()}"
    RedisAdapter(Settings()).set_values({name: ""})
    event = Event(name=name)
    publish(event.value)
    indexed_by(indexer)
    with RedisAdapter(Settings())._client() as client:
        client.delete(name)
    [document] = documents(event.uuid)
    assert (document["redis_key"], document["redis_value"]) == (name, "")
    assert document["enrichment"] == {"state": "partial", "missing": ["mysql"]}


def test_a_query_reads_only_the_offsets_of_its_slice(
    indexer: Indexer,
) -> None:
    """The example scans the whole topic for each message (M15)."""
    publish(*(Event().value for _ in range(3_000)))
    indexed_by(indexer)
    publish(*(Event().value for _ in range(10)))
    [report] = indexed_by(indexer)
    assert report.rows == 10
    assert report.query.processed_rows == 10 + dimension_rows()


def test_indexing_the_same_offsets_again_adds_nothing(indexer: Indexer) -> None:
    events = [Event() for _ in range(30)]
    publish(*(event.value for event in events))
    state, positions = indexer.read_positions()
    slice_ = indexer.plan(state, positions).slice
    assert slice_ is not None
    indexed_by(indexer)
    before = documents(*(event.uuid for event in events))
    second = indexer.process(state, slice_)
    assert (second.outcome.indexed, second.outcome.already_indexed) == (0, 30)
    assert documents(*(event.uuid for event in events)) == before


def test_of_two_runs_of_the_same_slice_one_moves_the_position(indexer: Indexer) -> None:
    events = [Event() for _ in range(30)]
    publish(*(event.value for event in events))
    state, positions = indexer.read_positions()
    slice_ = indexer.plan(state, positions).slice
    assert slice_ is not None
    indexer.process(state, slice_)
    indexer.commit(state, positions, slice_.ends())
    indexer.process(state, slice_)
    with pytest.raises(PositionConflict):
        indexer.commit(state, positions, slice_.ends())
    assert len(documents(*(event.uuid for event in events))) == 30
    assert lag(indexer) == 0


def test_offsets_deleted_by_retention_are_a_recorded_gap(indexer: Indexer) -> None:
    offsets = publish(*(Event().value for _ in range(6)), partition=3)
    first, start = offsets[0][1], offsets[4][1]
    admin = AdminClient({"bootstrap.servers": KafkaAdapter(Settings()).address})
    futures = admin.delete_records([TopicPartition(ACCESS_LOG.topic, 3, start)])
    for future in futures.values():
        future.result()
    recovered, indexed = indexed_by(indexer)
    assert recovered.gaps == (
        f"retention deleted analyze.action 3:[{first},{start}) before it was read",
    )
    assert indexed.outcome.indexed == 2
    assert lag(indexer) == 0
    indexer.servers.store.refresh("kp.gaps")
    gaps = [
        (each.source["start"], each.source["end"])
        for each in indexer.servers.store.find("kp.gaps", "topic", ACCESS_LOG.topic)
    ]
    assert (first, start) in gaps


def test_an_incomplete_answer_fails_the_slice_and_moves_no_position(indexer: Indexer) -> None:
    event = Event()
    [(partition, offset)] = publish(event.value)
    state, _ = indexer.read_positions()
    beyond = Slice((OffsetRange(partition, offset, offset + 3),))
    with pytest.raises(SliceError, match=f"ends at {offset + 1}"):
        indexer.process(state, beyond)
    assert lag(indexer) == 1
    indexed_by(indexer)
    assert len(documents(event.uuid)) == 1


def test_transactions_lose_nothing_and_an_aborted_one_leaves_no_document(
    indexer: Indexer,
) -> None:
    kept, aborted, unfinished = Event(), Event(), Event()
    with transaction() as producer:
        producer.produce(ACCESS_LOG.topic, kept.value, partition=0)
    with transaction(commits=False) as producer:
        producer.produce(ACCESS_LOG.topic, aborted.value, partition=0)
    with transaction() as producer:
        producer.produce(ACCESS_LOG.topic, unfinished.value, partition=0)
        producer.flush(60)
        # A commit is answered before its marker is written.
        wait_for(lambda: lag(indexer) == 4, "both transactions have their markers")
        [report] = indexed_by(indexer)
        assert (report.rows, report.empty) == (1, 3)  # two markers, and the aborted event
        assert lag(indexer) == 0
    wait_for(lambda: lag(indexer) == 2, "the last transaction has its marker")
    indexed_by(indexer)
    found = documents(kept.uuid, aborted.uuid, unfinished.uuid)
    assert [each["uuid"] for each in found] == [kept.uuid, unfinished.uuid]
    assert lag(indexer) == 0


def test_a_deleted_index_is_indexed_again(indexer: Indexer) -> None:
    day = datetime(2026, 1, 7, 12, tzinfo=UTC)
    events = [Event() for _ in range(40)]
    publish(*(event.value for event in events), at=day)
    indexed_by(indexer)
    before = documents(*(event.uuid for event in events))
    ElasticsearchAdapter(Settings()).client().indices.delete(index="log.index-2026.01.07")
    reports = indexed_by(indexer)
    assert "log.index-2026.01.07 was deleted" in reports[0].gaps[0]
    changed = {"indexed_at": None, "delay_ms": None}
    after = documents(*(event.uuid for event in events))
    assert [each | changed for each in after] == [each | changed for each in before]
    assert lag(indexer) == 0
    assert indexed_by(indexer) == []


@pytest.mark.parametrize(("name", "server"), [("redis", "Redis"), ("mysql", "MySQL")])
def test_an_unavailable_database_fails_the_slice_and_no_document_is_partly_enriched(
    indexer: Indexer, quiet_stack: Stack, name: str, server: str
) -> None:
    event = Event()
    publish(event.value)
    supervisor = Supervisor(quiet_stack.settings.home)
    supervisor.stop_program(name)
    try:
        with pytest.raises(ServerDown, match=f"{server} does not answer at catalog"):
            indexed_by(indexer)
        assert lag(indexer) == 1
    finally:
        supervisor.start_program(name)
    wait_for(lambda: indexes(indexer), f"{server} answers again")
    [document] = documents(event.uuid)
    assert document["enrichment"] == {"state": "complete", "missing": []}


def indexes(indexer: Indexer) -> bool:
    try:
        indexed_by(indexer)
    except (ServerDown, SliceError):
        return False
    return True


def test_a_write_block_moves_no_position_and_stores_no_dead_letter(indexer: Indexer) -> None:
    """The example commits its offset whether or not indexing worked (M9)."""
    publish(Event().value)
    indexed_by(indexer)  # today's index exists
    event = Event()
    offsets = publish(event.value)
    indices = ElasticsearchAdapter(Settings()).client().indices
    indices.put_settings(index="log.index-*", settings={"index.blocks.write": True})
    try:
        with pytest.raises(IndexBlocked):
            indexed_by(indexer)
        assert lag(indexer) == 1
    finally:
        indices.put_settings(index="log.index-*", settings={"index.blocks.write": None})
    indexed_by(indexer)
    assert len(documents(event.uuid)) == 1
    assert dead_letters(*offsets[0]) == []


def test_positions_reach_the_end_offsets_and_the_consumer_group_mirrors_them(
    indexer: Indexer,
) -> None:
    publish(*(Event().value for _ in range(20)))
    indexed_by(indexer)
    lags = partition_lags(ACCESS_LOG, indexer.servers.log, indexer.servers.store)
    assert [each.position for each in lags] == [each.high for each in lags]
    mirrored = KafkaAdapter(Settings()).committed(ACCESS_LOG.consumer_group, ACCESS_LOG.topic)
    assert mirrored == {each.partition: each.high for each in lags if each.high}


@pytest.mark.many_events
def test_a_hundred_thousand_events_become_a_hundred_thousand_documents(indexer: Indexer) -> None:
    marker = uuid.uuid4().hex
    names = [*REFERENCE_VALUES, "nobody"]
    publish(
        *(
            Event(name=names[number % 5], uri=f"/{marker}/{number}").value
            for number in range(100_000)
        )
    )
    reports = indexed_by(replace(indexer, limits=replace(LIMITS, slice_rows=40_000)))
    assert [report.rows for report in reports] == [40_000, 40_000, 20_000]
    for report in reports:
        assert report.query.processed_rows == report.rows + dimension_rows()
    assert sum(report.outcome.indexed for report in reports) == 100_000
    assert lag(indexer) == 0
    client = ElasticsearchAdapter(Settings()).client()
    client.indices.refresh(index="log.index")
    query = {"prefix": {"uri": f"/{marker}/"}}
    assert client.count(index="log.index", query=query)["count"] == 100_000
    by_name = client.search(
        index="log.index", query=query, size=0, aggs={"names": {"terms": {"field": "name"}}}
    )["aggregations"]["names"]["buckets"]
    assert Counter({each["key"]: each["doc_count"] for each in by_name}) == Counter(
        dict.fromkeys(names, 20_000)
    )
