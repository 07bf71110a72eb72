"""Publishing changes of reference data, for applications that change them.

Belongs here: the message of topic `reference.changed` and its production. Needs only
confluent-kafka, orjson and `web_emitter.contract`, so an application can import it alone. Does not
belong here: the reference data (`operations/reference_data.py`) and the re-enrichment that a
message causes (`engine/reference_refresh.py`).

    connection.commit()  # commit the change of the row or key before publishing it
    publish_changes("127.0.0.1:18092", [ReferenceChange("mysql", "presto")])

A message carries only the key to look up, no data. It may therefore arrive twice, late or in any
order.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import orjson
from confluent_kafka import KafkaError, KafkaException, Producer

from web_emitter import contract

TOPIC = contract.REFERENCE_CHANGES_TOPIC
SOURCES = ("mysql", "redis")
EVENT_TYPE = "kp.reference.v1"
EVENT_SOURCE = "/kp_platform/changes"
DELIVERY_SECONDS = 10.0


class NotPublished(Exception):
    """Kafka did not acknowledge a change; publishing it again is safe."""


@dataclass(frozen=True, slots=True)
class ReferenceChange:
    """The row or value of `key` in `source` (mysql or redis) was set, changed or deleted."""

    source: str
    key: str
    id: UUID = field(default_factory=uuid4)

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ValueError(f"source {self.source!r} is none of {', '.join(SOURCES)}")
        if not self.key:
            raise ValueError("a change needs a key")
        self.key.encode()  # a lone surrogate is no text: UnicodeEncodeError, a ValueError

    def body(self) -> bytes:
        return orjson.dumps({"source": self.source, "key": self.key})

    def headers(self, now_ms: int) -> list[contract.Header]:
        """CloudEvents attributes, as the emitter's events have them."""
        event_id = str(self.id).encode()
        return contract.cloudevents_headers(event_id, EVENT_SOURCE, EVENT_TYPE, now_ms)


def publish_changes(
    bootstrap_servers: str,
    changes: Iterable[ReferenceChange],
    *,
    timeout_seconds: float = DELIVERY_SECONDS,
    options: Mapping[str, str] | None = None,
) -> int:
    """Write a message for each change and wait until Kafka has them; returns their number.

    Changes of one key go to one partition. `options` are librdkafka's, e.g. for TLS and a user.
    Raises NotPublished.
    """
    outcomes: list[KafkaError | None] = []
    waiting = list(changes)
    try:
        producer = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "enable.idempotence": True,
                "message.timeout.ms": int(timeout_seconds * 1_000),
                "queue.buffering.max.messages": max(1_000, len(waiting)),
                "log_level": 0,  # what fails is raised
                **(options or {}),
            }
        )
        for change in waiting:
            now_ms = time.time_ns() // 1_000_000
            producer.produce(
                TOPIC,
                change.body(),
                key=change.key.encode(),
                headers=change.headers(now_ms),
                timestamp=now_ms,
                on_delivery=lambda error, message: outcomes.append(error),
            )
        producer.flush(timeout_seconds + 1)
    except (KafkaException, BufferError) as error:
        raise NotPublished(f"changes are not published to {TOPIC}: {error}") from error
    failures = [error for error in outcomes if error is not None]
    delivered = len(outcomes) - len(failures)
    if delivered < len(waiting):
        reason = failures[0].str() if failures else "no answer"
        raise NotPublished(
            f"{len(waiting) - delivered} of {len(waiting)} changes are not published to {TOPIC}: "
            f"{reason}; the data are changed: publish again, e.g. with the same command"
        )
    return delivered
