"""The Dagster resources: the settings, and the adapter of each server.

Belongs here: what can be configured of a connection at launch, which is how long it waits. Where a
server is and how to log in come from the settings only, so a launch cannot send a password to
another host. Does not belong here: calls to the servers (`adapters/`).
"""

import dagster as dg
from pydantic import Field

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.adapters.kafka import KafkaAdapter
from kp_platform.adapters.mysql import MySQLAdapter
from kp_platform.adapters.redis import RedisAdapter
from kp_platform.adapters.trino import TrinoAdapter
from kp_platform.settings import Settings


def read_settings() -> Settings:
    """The settings of a run or a tick, read when it initializes its resources."""
    return Settings()


def settings_resource() -> dg.ResourceDefinition:
    """The KP_* settings; nothing of them can be configured at launch."""
    return dg.ResourceDefinition(
        lambda _context: read_settings(), description="The KP_* settings of a run or a tick."
    )


class KafkaResource(dg.ConfigurableResource[KafkaAdapter]):
    """The brokers of KP_KAFKA_BOOTSTRAP_SERVERS."""

    timeout_seconds: float = Field(
        default=5.0, gt=0, description="Maximum wait for an answer, in seconds."
    )
    delivery_seconds: float = Field(
        default=10.0,
        gt=0,
        description="Maximum wait until published changes are acknowledged, in seconds.",
    )

    def create_resource(self, context: dg.InitResourceContext) -> KafkaAdapter:
        return KafkaAdapter(read_settings(), self.timeout_seconds, self.delivery_seconds)


class TrinoResource(dg.ConfigurableResource[TrinoAdapter]):
    """The coordinator at KP_TRINO_URL."""

    timeout_seconds: float = Field(
        default=30.0, gt=0, description="Maximum wait for an HTTP answer, in seconds."
    )

    def create_resource(self, context: dg.InitResourceContext) -> TrinoAdapter:
        return TrinoAdapter(read_settings(), self.timeout_seconds)


class ElasticsearchResource(dg.ConfigurableResource[ElasticsearchAdapter]):
    """The cluster at KP_ELASTICSEARCH_URL."""

    timeout_seconds: float = Field(
        default=10.0, gt=0, description="Maximum wait for an answer, in seconds."
    )
    bulk_timeout_seconds: float = Field(
        default=60.0, gt=0, description="Maximum wait for a bulk answer, in seconds."
    )

    def create_resource(self, context: dg.InitResourceContext) -> ElasticsearchAdapter:
        return ElasticsearchAdapter(
            read_settings(), self.timeout_seconds, self.bulk_timeout_seconds
        )


class MySQLResource(dg.ConfigurableResource[MySQLAdapter]):
    """The database at KP_MYSQL_HOST."""

    timeout_seconds: int = Field(
        default=10, gt=0, description="Maximum wait for an answer, in seconds."
    )

    def create_resource(self, context: dg.InitResourceContext) -> MySQLAdapter:
        return MySQLAdapter(read_settings(), self.timeout_seconds)


class RedisResource(dg.ConfigurableResource[RedisAdapter]):
    """The server at KP_REDIS_URL."""

    timeout_seconds: float = Field(
        default=5.0, gt=0, description="Maximum wait for an answer, in seconds."
    )

    def create_resource(self, context: dg.InitResourceContext) -> RedisAdapter:
        return RedisAdapter(read_settings(), self.timeout_seconds)
