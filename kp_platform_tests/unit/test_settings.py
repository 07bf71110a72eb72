"""The settings of platform and local stack: port offset, validation of URLs, masked secrets."""

import ssl
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from kp_platform.adapters.errors import ServerDown
from kp_platform.local.settings import LocalSettings
from kp_platform.settings import Settings, environment, without_password
from web_emitter.contract import CommonSettings
from web_emitter.site.settings import SiteSettings


def settings(**values: object) -> LocalSettings:
    return LocalSettings(_env_file=None, **values)  # type: ignore[arg-type]  # checked by pydantic


def test_the_offset_shifts_every_local_port() -> None:
    here, there = (environment(settings(port_offset=n), secrets=True) for n in (0, 300))
    moved = {name for name in here if here[name] != there[name]} - {"KP_PORT_OFFSET"}
    assert moved == {
        "KP_KAFKA_BOOTSTRAP_SERVERS",
        "KP_KAFKA_CONTROLLER_PORT",
        "KP_TRINO_URL",
        "KP_ELASTICSEARCH_URL",
        "KP_ELASTICSEARCH_TRANSPORT_PORT",
        "KP_MYSQL_PORT",
        "KP_REDIS_URL",
        "KP_REDIS_TUNNEL_PORT",
        "KP_EMITTER_URL",
        "KP_DAGSTER_URL",
        "KP_DAGSTER_CODE_SERVER_PORT",
    }


def test_an_explicit_address_is_not_shifted() -> None:
    assert settings(port_offset=300, trino_url="http://t:8080/").trino_url == "http://t:8080"


def test_generated_settings_of_a_stack_are_read_from_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stack.env").write_text("KP_TRINO_USER=generated\nKP_MYSQL_USER=generated\n")
    monkeypatch.setenv("KP_HOME", str(tmp_path))
    monkeypatch.setenv("KP_MYSQL_USER", "explicit")
    effective = settings()
    assert (effective.trino_user, effective.mysql_user) == ("generated", "explicit")
    assert settings(home=tmp_path / "other").trino_user == "kp_platform"


def test_the_environment_of_a_child_process_gives_the_same_settings(tmp_path: Path) -> None:
    before = settings(home=tmp_path, port_offset=200, mysql_password=SecretStr("a b"))
    variables = environment(before, secrets=True)
    after = settings(**{name.removeprefix("KP_").lower(): text for name, text in variables.items()})
    assert after == before


def test_the_platform_reads_its_settings_from_the_environment_of_a_local_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = settings(home=tmp_path, port_offset=200, mysql_user="reader")
    for name, value in environment(stack, secrets=True).items():
        monkeypatch.setenv(name, value)
    platform = Settings(_env_file=None)
    assert environment(platform, secrets=True).items() <= environment(stack, secrets=True).items()


def test_every_setting_has_a_description() -> None:
    fields = LocalSettings.model_fields
    assert [name for name, field in fields.items() if not field.description] == []


def test_platform_and_site_share_only_the_settings_of_the_contract() -> None:
    platform, site = set(LocalSettings.model_fields), set(SiteSettings.model_fields)
    assert platform & site == set(CommonSettings.model_fields)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KP_MYSQL_PASSWORD", "hunter2"),
        ("KP_MYSQL_TRINO_PASSWORD", "hunter2"),
        ("KP_REDIS_URL", "redis://:hunter2@r:6379/10"),
        ("KP_ELASTICSEARCH_URL", "https://elastic:hunter2@e:9200"),
        ("KP_TRINO_URL", "https://user:hunter2@t:8443"),
        ("KP_DAGSTER_POSTGRES_URL", "postgresql+psycopg2://kp:hunter2@p/db"),
        ("KP_ALERT_WEBHOOK", "https://chat/services/hunter2"),  # its path is the secret
        ("KP_KAFKA_PASSWORD", "hunter2"),
        ("KP_KAFKA_TRINO_PASSWORD", "hunter2"),
        ("KP_KAFKA_ADMIN_PASSWORD", "hunter2"),
        ("KP_EMITTER_KAFKA_PASSWORD", "hunter2"),
        ("KP_REDIS_TRINO_PASSWORD", "hunter2"),
        ("KP_ELASTICSEARCH_API_KEY", "hunter2"),
    ],
)
def test_a_password_is_masked_in_every_setting(name: str, value: str) -> None:
    given = settings(**{name.removeprefix("KP_").lower(): value})
    assert "hunter2" not in str(environment(given, secrets=False))
    assert environment(given, secrets=True)[name] == value
    assert "hunter2" not in repr(given.mysql_password)


def test_the_driver_of_postgresql_is_the_one_that_is_installed() -> None:
    url = settings(dagster_postgres_url="postgresql://kp:postgresql:@p/db").dagster_postgres_url
    assert url.get_secret_value() == "postgresql+psycopg2://kp:postgresql:@p/db"
    assert settings().dagster_postgres_url.get_secret_value() == ""


def test_the_error_of_a_server_contains_no_password() -> None:
    error = ServerDown("Elasticsearch", "https://elastic:hunter2@e:9200", "KP_X", "refused")
    assert str(error).startswith(
        "Elasticsearch does not answer at https://elastic:********@e:9200 (setting KP_X): refused"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("elasticsearch_url", "elastic:hunter2@e:9200"),  # no scheme
        ("trino_url", "ftp://user:hunter2@t"),  # another scheme
        ("redis_url", "127.0.0.1:hunter2"),  # no scheme
        ("redis_url", "redis://:hunter2@r:port/10"),  # the port is not a number
        ("dagster_url", "http://:hunter2@"),  # no host
        ("dagster_postgres_url", "postgres://kp:hunter2@p/dagster"),  # unknown to SQLAlchemy
        ("dagster_postgres_url", "postgresql://kp:hunter2@p:5432"),  # no database
    ],
)
def test_an_invalid_url_is_rejected_without_repeating_it(name: str, value: str) -> None:
    with pytest.raises(ValidationError) as caught:
        settings(**{name: value})
    assert name in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_only_the_password_of_a_url_is_masked() -> None:
    assert without_password("redis://user:p%40ss@h:1/10") == "redis://user:********@h:1/10"
    assert without_password("redis://h:1/10") == "redis://h:1/10"
    assert without_password("127.0.0.1:18092") == "127.0.0.1:18092"


SASL = {"kafka_security_protocol": "SASL_SSL"}
REMOTE = "http://search.example:9200"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        # without a user the first message would fail
        (SASL, "KP_KAFKA_USER: SASL_SSL .KP_KAFKA_SECURITY_PROTOCOL. needs a user"),
        # a password that can be read on the network
        (
            {"kafka_security_protocol": "SASL_PLAINTEXT", "kafka_user": "u"}
            | {"kafka_sasl_mechanism": "PLAIN"},
            "KP_KAFKA_SASL_MECHANISM: PLAIN would be sent in the clear: use SASL_SSL, or SCRAM",
        ),
        ({"trino_password": "hunter2"}, "KP_TRINO_PASSWORD would be .*: use https in KP_TRINO_URL"),
        ({"trino_token": "hunter2"}, "KP_TRINO_TOKEN would be .*: use https in KP_TRINO_URL"),
        (
            {"elasticsearch_url": REMOTE, "elasticsearch_api_key": "hunter2"},
            "KP_ELASTICSEARCH_API_KEY would be .*: use https in KP_ELASTICSEARCH_URL",
        ),
        (
            {"elasticsearch_url": "http://kp:hunter2@search.example:9200"},
            "the password in KP_ELASTICSEARCH_URL would be .*: use https",
        ),
        # two logins, of which one would be ignored silently
        (
            {"trino_url": "https://t", "trino_password": "hunter2", "trino_token": "hunter2"},
            "KP_TRINO_PASSWORD and KP_TRINO_TOKEN are both set: keep one",
        ),
        (
            {"elasticsearch_url": "https://kp:hunter2@s", "elasticsearch_api_key": "hunter2"},
            "KP_ELASTICSEARCH_API_KEY and the password in KP_ELASTICSEARCH_URL are both set",
        ),
        # verification cannot be disabled
        (
            {"redis_url": "rediss://kp:hunter2@r/10?ssl_cert_reqs=none"},
            "configures how TLS is verified: only KP_CA_FILE does",
        ),
        # otherwise the first connection fails, with a different error in each client
        ({"ca_file": "/no/such.pem"}, "/no/such.pem cannot be read"),
    ],
)
def test_settings_that_would_ignore_or_expose_a_secret_are_rejected(
    values: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ValidationError, match=sentence) as error:
        settings(**values)
    assert "hunter2" not in str(error.value)


def test_a_password_may_be_sent_without_tls_to_a_local_elasticsearch() -> None:
    given = settings(elasticsearch_api_key="hunter2", elasticsearch_url="http://localhost:9200")
    assert given.elasticsearch_api_key.get_secret_value() == "hunter2"


def test_without_a_ca_file_the_authorities_of_the_system_are_trusted(tmp_path: Path) -> None:
    own = tmp_path / "ca.pem"
    own.touch()
    assert settings(ca_file=str(own)).trusted_ca_file == str(own)
    assert settings().trusted_ca_file == (ssl.get_default_verify_paths().cafile or "")
