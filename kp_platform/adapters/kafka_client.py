"""The Kafka admin client that both Kafka adapters share: options, pool, retries, errors.

Belongs here: TLS and login options, one client per address and user, which errors are retried, and
the state of a topic. Does not belong here: the engine's port (`kafka.py`) and changes to the
cluster (`kafka_admin.py`).
"""

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import stamina
from confluent_kafka import (
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from kp_platform.adapters.errors import (
    NO_ANSWER,
    SECURITY,
    Refusal,
    ServerDown,
    server_error,
    tls_mismatch,
)
from kp_platform.engine.offsets import TopicState, Watermarks
from kp_platform.settings import Settings

Answer = TypeVar("Answer")

NO_SUCH_TOPIC = (
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.UNKNOWN_TOPIC_ID,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._NOENT,
)
# The errors that Kafka's protocol calls retriable for a partition whose leader is being elected or
# moved; the Java clients retry them too. Measured on a busy machine: the second request succeeds
# for 1 of 4 new topics, the fifth for 1 of 150.
_LEADER_UNSETTLED = (
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.REPLICA_NOT_AVAILABLE,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.KAFKA_STORAGE_ERROR,
)
_COORDINATOR_UNSETTLED = (
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
)
_UNANSWERED = (KafkaError._TIMED_OUT, KafkaError._TRANSPORT)
# For 9 s after a broker is killed, the others may still name it as the one to ask.
_REPLACEMENTS = 2
_ANY_BROKER_SECONDS = 1.0
_USER = "KP_KAFKA_USER, KP_KAFKA_PASSWORD"
_REFUSALS = (
    Refusal("sasl authentication error", _USER, "refuses the user"),
    Refusal("authorization failed", _USER, "denies this operation to the user"),
    Refusal("ssl.ca.location failed", "KP_CA_FILE", "cannot be reached"),
)


def is_transient(error: Exception) -> bool:
    """Whether a partition has no leader yet: for a moment after its topic is created, or after a
    broker returns."""
    return _has_code(error, _LEADER_UNSETTLED)


def is_not_visible_yet(error: Exception) -> bool:
    """Whether a topic that was just created has not reached the broker that answers."""
    return _has_code(error, _LEADER_UNSETTLED + NO_SUCH_TOPIC)


def is_electing(error: Exception) -> bool:
    """Whether a group has no coordinator yet: a new broker creates the groups' log on the first
    commit."""
    return _has_code(error, _COORDINATOR_UNSETTLED)


def _has_code(error: Exception, codes: Sequence[int]) -> bool:
    return isinstance(error, KafkaException) and error.args[0].code() in codes


class ReportingAdminClient(AdminClient):
    """An admin client that keeps the reason why its connections fail: a request itself only
    reports a timeout."""

    def __init__(self, options: Mapping[str, str]) -> None:
        self._reason: KafkaError | None = None
        # Its log would repeat each failure that the error already reports.
        reporting: dict[str, Any] = {"error_cb": self._on_error, "log_level": 0}
        super().__init__({**options, **reporting})

    def _on_error(self, error: KafkaError) -> None:
        if error.code() in (KafkaError._SSL, KafkaError._AUTHENTICATION):
            self._reason = error

    def connection_error(self) -> KafkaError | None:
        """The latest TLS or login error since the previous call."""
        self._reason = None
        self.poll(0)
        return self._reason


_clients: dict[frozenset[tuple[str, str]], ReportingAdminClient] = {}
_clients_lock = threading.Lock()


def shared_client(
    options: Mapping[str, str], instead_of: ReportingAdminClient | None = None
) -> ReportingAdminClient:
    """One client per address, user and process. A caller that waits for futures has to keep a
    reference: the futures of a collected client never complete."""
    key = frozenset(options.items())
    with _clients_lock:
        if _clients.get(key) in (None, instead_of):
            _clients[key] = ReportingAdminClient(options)
        return _clients[key]


@dataclass(frozen=True)
class Brokers:
    """The brokers of the settings, as KP_KAFKA_USER. Waits at most `timeout_seconds` for an
    answer."""

    settings: Settings
    timeout_seconds: float

    @property
    def address(self) -> str:
        return self.settings.kafka_bootstrap_servers

    @functools.cached_property
    def security(self) -> dict[str, str]:
        """librdkafka's options for TLS and the user."""
        settings = self.settings
        return settings.kafka_security_options(settings.kafka_user, settings.kafka_password)

    @functools.cached_property
    def options(self) -> dict[str, str]:
        """librdkafka's options for a connection."""
        return {"bootstrap.servers": self.address, **self.security}

    def request(self, send: Callable[[AdminClient], Answer]) -> Answer:
        """The answer to `send`, by a new client when the present one times out.

        After a broker is killed, a client may never find the controller or a group coordinator
        again: each request times out for minutes, while a new client needs 0.2 s (verified with
        confluent-kafka 2.16).
        """
        client = shared_client(self.options)
        for _ in range(_REPLACEMENTS):
            try:
                return send(client)
            except KafkaException as error:
                if error.args[0].code() not in _UNANSWERED:
                    raise
            client = shared_client(self.options, instead_of=client)
            client.list_topics(timeout=_ANY_BROKER_SECONDS)  # raises when no broker answers
        return send(client)

    def topic_state(self, topic: str, retry_on: Callable[[Exception], bool]) -> TopicState:
        """Topic id, low and high watermarks of all partitions. Raises KafkaException."""
        for attempt in stamina.retry_context(
            on=retry_on, timeout=self.timeout_seconds, wait_initial=0.05, wait_max=0.5
        ):
            with attempt:
                return self._topic_state(topic)
        raise AssertionError("a retry ends with a value or an error")

    def _topic_state(self, topic: str) -> TopicState:
        described = self._describe(topic)
        partitions = [each.id for each in described.partitions]
        lows = self.offsets(topic, partitions, OffsetSpec.earliest())
        highs = self.offsets(topic, partitions, OffsetSpec.latest())
        watermarks = {each: Watermarks(lows[each], highs[each]) for each in partitions}
        return TopicState(topic, str(described.topic_id), watermarks)

    def _describe(self, topic: str) -> Any:
        def describe(client: AdminClient) -> Any:
            names = TopicCollection([topic])
            futures = client.describe_topics(names, request_timeout=self.timeout_seconds)
            return futures[topic].result()

        return self.request(describe)

    def offsets(self, topic: str, partitions: Sequence[int], spec: OffsetSpec) -> dict[int, int]:
        """The offset of each partition that `spec` asks for. Raises KafkaException."""
        request = {TopicPartition(topic, partition): spec for partition in partitions}

        def list_offsets(client: AdminClient) -> dict[int, int]:
            futures = client.list_offsets(
                request,
                isolation_level=IsolationLevel.READ_COMMITTED,
                request_timeout=self.timeout_seconds,
            )
            return {at.partition: future.result().offset for at, future in futures.items()}

        return self.request(list_offsets)

    def down(self, cause: object, problem: str = NO_ANSWER) -> ServerDown:
        """The error that names the setting to blame."""
        cause = shared_client(self.options).connection_error() or cause
        host, _, port = self.address.split(",")[0].rpartition(":")
        encrypted = self.security.get("security.protocol", "").endswith("SSL")
        if problem == NO_ANSWER and port.isdecimal():
            if mismatch := tls_mismatch(host, int(port), encrypted):
                setting = "KP_KAFKA_SECURITY_PROTOCOL"
                return ServerDown("Kafka", self.address, setting, cause, mismatch, SECURITY)
        setting = "KP_KAFKA_BOOTSTRAP_SERVERS"
        return server_error("Kafka", self.address, setting, cause, _REFUSALS, problem)
