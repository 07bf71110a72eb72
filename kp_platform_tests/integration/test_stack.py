"""The stack itself: sockets on loopback only, restarts, and the output of `kp`."""

import json

import psutil

from kp_platform.adapters.mysql import MySQLAdapter
from kp_platform.adapters.redis import RedisAdapter
from kp_platform.cli.stack import SERVICES
from kp_platform.flows.builtin import FLOWS
from kp_platform.local import supervisor
from kp_platform.local.servers import services
from kp_platform.local.supervisor import Supervisor
from kp_platform.operations.reference_data import REFERENCE_VALUES
from kp_platform.settings import Settings
from kp_platform_tests.conftest import wait_for
from kp_platform_tests.stack import Stack


def listening_sockets(process: psutil.Process) -> set[tuple[str, int]]:
    """Address and port of each socket. A run that has just ended has none."""
    try:
        connections = process.net_connections("tcp")
    except psutil.NoSuchProcess:
        return set()
    return {
        (connection.laddr.ip.removeprefix("::ffff:"), connection.laddr.port)
        for connection in connections
        if connection.status == psutil.CONN_LISTEN
    }


def command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def test_every_listening_socket_is_on_loopback(whole_stack: Stack) -> None:
    processes = supervisor.processes(whole_stack.settings.home)
    assert len(processes) >= len(SERVICES)
    listening = set().union(*map(listening_sockets, processes))
    declared = services(whole_stack.settings)
    assert listening == {("127.0.0.1", port.number) for each in declared for port in each.ports}


def test_status_reports_every_service_as_ready(whole_stack: Stack) -> None:
    found = json.loads(whole_stack.kp("status", "--json").stdout)
    assert [each["service"] for each in found] == list(SERVICES)
    assert all(each["ready"] for each in found)


def test_lag_lists_partitions(whole_stack: Stack) -> None:
    found = json.loads(whole_stack.kp("lag", "--json").stdout)
    by_flow = {flow.name: list(range(whole_stack.settings.topic_partitions)) for flow in FLOWS}
    assert [(each["flow"], each["partition"]) for each in found] == [
        (name, partition) for name, partitions in by_flow.items() for partition in partitions
    ]
    fields = {"flow", "topic", "partition", "low", "high", "position", "lag"}
    assert all(set(each) == fields for each in found)


def test_config_masks_secrets_by_default(whole_stack: Stack) -> None:
    masked = json.loads(whole_stack.kp("config", "--json").stdout)
    shown = json.loads(whole_stack.kp("config", "--json", "--show-secrets").stdout)
    assert masked["KP_MYSQL_PASSWORD"] == "********"
    assert shown["KP_MYSQL_PASSWORD"] == whole_stack.variables["KP_MYSQL_PASSWORD"]
    assert masked["KP_TRINO_URL"] == whole_stack.settings.trino_url


def test_seed_is_repeatable(whole_stack: Stack) -> None:
    for _ in range(2):
        assert whole_stack.kp("seed").stdout == "4 rows in MySQL, 4 keys in Redis\n"
    assert json.loads(whole_stack.kp("seed", "--json").stdout) == {"rows": 4, "keys": 4}
    assert RedisAdapter(Settings()).values([*REFERENCE_VALUES]) == REFERENCE_VALUES
    assert MySQLAdapter(Settings()).ids().keys() >= REFERENCE_VALUES.keys()


def test_the_demo_prints_its_measurements_as_json(whole_stack: Stack) -> None:
    printed = json.loads(whole_stack.kp("demo", "--requests", "5", "--json").stdout)
    assert (printed["requests"], printed["documents"], printed["lag"]) == (5, 5, 0)
    total = printed["latency_seconds"]["total"]
    assert 0 < total["p50"] <= total["p95"]


def test_no_secret_is_in_a_file_of_the_stack_or_in_a_command_line(whole_stack: Stack) -> None:
    home = whole_stack.settings.home
    secret = whole_stack.settings.mysql_password.get_secret_value()
    for process in supervisor.processes(home):
        assert secret not in command_line(process)
    rendered = [home / "supervisord.conf", *(home / "log").iterdir(), *home.glob("*/config/*")]
    for path in rendered:
        assert secret.encode() not in path.read_bytes(), path


def test_a_killed_service_is_restarted(whole_stack: Stack) -> None:
    supervisor_of_stack = Supervisor(whole_stack.settings.home)
    before = supervisor_of_stack.programs()["redis"].pid
    psutil.Process(before).kill()

    def is_back() -> bool:
        program = supervisor_of_stack.programs()["redis"]
        return program.pid not in (0, before) and program.state == "RUNNING"

    wait_for(is_back, "redis is restarted")
    RedisAdapter(Settings()).probe()
    assert RedisAdapter(Settings()).values(["presto"]) == {"presto": REFERENCE_VALUES["presto"]}


def test_an_unavailable_server_is_reported_in_one_line_with_its_address(whole_stack: Stack) -> None:
    supervisor_of_stack = Supervisor(whole_stack.settings.home)
    supervisor_of_stack.stop_program("redis")
    try:
        done = whole_stack.kp("seed", check=False)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        assert "Redis does not answer at redis://127.0.0.1" in done.stderr
        status = whole_stack.kp("status", "--json", check=False)
        assert status.returncode == 1
        not_ready = [each["service"] for each in json.loads(status.stdout) if not each["ready"]]
        assert "redis" in not_ready
    finally:
        whole_stack.kp("up")


def test_up_with_settings_other_than_the_running_stacks_asks_for_down_first(
    whole_stack: Stack,
) -> None:
    changed = Stack(whole_stack.settings, {**whole_stack.variables, "KP_SLICE_ROWS": "7"})
    done = changed.kp("up", check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "KP_SLICE_ROWS" in done.stderr
    assert "`kp down`, then `kp up`" in done.stderr
