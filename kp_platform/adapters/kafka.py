"""Kafka: watermarks, raw messages, topics, the mirror of positions.

Belongs here: every call to Kafka that the platform makes. Does not belong here: producing access
events (that is `web_emitter`) and reading them in bulk (Trino does).
"""

import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import stamina
from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    OffsetSpec,
    ResourcePatternType,
    ResourceType,
)
from pydantic import SecretStr

from kp_platform.adapters.errors import (
    NO_ANSWER,
    SECURITY,
    Refusal,
    ServerDown,
    TopicMissing,
    shut_out,
    tls_on_one_side,
)
from kp_platform.adapters.reference_changes import NotPublished, ReferenceChange, publish_changes
from kp_platform.engine.errors import SliceError
from kp_platform.engine.offsets import OffsetRange, TopicState, Watermarks
from kp_platform.engine.ports import RawMessage
from kp_platform.settings import Settings

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

_NO_SUCH_TOPIC = (
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.UNKNOWN_TOPIC_ID,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._NOENT,
)
# What Kafka's protocol calls retriable of a partition whose leader is just being made or moved; the
# Java clients ask again too. Measured: a new topic answers the second in 1 of 4, the fifth in 1 of
# 150 first looks on a busy machine.
_LEADER_UNSETTLED = (
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.REPLICA_NOT_AVAILABLE,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.KAFKA_STORAGE_ERROR,
)


def _is_transient(error: Exception) -> bool:
    """For a moment after a topic was made, or a broker came back, partitions have no leader."""
    return isinstance(error, KafkaException) and error.args[0].code() in _LEADER_UNSETTLED


def _is_not_known_yet(error: Exception) -> bool:
    return _is_transient(error) or (
        isinstance(error, KafkaException) and error.args[0].code() in _NO_SUCH_TOPIC
    )


def _is_electing(error: Exception) -> bool:
    """A fresh broker, or one that is back, makes the log of the groups on the first commit."""
    return isinstance(error, KafkaException) and error.args[0].code() in (
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
    )


@dataclass(frozen=True, slots=True)
class Grant:
    """What a user may do with a topic, or with the groups whose names begin with `name`."""

    user: str
    operation: str
    name: str
    of_groups: bool = False

    def binding(self) -> AclBinding:
        return AclBinding(
            ResourceType.GROUP if self.of_groups else ResourceType.TOPIC,
            self.name,
            ResourcePatternType.PREFIXED if self.of_groups else ResourcePatternType.LITERAL,
            f"User:{self.user}",
            "*",
            AclOperation[self.operation],
            AclPermissionType.ALLOW,
        )


class _Admin(AdminClient):
    """Remembers why its connections fail: what a request says is only that its time is over."""

    def __init__(self, options: Mapping[str, str]) -> None:
        self._complaint: KafkaError | None = None
        # Its log would say on each failure what it could not do since the last.
        told: dict[str, Any] = {"error_cb": self._complain, "log_level": 0}
        super().__init__({**options, **told})

    def _complain(self, error: KafkaError) -> None:
        if error.code() in (KafkaError._SSL, KafkaError._AUTHENTICATION):
            self._complaint = error

    def complaint(self) -> KafkaError | None:
        """Of TLS or the user, since it was asked last."""
        self._complaint = None
        self.poll(0)
        return self._complaint


_IN_VAIN = (KafkaError._TIMED_OUT, KafkaError._TRANSPORT)
# For 9 s after it was killed, the others may still name a broker as the one to ask.
_REPLACEMENTS = 2
_ANY_BROKER_SECONDS = 1.0
_admins: dict[frozenset[tuple[str, str]], _Admin] = {}
_admins_lock = threading.Lock()


def _admin(options: Mapping[str, str], instead_of: _Admin | None = None) -> _Admin:
    """One client for each address, user and process. Who waits for its futures has to keep it: when
    it is collected they never complete."""
    key = frozenset(options.items())
    with _admins_lock:
        if _admins.get(key) in (None, instead_of):
            _admins[key] = _Admin(options)
        return _admins[key]


_USER = "KP_KAFKA_USER, KP_KAFKA_PASSWORD"
_REFUSALS = (
    Refusal("sasl authentication error", _USER, "refuses the user"),
    Refusal("authorization failed", _USER, "does not allow this to the user"),
    Refusal("ssl.ca.location failed", "KP_CA_FILE", "cannot be asked"),
)


@dataclass(frozen=True)
class KafkaAdapter:
    """The brokers that hold the topics. Waits at most `timeout_seconds` for an answer, and
    `delivery_seconds` until published changes are acknowledged. Topics and ACLs are created by
    `admin_user`; empty: the user of the settings."""

    settings: Settings
    timeout_seconds: float = 5.0
    delivery_seconds: float = 10.0
    admin_user: str = ""
    admin_password: SecretStr = SecretStr("")

    @property
    def address(self) -> str:
        return self.settings.kafka_bootstrap_servers

    @functools.cached_property
    def _security(self) -> dict[str, str]:
        settings = self.settings
        return settings.kafka_security_options(settings.kafka_user, settings.kafka_password)

    @functools.cached_property
    def _options(self) -> dict[str, str]:
        return {"bootstrap.servers": self.address, **self._security}

    @functools.cached_property
    def _admin_options(self) -> dict[str, str]:
        """Of the user that may make topics and grant rights."""
        if not self.admin_user:
            return self._options
        options = self.settings.kafka_security_options(self.admin_user, self.admin_password)
        return {**self._options, **options}

    def probe(self) -> None:
        """Raises ServerDown unless a broker answers."""
        try:
            _admin(self._options).list_topics(timeout=self.timeout_seconds)
        except KafkaException as error:
            raise self._down(error) from error

    def probe_broker(self) -> None:
        """Raises ServerDown unless the one broker of this address answers, and is one of those that
        may hold partitions."""
        # A client of its own: one that has learnt of other brokers would ask any of them.
        client = _Admin(self._options)
        try:
            found = client.list_topics(timeout=self.timeout_seconds).brokers.values()
        except KafkaException as error:
            raise self._down(client.complaint() or error) from error
        if not self.address.endswith(tuple(f":{each.port}" for each in found)):
            raise self._down("the other brokers do not count it in", "is not ready")

    def topic_state(self, topic: str) -> TopicState:
        """Topic id, low and high watermarks of all partitions; the high one stands before the first
        transaction that is still open. Raises ServerDown, TopicMissing."""
        try:
            return self._topic_state(topic, again_on=_is_transient)
        except KafkaException as error:
            if error.args[0].code() in _NO_SUCH_TOPIC:
                raise TopicMissing(topic, self.address) from error
            raise self._down(error) from error

    def raw_messages(
        self, topic: str, offsets: Sequence[tuple[int, int]]
    ) -> dict[tuple[int, int], RawMessage]:
        """Key and value of the messages at these (partition, offset), byte for byte.

        Raises ServerDown when they do not come in time, SliceError when they are not there.
        """
        found: dict[tuple[int, int], RawMessage] = {}
        for partition in sorted({partition for partition, _ in offsets}):
            wanted = {offset for part, offset in offsets if part == partition}
            span = OffsetRange(partition, min(wanted), max(wanted) + 1)
            for offset, message in self._messages(topic, span):
                if offset in wanted:
                    wanted.remove(offset)
                    found[partition, offset] = message
            if wanted:
                raise SliceError(f"{topic} {partition} has no message at offset {min(wanted)}")
        return found

    def present(self, topic: str, part: OffsetRange) -> set[int]:
        """See `Log.present`. Raises ServerDown, SliceError."""
        return {offset for offset, _ in self._messages(topic, part)}

    def _messages(self, topic: str, part: OffsetRange) -> Iterator[tuple[int, RawMessage]]:
        """The messages of a range, in order; raises ServerDown when they do not come in time."""
        with self._consumer() as consumer:
            consumer.assign([TopicPartition(topic, part.partition, part.start)])
            quiet_since = time.monotonic()
            while time.monotonic() - quiet_since < self.timeout_seconds:
                for message in consumer.consume(100, timeout=0.2):  # of a megabyte each, at worst
                    quiet_since = time.monotonic()
                    error, offset = message.error(), message.offset()
                    if error and error.code() != KafkaError._PARTITION_EOF:
                        raise SliceError(f"{topic} {part} cannot be read: {error}")
                    if offset is None or offset >= part.end:
                        return
                    if error:
                        raise SliceError(f"{topic} {part} ends at {offset}")
                    yield offset, RawMessage(message.key(), message.value())
        raise self._down(f"{topic} {part} did not come")

    def offsets_at(self, topic: str, moment: datetime) -> dict[int, int]:
        """See `Log.offsets_at`. Raises ServerDown, TopicMissing."""
        marks = self.topic_state(topic).partitions
        spec = OffsetSpec.for_timestamp(round(moment.timestamp() * 1000))
        try:
            found = self._offsets(topic, list(marks), spec)
        except KafkaException as error:
            raise self._down(error) from error
        return {part: at if at >= 0 else marks[part].high for part, at in found.items()}

    @contextmanager
    def _consumer(self) -> Iterator[Consumer]:
        consumer = Consumer(
            {
                **self._options,
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
        parts = [TopicPartition(topic, partition, at) for partition, at in offsets.items()]
        request = [ConsumerGroupTopicPartitions(group, parts)]
        try:
            self._ask(lambda client: self._commit(client, request))
        except KafkaException as error:
            logger.warning("group %s not committed: %s", group, error)

    def _commit(self, client: AdminClient, request: list[ConsumerGroupTopicPartitions]) -> None:
        for attempt in stamina.retry_context(
            on=_is_electing, timeout=self.timeout_seconds, wait_initial=0.05, wait_max=0.5
        ):
            with attempt:
                futures = client.alter_consumer_group_offsets(
                    request, request_timeout=self.timeout_seconds
                )
                for part in futures[request[0].group_id].result().topic_partitions:
                    if part.error:
                        raise KafkaException(part.error)

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """The offsets that a consumer group has committed; only for people and tests."""
        parts = [TopicPartition(topic, part) for part in self.topic_state(topic).partitions]
        consumer = Consumer({**self._options, "group.id": group}, logger=logger)
        try:
            answer = consumer.committed(parts, timeout=self.timeout_seconds)
        except KafkaException as error:
            raise self._down(error) from error
        finally:
            consumer.close()
        return {part.partition: part.offset for part in answer if part.offset >= 0}

    def publish_changes(self, changes: Sequence[ReferenceChange]) -> None:
        """See `reference_changes.announce`. Raises ServerDown, also when only some are there."""
        try:
            publish_changes(
                self.address,
                changes,
                timeout_seconds=self.delivery_seconds,
                options=self._security,
            )
        except NotPublished as error:
            raise self._down(error, "does not take the changes") from error

    def create_topics(self, topics: Mapping[str, int]) -> list[str]:
        """Create the topics that do not exist, with that many partitions; returns those created.

        The replication factor is the brokers' default.
        """
        request = [NewTopic(name, count, replication_factor=-1) for name, count in topics.items()]
        created = []
        client = _admin(self._admin_options)
        futures = client.create_topics(request, request_timeout=self.timeout_seconds)
        for name, future in futures.items():
            try:
                future.result()
                # A broker learns of it from the controller, a moment later.
                self._topic_state(name, again_on=_is_not_known_yet)
                created.append(name)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise self._down(error) from error
        return created

    def allow(self, grants: Sequence[Grant]) -> None:
        """Give users these rights; again is safe. Raises ServerDown."""
        request = [grant.binding() for grant in grants]
        client = _admin(self._admin_options)
        futures = client.create_acls(request, request_timeout=self.timeout_seconds)
        try:
            for future in futures.values():
                future.result()
        except KafkaException as error:
            raise self._down(error) from error

    def _topic_state(self, topic: str, again_on: Callable[[Exception], bool]) -> TopicState:
        for attempt in stamina.retry_context(
            on=again_on, timeout=self.timeout_seconds, wait_initial=0.05, wait_max=0.5
        ):
            with attempt:
                return self._topic_state_now(topic)
        raise AssertionError("a retry ends with a value or an error")

    def _topic_state_now(self, topic: str) -> TopicState:
        described = self._describe(topic)
        partitions = [part.id for part in described.partitions]
        lows = self._offsets(topic, partitions, OffsetSpec.earliest())
        highs = self._offsets(topic, partitions, OffsetSpec.latest())
        marks = {part: Watermarks(lows[part], highs[part]) for part in partitions}
        return TopicState(topic, str(described.topic_id), marks)

    def _describe(self, topic: str) -> Any:
        def describe(client: AdminClient) -> Any:
            names = TopicCollection([topic])
            futures = client.describe_topics(names, request_timeout=self.timeout_seconds)
            return futures[topic].result()

        return self._ask(describe)

    def _offsets(self, topic: str, partitions: Sequence[int], spec: OffsetSpec) -> dict[int, int]:
        request = {TopicPartition(topic, part): spec for part in partitions}

        def offsets(client: AdminClient) -> dict[int, int]:
            futures = client.list_offsets(
                request,
                isolation_level=IsolationLevel.READ_COMMITTED,
                request_timeout=self.timeout_seconds,
            )
            return {part.partition: future.result().offset for part, future in futures.items()}

        return self._ask(offsets)

    def _ask(self, ask: Callable[[AdminClient], Answer]) -> Answer:
        """What the brokers answer to a client that is replaced when it waits in vain.

        Once a broker was killed, a client may never find the controller, or a group's coordinator,
        again: each request times out, for minutes, while a new client needs 0.2 s [ran].
        """
        client = _admin(self._options)
        for _ in range(_REPLACEMENTS):
            try:
                return ask(client)
            except KafkaException as error:
                if error.args[0].code() not in _IN_VAIN:
                    raise
            client = _admin(self._options, instead_of=client)
            client.list_topics(timeout=_ANY_BROKER_SECONDS)  # raises when not one broker answers
        return ask(client)

    def _down(self, cause: object, problem: str = NO_ANSWER) -> ServerDown:
        cause = _admin(self._options).complaint() or cause
        host, _, port = self.address.split(",")[0].rpartition(":")
        encrypted = self._security.get("security.protocol", "").endswith("SSL")
        if problem == NO_ANSWER and port.isdecimal():
            if other := tls_on_one_side(host, int(port), encrypted):
                setting = "KP_KAFKA_SECURITY_PROTOCOL"
                return ServerDown("Kafka", self.address, setting, cause, other, SECURITY)
        setting = "KP_KAFKA_BOOTSTRAP_SERVERS"
        return shut_out("Kafka", self.address, setting, cause, _REFUSALS, problem)
