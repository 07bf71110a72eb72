"""The arguments of the servers, and settings that a local stack does not support."""

import json
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]  # has no stubs here
from pydantic import SecretStr

from kp_platform.cli.stack import SERVICES
from kp_platform.local import dagster, kafka, mysql, redis, state, supervisor
from kp_platform.local.cluster import cluster
from kp_platform.local.errors import StackError
from kp_platform.local.servers import services, stack_environment
from kp_platform.local.service import Service
from kp_platform.local.settings import LocalSettings

SECRETS = {"mysql_password": "s3cret-mysql", "mysql_trino_password": "s3cret-trino"}


def settings_in(home: Path, **values: object) -> LocalSettings:
    return LocalSettings(_env_file=None, home=home, **values)  # type: ignore[arg-type]


def test_the_services_are_the_ones_of_the_command_line(tmp_path: Path) -> None:
    assert tuple(service.name for service in services(settings_in(tmp_path))) == SERVICES


def test_an_offset_shifts_every_port_and_no_two_ports_are_equal(tmp_path: Path) -> None:
    first = _ports(settings_in(tmp_path))
    second = _ports(settings_in(tmp_path, port_offset=100))
    assert second == {setting: port + 100 for setting, port in first.items()}
    assert len(set(first.values())) == len(first)


def test_a_cluster_has_three_brokers_and_two_workers_on_ports_of_their_own(tmp_path: Path) -> None:
    state.settle(tmp_path / "home", "--cluster", lambda: cluster(25_000))
    found = services(settings_in(tmp_path / "home", port_offset=25_000))
    assert [each.name for each in found if each.name not in SERVICES] == [
        "kafka-2",
        "kafka-3",
        "trino-worker-1",
        "trino-worker-2",
    ]
    ports = [port.number for each in found for port in each.ports]
    assert len(set(ports)) == len(ports)
    assert set(ports) <= set(range(43_000, 43_100))


def test_brokers_form_one_quorum_and_store_a_message_on_two_of_three(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.settle(tmp_path / "home", "--cluster", lambda: cluster(0))
    formatted = []
    monkeypatch.setattr(
        state, "run_initialization", lambda name, command: formatted.append((name, command))
    )
    settings = settings_in(tmp_path / "home")
    for broker in kafka.brokers(settings):
        kafka.prepare(settings, broker)
    files = [(tmp_path / "home" / name / "server.properties").read_text() for name, _ in formatted]
    assert [name for name, _ in formatted] == ["kafka", "kafka-2", "kafka-3"]
    [cluster_id] = {command[command.index("-t") + 1] for _, command in formatted}
    assert len(cluster_id) == 22
    for node, text in enumerate(files, start=1):
        lines = text.splitlines()
        assert f"node.id={node}" in lines
        voters = "1@127.0.0.1:18093,2@127.0.0.1:18094,3@127.0.0.1:18095"
        assert f"controller.quorum.voters={voters}" in lines
        assert {"default.replication.factor=3", "min.insync.replicas=2"} <= set(lines)


def test_a_coordinator_with_workers_runs_no_tasks(tmp_path: Path) -> None:
    alone, *_ = _trinos(settings_in(tmp_path))
    coordinator, first, second = _trinos(settings_in(tmp_path, trino_workers=2))
    assert "node-scheduler.include-coordinator=false" in coordinator.command
    assert "coordinator=false" in first.command
    assert [each.environment["KP_TRINO_PORT"] for each in (first, second)] == ["18081", "18082"]
    assert not {"node-scheduler.include-coordinator=false", "coordinator=false"} & {*alone.command}


def test_a_server_listens_on_the_port_of_its_url(tmp_path: Path) -> None:
    assert _ports(settings_in(tmp_path, trino_url="http://127.0.0.1:9999"))["KP_TRINO_URL"] == 9999


@pytest.mark.parametrize(
    ("values", "named"),
    [
        # a server on another host cannot be started here
        ({"trino_url": "http://trino.example:8080"}, "KP_TRINO_URL.*add trino to KP_EXTERNAL"),
        ({"kafka_bootstrap_servers": "broker:9092"}, "KP_KAFKA_BOOTSTRAP_SERVERS.*KP_EXTERNAL"),
        ({"mysql_host": "db.example"}, "KP_MYSQL_HOST.*add mysql to KP_EXTERNAL"),
        ({"kafka_bootstrap_servers": "127.0.0.1:1,broker:9092"}, "KP_KAFKA_BOOTSTRAP_SERVERS"),
        ({"kafka_bootstrap_servers": "127.0.0.1"}, "KP_KAFKA_BOOTSTRAP_SERVERS has no port"),
        # numbers that are not a port
        ({"kafka_bootstrap_servers": "127.0.0.1:99999"}, "SERVERS has no port from 1 to 65535"),
        ({"trino_url": "http://127.0.0.1:0"}, "KP_TRINO_URL has no port from 1 to 65535"),
        # the local servers have no TLS
        ({"trino_url": "https://127.0.0.1:8443"}, "KP_TRINO_URL is https.*KP_EXTERNAL.*use http,"),
        ({"redis_url": "redis://127.0.0.1:1/ten"}, "KP_REDIS_URL has the database 'ten'"),
        # the emitter and Dagster always run here
        ({"emitter_url": "http://www.example"}, "KP_EMITTER_URL"),
    ],
)
def test_a_setting_that_no_local_server_supports_is_named(
    tmp_path: Path, values: dict[str, object], named: str
) -> None:
    with pytest.raises(StackError, match=named):
        services(settings_in(tmp_path, **values))


def test_an_external_service_is_probed_and_not_started(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, external="trino", trino_url="https://trino.example:8443")
    trino = next(each for each in services(settings) if each.name == "trino")
    assert not trino.is_local
    assert trino.address == "https://trino.example:8443"
    assert "program:trino" not in supervisor.render(tmp_path, services(settings))


def test_no_secret_is_in_a_file_or_an_argument(tmp_path: Path) -> None:
    settings = settings_in(
        tmp_path, redis_url="redis://:s3cret-redis@127.0.0.1:18063/10", **SECRETS
    )
    assert "s3cret" not in supervisor.render(tmp_path, services(settings))
    variables = stack_environment(settings)
    assert variables["KP_REDIS_PASSWORD"] == "s3cret-redis"
    assert "s3cret-mysql" in variables["KP_MYSQL_INIT"]


def test_dagster_reads_its_postgresql_url_from_the_environment_and_no_file_has_the_password(
    tmp_path: Path,
) -> None:
    for url, storage in (
        ("", None),
        ("postgresql://kp:s3cret@p/db", {"postgres_url": {"env": "KP_DAGSTER_POSTGRES_URL"}}),
    ):
        settings = settings_in(tmp_path, dagster_postgres_url=url)
        dagster.prepare(settings)
        text = (tmp_path / "dagster" / "dagster.yaml").read_text(encoding="utf-8")
        assert yaml.safe_load(text).get("storage", {}).get("postgres") == storage
        assert "s3cret" not in text
        variable = stack_environment(settings)["KP_DAGSTER_POSTGRES_URL"]
        assert variable == url.replace("postgresql", "postgresql+psycopg2")


def test_a_percent_sign_in_a_path_survives_supervisords_expansion(tmp_path: Path) -> None:
    home = tmp_path / "100%"
    text = supervisor.render(home, services(settings_in(home)))
    assert "%" not in text.replace("%%", "")


def test_a_kp_home_too_long_for_a_socket_is_named() -> None:
    with pytest.raises(StackError, match="KP_HOME=.* is too long for a unix socket"):
        supervisor.Supervisor(Path("/" + "a" * 100))


def test_mysql_starts_with_two_users_and_no_root(tmp_path: Path) -> None:
    password = SecretStr("it's \\ quoted")
    text = mysql.init(settings_in(tmp_path, mysql_password=password))
    assert r"ALTER USER 'kp'@'%' IDENTIFIED BY 'it\'s \\ quoted';" in text
    assert "GRANT SELECT ON testing.* TO 'kp_trino'@'%';" in text
    assert "ALTER USER 'root'@'localhost' ACCOUNT LOCK;" in text


def test_redis_requires_the_password_of_its_url_and_none_without(tmp_path: Path) -> None:
    with_password = settings_in(tmp_path, redis_url="redis://:a%22b@127.0.0.1:1/10")
    assert redis.init(with_password) == 'requirepass "a\\"b"'
    assert redis.init(settings_in(tmp_path)) == ""


def test_a_folder_with_other_files_is_never_claimed_nor_purged(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(StackError, match="holds other files"):
        state.claim(tmp_path)
    with pytest.raises(StackError, match="nothing is removed"):
        state.purge(tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_a_claimed_folder_is_purged(tmp_path: Path) -> None:
    home = tmp_path / "home"
    state.claim(home)
    assert home.stat().st_mode & 0o777 == 0o700
    state.purge(home)
    assert not home.exists()


def test_every_variable_of_presto_etc_is_set_for_trino(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    trino = next(each for each in services(settings) if each.name == "trino")
    variables = {**stack_environment(settings), **trino.environment}
    for path in settings.presto_folder.rglob("*.properties"):
        lines = path.read_text(encoding="utf-8").splitlines()
        text = "\n".join(line for line in lines if not line.startswith("#"))
        for name in text.split("${ENV:")[1:]:
            assert name.partition("}")[0] in variables, path


def test_a_table_file_alone_makes_a_topic_a_table(tmp_path: Path) -> None:
    """Trino shows only the tables in its catalog's list, not every table file."""
    folder = tmp_path / "etc" / "kafka"
    folder.mkdir(parents=True)
    for name in ("b", "a"):
        table = json.dumps({"schemaName": "toys", "tableName": name})
        (folder / f"{name}.json").write_text(table, encoding="utf-8")
    settings = settings_in(tmp_path, presto_etc=str(tmp_path / "etc"))
    trino = next(each for each in services(settings) if each.name == "trino")
    assert trino.environment["KP_KAFKA_TABLES"] == "toys.a,toys.b"


def test_a_folder_without_table_files_is_named_with_its_setting(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="KP_PRESTO_ETC: .* has no table file"):
        services(settings_in(tmp_path, presto_etc=str(tmp_path)))


def test_the_table_of_the_access_log_has_only_text_without_a_length() -> None:
    path = LocalSettings().presto_folder / "kafka" / "action.json"
    table = json.loads(path.read_text(encoding="utf-8"))
    columns = [(field["name"], field["type"]) for field in table["message"]["fields"]]
    assert columns == [("uuid", "VARCHAR"), ("uri", "VARCHAR"), ("name", "VARCHAR")]


def _trinos(settings: LocalSettings) -> list[Service]:
    return [each for each in services(settings) if each.name.startswith("trino")]


def _ports(settings: LocalSettings) -> dict[str, int]:
    return {port.setting: port.number for each in services(settings) for port in each.ports}
