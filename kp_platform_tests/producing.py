"""A message to Kafka from a test, a benchmark or a trial.

Belongs here: waiting for room in the producer's queue. Does not belong here: what is sent, and what
its delivery means.
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
