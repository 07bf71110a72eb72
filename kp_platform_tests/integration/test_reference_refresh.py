"""Changes of reference data refresh documents, on the real servers."""

import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from functools import partial

import pytest
from confluent_kafka import Consumer

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.adapters.kafka import KafkaAdapter
from kp_platform.adapters.mysql import MySQLAdapter
from kp_platform.adapters.redis import RedisAdapter
from kp_platform.adapters.reference_changes import NotPublished, publish_changes
from kp_platform.engine.indexer import Indexer, Limits
from kp_platform.engine.lag import partition_lags
from kp_platform.engine.reference_change import ReferenceChange
from kp_platform.engine.reports import SliceReport
from kp_platform.flows.builtin import ACCESS_LOG, REFERENCE_CHANGES
from kp_platform.flows.model import AnyFlow
from kp_platform.operations.reference_data import seed, set_reference
from kp_platform.settings import Settings
from kp_platform.wiring import servers
from kp_platform_tests.conftest import wait_for
from kp_platform_tests.integration.events import Event, documents, publish
from kp_platform_tests.stack import Stack

LIMITS = Limits(slice_rows=50_000, bulk_rows=5_000, follow_idle_seconds=0, max_run_seconds=120)


def indexed_by(flow: AnyFlow) -> list[SliceReport]:
    indexer = Indexer(
        flow,
        servers(Settings()),
        LIMITS,
    )
    return [report for report in indexer.run() if report is not None]


def lag(flow: AnyFlow) -> int:
    return sum(
        each.lag
        for each in partition_lags(flow, KafkaAdapter(Settings()), ElasticsearchAdapter(Settings()))
    )


def published_changes(*changes: ReferenceChange) -> int:
    return publish_changes(Settings().kafka_bootstrap_servers, changes)


def change(name: str, url: str) -> None:
    publishing = partial(publish_changes, Settings().kafka_bootstrap_servers)
    set_reference(MySQLAdapter(Settings()), RedisAdapter(Settings()), publishing, name, url)


def delete_reference(*names: str) -> None:
    """Delete reference data: other tests count them."""
    for name in names:
        with MySQLAdapter(Settings())._cursor() as cursor:
            cursor.execute("DELETE FROM testing.tests WHERE test_name = %s", (name,))
        with RedisAdapter(Settings())._client() as client:
            client.delete(name)


@pytest.fixture
def caught_up(quiet_stack: Stack) -> Iterator[None]:
    """Neither flow has lag. Afterwards the reference data are those of the example."""
    indexed_by(ACCESS_LOG)
    indexed_by(REFERENCE_CHANGES)
    ids = MySQLAdapter(Settings()).ids()
    yield
    delete_reference(*(name for name in MySQLAdapter(Settings()).ids() if name not in ids))
    seed(MySQLAdapter(Settings()), RedisAdapter(Settings()), lambda changes: None)


def indexed(count: int, name: str) -> list[str]:
    """Publish and index events of a name; returns their uuids."""
    events = [Event(name=name) for _ in range(count)]
    publish(*(event.value for event in events))
    indexed_by(ACCESS_LOG)
    return [event.uuid for event in events]


def test_a_published_change_is_a_plain_kafka_message(
    caught_up: None,
) -> None:
    key = str(uuid.uuid4())
    assert published_changes(ReferenceChange("mysql", key), ReferenceChange("redis", key)) == 2
    consumer = Consumer(
        {
            "bootstrap.servers": Settings().kafka_bootstrap_servers,
            "group.id": f"reader-{key}",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    seen = []
    try:
        consumer.subscribe([REFERENCE_CHANGES.topic])

        def both_came() -> bool:
            message = consumer.poll(1.0)
            if message is not None and message.key() == key.encode():
                seen.append(message)
            return len(seen) == 2

        wait_for(both_came, "both messages", 60)
    finally:
        consumer.close()
    assert [message.value() for message in seen] == [
        b'{"source":"mysql","key":"%b"}' % key.encode(),
        b'{"source":"redis","key":"%b"}' % key.encode(),
    ]
    assert seen[0].partition() == seen[1].partition()
    assert ("ce_type", b"kp.reference.v1") in (seen[0].headers() or [])


def test_an_unreachable_broker_is_an_error_with_a_remedy() -> None:
    with pytest.raises(NotPublished, match="1 of 1 changes were not published .* publish again"):
        publish_changes("127.0.0.1:1", [ReferenceChange("mysql", "x")], timeout_seconds=0.5)


@pytest.mark.many_events
def test_a_change_refreshes_the_documents_of_its_name_only(caught_up: None) -> None:
    name, other = (f"name-{uuid.uuid4()}" for _ in range(2))
    change(name, "https://old.example/")
    indexed_by(REFERENCE_CHANGES)
    changed, unchanged = indexed(12_000, name), indexed(50, other)
    before = documents(*unchanged)
    change(name, "https://new.example/")
    reports = indexed_by(REFERENCE_CHANGES)
    assert sum(report.outcome.refreshed for report in reports) == 12_000
    client = ElasticsearchAdapter(Settings()).client()
    buckets = client.search(
        index=ACCESS_LOG.index,
        query={"term": {"name": name}},
        size=0,
        aggs={"values": {"terms": {"field": "redis_value"}}},
    )["aggregations"]["values"]["buckets"]
    assert {each["key"]: each["doc_count"] for each in buckets} == {"https://new.example/": 12_000}
    assert documents(*unchanged) == before
    assert {each["uri"] for each in documents(*changed[:100])} == {
        f"/{key}" for key in changed[:100]
    }
    assert lag(REFERENCE_CHANGES) == 0


def test_documents_without_a_row_are_completed_when_the_row_is_added(caught_up: None) -> None:
    name = f"name-{uuid.uuid4()}"
    ids = indexed(3, name)
    assert {each["enrichment"]["state"] for each in documents(*ids)} == {"none"}
    change(name, "https://late.example/")
    indexed_by(REFERENCE_CHANGES)
    for document in documents(*ids):
        assert document["test_id"] == MySQLAdapter(Settings()).ids()[name]
        assert document["redis_value"] == "https://late.example/"
        assert document["enrichment"] == {"state": "complete", "missing": []}


def test_the_newest_of_concurrent_changes_wins_under_traffic(caught_up: None) -> None:
    """Three runs apply changes of one name side by side, while another indexes its events."""
    name = f"name-{uuid.uuid4()}"
    ids = indexed(2_000, name)
    failures: list[BaseException] = []

    def run(flow: AnyFlow) -> None:
        try:
            while not stop.is_set():
                indexed_by(flow)
        except BaseException as error:
            failures.append(error)
            raise

    stop = threading.Event()
    runs = [REFERENCE_CHANGES, REFERENCE_CHANGES, REFERENCE_CHANGES, ACCESS_LOG]
    threads = [threading.Thread(target=run, args=(flow,)) for flow in runs]
    for thread in threads:
        thread.start()
    try:
        for number in range(8):
            change(name, f"https://example.org/{number}")
            events = [Event(name=name) for _ in range(200)]
            publish(*(event.value for event in events))
            ids += [event.uuid for event in events]
        wait_for(lambda: lag(ACCESS_LOG) + lag(REFERENCE_CHANGES) == 0, "both flows", 120)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    ElasticsearchAdapter(Settings()).refresh(ACCESS_LOG.index)
    found = documents(*ids)
    assert Counter(each["redis_value"] for each in found) == {"https://example.org/7": len(ids)}


def test_a_change_by_the_command_line_refreshes_documents_automatically(whole_stack: Stack) -> None:
    """Event -> document without a row; `kp reference set` -> message -> sensor -> run."""
    name = f"name-{uuid.uuid4()}"
    event = Event(name=name)
    publish(event.value)
    wait_for(lambda: len(documents(event.uuid)) == 1, "the document")
    whole_stack.kp("reference", "set", name, "https://set.example/")

    def is_complete() -> bool:
        [document] = documents(event.uuid)
        return bool(document["enrichment"]["state"] == "complete")

    wait_for(is_complete, "the completed document")
    [document] = documents(event.uuid)
    assert document["redis_value"] == "https://set.example/"
    delete_reference(name)
