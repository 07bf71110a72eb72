"""The settings of the emitter library, read from `KP_*` environment variables and `.env`.

Belongs here: names, defaults, bounds and the shape of values. Does not belong here: connections
(`producer.py`), the settings that the platform reads too (`contract.py`), those of the site
(`site/settings.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

import orjson
from pydantic import Field, SecretStr, field_validator, model_validator

from web_emitter.contract import ACCESS_LOG_TOPIC, CommonSettings, absolute
from web_emitter.emitter.redaction import Redaction

Option = str | int | float | bool

# The options of the published rdkafka example that librdkafka still uses; for
# socket.blocking.max.ms it only logs a warning. The queue size, 1000 there, is a setting.
EXAMPLE_OPTIONS: Mapping[str, Option] = {
    "queue.buffering.max.ms": 1,
    "client.id": "testingClient",
}
# An event is on the topic once, in all replicas, or its failure is reported. The backoff is
# bounded so that events are produced one second after the broker is back, not ten.
DURABLE_OPTIONS: Mapping[str, Option] = {
    "enable.idempotence": True,
    "acks": "all",
    "reconnect.backoff.max.ms": 1_000,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolSettings:
    """Where and how long events wait for Kafka on disk; `max_waiting` events wait for the disk."""

    folder: Path
    max_bytes: int = 256 * 1_024 * 1_024
    seconds: float = 0.2
    replay_per_second: float = 2_000
    max_waiting: int = 10_000
    max_waiting_bytes: int = 16_384 * 1_024


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerSettings:
    """One binding of the producer to a topic. `options` are librdkafka's."""

    topic: str
    bootstrap_servers: str
    spool: SpoolSettings
    options: Mapping[str, Option] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.topic or not self.bootstrap_servers:
            raise ValueError("a producer needs a topic and brokers")

    @property
    def queue_messages(self) -> int:
        """The size of librdkafka's queue in messages; its default is 100,000."""
        return int(self.librdkafka().get("queue.buffering.max.messages", 100_000))

    def librdkafka(self) -> dict[str, Option]:
        """The configuration of librdkafka; `options` override everything."""
        return {
            "bootstrap.servers": self.bootstrap_servers,
            **EXAMPLE_OPTIONS,
            **DURABLE_OPTIONS,
            **self.options,
        }


class EmitterSettings(CommonSettings):
    """The settings of an application that publishes its accesses. The environment overrides `.env`,
    which overrides the defaults."""

    emitter_identify: str = Field(
        default="web_emitter.emitter.identity:random_demo_name",
        pattern=r"^[\w.]+:\w+$",
        description="Function that names the visitor, `module:function`; it takes the ASGI scope.",
    )
    emitter_source: str = Field(
        default="/web_emitter",
        pattern=r"^[\x21-\x7e]+$",
        description="CloudEvents `source` of the events: a URI reference for this application.",
    )
    emitter_query_allowed: str = Field(
        default="page,per_page,limit,offset,sort,order,lang",
        description="Comma-separated list of query keys whose values are published; the values of "
        "all other keys are replaced by REDACTED.",
    )
    emitter_flush_seconds: float = Field(
        default=5.0,
        gt=0,
        le=300,
        description="How long a shutdown waits for the delivery of events.",
    )
    emitter_message_timeout_seconds: float = Field(
        default=30.0,
        ge=0.1,
        le=3_600,
        description="An event that is not delivered within this time returns to the spool.",
    )
    emitter_queue_messages: int = Field(
        default=1_000,
        ge=1,
        le=1_000_000,
        description="Maximum number of events in memory that wait for the broker.",
    )
    emitter_queue_kilobytes: int = Field(
        default=16_384,
        ge=1,
        le=1_048_576,
        description="Maximum size in kilobytes of the events in memory that wait for the broker, "
        "and of those that wait for the disk.",
    )
    emitter_spool: Path = Field(
        default_factory=lambda data: data.get("home", Path()) / "emitter" / "spool",
        description="Folder of the events that Kafka has not acknowledged; on a local file system.",
    )
    emitter_spool_fsync_seconds: float = Field(
        default=0.2,
        ge=0.02,
        le=60,
        description="An event is acknowledged or on disk within this time.",
    )
    emitter_spool_bytes: int = Field(
        default=268_435_456,
        ge=4_096,
        description="Maximum size of the spool in bytes, for each worker and topic.",
    )
    emitter_spool_messages: int = Field(
        default=10_000,
        ge=1,
        le=1_000_000,
        description="Maximum number of events in memory that wait for the disk.",
    )
    emitter_replay_per_second: int = Field(
        default=2_000,
        ge=10,
        le=1_000_000,
        description="Maximum number of spooled events that are produced again per second.",
    )
    emitter_overflow: Literal["drop", "reject"] = Field(
        default="drop",
        description="When neither Kafka nor the spool accepts an event: `drop` it and serve the "
        "request, or `reject` the request with 503.",
    )
    emitter_access_options: SecretStr = Field(
        default=SecretStr("{}"),
        description="Additional librdkafka options for the access events, a JSON object.",
    )

    @field_validator("emitter_spool")
    @classmethod
    def _is_absolute_folder(cls, value: Path) -> Path:
        return absolute(value)

    @field_validator("emitter_query_allowed")
    @classmethod
    def _may_be_allowed(cls, value: str) -> str:
        Redaction(value.split(","))
        return value

    @field_validator("emitter_access_options")
    @classmethod
    def _are_options(cls, value: SecretStr) -> SecretStr:
        librdkafka_options(value)
        return value

    @model_validator(mode="after")
    def _has_a_user(self) -> Self:
        protocol = self.kafka_security_protocol
        if protocol.startswith("SASL_") and not self.emitter_kafka_user:
            raise ValueError(
                f"KP_EMITTER_KAFKA_USER: {protocol} (KP_KAFKA_SECURITY_PROTOCOL) needs a user"
            )
        return self

    @property
    def kafka_security(self) -> dict[str, str]:
        """librdkafka's options for TLS and the emitter's user; empty without either."""
        return self.kafka_security_options(self.emitter_kafka_user, self.emitter_kafka_password)

    @property
    def access_log(self) -> ProducerSettings:
        """The binding of the access events."""
        return self.producer(ACCESS_LOG_TOPIC, self.emitter_access_options)

    def producer(self, topic: str, options: SecretStr) -> ProducerSettings:
        """A binding with these settings; `options` is a JSON object of librdkafka options."""
        return ProducerSettings(
            topic=topic,
            bootstrap_servers=self.kafka_bootstrap_servers,
            spool=SpoolSettings(
                folder=self.emitter_spool / topic,
                max_bytes=self.emitter_spool_bytes,
                seconds=self.emitter_spool_fsync_seconds,
                replay_per_second=self.emitter_replay_per_second,
                max_waiting=self.emitter_spool_messages,
                max_waiting_bytes=self.emitter_queue_kilobytes * 1_024,
            ),
            options={
                "queue.buffering.max.messages": self.emitter_queue_messages,
                "queue.buffering.max.kbytes": self.emitter_queue_kilobytes,
                "message.timeout.ms": round(self.emitter_message_timeout_seconds * 1_000),
                **self.kafka_security,
                **librdkafka_options(options),
            },
        )


def librdkafka_options(secret: SecretStr) -> dict[str, Option]:
    """The options in a JSON object. Raises ValueError, without the value, which may be secret."""
    try:
        options = orjson.loads(secret.get_secret_value())
    except orjson.JSONDecodeError:
        raise ValueError("is not JSON") from None
    if not isinstance(options, dict):
        raise ValueError("is not a JSON object")
    if invalid := [name for name, value in options.items() if not isinstance(value, Option)]:
        raise ValueError(
            f"{', '.join(invalid)}: a librdkafka option is a string, number or boolean"
        )
    return options
