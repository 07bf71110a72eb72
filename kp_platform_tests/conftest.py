"""The shared stack of the integration and browser tests, and what every test has in common.

The stack starts in the background while the unit tests run, and only if a collected test uses it.
It has its own KP_HOME and ports, so a demo may run beside it. Every KP_* variable is set, so that
no `.env` of the developer connects a test to another server.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import hypothesis
import psutil
import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from kp_platform.flows.builtin import ACCESS_LOG
from kp_platform.local.settings import LocalSettings
from kp_platform.local.supervisor import Supervisor, processes
from kp_platform.settings import environment
from kp_platform_tests.stack import TEMPO, Stack, on_free_ports

TOY_TABLE = Path(__file__).parent / "toy_flow" / "orders" / "table.json"
# Below Linux's ephemeral ports (32768), so that no outgoing connection takes one of them.
OFFSETS = range(4_000, 14_000, 100)
START_SECONDS = 600.0
_STACKS = Path(__file__).parent / "stacks"


# The machine may be busy: the duration of an example is no finding.
hypothesis.settings.register_profile("kp", deadline=None)
hypothesis.settings.load_profile("kp")


@dataclass
class SharedStack:
    """The stack of the session. `kp up` runs in the background until `ready` is called."""

    stack: Stack
    folders: tuple[Path, ...]
    starting: "subprocess.Popen[str]"
    has_ended: bool = False

    @classmethod
    def start(cls) -> "SharedStack":
        home = Path(tempfile.mkdtemp(prefix="kp-tests-"))
        presto_etc = Path(tempfile.mkdtemp(prefix="kp-tests-etc-"))
        with pytest.MonkeyPatch.context() as monkeypatch:
            remove_settings(monkeypatch)
            shutil.copytree(LocalSettings().presto_folder, presto_etc, dirs_exist_ok=True)
            shutil.copy(TOY_TABLE, presto_etc / "kafka" / "order.json")
            stack = Stack.of(on_free_ports(OFFSETS, home, presto_etc=str(presto_etc), **TEMPO))
        return cls(stack, (home, presto_etc), stack.kp_in_background("up"))

    @cached_property
    def failure(self) -> str:
        """The output of a `kp up` that failed; empty once the stack is ready."""
        try:
            output, _ = self.starting.communicate(timeout=START_SECONDS)
        except subprocess.TimeoutExpired:
            return f"kp up has not ended within {START_SECONDS:.0f} s"
        if self.starting.returncode != 0:
            return output
        disable_retention(self.stack.settings, ACCESS_LOG.topic)
        return ""

    def end(self) -> None:
        """Stop everything, also a start in progress. A second call does nothing."""
        if self.has_ended:
            return
        self.has_ended = True
        if self.starting.poll() is None:
            self.starting.send_signal(signal.SIGTERM)  # it stops what it has started
            self.starting.communicate()
        self.stack.kp("down", "--purge", check=False)
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)


_SHARED = pytest.StashKey[SharedStack]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run unit tests first. Tests of the complete stack precede those that stop Dagster's daemon,
    which so stops once. Those that publish many events come last, because replays would read these
    events too. Tests with a stack of their own follow the end of the shared one."""
    items.sort(key=_order)


def _order(item: pytest.Item) -> int:
    if not _uses_stack(item):
        return 4 if _STACKS in item.path.parents else 0
    if item.get_closest_marker("many_events"):
        return 3
    return 1 if "whole_stack" in _fixtures(item) else 2


def _fixtures(item: pytest.Item) -> list[str]:
    return list(getattr(item, "fixturenames", ()))


def _uses_stack(item: pytest.Item) -> bool:
    """A contract test names its connection by a parameter, `fake` or `real`."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    return "stack" in _fixtures(item) or "real" in parameters.values()


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Start the stack that a collected test needs."""
    if session.testsfailed or session.config.option.collectonly:
        return
    if any(map(_uses_stack, session.items)):
        session.config.stash[_SHARED] = SharedStack.start()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Stop the stack after the last test that uses it."""
    if _uses_stack(item) and nextitem is not None and not _uses_stack(nextitem):
        _end_shared_stack(item.config)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    _end_shared_stack(session.config)


def _end_shared_stack(config: pytest.Config) -> None:
    shared = config.stash.get(_SHARED, None)
    if shared is not None:
        shared.end()


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every test starts from the defaults, not from the caller's environment and `.env`."""
    remove_settings(monkeypatch)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest) -> Stack:
    """The shared stack, ready. If its start failed, this is the last test of the session."""
    shared = request.config.stash[_SHARED]
    if shared.failure:
        request.session.shouldfail = "the shared stack did not start"
        pytest.fail(f"the shared stack did not start:\n{shared.failure}", pytrace=False)
    return shared.stack


@pytest.fixture
def quiet_stack(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Stack:
    """The stack without Dagster's daemon and runs: only the test itself indexes."""
    stop_dagster(stack)
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


def remove_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("KP_", "DAGSTER_")):
            monkeypatch.delenv(name)


def stop_dagster(stack: Stack) -> None:
    """Stop what starts runs, and the runs."""
    supervisor = Supervisor(stack.settings.home)
    for name in ("dagster-daemon", "dagster-code-server"):
        supervisor.stop_program(name)
    _end_orphans(supervisor)


def _end_orphans(supervisor: Supervisor) -> None:
    """End runs whose code server was killed, as a fault does: they continue for up to an hour."""
    alive = {process.pid for process in psutil.Process(supervisor.pid()).children(recursive=True)}
    orphans = [
        each for each in processes(supervisor.home) if each.pid not in {supervisor.pid(), *alive}
    ]
    for orphan in orphans:
        with suppress(psutil.NoSuchProcess):
            orphan.kill()
    psutil.wait_procs(orphans, timeout=20)


def _enter(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that a test makes without arguments connect to the stack."""
    for name, value in environment(stack.settings, secrets=True).items():
        monkeypatch.setenv(name, value)


def disable_retention(settings: LocalSettings, topic: str) -> None:
    """Tests publish events with timestamps of past months, which retention would delete."""
    unlimited = ConfigEntry("retention.ms", "-1", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[unlimited])
    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap_servers})
    admin.incremental_alter_configs([resource])[resource].result(30)


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 180) -> None:
    """Poll until the condition holds. Fails with `what` after the deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds} s: {what}")
        time.sleep(0.1)
