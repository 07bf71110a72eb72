"""Publishing changes of reference data, for applications that change them.

Belongs here: the message of topic `reference.changed` and its delivery. Needs only confluent-kafka
and orjson, so an application may import or copy it. Does not belong here: the reference data
(`operations/reference_data.py`), the effect of a message (`engine/reference_refresh.py`).

    connection.commit()  # first change the row or the key, then publish
    publish_changes("127.0.0.1:18092", [ReferenceChange("mysql", "presto")])

A message carries only the key to look up, no data. It may arrive twice, late or in any order.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID, uuid4

import orjson
from confluent_kafka import KafkaError, KafkaException, Producer

TOPIC = "reference.changed"
SOURCES = ("mysql", "redis")
EVENT_TYPE = "kp.reference.v1"
DELIVERY_SECONDS = 10.0
_PRODUCER_OPTIONS: dict[str, str | int | bool] = {
    "enable.idempotence": True,
    "log_level": 0,  # failures are raised
}


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
        self.key.encode()  # UnicodeEncodeError, a ValueError, for a lone surrogate

    def body(self) -> bytes:
        return orjson.dumps({"source": self.source, "key": self.key})

    def headers(self, now_ms: int) -> list[tuple[str, str | bytes | None]]:
        """CloudEvents attributes, like those of the emitter's events."""
        moment = datetime.fromtimestamp(now_ms / 1_000, UTC).isoformat(timespec="milliseconds")
        return [
            ("ce_specversion", b"1.0"),
            ("ce_id", str(self.id).encode()),
            ("ce_source", b"/kp_platform/changes"),
            ("ce_type", EVENT_TYPE.encode()),
            ("ce_time", moment.replace("+00:00", "Z").encode()),
        ]


def publish_changes(
    bootstrap_servers: str,
    changes: Iterable[ReferenceChange],
    *,
    timeout_seconds: float = DELIVERY_SECONDS,
    options: Mapping[str, str] | None = None,
) -> int:
    """Produce a message per change and wait until Kafka acknowledges them; returns their number.

    Changes of one key go to one partition. `options` are librdkafka's, e.g. for TLS and a user.
    Raises NotPublished.
    """
    outcomes: list[KafkaError | None] = []
    waiting = list(changes)
    try:
        producer = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "message.timeout.ms": int(timeout_seconds * 1_000),
                "queue.buffering.max.messages": max(1_000, len(waiting)),
                **_PRODUCER_OPTIONS,
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
        raise NotPublished(f"changes were not published to {TOPIC}: {error}") from error
    _check_delivery(outcomes, len(waiting))
    return len(waiting)


def _check_delivery(outcomes: Sequence[KafkaError | None], count: int) -> None:
    """Raises NotPublished unless there are `count` outcomes without an error."""
    failures = [error for error in outcomes if error is not None]
    delivered = len(outcomes) - len(failures)
    if delivered < count:
        reason = failures[0].str() if failures else "no answer"
        raise NotPublished(
            f"{count - delivered} of {count} changes were not published to {TOPIC}: "
            f"{reason}; the data has changed: publish again, e.g. with the same command"
        )
