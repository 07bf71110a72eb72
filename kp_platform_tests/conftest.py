"""The stack that integration tests run on: the five real servers, started once, torn down.

It has its own KP_HOME and ports, so a demo may be up beside it. Every KP_* variable is set, so that
no `.env` of the developer can lead a test to another server.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import hypothesis
import psutil
import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from kp_platform.flows.builtin import ACCESS_LOG
from kp_platform.local.settings import LocalSettings
from kp_platform.local.supervisor import Supervisor, processes
from kp_platform.settings import Settings, environment
from kp_platform_tests.stack import Stack, on_free_ports

TOY_TABLE = Path(__file__).parent / "toy_flow" / "orders" / "table.json"
# Below Linux's ephemeral ports (32768), so that no outgoing connection takes one of ours.
OFFSETS = range(4_000, 14_000, 100)


# The machine may be busy: how long an example takes says nothing.
hypothesis.settings.register_profile("kp", deadline=None)
hypothesis.settings.load_profile("kp")


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every test starts from the defaults, whatever the caller's environment and `.env` say."""
    _forget_settings(monkeypatch)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """All services up, for the whole session."""
    home = Path(tempfile.mkdtemp(prefix="kp-tests-"))
    presto_etc = Path(tempfile.mkdtemp(prefix="kp-tests-etc-"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        _forget_settings(monkeypatch)
        shutil.copytree(LocalSettings().presto_folder, presto_etc, dirs_exist_ok=True)
        shutil.copy(TOY_TABLE, presto_etc / "kafka" / "order.json")
        settings = on_free_ports(
            OFFSETS,
            home,
            presto_etc=str(presto_etc),
            follow_idle_seconds=2,
            sensor_wait_seconds=2,
        )
        stack = Stack.of(settings)
    try:
        stack.kp("up")
        keep_for_ever(settings, ACCESS_LOG.topic)
        yield stack
    finally:
        stack.kp("down", "--purge", check=False)
        shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(presto_etc, ignore_errors=True)


@pytest.fixture
def quiet_stack(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Stack:
    """The stack without Dagster's daemon and runs: nothing indexes but the test itself."""
    keeper = Supervisor(stack.settings.home)
    for name in ("dagster-daemon", "dagster-code-server"):
        keeper.stop_program(name)
    _end_orphans(keeper)
    _enter(stack, monkeypatch)
    return stack


@pytest.fixture
def whole_stack(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Stack:
    """The stack with every service running."""
    programs = Supervisor(stack.settings.home).programs().values()
    if any(program.state != "RUNNING" for program in programs):
        stack.kp("up")
    _enter(stack, monkeypatch)
    return stack


def _forget_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("KP_", "DAGSTER_")):
            monkeypatch.delenv(name)


def _end_orphans(keeper: Supervisor) -> None:
    """Runs go on when their code server is killed, as a fault does; for most of an hour."""
    alive = {process.pid for process in psutil.Process(keeper.pid()).children(recursive=True)}
    orphans = [each for each in processes(keeper.home) if each.pid not in {keeper.pid(), *alive}]
    for orphan in orphans:
        with suppress(psutil.NoSuchProcess):
            orphan.kill()
    psutil.wait_procs(orphans, timeout=20)


def _enter(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resources that a test makes without arguments are connected to the stack."""
    for name, value in environment(stack.settings, secrets=True).items():
        monkeypatch.setenv(name, value)


def keep_for_ever(settings: Settings, topic: str) -> None:
    """Tests publish events of months past, which retention would delete whenever it looks."""
    forever = ConfigEntry("retention.ms", "-1", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[forever])
    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap_servers})
    admin.incremental_alter_configs([resource])[resource].result(30)


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 90) -> None:
    """Look until the condition holds; fail with `what` after the deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds} s: {what}")
        time.sleep(0.1)
