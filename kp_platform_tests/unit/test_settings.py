"""Settings: local defaults that shift together, URLs that are checked, secrets that stay hidden."""

import ssl
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from kp_platform.adapters.errors import ServerDown
from kp_platform.settings import Settings, environment, without_password


def settings(**values: object) -> Settings:
    return Settings(_env_file=None, **values)  # type: ignore[arg-type]  # checked by pydantic


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


def test_an_address_that_is_given_is_not_shifted() -> None:
    assert settings(port_offset=300, trino_url="http://t:8080/").trino_url == "http://t:8080"


def test_what_a_stack_was_made_with_is_read_from_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stack.env").write_text("KP_TRINO_USER=made-up\nKP_MYSQL_USER=made-up\n")
    monkeypatch.setenv("KP_HOME", str(tmp_path))
    monkeypatch.setenv("KP_MYSQL_USER", "given")
    found = settings()
    assert (found.trino_user, found.mysql_user) == ("made-up", "given")
    assert settings(home=tmp_path / "other").trino_user == "kp_platform"


def test_what_children_are_given_makes_the_same_settings(tmp_path: Path) -> None:
    before = settings(home=tmp_path, port_offset=200, mysql_password=SecretStr("a b"))
    variables = environment(before, secrets=True)
    again = settings(**{name.removeprefix("KP_").lower(): text for name, text in variables.items()})
    assert again == before


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
def test_a_password_is_masked_wherever_it_stands(name: str, value: str) -> None:
    given = settings(**{name.removeprefix("KP_").lower(): value})
    assert "hunter2" not in str(environment(given, secrets=False))
    assert environment(given, secrets=True)[name] == value
    assert "hunter2" not in repr(given.mysql_password)


def test_the_driver_of_postgresql_is_the_one_that_is_installed() -> None:
    url = settings(dagster_postgres_url="postgresql://kp:postgresql:@p/db").dagster_postgres_url
    assert url.get_secret_value() == "postgresql+psycopg2://kp:postgresql:@p/db"
    assert settings().dagster_postgres_url.get_secret_value() == ""


def test_an_error_of_a_server_has_no_password() -> None:
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
        ("redis_url", "redis://:hunter2@r:port/10"),  # a port that is no number
        ("dagster_url", "http://:hunter2@"),  # no host
        ("dagster_postgres_url", "postgres://kp:hunter2@p/dagster"),  # SQLAlchemy knows none such
        ("dagster_postgres_url", "postgresql://kp:hunter2@p:5432"),  # no database
    ],
)
def test_a_wrong_url_is_refused_without_repeating_it(name: str, value: str) -> None:
    with pytest.raises(ValidationError) as caught:
        settings(**{name: value})
    assert name in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_only_the_password_of_a_url_is_hidden() -> None:
    assert without_password("redis://user:p%40ss@h:1/10") == "redis://user:********@h:1/10"
    assert without_password("redis://h:1/10") == "redis://h:1/10"
    assert without_password("127.0.0.1:18092") == "127.0.0.1:18092"


SASL = {"kafka_security_protocol": "SASL_SSL"}
REMOTE = "http://search.example:9200"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        # a user that nobody named would be found by the first message that does not arrive
        (SASL, "KP_KAFKA_USER: SASL_SSL .KP_KAFKA_SECURITY_PROTOCOL. needs a user"),
        # a password that anybody between us and the server could read
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
        # two ways to log in, of which one would silently lose
        (
            {"trino_url": "https://t", "trino_password": "hunter2", "trino_token": "hunter2"},
            "KP_TRINO_PASSWORD and KP_TRINO_TOKEN are both set: keep one",
        ),
        (
            {"elasticsearch_url": "https://kp:hunter2@s", "elasticsearch_api_key": "hunter2"},
            "KP_ELASTICSEARCH_API_KEY and the password in KP_ELASTICSEARCH_URL are both set",
        ),
        # verification is no option
        (
            {"redis_url": "rediss://kp:hunter2@r/10?ssl_cert_reqs=none"},
            "says how TLS is verified: only KP_CA_FILE does",
        ),
        # found when the first connection breaks otherwise, and by each client in its own words
        ({"ca_file": "/no/such.pem"}, "/no/such.pem cannot be read"),
    ],
)
def test_settings_that_would_lose_or_tell_a_secret_are_refused(
    values: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ValidationError, match=sentence) as refused:
        settings(**values)
    assert "hunter2" not in str(refused.value)


def test_a_password_may_go_without_tls_to_an_elasticsearch_of_this_machine() -> None:
    given = settings(elasticsearch_api_key="hunter2", elasticsearch_url="http://localhost:9200")
    assert given.elasticsearch_api_key.get_secret_value() == "hunter2"


def test_without_a_file_of_authorities_those_of_the_system_are_trusted(tmp_path: Path) -> None:
    own = tmp_path / "ca.pem"
    own.touch()
    assert settings(ca_file=str(own)).trusted_ca_file == str(own)
    assert settings().trusted_ca_file == (ssl.get_default_verify_paths().cafile or "")
