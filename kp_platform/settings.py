"""The settings of the platform, read from `KP_*` environment variables and `.env`.

Belongs here: names, defaults, bounds and the shape of values that the platform reads. Does not
belong here: connections (`adapters/`), what the web emitter reads too (`web_emitter/contract.py`),
and what only the local stack needs (`local/settings.py`).
The local ports lie in one block of 100 (18000-18099), so every multiple of 100 as `KP_PORT_OFFSET`
gives another stack that runs beside the first.
"""

import ssl
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    PydanticBaseSettingsSource,
)

from web_emitter.contract import STALLED_SECONDS, CommonSettings, check_url, local_address

MASK = "********"
LOOPBACK_HOSTS = {"127.0.0.1", "localhost"}
STACK_ENV = "stack.env"
"""The file in KP_HOME with the settings that `kp up` generated for this stack, with passwords."""
_IN_CLEAR = "would be sent in the clear: use"
Port = Annotated[int, Field(ge=1, le=65_535)]


def local_port(port: int) -> Callable[[dict[str, Any]], int]:
    """A default port of the local stack, shifted by the port offset validated before it."""
    return lambda data: port + data.get("port_offset", 0)


class Settings(CommonSettings):
    """The platform's effective settings. The environment overrides `.env`, which overrides
    `stack.env` in KP_HOME, which overrides the defaults."""

    kafka_user: str = Field(
        "", description="Kafka user of the runs; reads the topics, publishes reference changes."
    )
    kafka_password: SecretStr = Field(SecretStr(""), description="Password of KP_KAFKA_USER.")
    trino_url: str = Field(
        default_factory=local_address("http://127.0.0.1:{port}", 18080),
        description="URL of the Trino coordinator.",
    )
    trino_user: str = Field("kp_platform", description="Trino user of the runs.")
    trino_password: SecretStr = Field(
        SecretStr(""), description="Password of KP_TRINO_USER; over https only."
    )
    trino_token: SecretStr = Field(
        SecretStr(""), description="JWT for Trino instead of a password; over https only."
    )
    mysql_host: str = Field("127.0.0.1", description="MySQL host.")
    mysql_port: Port = Field(default_factory=local_port(18033), description="MySQL port.")
    mysql_user: str = Field("kp", description="MySQL user that loads the reference rows.")
    mysql_password: SecretStr = Field(
        SecretStr("kp-local-only"), description="Password of KP_MYSQL_USER."
    )
    mysql_tls: bool = Field(
        False,
        description="All clients connect to MySQL with TLS and verify certificate and host name.",
    )
    redis_url: SecretStr = Field(
        default_factory=lambda data: SecretStr(
            local_address("redis://127.0.0.1:{port}/10", 18063)(data)
        ),
        description="URL of Redis with the database of the reference keys, and user and password "
        "if any; rediss:// uses TLS and verifies certificate and host name.",
    )

    alert_webhook: SecretStr = Field(
        SecretStr(""),
        description="URL to which failed Dagster runs are posted as JSON; empty: no alerts.",
    )

    slice_rows: int = Field(
        200_000,
        ge=1,
        le=1_000_000,
        description="Maximum number of events that one Trino query reads.",
    )
    partitions_per_run: int = Field(
        0,
        ge=0,
        description="Number of partitions that one run consumes; several runs then share a topic. "
        "0: all.",
    )
    bulk_rows: int = Field(
        5_000, ge=1, le=50_000, description="Maximum number of documents in one bulk request."
    )
    query_max_run_seconds: float = Field(
        120.0, gt=0, description="Trino cancels the query of a slice after this time."
    )
    follow_idle_seconds: float = Field(
        30.0, ge=0, description="A run ends when no event has arrived for this long."
    )
    max_run_seconds: float = Field(
        3000.0,
        gt=0,
        le=3000,
        description="A run ends after this time; the sensor starts the next one.",
    )
    sensor_wait_seconds: float = Field(
        20.0, ge=0, le=30, description="How long one sensor tick polls the topic for new events."
    )

    ranking_window_seconds: int = Field(
        3_600,
        ge=1,
        description="Time window of the ranking, which counts the accesses of this many seconds.",
    )
    ranking_size: int = Field(
        100,
        ge=1,
        le=10_000,
        description="Number of entries in the ranking of names, and in that of URIs.",
    )
    ranking_seconds: float = Field(
        60.0,
        ge=0,
        description="Minimum time between two computations of the ranking; it is computed when "
        "accesses were indexed.",
    )
    kpi_seconds: float = Field(
        300.0, ge=0, description="Minimum time between two computations of the KPIs of an hour."
    )

    log_retention_days: int = Field(
        0,
        ge=0,
        description="Days after which daily indices are deleted, provided that the topic no longer "
        "holds their messages; 0: never.",
    )
    dead_letter_retention_days: int = Field(
        0,
        ge=0,
        description="Days after which dead letters and gaps are deleted, provided that the topic "
        "no longer holds their messages; 0: never.",
    )
    kpi_retention_days: int = Field(
        0,
        ge=0,
        description="Days after which the KPIs of an hour are deleted, at least eight; 0: never.",
    )
    run_retention_days: int = Field(
        14,
        ge=0,
        description="Days after which Dagster's runs and their logs are deleted; 0: never.",
    )

    stalled_run_seconds: float = Field(
        STALLED_SECONDS,
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
        generated = Path(home).expanduser() / STACK_ENV
        return (*given, DotEnvSettingsSource(settings_cls, env_file=generated))

    @field_validator("trino_url")
    @classmethod
    def _is_trino_url(cls, value: str) -> str:
        check_url(value, {"http", "https"})
        return value.rstrip("/")

    @field_validator("alert_webhook")
    @classmethod
    def _is_http_url_or_empty(cls, value: SecretStr) -> SecretStr:
        if value.get_secret_value():
            check_url(value.get_secret_value(), {"http", "https"})
        return value

    @field_validator("redis_url")
    @classmethod
    def _is_redis_url(cls, value: SecretStr) -> SecretStr:
        check_url(value.get_secret_value(), {"redis", "rediss"})
        if "ssl_" in urlsplit(value.get_secret_value()).query:
            raise ValueError("configures how TLS is verified: only KP_CA_FILE does")
        return value

    @model_validator(mode="after")
    def _has_safe_logins(self) -> Self:
        """Raises ValueError when a password would be sent in the clear, when two logins are set, or
        when a user is missing."""
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
    def trusted_ca_file(self) -> str:
        """KP_CA_FILE, or the bundle of the system; empty when that is not in its default place."""
        return self.ca_file or ssl.get_default_verify_paths().cafile or ""


def _check_logins(
    url: str, logins: dict[str, SecretStr], setting: str, plain_hosts: Collection[str] = ()
) -> None:
    """Raises ValueError, without the secret, unless there is at most one login, and it is used over
    https or with one of the hosts."""
    given = [name for name, secret in logins.items() if secret.get_secret_value()]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} are both set: keep one")
    parts = urlsplit(url)
    if given and parts.scheme == "http" and parts.hostname not in plain_hosts:
        raise ValueError(f"{given[0]} {_IN_CLEAR} https in {setting}")


def environment(settings: Settings, *, secrets: bool) -> dict[str, str]:
    """The settings as `KP_*` variables, e.g. for a child process. Without `secrets` they are
    masked."""
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
    """A URL with its password masked; any other text stays as it is."""
    password = urlsplit(url).password if "://" in url else None
    return url if password is None else url.replace(f":{password}@", f":{MASK}@", 1)
