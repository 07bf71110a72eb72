"""Every setting of the platform, read from `KP_*` environment variables and `.env`.

Belongs here: names, defaults, bounds and the shape of values. Does not belong here: connections
(see `resources/`) and how the local servers are started (see `local/`).
The local ports lie in one block of 100 (18000-18099), so every multiple of 100 as `KP_PORT_OFFSET`
gives another stack that runs beside the first.
"""

import os
import ssl
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

MASK = "********"
LOOPBACK_HOSTS = {"127.0.0.1", "localhost"}
# With SQLAlchemy 2.1 the plain name asks for psycopg 3, and dagster-postgres brings psycopg2.
_POSTGRES = "postgresql+psycopg2"
_ROOT = Path(__file__).parents[1]
STACK_ENV = "stack.env"
"""The file in KP_HOME with the settings that `kp up` made up for this stack, passwords too."""
_IN_CLEAR = "would be sent in the clear: use"
EXTERNAL_SERVICES = ("kafka", "mysql", "redis", "elasticsearch", "trino")
Port = Annotated[int, Field(ge=1, le=65_535)]


def _local(template: str, port: int) -> Callable[[dict[str, Any]], str]:
    """A default that names a local port, shifted by the offset that was validated before it."""
    return lambda data: template.format(port=port + data.get("port_offset", 0))


def _local_port(port: int) -> Callable[[dict[str, Any]], int]:
    return lambda data: port + data.get("port_offset", 0)


class Settings(BaseSettings):
    """The effective settings of one stack. Environment wins over `.env`, `.env` over `stack.env` in
    KP_HOME, that over defaults."""

    model_config = SettingsConfigDict(
        env_prefix="KP_",
        env_file=".env",
        extra="ignore",
        frozen=True,
        env_ignore_empty=True,
        hide_input_in_errors=True,
    )

    home: Path = Field(Path(".kp"), description="Folder that holds all state of the local stack.")
    cache: Path = Field(
        Path("~/.cache/kp_platform"),
        description="Folder of the unpacked servers, shared by all stacks of this user.",
    )
    port_offset: int = Field(
        0,
        ge=0,
        le=47_000,
        description="Added to every local default port. Above 14600 Linux may give one of "
        "them to an outgoing connection.",
    )
    external: str = Field(
        "",
        description="Comma list of services that run elsewhere and are only probed: "
        + ", ".join(EXTERNAL_SERVICES)
        + ".",
    )

    kafka_bootstrap_servers: str = Field(
        default_factory=_local("127.0.0.1:{port}", 18092),
        description="Kafka brokers, a comma list of host:port; `kp up` starts one for each address "
        "of 127.0.0.1.",
    )
    ca_file: str = Field(
        "",
        description="PEM file of the certificate authorities that every TLS connection trusts; "
        "empty: the system's.",
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="How all clients of Kafka connect; SASL_* need users."
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="How users of Kafka log in."
    )
    kafka_user: str = Field(
        "", description="Kafka user of the runs: reads the topics, announces changes."
    )
    kafka_password: SecretStr = Field(SecretStr(""), description="Password of KP_KAFKA_USER.")
    kafka_trino_user: str = Field("", description="Kafka user of Trino's catalog: only reads.")
    kafka_trino_password: SecretStr = Field(
        SecretStr(""), description="Password of KP_KAFKA_TRINO_USER."
    )
    emitter_kafka_user: str = Field(
        "", description="Kafka user of the web emitter: only writes its two topics."
    )
    emitter_kafka_password: SecretStr = Field(
        SecretStr(""), description="Password of KP_EMITTER_KAFKA_USER."
    )
    kafka_admin_user: str = Field(
        "", description="Kafka user that makes topics, for `kp up` alone; empty: KP_KAFKA_USER."
    )
    kafka_admin_password: SecretStr = Field(
        SecretStr(""), description="Password of KP_KAFKA_ADMIN_USER."
    )
    trino_url: str = Field(
        default_factory=_local("http://127.0.0.1:{port}", 18080),
        description="Trino coordinator.",
    )
    trino_workers: int = Field(
        0, ge=0, le=9, description="Workers beside the local Trino coordinator; 0: it works itself."
    )
    presto_etc: str = Field(
        "",
        description="Folder of the local Trino's configuration, catalogs and table files; "
        "empty: the one of this repository.",
    )
    trino_user: str = Field("kp_platform", description="Trino user that the runs query as.")
    trino_password: SecretStr = Field(
        SecretStr(""), description="Password of KP_TRINO_USER; over https only."
    )
    trino_token: SecretStr = Field(
        SecretStr(""), description="JWT for Trino instead of a password; over https only."
    )
    elasticsearch_url: str = Field(
        default_factory=_local("http://127.0.0.1:{port}", 18020),
        description="Elasticsearch (8 or 9); user and password may stand in it.",
    )
    elasticsearch_api_key: SecretStr = Field(
        SecretStr(""), description="API key of Elasticsearch, instead of user and password."
    )
    mysql_host: str = Field("127.0.0.1", description="MySQL host.")
    mysql_port: Port = Field(default_factory=_local_port(18033), description="MySQL port.")
    mysql_user: str = Field("kp", description="MySQL user that loads the reference rows.")
    mysql_password: SecretStr = Field(
        SecretStr("kp-local-only"), description="Password of KP_MYSQL_USER."
    )
    mysql_trino_user: str = Field(
        "kp_trino", description="MySQL user of Trino's catalog; needs SELECT on `testing` only."
    )
    mysql_trino_password: SecretStr = Field(
        SecretStr("kp-trino-local-only"), description="Password of KP_MYSQL_TRINO_USER."
    )
    mysql_tls: bool = Field(
        False, description="MySQL over TLS, by all clients, with certificate and host verified."
    )
    redis_url: SecretStr = Field(
        default_factory=lambda data: SecretStr(_local("redis://127.0.0.1:{port}/10", 18063)(data)),
        description="Redis with the database of the reference keys, and user and password if any; "
        "rediss:// is TLS, with certificate and host verified.",
    )
    redis_trino_user: str = Field(
        "", description="Redis user of Trino's catalog: only reads; empty: the one of KP_REDIS_URL."
    )
    redis_trino_password: SecretStr = Field(
        SecretStr(""), description="Password of KP_REDIS_TRINO_USER."
    )
    emitter_url: str = Field(
        default_factory=_local("http://127.0.0.1:{port}", 18000),
        description="Where the web emitter listens.",
    )
    dagster_url: str = Field(
        default_factory=_local("http://127.0.0.1:{port}", 18030),
        description="Where the Dagster webserver listens.",
    )
    dagster_read_only: bool = Field(
        False, description="Dagster's pages show everything and change nothing."
    )

    dagster_postgres_url: SecretStr = Field(
        SecretStr(""),
        description="PostgreSQL database of Dagster's runs, events and ticks, "
        "postgresql://USER:PASSWORD@HOST:PORT/DATABASE; empty: SQLite files in KP_HOME.",
    )

    alert_webhook: SecretStr = Field(
        SecretStr(""),
        description="URL to which failed Dagster runs are posted as JSON; empty: nobody is told.",
    )

    kafka_controller_port: Port = Field(
        default_factory=_local_port(18093),
        description="KRaft controller of the local Kafka; those of further brokers follow it.",
    )
    topic_partitions: int = Field(
        4, ge=1, le=1_000, description="Partitions of the topics that `kp up` makes."
    )
    redis_tunnel_port: Port = Field(
        default_factory=_local_port(18064),
        description="Where the local Trino finds a Redis with TLS, which it cannot speak.",
    )
    elasticsearch_transport_port: Port = Field(
        default_factory=_local_port(18021), description="Transport of the local Elasticsearch."
    )
    dagster_code_server_port: Port = Field(
        default_factory=_local_port(18031), description="gRPC port of the Dagster code server."
    )
    elasticsearch_java_home: str = Field(
        "", description="Java 17 or newer with all modules; empty: look below /usr/lib/jvm."
    )
    start_timeout_seconds: float = Field(
        300.0, gt=0, description="How long `kp up` waits for all services to answer."
    )

    slice_rows: int = Field(
        200_000, ge=1, le=1_000_000, description="Most events that one Trino query reads."
    )
    partitions_per_run: int = Field(
        0,
        ge=0,
        description="A run takes so many partitions of a topic, and others run beside it; 0: all.",
    )
    bulk_rows: int = Field(
        5_000, ge=1, le=50_000, description="Most documents in one bulk request."
    )
    query_max_run_seconds: float = Field(
        120.0, gt=0, description="Trino ends a slice's query after this time."
    )
    follow_idle_seconds: float = Field(
        30.0, ge=0, description="A run ends when no event came for this long."
    )
    max_run_seconds: float = Field(
        3000.0, gt=0, le=3000, description="A run ends after this time; the sensor starts the next."
    )
    sensor_wait_seconds: float = Field(
        20.0, ge=0, le=30, description="How long one sensor tick watches the topic for new events."
    )

    ranking_window_seconds: int = Field(
        3_600, ge=1, description="The ranking counts the accesses of so many seconds until now."
    )
    ranking_size: int = Field(
        100, ge=1, le=10_000, description="Places of the ranking of names, and of that of uris."
    )
    ranking_seconds: float = Field(
        60.0,
        ge=0,
        description="The ranking is made anew at most this often, when accesses changed.",
    )
    kpi_seconds: float = Field(
        300.0, ge=0, description="The KPIs of an hour are counted again at most this often."
    )

    log_retention_days: int = Field(
        0,
        ge=0,
        description="Daily indices are deleted after so many days, once the topic holds none of "
        "their messages; 0: never.",
    )
    dead_letter_retention_days: int = Field(
        0,
        ge=0,
        description="Dead letters and gaps are deleted after so many days, once the topic holds "
        "none of their messages; 0: never.",
    )
    kpi_retention_days: int = Field(
        0,
        ge=0,
        description="The KPIs of an hour are deleted after so many days, not before the eighth; "
        "0: never.",
    )
    run_retention_days: int = Field(
        14,
        ge=0,
        description="Dagster's runs and their logs are deleted after so many days; 0: never.",
    )

    stalled_run_seconds: float = Field(
        30.0,
        ge=10,
        description="A run that has sent no heartbeat for this long is replaced; one that was just "
        "started has twice the time.",
    )
    failed_run_pause_seconds: float = Field(
        10.0,
        ge=0,
        description="Pause after a failed run; each further failure doubles it, up to six times "
        "this value.",
    )
    ranking_sensor_seconds: int = Field(
        30, ge=1, description="Shortest time between two ticks of the ranking's sensor."
    )
    kpi_sensor_seconds: int = Field(
        60, ge=1, description="Shortest time between two ticks of the KPIs' sensor."
    )
    jvm_options: str = Field(
        "",
        description="Further options of the local servers' JVMs, e.g. -XX:TieredStopAtLevel=1 for "
        "a faster start and a lower throughput.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        given = (init_settings, env_settings, dotenv_settings)
        homes = (source().get("home") for source in given)
        home = next(filter(None, homes), cls.model_fields["home"].default)
        made_up = Path(home).expanduser() / STACK_ENV
        return (*given, DotEnvSettingsSource(settings_cls, env_file=made_up))

    @field_validator("home", "cache")
    @classmethod
    def _is_absolute(cls, value: Path) -> Path:
        """Children of the stack run in other folders, and two spellings must not be two stacks."""
        return value.expanduser().absolute()

    @field_validator("presto_etc")
    @classmethod
    def _is_absolute_or_empty(cls, value: str) -> str:
        return str(Path(value).expanduser().absolute()) if value else ""

    @field_validator("ca_file")
    @classmethod
    def _can_be_read(cls, value: str) -> str:
        path = Path(value).expanduser().absolute()
        if value and not os.access(path, os.R_OK):
            raise ValueError(f"{path} cannot be read")
        return str(path) if value else ""

    @field_validator("trino_url", "elasticsearch_url", "emitter_url", "dagster_url")
    @classmethod
    def _is_http_url(cls, value: str) -> str:
        _check_url(value, {"http", "https"})
        return value.rstrip("/")

    @field_validator("alert_webhook")
    @classmethod
    def _is_http_url_or_empty(cls, value: SecretStr) -> SecretStr:
        if value.get_secret_value():
            _check_url(value.get_secret_value(), {"http", "https"})
        return value

    @field_validator("dagster_postgres_url")
    @classmethod
    def _is_postgres_url_or_empty(cls, value: SecretStr) -> SecretStr:
        if not (url := value.get_secret_value()):
            return value
        _check_url(url, {"postgresql", _POSTGRES})
        if not urlsplit(url).path.strip("/"):
            raise ValueError("names no database: postgresql://HOST:PORT/DATABASE")
        return SecretStr(url.replace("postgresql:", f"{_POSTGRES}:", 1))

    @field_validator("redis_url")
    @classmethod
    def _is_redis_url(cls, value: SecretStr) -> SecretStr:
        _check_url(value.get_secret_value(), {"redis", "rediss"})
        if "ssl_" in urlsplit(value.get_secret_value()).query:
            raise ValueError("says how TLS is verified: only KP_CA_FILE does")
        return value

    @field_validator("external")
    @classmethod
    def _names_known_services(cls, value: str) -> str:
        unknown = sorted(set(_names(value)) - set(EXTERNAL_SERVICES))
        if unknown:
            raise ValueError(
                f"unknown service {', '.join(unknown)}; known: {', '.join(EXTERNAL_SERVICES)}"
            )
        return value

    @model_validator(mode="after")
    def _keeps_its_secrets(self) -> Self:
        """Raises ValueError when a password would travel where anybody can read it, or is doubled,
        or its user is missing."""
        protocol = self.kafka_security_protocol
        if protocol.startswith("SASL_") and not self.kafka_user:
            raise ValueError(f"KP_KAFKA_USER: {protocol} (KP_KAFKA_SECURITY_PROTOCOL) needs a user")
        if (protocol, self.kafka_sasl_mechanism) == ("SASL_PLAINTEXT", "PLAIN"):
            raise ValueError(f"KP_KAFKA_SASL_MECHANISM: PLAIN {_IN_CLEAR} SASL_SSL, or SCRAM")
        _check_logins(
            self.trino_url,
            {"KP_TRINO_PASSWORD": self.trino_password, "KP_TRINO_TOKEN": self.trino_token},
            "KP_TRINO_URL",
        )
        in_url = SecretStr(urlsplit(self.elasticsearch_url).password or "")
        _check_logins(
            self.elasticsearch_url,
            {
                "KP_ELASTICSEARCH_API_KEY": self.elasticsearch_api_key,
                "the password in KP_ELASTICSEARCH_URL": in_url,
            },
            "KP_ELASTICSEARCH_URL",
            plain_hosts=LOOPBACK_HOSTS,
        )
        return self

    @property
    def presto_folder(self) -> Path:
        return Path(self.presto_etc) if self.presto_etc else _ROOT / "presto_etc"

    @property
    def trusted_ca_file(self) -> str:
        """KP_CA_FILE, or the bundle of this system; empty when it has none where it should be."""
        return self.ca_file or ssl.get_default_verify_paths().cafile or ""

    @property
    def external_services(self) -> frozenset[str]:
        return frozenset(_names(self.external))


def _names(comma_list: str) -> list[str]:
    return [name.strip() for name in comma_list.split(",") if name.strip()]


def _check_url(value: str, schemes: set[str]) -> None:
    """Raises ValueError, without the value: a URL may hold a password."""
    parts = urlsplit(value)
    if parts.scheme not in schemes or not parts.hostname:
        expected = " or ".join(f"{scheme}://HOST:PORT" for scheme in sorted(schemes))
        raise ValueError(f"is not of the form {expected}")
    parts.port  # noqa: B018  raises ValueError on a port that is not a number


def _check_logins(
    url: str, logins: dict[str, SecretStr], setting: str, plain_hosts: Collection[str] = ()
) -> None:
    """Raises ValueError, without the secret, unless there is at most one way to log in, and that
    over https or to one of the hosts."""
    given = [name for name, secret in logins.items() if secret.get_secret_value()]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} are both set: keep one")
    parts = urlsplit(url)
    if given and parts.scheme == "http" and parts.hostname not in plain_hosts:
        raise ValueError(f"{given[0]} {_IN_CLEAR} https in {setting}")


def environment(settings: Settings, *, secrets: bool) -> dict[str, str]:
    """The settings as `KP_*` variables, e.g. for a child process; secrets masked unless asked."""
    values: dict[str, str] = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        if not secrets:
            is_secret = isinstance(value, SecretStr) and text and name != "redis_url"
            text = MASK if is_secret else without_password(text)
        values[f"KP_{name.upper()}"] = text
    return values


def without_password(url: str) -> str:
    """A URL fit for a screen; any other text stays as it is."""
    password = urlsplit(url).password if "://" in url else None
    return url if password is None else url.replace(f":{password}@", f":{MASK}@", 1)
