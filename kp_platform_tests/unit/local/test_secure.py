"""The values that `kp up --secure` generates, and how servers use them, without servers."""

from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from pydantic import SecretStr

from kp_platform.adapters.kafka_admin import Grant
from kp_platform.local import kafka, redis, secure, state, supervisor, trino
from kp_platform.local.errors import StackError
from kp_platform.local.servers import services, stack_environment
from kp_platform.local.settings import LocalSettings
from kp_platform_tests.stack import ROOT


@pytest.fixture
def settings(tmp_path: Path) -> LocalSettings:
    """The settings of a new secure stack, as `kp` reads them from its folder."""
    home = tmp_path / "home"
    plain = LocalSettings(_env_file=None, home=home, port_offset=300)
    state.settle(home, "--secure", lambda: secure.secure_settings(plain))
    return LocalSettings(_env_file=None, home=home)


def command_of(settings: LocalSettings, name: str) -> str:
    return " ".join(next(each for each in services(settings) if each.name == name).command)


def test_a_secure_stack_keeps_its_ports_users_and_scheme(settings: LocalSettings) -> None:
    assert settings.port_offset == 300
    assert settings.trino_url == "https://127.0.0.1:18380"
    url = urlsplit(settings.redis_url.get_secret_value())
    assert (url.scheme, url.username, url.port) == ("rediss", "kp_platform", 18363)
    passwords = {
        value.get_secret_value()
        for _, value in settings
        if isinstance(value, SecretStr) and value.get_secret_value()
    }
    assert len(passwords) == 9  # all different


def test_its_certificate_is_for_this_machine_and_the_authority_has_no_key(
    settings: LocalSettings,
) -> None:
    folder = settings.home / "tls"
    assert {path.name for path in folder.iterdir()} == {"ca.pem", "server.pem"}
    assert (folder / "server.pem").stat().st_mode & 0o777 == 0o600
    authority = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    server = x509.load_pem_x509_certificate((folder / "server.pem").read_bytes())
    server.verify_directly_issued_by(authority)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert "PRIVATE" not in (folder / "ca.pem").read_text()


def test_external_servers_are_not_secured(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="KP_EXTERNAL: .* see docs/how-to/security.md"):
        secure.refuse_external(LocalSettings(_env_file=None, home=tmp_path, external="kafka"))


def test_no_server_of_a_secure_stack_listens_without_tls(settings: LocalSettings) -> None:
    assert "--port 0 --tls-port 18363" in command_of(settings, "redis")
    assert "--require-secure-transport=ON" in command_of(settings, "mysql")
    assert "http-server.http.enabled=false" in command_of(settings, "trino")
    redis.prepare_tunnel(settings)
    tunnel = (settings.home / "redis-tunnel" / "stunnel.conf").read_text()
    for line in ("accept = 127.0.0.1:18364", "verifyChain = yes", "checkIP = 127.0.0.1"):
        assert line in tunnel.splitlines()


def test_the_tunnel_verifies_the_host_name_of_the_certificate(tmp_path: Path) -> None:
    settings = LocalSettings(
        _env_file=None,
        home=tmp_path,
        external="redis",
        redis_url=SecretStr("rediss://redis.example/3"),
    )
    redis.prepare_tunnel(settings)
    tunnel = (tmp_path / "redis-tunnel" / "stunnel.conf").read_text().splitlines()
    assert {"connect = redis.example:6379", "checkHost = redis.example"} <= set(tunnel)
    assert [each.name for each in services(settings)].count("redis-tunnel") == 1


def test_no_secret_is_in_an_argument_or_a_rendered_file(settings: LocalSettings) -> None:
    rendered = supervisor.render(settings.home, services(settings))
    secrets = [
        value.get_secret_value().rpartition(":")[2].partition("@")[0]
        for name, value in settings
        if isinstance(value, SecretStr) and value.get_secret_value()
    ]
    assert [each for each in secrets if each in rendered] == []


def test_the_broker_has_four_users_and_trino_is_one_of_them(settings: LocalSettings) -> None:
    users = kafka.users(settings)
    for user in ("kp_admin", "kp_platform", "kp_trino", "kp_emitter"):
        assert f"user_{user}=" in users
    secret = settings.kafka_trino_password.get_secret_value()
    assert trino.kafka_login(settings) == (
        "org.apache.kafka.common.security.plain.PlainLoginModule required "
        f'username="kp_trino" password="{secret}";'
    )


def test_trino_logs_in_to_external_brokers_with_scram(tmp_path: Path) -> None:
    given = {"kafka_security_protocol": "SASL_SSL", "kafka_user": "kp"}
    settings = LocalSettings(_env_file=None, home=tmp_path, **given)  # type: ignore[arg-type]
    with pytest.raises(StackError, match="KP_KAFKA_TRINO_USER is empty"):
        trino.kafka_login(settings)
    settings = settings.model_copy(update={"kafka_trino_user": 'a"b'})
    module = "org.apache.kafka.common.security.scram.ScramLoginModule"
    assert trino.kafka_login(settings).startswith(f'{module} required username="a\\"b"')


def test_redis_has_two_users_and_stores_no_password(settings: LocalSettings) -> None:
    off, catalog, platform = redis.init(settings).splitlines()
    assert off == "user default off"
    assert platform.startswith("user kp_platform on #")
    assert "+@write" in platform
    assert catalog.startswith("user kp_trino on #")
    assert "+@write" not in catalog
    assert settings.redis_trino_password.get_secret_value() not in catalog


def test_a_redis_user_that_trino_shares_may_write(tmp_path: Path) -> None:
    url = SecretStr("redis://own:pw@127.0.0.1:1/10")
    lines = redis.init(LocalSettings(_env_file=None, home=tmp_path, redis_url=url)).splitlines()
    assert [line.split()[1] for line in lines] == ["default", "own"]
    assert "+@write" in lines[1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        # the local broker supports no other users
        (
            {"kafka_security_protocol": "SASL_SSL", "kafka_user": "u"},
            "KP_KAFKA_SECURITY_PROTOCOL is SASL_SSL with SCRAM-SHA-512: add kafka to KP_EXTERNAL",
        ),
        # a plain stack has no certificate
        ({"mysql_tls": True}, "KP_MYSQL_TLS is true: add mysql to KP_EXTERNAL .* --secure"),
        ({"redis_url": "rediss://127.0.0.1:1/10"}, "KP_REDIS_URL is rediss: add redis to KP_EXT"),
    ],
)
def test_tls_without_a_certificate_names_the_setting_and_the_command(
    tmp_path: Path, values: dict[str, object], message: str
) -> None:
    with pytest.raises(StackError, match=message):
        services(LocalSettings(_env_file=None, home=tmp_path, **values))  # type: ignore[arg-type]


def test_every_variable_of_trinos_kafka_client_is_set(settings: LocalSettings) -> None:
    coordinator = next(each for each in services(settings) if each.name == "trino")
    variables = {**stack_environment(settings), **coordinator.environment}
    files = coordinator.environment["KP_KAFKA_CLIENT_FILES"].split(",")
    assert files == ["etc/kafka-client.properties", "etc/kafka-security.properties"]
    text = (settings.presto_folder / "kafka-security.properties").read_text()
    for name in text.split("${env:")[1:]:
        assert variables[name.partition("}")[0]]


def test_the_password_of_trino_is_stored_in_the_format_of_trino() -> None:
    iterations, salt, key = trino.password_hash("secret").split(":")
    assert (int(iterations) >= 1_000, len(salt), len(key)) == (True, 32, 64)
    assert trino.password_hash("secret") != trino.password_hash("secret")  # salted


def test_the_docs_list_every_grant_on_kafka(settings: LocalSettings) -> None:
    page = (ROOT / "docs/how-to/security.md").read_text()
    listed = {
        tuple(cell.strip(" `") for cell in line.split("|")[1:-1])
        for line in page.splitlines()
        if line.startswith("| `kp_")
    }
    assert {_row(grant) for grant in kafka.grants(settings)} <= listed


def _row(grant: Grant) -> tuple[str, str, str]:
    kind = "groups that begin with" if grant.of_groups else "topic"
    return grant.user, grant.operation.capitalize(), f"{kind} `{grant.name}"
