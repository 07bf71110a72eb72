"""Changes to the Kafka cluster: topics and access rights; the probe of one broker.

Belongs here: what `kp up` and tests do as the admin user. Does not belong here: reading topics and
mirroring positions (`kafka.py`).
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)
from pydantic import SecretStr

from kp_platform.adapters.kafka_client import (
    Brokers,
    ReportingAdminClient,
    is_not_visible_yet,
    shared_client,
)
from kp_platform.settings import Settings


@dataclass(frozen=True, slots=True)
class Grant:
    """The right of a user to an operation on a topic, or on the groups whose names begin with
    `name`."""

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


@dataclass(frozen=True)
class KafkaAdmin:
    """The brokers, as `user`; without one, as KP_KAFKA_USER. Waits at most `timeout_seconds` for an
    answer."""

    settings: Settings
    user: str = ""
    password: SecretStr = SecretStr("")
    timeout_seconds: float = 5.0

    @functools.cached_property
    def _brokers(self) -> Brokers:
        return Brokers(self.settings, self.timeout_seconds)

    def _client(self) -> ReportingAdminClient:
        options = self._brokers.options
        if self.user:
            options = options | self.settings.kafka_security_options(self.user, self.password)
        return shared_client(options)

    def probe_broker(self) -> None:
        """Raises ServerDown unless the one broker of this address answers and is registered in the
        cluster, so that it may hold partitions."""
        # Its own client: one that has discovered other brokers may ask any of them.
        brokers = self._brokers
        client = ReportingAdminClient(brokers.options)
        try:
            found = client.list_topics(timeout=self.timeout_seconds).brokers.values()
        except KafkaException as error:
            raise brokers.down(client.connection_error() or error) from error
        if not brokers.address.endswith(tuple(f":{each.port}" for each in found)):
            raise brokers.down("it is not registered in the cluster", "is not ready")

    def create_topics(self, topics: Mapping[str, int]) -> list[str]:
        """Create the topics that do not exist; the values are numbers of partitions. Returns the
        names of those created. Raises ServerDown.

        The replication factor is the brokers' default.
        """
        request = [NewTopic(name, count, replication_factor=-1) for name, count in topics.items()]
        created = []
        client = self._client()
        futures = client.create_topics(request, request_timeout=self.timeout_seconds)
        for name, future in futures.items():
            try:
                future.result()
                # The controller informs the other brokers a moment later.
                self._brokers.topic_state(name, retry_on=is_not_visible_yet)
                created.append(name)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise self._brokers.down(error) from error
        return created

    def allow(self, grants: Sequence[Grant]) -> None:
        """Create these rights; repeatable. Raises ServerDown."""
        request = [grant.binding() for grant in grants]
        client = self._client()
        futures = client.create_acls(request, request_timeout=self.timeout_seconds)
        try:
            for future in futures.values():
                future.result()
        except KafkaException as error:
            raise self._brokers.down(error) from error
