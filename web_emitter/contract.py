"""What kp_platform and web_emitter agree on; neither imports anything else of the other.

Belongs here: names of topics, indices and fields that both sides use, CloudEvents headers, the time
format, the settings that both read. Does not belong here: anything that one side uses alone. Needs
the standard library, pydantic and pydantic-settings only.
"""

import os
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypedDict
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

# Topics, and the fields of their messages, as the flows in kp_platform/flows declare them.
ACCESS_LOG_TOPIC = "analyze.action"
ACCESS_LOG_FIELDS = ("uuid", "uri", "name")
FULL_TEXT_TOPIC = "fulltext.register"
FULL_TEXT_FIELDS = ("uuid", "text")
REFERENCE_CHANGES_TOPIC = "reference.changed"

# Flows, by the name that stands in positions and heartbeats.
ACCESS_LOG_FLOW = "access_log"

# Aliases over daily indices, then single indices.
ACCESS_LOG_INDEX = "log.index"
FULL_TEXT_INDEX = "fulltext.register"
RANKING_INDEX = "access.ranking"
KPI_INDEX = "access.kpi"
POSITIONS_INDEX = "kp.positions"
HEARTBEATS_INDEX = "kp.heartbeats"

STALLED_SECONDS = 30.0
"""A run without a heartbeat for this long is stalled; runs send one every five seconds."""

ASSIGNMENT_SEPARATOR = ":"
"""In the id of a heartbeat, between the flow and the assigned partitions: `access_log:0-5`."""


class PositionDocument(TypedDict):
    """The fields of `kp.positions` that both sides use, one document per partition of a topic;
    `position` is the next offset to index."""

    flow: str
    topic: str
    topic_id: str
    partition: int
    position: int


class HeartbeatDocument(TypedDict):
    """The latest heartbeat of a run in `kp.heartbeats`; its id is the flow, with the assignment if
    the run has only some of the partitions."""

    run_id: str
    sent_at: str


def flow_of_heartbeat(heartbeat_id: str) -> str:
    """The flow's name in the id of a heartbeat."""
    return heartbeat_id.partition(ASSIGNMENT_SEPARATOR)[0]


def iso_time(moment: datetime) -> str:
    """A time in UTC as ISO 8601 with milliseconds: `2026-01-31T12:00:00.000Z`."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


# As wide as confluent-kafka's type, because a list is invariant.
Header = tuple[str, str | bytes | None]


def cloudevents_headers(
    event_id: bytes, source: str, event_type: str, timestamp_ms: int
) -> list[Header]:
    """The attributes of a CloudEvent as Kafka headers ("binary content mode"); `timestamp_ms` is
    the time of the event in milliseconds since 1970 UTC.

    https://github.com/cloudevents/spec/blob/main/cloudevents/bindings/kafka-protocol-binding.md
    """
    version, source_header, type_header = _constant_headers(source, event_type)
    time = ("ce_time", _timestamp(timestamp_ms))
    return [version, ("ce_id", event_id), source_header, type_header, time]


@lru_cache
def _constant_headers(source: str, event_type: str) -> tuple[Header, Header, Header]:
    return (
        ("ce_specversion", b"1.0"),
        ("ce_source", source.encode()),
        ("ce_type", event_type.encode()),
    )


def _timestamp(milliseconds: int) -> bytes:
    """The same text as `iso_time`; most events share their second with the one before."""
    seconds, rest = divmod(milliseconds, 1_000)
    return b"%b.%03dZ" % (_whole_seconds(seconds), rest)


@lru_cache(maxsize=4)
def _whole_seconds(seconds: int) -> bytes:
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat().encode()


def local_address(template: str, port: int) -> Callable[[dict[str, Any]], str]:
    """A default that names a local port, shifted by the port offset validated before it."""
    return lambda data: template.format(port=port + data.get("port_offset", 0))


def check_url(value: str, schemes: Collection[str]) -> None:
    """Raises ValueError unless the URL has one of the schemes and a host. The error leaves out the
    value, which may hold a password."""
    parts = urlsplit(value)
    if parts.scheme not in schemes or not parts.hostname:
        expected = " or ".join(f"{scheme}://HOST:PORT" for scheme in sorted(schemes))
        raise ValueError(f"is not of the form {expected}")
    parts.port  # noqa: B018  raises ValueError on a port that is not a number


def absolute(path: Path) -> Path:
    """Child processes run in other folders, and two spellings must not be two stacks."""
    return path.expanduser().absolute()


class CommonSettings(BaseSettings):
    """The settings that both sides read. The environment overrides `.env`, which overrides the
    defaults."""

    model_config = SettingsConfigDict(
        env_prefix="KP_",
        env_file=".env",
        extra="ignore",
        frozen=True,
        env_ignore_empty=True,
        hide_input_in_errors=True,  # the input may be a password
    )

    home: Path = Field(
        default=Path(".kp"), description="Folder that holds all state of the local stack."
    )
    port_offset: int = Field(
        default=0,
        ge=0,
        le=47_000,
        description="Added to every local default port. Above 14600, Linux may give one of the "
        "ports to an outgoing connection.",
    )
    kafka_bootstrap_servers: str = Field(
        default_factory=local_address("127.0.0.1:{port}", 18092),
        min_length=1,
        description="Kafka brokers, a comma-separated list of host:port; `kp up` starts a broker "
        "for each address on 127.0.0.1.",
    )
    ca_file: str = Field(
        default="",
        description="PEM file with the certificate authorities that every TLS connection trusts; "
        "empty: those of the system.",
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT",
        description="Security protocol of all Kafka clients; SASL_* requires users.",
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        default="SCRAM-SHA-512", description="SASL mechanism of all Kafka users."
    )
    emitter_kafka_user: str = Field(
        default="",
        description="Kafka user of the web emitter; needs write access to its two topics only.",
    )
    emitter_kafka_password: SecretStr = Field(
        default=SecretStr(""), description="Password of KP_EMITTER_KAFKA_USER."
    )
    elasticsearch_url: str = Field(
        default_factory=local_address("http://127.0.0.1:{port}", 18020),
        repr=False,
        description="URL of Elasticsearch (8 or 9); may contain user and password.",
    )
    elasticsearch_api_key: SecretStr = Field(
        default=SecretStr(""),
        description="API key of Elasticsearch, instead of user and password.",
    )
    dagster_url: str = Field(
        default_factory=local_address("http://127.0.0.1:{port}", 18030),
        description="URL of the Dagster webserver; the pages link to it.",
    )
    emitter_url: str = Field(
        default_factory=local_address("http://127.0.0.1:{port}", 18000),
        description="URL on which the web emitter listens.",
    )

    @field_validator("home")
    @classmethod
    def _is_absolute(cls, value: Path) -> Path:
        return absolute(value)

    @field_validator("ca_file")
    @classmethod
    def _can_be_read(cls, value: str) -> str:
        path = absolute(Path(value))
        if value and not os.access(path, os.R_OK):
            raise ValueError(f"{path} cannot be read")
        return str(path) if value else ""

    @field_validator("elasticsearch_url", "dagster_url", "emitter_url")
    @classmethod
    def _is_http_url(cls, value: str) -> str:
        check_url(value, {"http", "https"})
        return value.rstrip("/")

    def kafka_security_options(self, user: str, password: SecretStr) -> dict[str, str]:
        """librdkafka's options for TLS and a user; empty without either."""
        options: dict[str, str] = {}
        protocol = self.kafka_security_protocol
        if protocol != "PLAINTEXT":
            options["security.protocol"] = protocol
        if protocol.endswith("SSL") and self.ca_file:
            options["ssl.ca.location"] = self.ca_file
        if protocol.startswith("SASL_"):
            options["sasl.mechanism"] = self.kafka_sasl_mechanism
            options["sasl.username"] = user
            options["sasl.password"] = password.get_secret_value()
        return options
