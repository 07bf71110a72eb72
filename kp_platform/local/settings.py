"""The settings of the local stack, in addition to those of the platform.

Belongs here: folders, ports, users and limits that only `kp` commands on the local stack read. Does
not belong here: what the platform reads (`kp_platform/settings.py`).
"""

from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from kp_platform.settings import Port, Settings, local_port
from web_emitter.contract import absolute, check_url

EXTERNAL_SERVICES = ("kafka", "mysql", "redis", "elasticsearch", "trino")
# With SQLAlchemy 2.1 the plain name means psycopg 3; dagster-postgres installs psycopg2.
_POSTGRES = "postgresql+psycopg2"
_ROOT = Path(__file__).parents[2]


class LocalSettings(Settings):
    """The effective settings of one local stack; the sources are those of `Settings`."""

    cache: Path = Field(
        Path("~/.cache/kp_platform"),
        description="Folder of the unpacked servers, shared by all stacks of this user.",
    )
    external: str = Field(
        "",
        description="Comma-separated list of services that run elsewhere and are only probed: "
        + ", ".join(EXTERNAL_SERVICES)
        + ".",
    )
    start_timeout_seconds: float = Field(
        300.0, gt=0, description="How long `kp up` waits for all services to answer."
    )

    jvm_options: str = Field(
        "",
        description="Additional options of the JVMs of local servers, e.g. "
        "-XX:TieredStopAtLevel=1 for faster starts at a lower throughput.",
    )

    kafka_controller_port: Port = Field(
        default_factory=local_port(18093),
        description="Port of the local KRaft controller; those of further brokers follow it.",
    )
    kafka_admin_user: str = Field(
        "",
        description="Kafka user with which `kp up` creates topics and ACLs; empty: KP_KAFKA_USER.",
    )
    kafka_admin_password: SecretStr = Field(
        SecretStr(""), description="Password of KP_KAFKA_ADMIN_USER."
    )
    kafka_trino_user: str = Field(
        "", description="Kafka user of Trino's catalog; needs read access only."
    )
    kafka_trino_password: SecretStr = Field(
        SecretStr(""), description="Password of KP_KAFKA_TRINO_USER."
    )
    topic_partitions: int = Field(
        4, ge=1, le=1_000, description="Number of partitions of the topics that `kp up` creates."
    )

    trino_workers: int = Field(
        0,
        ge=0,
        le=9,
        description="Number of local Trino workers beside the coordinator; 0: the coordinator "
        "does the work.",
    )
    presto_etc: str = Field(
        "",
        description="Folder of the local Trino's configuration, catalogs and table files; "
        "empty: the one of this repository.",
    )
    mysql_trino_user: str = Field(
        "kp_trino", description="MySQL user of Trino's catalog; needs SELECT on `testing` only."
    )
    mysql_trino_password: SecretStr = Field(
        SecretStr("kp-trino-local-only"), description="Password of KP_MYSQL_TRINO_USER."
    )
    redis_trino_user: str = Field(
        "",
        description="Redis user of Trino's catalog, with read access only; empty: the user of "
        "KP_REDIS_URL.",
    )
    redis_trino_password: SecretStr = Field(
        SecretStr(""), description="Password of KP_REDIS_TRINO_USER."
    )
    redis_tunnel_port: Port = Field(
        default_factory=local_port(18064),
        description="Port of the tunnel through which the local Trino reaches a Redis with TLS, "
        "which its connector does not support.",
    )

    elasticsearch_transport_port: Port = Field(
        default_factory=local_port(18021),
        description="Transport port of the local Elasticsearch.",
    )
    elasticsearch_java_home: str = Field(
        "",
        description="Java home for Elasticsearch, version 17 or newer with all modules; empty: "
        "one below /usr/lib/jvm.",
    )
    dagster_code_server_port: Port = Field(
        default_factory=local_port(18031), description="gRPC port of the Dagster code server."
    )
    dagster_postgres_url: SecretStr = Field(
        SecretStr(""),
        description="PostgreSQL database for Dagster's runs, events and ticks, "
        "postgresql://USER:PASSWORD@HOST:PORT/DATABASE; empty: SQLite files in KP_HOME.",
    )
    dagster_read_only: bool = Field(
        False, description="Run the Dagster webserver in read-only mode."
    )

    @field_validator("cache")
    @classmethod
    def _is_absolute_folder(cls, value: Path) -> Path:
        return absolute(value)

    @field_validator("presto_etc")
    @classmethod
    def _is_absolute_or_empty(cls, value: str) -> str:
        return str(absolute(Path(value))) if value else ""

    @field_validator("dagster_postgres_url")
    @classmethod
    def _is_postgres_url_or_empty(cls, value: SecretStr) -> SecretStr:
        if not (url := value.get_secret_value()):
            return value
        check_url(url, {"postgresql", _POSTGRES})
        if not urlsplit(url).path.strip("/"):
            raise ValueError("names no database: postgresql://HOST:PORT/DATABASE")
        return SecretStr(url.replace("postgresql:", f"{_POSTGRES}:", 1))

    @field_validator("external")
    @classmethod
    def _names_known_services(cls, value: str) -> str:
        unknown = sorted(set(_names(value)) - set(EXTERNAL_SERVICES))
        if unknown:
            raise ValueError(
                f"unknown service {', '.join(unknown)}; known: {', '.join(EXTERNAL_SERVICES)}"
            )
        return value

    @property
    def presto_folder(self) -> Path:
        """The folder of Trino's configuration."""
        return Path(self.presto_etc) if self.presto_etc else _ROOT / "presto_etc"

    @property
    def external_services(self) -> frozenset[str]:
        """The services that run elsewhere."""
        return frozenset(_names(self.external))


def _names(comma_list: str) -> list[str]:
    return [name.strip() for name in comma_list.split(",") if name.strip()]
