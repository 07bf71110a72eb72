"""Messages to Kafka from tests, benchmarks and fault injection.

Belongs here: waiting while the producer's queue is full. Does not belong here: the messages and
their delivery reports.
"""

from typing import Any

from confluent_kafka import Producer


def produce(producer: Producer, topic: str, value: bytes | None, **options: Any) -> None:
    """`Producer.produce` that waits while the queue is full. Raises KafkaException."""
    while True:
        try:
            producer.produce(topic, value, **options)
            return
        except BufferError:
            producer.poll(0.1)
