"""Publishing changes of reference data, for applications that change them.

Belongs here: producing to topic `reference.changed`. Needs only confluent-kafka, orjson and
`web_emitter.contract`, so an application can import it alone. Does not belong here: the message
(`engine/reference_change.py`) and the reference data (`operations/reference_data.py`).

    connection.commit()  # commit the change of the row or key before publishing it
    publish_changes("127.0.0.1:18092", [ReferenceChange("mysql", "presto")])
"""

import time
from collections.abc import Iterable, Mapping, Sequence

from confluent_kafka import KafkaError, KafkaException, Producer

from kp_platform.engine.reference_change import ReferenceChange
from web_emitter import contract

TOPIC = contract.REFERENCE_CHANGES_TOPIC
DELIVERY_SECONDS = 10.0
_PRODUCER_OPTIONS: dict[str, str | int | bool] = {
    "enable.idempotence": True,
    "log_level": 0,  # failures are raised
}


class NotPublished(Exception):
    """Kafka did not acknowledge a change; publishing it again is safe."""


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
