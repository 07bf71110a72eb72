"""`kp up --secure`: the demo over TLS with logins, and the requests that are refused.

All tests share one stack. Its settings are stored in its folder (`stack.env`), so only the folder,
the ports and the intervals are set here.
"""

import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import psutil
import pymysql
import pytest
import redis
import requests
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from pydantic import SecretStr

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.adapters.errors import ServerDown, accepts_tls
from kp_platform.adapters.kafka import KafkaAdapter
from kp_platform.adapters.mysql import MySQLAdapter
from kp_platform.adapters.redis import RedisAdapter
from kp_platform.adapters.reference_changes import TOPIC as CHANGES
from kp_platform.adapters.trino import TrinoAdapter
from kp_platform.engine.reference_change import ReferenceChange
from kp_platform.flows.builtin import ACCESS_LOG
from kp_platform.local import supervisor
from kp_platform.local.redis import catalog_environment
from kp_platform.local.secure import write_certificate
from kp_platform.local.settings import LocalSettings
from kp_platform.settings import environment
from kp_platform_tests.conftest import OFFSETS
from kp_platform_tests.stack import TEMPO, Stack, on_free_ports

LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


@pytest.fixture(scope="module")
def secure_stack() -> Iterator[Stack]:
    home = Path(tempfile.mkdtemp(prefix="kp-secure-"))
    offset = on_free_ports(OFFSETS, home).port_offset
    variables = {
        **{name: value for name, value in os.environ.items() if not name.startswith("KP_")},
        "KP_HOME": str(home),
        "KP_PORT_OFFSET": str(offset),
        **{f"KP_{name.upper()}": str(value) for name, value in TEMPO.items()},
        "KP_DAGSTER_READ_ONLY": "true",
    }
    folder = Path(tempfile.mkdtemp(prefix="kp-secure-cwd-"))  # without a developer's `.env`
    try:
        first = Stack(LocalSettings(_env_file=None, home=home), variables, folder)
        first.kp("up", "--secure")
        yield Stack(LocalSettings(_env_file=None, home=home), variables, folder)
    finally:
        Stack(LocalSettings(_env_file=None, home=home), variables, folder).end()
        shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def secure(secure_stack: Stack, monkeypatch: pytest.MonkeyPatch) -> LocalSettings:
    """The settings of the stack, read from its folder as `kp` does."""
    monkeypatch.setenv("KP_HOME", str(secure_stack.settings.home))
    return secure_stack.settings


def test_the_demo_prints_the_same_as_on_a_plain_stack(secure_stack: Stack) -> None:
    output = secure_stack.kp("demo").stdout
    assert "Trino          joined each name with its MySQL row and its Redis value" in output
    assert "200 requests, 200 documents, all correct; lag 0" in output


def test_kp_finds_the_stack_and_masks_its_secrets(secure_stack: Stack) -> None:
    assert "redis-tunnel" in secure_stack.kp("status").stdout
    assert "analyze.action" in secure_stack.kp("lag").stdout
    done = secure_stack.kp("reference", "set", "kp", "x")
    assert "kp is set and the change published" in done.stdout
    shown = secure_stack.kp("config").stdout
    assert "rediss://kp_platform:********@127.0.0.1" in shown
    assert [name for name, secret in secrets_of(secure_stack.settings) if secret in shown] == []


def test_a_secure_stack_starts_again_without_the_option(secure_stack: Stack) -> None:
    output = secure_stack.kp("up").stdout
    assert "already running" in output
    assert f"passwords    {secure_stack.settings.home}/stack.env" in output


class Probed(Protocol):
    def probe(self) -> None: ...


def other_authority(folder: Path) -> str:
    write_certificate(folder)
    return str(folder / "tls" / "ca.pem")


def plain_redis(settings: LocalSettings) -> str:
    return settings.redis_url.get_secret_value().replace("rediss:", "redis:")


def wrong_redis(settings: LocalSettings) -> str:
    return settings.redis_url.get_secret_value().replace("//kp_platform:", "//kp_platform:x")


@pytest.mark.parametrize(
    ("make", "setting", "value", "sentence"),
    [
        # an authority that has not signed the server's certificate
        (KafkaAdapter, "KP_CA_FILE", None, "Kafka presents a certificate that KP_CA_FILE does not"),
        (MySQLAdapter, "KP_CA_FILE", None, "MySQL presents a certificate that KP_CA_FILE does not"),
        (RedisAdapter, "KP_CA_FILE", None, "Redis presents a certificate that KP_CA_FILE does not"),
        (TrinoAdapter, "KP_CA_FILE", None, "Trino presents a certificate that KP_CA_FILE does not"),
        # a wrong password
        (KafkaAdapter, "KP_KAFKA_PASSWORD", "x", "Kafka refuses the user .*KP_KAFKA_PASSWORD"),
        (MySQLAdapter, "KP_MYSQL_PASSWORD", "x", "MySQL refuses the user .*KP_MYSQL_PASSWORD"),
        (RedisAdapter, "KP_REDIS_URL", wrong_redis, "Redis refuses the user .*KP_REDIS_URL"),
        (TrinoAdapter, "KP_TRINO_PASSWORD", "x", "Trino refuses the user .*KP_TRINO_PASSWORD"),
        # a connection without TLS
        (
            KafkaAdapter,
            "KP_KAFKA_SECURITY_PROTOCOL",
            "PLAINTEXT",
            "Kafka requires TLS .*KP_KAFKA_SECURITY_PROTOCOL",
        ),
        (RedisAdapter, "KP_REDIS_URL", plain_redis, "Redis requires TLS .*KP_REDIS_URL"),
        # TLS to a server without it: Elasticsearch
        (
            ElasticsearchAdapter,
            "KP_ELASTICSEARCH_URL",
            lambda settings: settings.elasticsearch_url.replace("http:", "https:"),
            "Elasticsearch does not accept TLS .*KP_ELASTICSEARCH_URL",
        ),
    ],
)
def test_a_wrong_setting_is_reported_within_seconds_by_name(
    secure: LocalSettings,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    make: Callable[[LocalSettings], Probed],
    setting: str,
    value: str | Callable[[LocalSettings], str] | None,
    sentence: str,
) -> None:
    make(LocalSettings()).probe()
    given = value(secure) if callable(value) else value
    monkeypatch.setenv(setting, given or other_authority(tmp_path))
    with pytest.raises(ServerDown, match=sentence) as refused:
        make(LocalSettings()).probe()
    assert "see docs/how-to/security.md" in str(refused.value)
    assert not [name for name, secret in secrets_of(secure) if secret in str(refused.value)]


def test_trino_without_tls_and_without_a_password_is_refused(secure: LocalSettings) -> None:
    address = urlsplit(secure.trino_url).netloc
    with pytest.raises(requests.ConnectionError):
        requests.get(f"http://{address}/v1/info", timeout=5)
    nobody = requests.post(
        f"https://{address}/v1/statement", data="SELECT 1", verify=secure.ca_file, timeout=5
    )
    assert nobody.status_code == 401


def test_mysql_without_tls_is_refused(secure: LocalSettings) -> None:
    with (
        pytest.raises(pymysql.OperationalError, match="insecure transport are prohibited"),
        mysql(secure, secure.mysql_user, secure.mysql_password, ssl_disabled=True),
    ):
        pass


def test_every_port_is_on_loopback_and_those_with_logins_use_tls(secure: LocalSettings) -> None:
    listening = {
        (connection.laddr.ip, connection.laddr.port)
        for process in supervisor.processes(secure.home)
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert {ip for ip, _ in listening} <= LOOPBACK
    ports = {port for _, port in listening}
    kafka = int(secure.kafka_bootstrap_servers.rpartition(":")[2])
    encrypted = {
        kafka,
        secure.kafka_controller_port,
        urlsplit(secure.redis_url.get_secret_value()).port,
        urlsplit(secure.trino_url).port,
    }
    assert encrypted | {secure.mysql_port, secure.redis_tunnel_port} <= ports
    assert {port for port in encrypted if accepts_tls("127.0.0.1", port or 0)} == encrypted


@contextlib.contextmanager
def mysql(
    settings: LocalSettings, user: str, password: SecretStr, **options: Any
) -> Iterator[pymysql.cursors.Cursor]:
    options = options or {"ssl_ca": settings.ca_file, "ssl_verify_identity": True}
    with (
        contextlib.closing(
            pymysql.connect(
                host=settings.mysql_host,
                port=settings.mysql_port,
                user=user,
                password=password.get_secret_value(),
                **options,
            )
        ) as connection,
        connection.cursor() as cursor,
    ):
        yield cursor


INSERT = "INSERT INTO testing.tests (test_name) VALUES ('forbidden')"


@pytest.mark.parametrize(
    "statement", [INSERT, "DELETE FROM testing.tests", "DROP TABLE testing.tests"]
)
def test_trinos_user_of_mysql_may_only_read(secure: LocalSettings, statement: str) -> None:
    with mysql(secure, secure.mysql_trino_user, secure.mysql_trino_password) as cursor:
        assert cursor.execute("SELECT * FROM testing.tests") >= 4
        with pytest.raises(pymysql.OperationalError, match="command denied"):
            cursor.execute(statement)


@pytest.mark.parametrize(
    "statement",
    ["DELETE FROM testing.tests", "SELECT * FROM mysql.user", "CREATE DATABASE another"],
)
def test_the_user_of_the_reference_rows_may_only_add_and_change_rows(
    secure: LocalSettings, statement: str
) -> None:
    MySQLAdapter(LocalSettings()).touch("presto")
    with (
        mysql(secure, secure.mysql_user, secure.mysql_password) as cursor,
        pytest.raises(pymysql.OperationalError, match="denied"),
    ):
        cursor.execute(statement)


def test_a_query_of_trino_cannot_write(secure: LocalSettings) -> None:
    statement = "INSERT INTO my_tests.testing.tests (test_name) VALUES ('forbidden')"
    with (
        pytest.raises(Exception, match="denied"),
        TrinoAdapter(LocalSettings()).query(statement, []) as answer,
    ):
        list(answer.batches(1))


def test_trinos_user_of_redis_may_only_read(secure: LocalSettings) -> None:
    login = catalog_environment(secure)
    address = urlsplit(secure.redis_url.get_secret_value())
    with redis.Redis(
        str(address.hostname),
        int(address.port or 0),
        db=int(login["KP_REDIS_DATABASE"]),
        username=login["KP_REDIS_USER"],
        password=login["KP_REDIS_PASSWORD"],
        ssl=True,
        ssl_ca_certs=secure.ca_file,
    ) as client:
        assert client.get("presto") == b"https://prestodb.io/"
        for command in (("SET", "presto", "x"), ("DEL", "presto"), ("FLUSHALL",), ("ACL", "LIST")):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command)


def test_redis_without_a_login_is_refused(secure: LocalSettings) -> None:
    address = urlsplit(secure.redis_url.get_secret_value())
    with (
        redis.Redis(
            str(address.hostname), int(address.port or 0), ssl=True, ssl_ca_certs=secure.ca_file
        ) as client,
        pytest.raises(redis.exceptions.AuthenticationError),
    ):
        client.get("presto")


def as_user(settings: LocalSettings, user: str, password: SecretStr) -> dict[str, Any]:
    security = settings.kafka_security_options(user, password)
    return {"bootstrap.servers": settings.kafka_bootstrap_servers, "log_level": 0, **security}


def produced(options: dict[str, Any], topic: str) -> str:
    """The name of the broker's error for one message; empty without an error."""
    answers: list[KafkaError | None] = []
    producer = Producer({**options, "message.timeout.ms": 10_000})
    producer.produce(topic, b"{}", on_delivery=lambda error, message: answers.append(error))
    producer.flush(15)
    (error,) = answers
    return error.name() if error else ""


def consumed(options: dict[str, Any], topic: str) -> str:
    """The name of the broker's error for the first fetch; empty without an error."""
    consumer = Consumer({**options, "group.id": "kp-test", "auto.offset.reset": "earliest"})
    deadline = time.monotonic() + 15
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        while time.monotonic() < deadline:
            message = consumer.poll(1)
            error = message.error() if message else None
            if message and (error is None or error.name().startswith("TOPIC")):
                return error.name() if error else ""
    finally:
        consumer.close()
    raise AssertionError(f"no answer about {topic} in 15 s")


DENIED = "TOPIC_AUTHORIZATION_FAILED"


def test_the_user_of_the_runs_may_only_consume_and_publish_changes(secure: LocalSettings) -> None:
    runs = as_user(secure, secure.kafka_user, secure.kafka_password)
    KafkaAdapter(LocalSettings()).publish_changes([ReferenceChange("redis", "presto")])
    assert consumed(runs, CHANGES) == ""
    assert produced(runs, ACCESS_LOG.topic) == DENIED
    admin = AdminClient(runs)
    with pytest.raises(KafkaException, match=DENIED):
        admin.create_topics([NewTopic("made.up", 1)])["made.up"].result(10)
    with pytest.raises(KafkaException, match=DENIED):
        admin.delete_topics([ACCESS_LOG.topic])[ACCESS_LOG.topic].result(10)


def test_trinos_user_of_kafka_may_only_consume(secure: LocalSettings) -> None:
    trino = as_user(secure, secure.kafka_trino_user, secure.kafka_trino_password)
    assert AdminClient(trino).list_topics(timeout=10).topics.keys() >= {ACCESS_LOG.topic}
    for topic in (ACCESS_LOG.topic, CHANGES):
        assert produced(trino, topic) == DENIED


def test_the_emitters_user_may_only_produce(secure: LocalSettings) -> None:
    emitter = as_user(secure, secure.emitter_kafka_user, secure.emitter_kafka_password)
    assert produced(emitter, CHANGES) == DENIED
    assert consumed(emitter, ACCESS_LOG.topic) == DENIED


def test_dagsters_pages_are_read_only(secure_stack: Stack) -> None:
    """The stack has KP_DAGSTER_READ_ONLY."""
    wiped = secure_stack.graphql('mutation { deletePipelineRun(runId: "any") { __typename } }')
    assert wiped["deletePipelineRun"]["__typename"] == "UnauthorizedError"


def secrets_of(settings: LocalSettings) -> list[tuple[str, str]]:
    """Every generated secret of the stack, by its setting."""
    variables = environment(settings, secrets=True)
    made_up = [
        (name, password)
        for name, text in variables.items()
        for password in re.findall(r"[0-9a-f]{48}", text)
    ]
    assert len(made_up) == 9
    return made_up


def read(path: Path) -> bytes:
    """The bytes of a file; empty if a server has just removed it."""
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    return b""


def test_secrets_are_only_in_stack_env(
    secure_stack: Stack,
) -> None:
    home = secure_stack.settings.home
    wanted = {secret.encode(): name for name, secret in secrets_of(secure_stack.settings)}
    found = re.compile(b"|".join(wanted))
    files = [path for path in home.rglob("*") if path.is_file()]
    holding = {path for path in files if found.search(read(path))}
    assert holding == {home / "stack.env"}
    assert (home / "stack.env").stat().st_mode & 0o077 == 0
    assert (home / "tls" / "server.pem").stat().st_mode & 0o077 == 0
    # There are runs of Dagster and logs of the servers, so the search above was not empty.
    assert any((home / "dagster").rglob("*.db"))
    assert len(list((home / "log").iterdir())) > 9
    for process in supervisor.processes(home):
        assert not found.search(" ".join(process.cmdline()).encode()), process.name()
