"""What the integration tests send and look up, with no help from the code under test."""

import json
import uuid
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Producer

from kp_platform.flows import ACCESS_LOG
from kp_platform.resources.elasticsearch import ElasticsearchResource
from kp_platform.settings import Settings


@dataclass(frozen=True)
class Event:
    """One access event as any producer may write it."""

    name: str = "presto"
    uri: str = ""
    uuid: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def value(self) -> bytes:
        uri = self.uri or f"/{self.uuid}"
        return json.dumps({"uuid": self.uuid, "uri": uri, "name": self.name}).encode()


def publish(*values: bytes | None, partition: int = -1) -> list[tuple[int, int]]:
    """Write messages to the topic of the access log; returns their (partition, offset)."""
    producer = Producer({"bootstrap.servers": Settings().kafka_bootstrap_servers, "acks": "all"})
    places: list[tuple[int, int]] = []

    def delivered(error: object, message: Any) -> None:
        assert error is None, error
        places.append((message.partition(), message.offset()))

    for value in values:
        while True:
            try:
                producer.produce(
                    ACCESS_LOG.topic, value, partition=partition, on_delivery=delivered
                )
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(60) == 0
    assert len(places) == len(values)
    return places


def documents(*identities: str) -> list[dict[str, Any]]:
    """The enriched documents of these uuids over all daily indices, in order of their offsets."""
    answer = (
        ElasticsearchResource()
        .client()
        .search(
            index=ACCESS_LOG.index,
            query={"terms": {"uuid": list(identities)}},
            size=10_000,
            sort=["partition", "offset"],
            ignore_unavailable=True,
        )
    )
    return [hit["_source"] for hit in answer["hits"]["hits"]]


def dead_letters(partition: int, offset: int) -> list[dict[str, Any]]:
    """The dead letters of one message."""
    client = ElasticsearchResource().client()
    client.indices.refresh(index="kp.dead", ignore_unavailable=True)
    place = [{"term": {"partition": partition}}, {"term": {"offset": offset}}]
    answer = client.search(
        index="kp.dead", query={"bool": {"filter": place}}, ignore_unavailable=True
    )
    return [hit["_source"] for hit in answer["hits"]["hits"]]
