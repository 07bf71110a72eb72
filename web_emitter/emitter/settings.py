"""Every setting of the emitter, read from `KP_*` environment variables and `.env`.

Belongs here: names, defaults, bounds and the shape of values. Does not belong here: connections
(`producer.py`, `search.py`). Names and defaults that the platform has too are the same there; a
test holds both sides to it, for neither imports the other.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import orjson
from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from web_emitter.emitter.redaction import Redaction

ACCESS_LOG_TOPIC = "analyze.action"
FULL_TEXT_TOPIC = "fulltext.register"
ACCESS_LOG_INDEX = "log.index"
FULL_TEXT_INDEX = "fulltext.register"
RANKING_INDEX = "access.ranking"
KPI_INDEX = "access.kpi"

Option = str | int | float | bool

# What the published example gives rdkafka and librdkafka still uses (socket.blocking.max.ms only
# earns a warning today); the number of messages, 1000 there, is a setting of ours.
EXAMPLE_OPTIONS: Mapping[str, Option] = {
    "queue.buffering.max.ms": 1,
    "client.id": "testingClient",
}
# An event is on the topic once, in all replicas, or its failure is reported. The backoff is
# bounded so that events flow again a second after the broker is back, not ten.
DURABLE_OPTIONS: Mapping[str, Option] = {
    "enable.idempotence": True,
    "acks": "all",
    "reconnect.backoff.max.ms": 1_000,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolSettings:
    """Where and how long events wait for Kafka, on disk and (`max_waiting`) for the disk."""

    folder: Path
    max_bytes: int = 256 * 1_024 * 1_024
    seconds: float = 0.2
    replay_per_second: float = 2_000
    max_waiting: int = 10_000
    max_waiting_bytes: int = 16_384 * 1_024


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerSettings:
    """One binding of the producer: where its events go and how. `options` are librdkafka's."""

    topic: str
    bootstrap_servers: str
    spool: SpoolSettings
    options: Mapping[str, Option] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.topic or not self.bootstrap_servers:
            raise ValueError("a producer needs a topic and brokers")

    @property
    def queue_messages(self) -> int:
        """How many messages librdkafka holds at most; 100,000 is its own default."""
        return int(self.librdkafka().get("queue.buffering.max.messages", 100_000))

    def librdkafka(self) -> dict[str, Option]:
        """The configuration as librdkafka reads it; `options` have the last word."""
        return {
            "bootstrap.servers": self.bootstrap_servers,
            **EXAMPLE_OPTIONS,
            **DURABLE_OPTIONS,
            **self.options,
        }


def _local(port: int, template: str) -> Callable[[dict[str, Any]], str]:
    """A default that names a local port, shifted by the offset that was validated before it."""
    return lambda data: template.format(port=port + data.get("port_offset", 0))


class Settings(BaseSettings):
    """The emitter's effective settings. Environment wins over `.env`, `.env` over defaults."""

    model_config = SettingsConfigDict(
        env_prefix="KP_",
        env_file=".env",
        extra="ignore",
        frozen=True,
        env_ignore_empty=True,
        hide_input_in_errors=True,  # it may be a password
    )

    home: Path = Field(
        default=Path(".kp"), description="Folder that holds all state of the local stack."
    )
    port_offset: int = Field(
        default=0, ge=0, le=47_000, description="Added to every local default port."
    )
    kafka_bootstrap_servers: str = Field(
        default_factory=_local(18092, "127.0.0.1:{port}"),
        min_length=1,
        description="Kafka brokers, a comma list of host:port.",
    )
    ca_file: str = Field(
        default="",
        description="PEM file of the certificate authorities that every TLS connection trusts; "
        "empty: the system's.",
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT", description="How all clients of Kafka connect; SASL_* need users."
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        default="SCRAM-SHA-512", description="How users of Kafka log in."
    )
    emitter_kafka_user: str = Field(
        default="", description="Kafka user of the web emitter: only writes its two topics."
    )
    emitter_kafka_password: SecretStr = Field(
        default=SecretStr(""), description="Password of KP_EMITTER_KAFKA_USER."
    )
    elasticsearch_url: str = Field(
        default_factory=_local(18020, "http://127.0.0.1:{port}"),
        repr=False,
        description="Elasticsearch (8 or 9); user and password may stand in it.",
    )
    elasticsearch_api_key: SecretStr = Field(
        default=SecretStr(""),
        description="API key of Elasticsearch, instead of user and password.",
    )
    dagster_url: str = Field(
        default_factory=_local(18030, "http://127.0.0.1:{port}"),
        description="Where the Dagster webserver listens; the pages link to it.",
    )

    emitter_url: str = Field(
        default_factory=_local(18000, "http://127.0.0.1:{port}"),
        description="Where the web emitter listens.",
    )
    emitter_workers: int = Field(
        default=1, ge=1, le=64, description="Processes of the web emitter, each with its spool."
    )
    emitter_identify: str = Field(
        default="web_emitter.emitter.identity:random_demo_name",
        pattern=r"^[\w.]+:\w+$",
        description="Who accessed: `module:function`, called with the ASGI scope, returns a name.",
    )
    emitter_source: str = Field(
        default="/web_emitter",
        pattern=r"^[\x21-\x7e]+$",
        description="CloudEvents `source` of the events: a URI reference naming this application.",
    )
    emitter_query_allowed: str = Field(
        default="page,per_page,limit,offset,sort,order,lang",
        description="Comma list of query keys whose values are announced; those of all other keys "
        "are replaced by REDACTED.",
    )
    emitter_flush_seconds: float = Field(
        default=5.0,
        gt=0,
        le=300,
        description="How long a shutdown waits for events to be delivered.",
    )
    emitter_message_timeout_seconds: float = Field(
        default=30.0,
        ge=0.1,
        le=3_600,
        description="An event not delivered after this time is left to the spool.",
    )
    emitter_queue_messages: int = Field(
        default=1_000,
        ge=1,
        le=1_000_000,
        description="Most events that wait in memory for the broker.",
    )
    emitter_queue_kilobytes: int = Field(
        default=16_384,
        ge=1,
        le=1_048_576,
        description="Most kilobytes that wait in memory for the broker, and as many for the disk.",
    )
    emitter_spool: Path = Field(
        default_factory=lambda data: data.get("home", Path()) / "emitter" / "spool",
        description="Folder of the events that Kafka has not acknowledged; on a local file system.",
    )
    emitter_spool_fsync_seconds: float = Field(
        default=0.2,
        ge=0.02,
        le=60,
        description="An event is acknowledged or on disk after this time.",
    )
    emitter_spool_bytes: int = Field(
        default=268_435_456,
        ge=4_096,
        description="Most bytes on disk, for each worker and topic.",
    )
    emitter_spool_messages: int = Field(
        default=10_000,
        ge=1,
        le=1_000_000,
        description="Most events that wait in memory for the disk.",
    )
    emitter_replay_per_second: int = Field(
        default=2_000,
        ge=10,
        le=1_000_000,
        description="Most events of the spool that are sent again in a second.",
    )
    emitter_overflow: Literal["drop", "reject"] = Field(
        default="drop",
        description="When neither Kafka nor the spool takes an event: `drop` it and serve the "
        "request, or `reject` the request with 503.",
    )
    emitter_access_options: SecretStr = Field(
        default=SecretStr("{}"),
        description="More librdkafka options for the access events, a JSON object.",
    )
    emitter_fulltext_options: SecretStr = Field(
        default=SecretStr("{}"),
        description="More librdkafka options for the full-text events, a JSON object.",
    )
    emitter_search_timeout_seconds: float = Field(
        default=2.0, gt=0, le=60, description="A page gives up on Elasticsearch after this time."
    )

    @field_validator("home", "emitter_spool")
    @classmethod
    def _is_absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("ca_file")
    @classmethod
    def _can_be_read(cls, value: str) -> str:
        path = Path(value).expanduser().absolute()
        if value and not os.access(path, os.R_OK):
            raise ValueError(f"{path} cannot be read")
        return str(path) if value else ""

    @field_validator("elasticsearch_url", "dagster_url", "emitter_url")
    @classmethod
    def _is_http_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("is not an http(s) URL")
        parts.port  # noqa: B018  raises ValueError on a port that is not a number
        return value.rstrip("/")

    @field_validator("emitter_query_allowed")
    @classmethod
    def _may_be_allowed(cls, value: str) -> str:
        Redaction(value.split(","))
        return value

    @field_validator("emitter_access_options", "emitter_fulltext_options")
    @classmethod
    def _is_options_object(cls, value: SecretStr) -> SecretStr:
        _options(value)
        return value

    @model_validator(mode="after")
    def _names_its_user(self) -> Self:
        protocol = self.kafka_security_protocol
        if protocol.startswith("SASL_") and not self.emitter_kafka_user:
            raise ValueError(
                f"KP_EMITTER_KAFKA_USER: {protocol} (KP_KAFKA_SECURITY_PROTOCOL) needs a user"
            )
        return self

    @property
    def kafka_security(self) -> dict[str, Option]:
        """librdkafka's options for TLS and the emitter's user; none without either."""
        options: dict[str, Option] = {}
        if self.kafka_security_protocol != "PLAINTEXT":
            options["security.protocol"] = self.kafka_security_protocol
        if self.kafka_security_protocol.endswith("SSL") and self.ca_file:
            options["ssl.ca.location"] = self.ca_file
        if self.kafka_security_protocol.startswith("SASL_"):
            options |= {
                "sasl.mechanism": self.kafka_sasl_mechanism,
                "sasl.username": self.emitter_kafka_user,
                "sasl.password": self.emitter_kafka_password.get_secret_value(),
            }
        return options

    @property
    def access_log(self) -> ProducerSettings:
        return self._producer(ACCESS_LOG_TOPIC, self.emitter_access_options)

    @property
    def full_text(self) -> ProducerSettings:
        return self._producer(FULL_TEXT_TOPIC, self.emitter_fulltext_options)

    @property
    def elasticsearch_address(self) -> str:
        """The URL without user and password, fit for a page."""
        parts = urlsplit(self.elasticsearch_url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    def _producer(self, topic: str, options: SecretStr) -> ProducerSettings:
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
                **_options(options),
            },
        )


def _options(secret: SecretStr) -> dict[str, Option]:
    try:
        options = orjson.loads(secret.get_secret_value())
    except orjson.JSONDecodeError:
        raise ValueError("is not JSON") from None
    if not isinstance(options, dict):
        raise ValueError("is not a JSON object")
    if bad := [name for name, value in options.items() if not isinstance(value, Option)]:
        raise ValueError(f"{', '.join(bad)}: a librdkafka option is a text, number or boolean")
    return options
