"""Kafka as the engine needs it: watermarks, raw messages, offsets, the mirror of positions.

Belongs here: the engine's port, and publishing reference changes. Does not belong here: producing
access events (`web_emitter`), reading events in bulk (Trino), topics and rights (`kafka_admin.py`).
"""

import functools
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import stamina
from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from kp_platform.adapters.errors import TopicMissing
from kp_platform.adapters.kafka_client import (
    NO_SUCH_TOPIC,
    Brokers,
    is_electing,
    is_transient,
    shared_client,
)
from kp_platform.adapters.reference_changes import NotPublished, publish_changes
from kp_platform.engine.errors import SliceError
from kp_platform.engine.offsets import OffsetRange, TopicState
from kp_platform.engine.ports import RawMessage
from kp_platform.engine.reference_change import ReferenceChange
from kp_platform.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class KafkaAdapter:
    """The brokers that hold the topics. Waits at most `timeout_seconds` for an answer, and
    `delivery_seconds` until published changes are acknowledged."""

    settings: Settings
    timeout_seconds: float = 5.0
    delivery_seconds: float = 10.0

    @property
    def address(self) -> str:
        return self._brokers.address

    @functools.cached_property
    def _brokers(self) -> Brokers:
        return Brokers(self.settings, self.timeout_seconds)

    def probe(self) -> None:
        """Raises ServerDown unless a broker answers."""
        try:
            shared_client(self._brokers.options).list_topics(timeout=self.timeout_seconds)
        except KafkaException as error:
            raise self._brokers.down(error) from error

    def topic_state(self, topic: str) -> TopicState:
        """Topic id, low and high watermarks of all partitions; the high watermark is before the
        first open transaction. Raises ServerDown, TopicMissing."""
        try:
            return self._brokers.topic_state(topic, retry_on=is_transient)
        except KafkaException as error:
            if error.args[0].code() in NO_SUCH_TOPIC:
                raise TopicMissing(topic, self.address) from error
            raise self._brokers.down(error) from error

    def raw_messages(
        self, topic: str, offsets: Sequence[tuple[int, int]]
    ) -> dict[tuple[int, int], RawMessage]:
        """Key and value of the messages at these (partition, offset), byte for byte.

        Raises ServerDown when they do not arrive in time, SliceError when they do not exist.
        """
        found: dict[tuple[int, int], RawMessage] = {}
        for partition in sorted({partition for partition, _ in offsets}):
            wanted = {offset for each, offset in offsets if each == partition}
            offset_range = OffsetRange(partition, min(wanted), max(wanted) + 1)
            for offset, message in self._messages(topic, offset_range):
                if offset in wanted:
                    wanted.remove(offset)
                    found[partition, offset] = message
            if wanted:
                raise SliceError(f"{topic} {partition} has no message at offset {min(wanted)}")
        return found

    def present(self, topic: str, offset_range: OffsetRange) -> set[int]:
        """See `Log.present`. Raises ServerDown, SliceError."""
        return {offset for offset, _ in self._messages(topic, offset_range)}

    def _messages(self, topic: str, offset_range: OffsetRange) -> Iterator[tuple[int, RawMessage]]:
        """The messages of a range, in order. Raises ServerDown when they do not arrive in time."""
        with self._consumer() as consumer:
            consumer.assign([TopicPartition(topic, offset_range.partition, offset_range.start)])
            quiet_since = time.monotonic()
            while time.monotonic() - quiet_since < self.timeout_seconds:
                for message in consumer.consume(100, timeout=0.2):  # up to a megabyte each
                    quiet_since = time.monotonic()
                    error, offset = message.error(), message.offset()
                    if error and error.code() != KafkaError._PARTITION_EOF:
                        raise SliceError(f"{topic} {offset_range} cannot be read: {error}")
                    if offset is None or offset >= offset_range.end:
                        return
                    if error:
                        raise SliceError(f"{topic} {offset_range} ends at {offset}")
                    yield offset, RawMessage(message.key(), message.value())
        raise self._brokers.down(f"{topic} {offset_range} did not arrive")

    def offsets_at(self, topic: str, moment: datetime) -> dict[int, int]:
        """See `Log.offsets_at`. Raises ServerDown, TopicMissing."""
        watermarks = self.topic_state(topic).partitions
        spec = OffsetSpec.for_timestamp(round(moment.timestamp() * 1000))
        try:
            found = self._brokers.offsets(topic, list(watermarks), spec)
        except KafkaException as error:
            raise self._brokers.down(error) from error
        return {
            partition: offset if offset >= 0 else watermarks[partition].high
            for partition, offset in found.items()
        }

    @contextmanager
    def _consumer(self) -> Iterator[Consumer]:
        consumer = Consumer(
            {
                **self._brokers.options,
                "group.id": "kp-raw-messages",
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",  # as Trino reads
                "enable.partition.eof": True,
            },
            logger=logger,
        )
        try:
            yield consumer
        finally:
            consumer.close()

    def commit(self, group: str, topic: str, offsets: Mapping[int, int]) -> None:
        """Mirror positions to a consumer group, best effort: a failure is logged, not raised."""
        partitions = [TopicPartition(topic, each, offset) for each, offset in offsets.items()]
        request = [ConsumerGroupTopicPartitions(group, partitions)]
        try:
            self._brokers.request(lambda client: self._commit(client, request))
        except KafkaException as error:
            logger.warning("group %s not committed: %s", group, error)

    def _commit(self, client: AdminClient, request: list[ConsumerGroupTopicPartitions]) -> None:
        for attempt in stamina.retry_context(
            on=is_electing, timeout=self.timeout_seconds, wait_initial=0.05, wait_max=0.5
        ):
            with attempt:
                futures = client.alter_consumer_group_offsets(
                    request, request_timeout=self.timeout_seconds
                )
                for partition in futures[request[0].group_id].result().topic_partitions:
                    if partition.error:
                        raise KafkaException(partition.error)

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """The offsets that a consumer group has committed; for tools and tests only."""
        partitions = [TopicPartition(topic, each) for each in self.topic_state(topic).partitions]
        consumer = Consumer({**self._brokers.options, "group.id": group}, logger=logger)
        try:
            answer = consumer.committed(partitions, timeout=self.timeout_seconds)
        except KafkaException as error:
            raise self._brokers.down(error) from error
        finally:
            consumer.close()
        return {each.partition: each.offset for each in answer if each.offset >= 0}

    def publish_changes(self, changes: Sequence[ReferenceChange]) -> None:
        """See `reference_changes.publish_changes`. Raises ServerDown, also when only some of the
        changes are acknowledged."""
        try:
            publish_changes(
                self.address,
                changes,
                timeout_seconds=self.delivery_seconds,
                options=self._brokers.security,
            )
        except NotPublished as error:
            raise self._brokers.down(error, "does not accept the changes") from error
