"""supervisord, which restarts the services, controlled over its unix socket.

Belongs here: its configuration, its start and end, finding every process of a stack. Does not
belong here: in which order services start and when they are ready (`stack.py`).
The services inherit supervisord's environment. A running stack is compared with the settings by
it, and its processes are found by it.
"""

import http.client
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from configparser import RawConfigParser
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

import psutil
from supervisor.xmlrpc import SupervisorTransport

from kp_platform.local.errors import StackError
from kp_platform.local.service import Service

STACK_VARIABLE = "KP_STACK"
"""Set to KP_HOME in every process of a stack, and nowhere else."""

_LONGEST_SOCKET_PATH = 107 - len(".1234567")  # supervisord first binds PATH.PID
_NOT_INHERITED = {"CLASSPATH", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS"}


@dataclass(frozen=True, slots=True)
class Program:
    """The state of one service in supervisord. `started` is seconds since the epoch."""

    state: str
    pid: int
    started: int


def log_file(home: Path, service: str) -> Path:
    """The log of a service."""
    return home / "log" / f"{service}.log"


def render(home: Path, services: tuple[Service, ...]) -> str:
    """supervisord.conf: every local service, started on request and restarted when it ends.

    No working folder is set: services run in the one of `kp up`, where `.env` is.
    """
    config = RawConfigParser()
    socket = str(home / "supervisor.sock")
    config["unix_http_server"] = {"file": _escaped(socket), "chmod": "0600"}
    config["rpcinterface:supervisor"] = {
        "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
    }
    config["supervisord"] = {
        "logfile": _escaped(str(log_file(home, "supervisord"))),
        "logfile_maxbytes": "1MB",
        "pidfile": _escaped(str(home / "supervisord.pid")),
        "umask": "077",
    }
    for order, service in enumerate(services):
        if service.is_local:
            config[f"program:{service.name}"] = {
                "priority": str(order),
                **_program(home, service),
            }
    text = StringIO()
    config.write(text)
    return text.getvalue()


def _program(home: Path, service: Service) -> dict[str, str]:
    variables = [f"{name}={value}" for name, value in service.environment.items()]
    command = ("/usr/bin/env", *variables, *service.command) if variables else service.command
    return {
        "command": _escaped(shlex.join(command)),
        "autostart": "false",
        "autorestart": "true",
        "startsecs": "5",
        "startretries": "100",
        "stopasgroup": "true",
        "killasgroup": "true",
        "stopwaitsecs": "20",
        "redirect_stderr": "true",
        "stdout_logfile": _escaped(str(log_file(home, service.name))),
        "stdout_logfile_maxbytes": "10MB",
        "stdout_logfile_backups": "3",
    }


def _escaped(value: str) -> str:
    return value.replace("%", "%%")


class Supervisor:
    """The supervisord of one KP_HOME."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.config = home / "supervisord.conf"
        self.socket = home / "supervisor.sock"
        if len(os.fsencode(self.socket)) > _LONGEST_SOCKET_PATH:
            raise StackError(
                f"KP_HOME={home} is too long for a unix socket: set a folder of at most "
                f"{_LONGEST_SOCKET_PATH - len('/supervisor.sock')} characters"
            )

    def pid(self) -> int | None:
        """The process id of a supervisord that answers, else None."""
        try:
            with self._rpc() as supervisor:
                return int(supervisor.getPID())
        except (OSError, http.client.HTTPException, Fault):  # Fault: it is shutting down
            return None

    def start(self, config: str, variables: dict[str, str], timeout_seconds: float = 15) -> None:
        """Start supervisord in its own session, so that no terminal signal reaches it. Raises
        StackError."""
        self.config.write_text(config, encoding="utf-8")
        inherited = {key: os.environ[key] for key in os.environ.keys() - _NOT_INHERITED}
        with log_file(self.home, "supervisord").open("a") as log:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "supervisor.supervisord",
                    "-n",
                    "-s",
                    "-c",
                    str(self.config),
                ],
                env={**inherited, **variables, **_without_proxy()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout_seconds
        while self.pid() != process.pid:
            if process.poll() is not None or time.monotonic() > deadline:
                path = log_file(self.home, "supervisord")
                raise StackError(f"supervisord did not start: see {path}", tail(path))
            time.sleep(0.05)

    def programs(self) -> dict[str, Program]:
        """Every local service in the order of their start; empty when no supervisord runs."""
        try:
            with self._rpc() as supervisor:
                configs: list[dict[str, Any]] = supervisor.getAllConfigInfo()
                infos = {info["name"]: info for info in supervisor.getAllProcessInfo()}
        except (OSError, http.client.HTTPException, Fault):
            return {}
        names = [each["name"] for each in sorted(configs, key=lambda each: each["process_prio"])]
        return {
            name: Program(infos[name]["statename"], infos[name]["pid"], infos[name]["start"])
            for name in names
        }

    def start_program(self, name: str) -> None:
        """Start a service without waiting for it."""
        with self._rpc() as supervisor:
            supervisor.startProcess(name, False)

    def stop_program(self, name: str) -> None:
        """Stop a service and wait for its end; it is killed after 20 s."""
        with self._rpc() as supervisor:
            try:
                supervisor.stopProcess(name, True)
            except Fault as fault:
                if "NOT_RUNNING" not in fault.faultString:
                    raise

    def shutdown(self) -> None:
        """End supervisord."""
        with self._rpc() as supervisor:
            supervisor.shutdown()

    @contextmanager
    def _rpc(self) -> Iterator[Any]:
        transport = SupervisorTransport(None, None, f"unix://{self.socket}")
        try:
            yield ServerProxy("http://127.0.0.1", transport=transport).supervisor
        finally:
            transport.close()


def _without_proxy() -> dict[str, str]:
    """Connections on this machine do not use the caller's proxy."""
    hosts = ",".join(filter(None, (os.environ.get("NO_PROXY"), "127.0.0.1", "localhost")))
    return {"NO_PROXY": hosts, "no_proxy": hosts}


def differing(pid: int, expected: dict[str, str]) -> list[str]:
    """The variables that have another value in a running supervisord."""
    running = psutil.Process(pid).environ()
    return sorted(name for name, value in expected.items() if running.get(name) != value)


def processes(home: Path) -> list[psutil.Process]:
    """Every running process of the stack, whether or not its supervisord runs."""
    return [process for process in psutil.process_iter() if _belongs(process, str(home))]


def _belongs(process: psutil.Process, home: str) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE or process.pid == os.getpid():
            return False
        return process.environ().get(STACK_VARIABLE) == home
    except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
        return False


def end_processes(home: Path, timeout_seconds: float = 20) -> int:
    """End every process of a stack and wait; returns how many were killed after the timeout."""
    _signal(processes(home), signal.SIGTERM)
    deadline = time.monotonic() + timeout_seconds
    while (running := processes(home)) and time.monotonic() < deadline:
        time.sleep(0.1)
    killed = len(running)
    while running:
        _signal(running, signal.SIGKILL)
        psutil.wait_procs(running, timeout=5)
        running = processes(home)
    return killed


def _signal(targets: list[psutil.Process], number: signal.Signals) -> None:
    for target in targets:
        with suppress(psutil.NoSuchProcess):
            target.send_signal(number)


def tail(path: Path, lines: int = 15) -> tuple[str, ...]:
    """The last lines of a log; none when it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 64_000))
            return tuple(file.read().decode("utf-8", "replace").splitlines()[-lines:])
    except OSError:
        return ()
