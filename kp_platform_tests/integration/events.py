"""Events of the integration tests: sending, indexing, and searching without the code under test."""

import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from confluent_kafka import Producer

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.engine.indexer import Indexer, Limits
from kp_platform.engine.lag import partition_lags
from kp_platform.flows.builtin import ACCESS_LOG
from kp_platform.settings import Settings
from kp_platform.wiring import servers
from kp_platform_tests.producing import produce


@dataclass(frozen=True)
class Event:
    """An access event, as any producer may write it."""

    name: str = "presto"
    uri: str = ""
    uuid: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def value(self) -> bytes:
        uri = self.uri or f"/{self.uuid}"
        return json.dumps({"uuid": self.uuid, "uri": uri, "name": self.name}).encode()


def json_value(**members: object) -> bytes:
    return json.dumps(members).encode()


def publish(
    *values: bytes | None,
    partition: int = -1,
    topic: str = ACCESS_LOG.topic,
    at: datetime | None = None,
) -> list[tuple[int, int]]:
    """Write messages to a topic, by default that of the access log; returns their (partition,
    offset) in the order of the values, which may be delivered in another. `at` is their timestamp,
    by default now."""
    producer = Producer({"bootstrap.servers": Settings().kafka_bootstrap_servers, "acks": "all"})
    locations: dict[int, tuple[int, int]] = {}

    def delivered(number: int, error: object, message: Any) -> None:
        assert error is None, error
        locations[number] = message.partition(), message.offset()

    for number, value in enumerate(values):
        produce(
            producer,
            topic,
            value,
            partition=partition,
            timestamp=round(at.timestamp() * 1000) if at else 0,
            on_delivery=partial(delivered, number),
        )
    assert producer.flush(60) == 0
    return [locations[number] for number in range(len(values))]


@contextmanager
def transaction(commits: bool = True) -> Iterator[Producer]:
    """A producer in a transaction that is committed at the end, or aborted."""
    brokers = Settings().kafka_bootstrap_servers
    producer = Producer({"bootstrap.servers": brokers, "transactional.id": str(uuid.uuid4())})
    producer.init_transactions(60)
    producer.begin_transaction()
    try:
        yield producer
    except BaseException:
        producer.abort_transaction(60)  # an open one would hide all later messages
        raise
    if commits:
        producer.commit_transaction(60)
    else:
        producer.flush(60)
        producer.abort_transaction(60)


def run_indexer() -> None:
    """Index everything published, as a run does."""
    limits = Limits(slice_rows=50_000, bulk_rows=5_000, follow_idle_seconds=0, max_run_seconds=300)
    own = servers(Settings())
    list(Indexer(ACCESS_LOG, own, limits).run())
    lags = partition_lags(ACCESS_LOG, own.log, own.store)
    assert not sum(each.lag for each in lags), f"the run has ended early: {lags}"


def unused_hours(count: int) -> list[datetime]:
    """Consecutive hours in the past without events, for one test."""
    client = ElasticsearchAdapter(Settings()).client()
    client.indices.refresh(index=ACCESS_LOG.index, ignore_unavailable=True)
    first = datetime(2026, 2, 1, tzinfo=UTC)
    latest = client.search(
        index=ACCESS_LOG.index,
        query={"range": {"@timestamp": {"gte": first.isoformat(), "lt": "2026-07-01"}}},
        size=1,
        sort=[{"@timestamp": "desc"}],
        ignore_unavailable=True,
    )["hits"]["hits"]
    if latest:
        used = datetime.fromisoformat(latest[0]["_source"]["@timestamp"])
        first = used.replace(minute=0, second=0, microsecond=0) + timedelta(hours=2)
    return [first + timedelta(hours=number) for number in range(count)]


def search(index: str, query: dict[str, Any], sort: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The hits of a plain search; none if the index does not exist or is being created."""
    client = ElasticsearchAdapter(Settings()).client().options(ignore_status=503)
    answer = client.search(
        index=index, query=query, size=10_000, sort=list(sort), ignore_unavailable=True
    )
    return [hit["_source"] for hit in answer.body.get("hits", {}).get("hits", [])]


def documents(*identities: str) -> list[dict[str, Any]]:
    """The enriched documents of these uuids in all daily indices, sorted by offset."""
    return search(ACCESS_LOG.index, {"terms": {"uuid": list(identities)}}, ["partition", "offset"])


def indexed_documents() -> dict[str, dict[str, Any]]:
    """All enriched documents of the access log by their uuid. Fails if a uuid occurs twice."""
    found = search(ACCESS_LOG.index, {"match_all": {}})
    by_uuid = {each["uuid"]: each for each in found}
    assert len(by_uuid) == len(found)
    return by_uuid


def dead_letters(
    partition: int, offset: int, topic: str = ACCESS_LOG.topic
) -> list[dict[str, Any]]:
    """The dead letters of one message."""
    client = ElasticsearchAdapter(Settings()).client()
    client.indices.refresh(index="kp.dead", ignore_unavailable=True)
    terms = {"topic": topic, "partition": partition, "offset": offset}
    terms_of_offset = [{"term": {name: value}} for name, value in terms.items()]
    return search("kp.dead", {"bool": {"filter": terms_of_offset}})
