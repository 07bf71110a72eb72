"""The process that keeps the services alive: supervisord, driven over its unix socket.

Belongs here: its configuration, its start and end, finding every process of a stack. Does not
belong here: in which order services start and when they are ready (`stack.py`).
Secrets reach the services by supervisord's environment, so neither a file nor an argument list has
them. The same environment is what a running stack is compared with and its processes found by.
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
from kp_platform.local.security import kafka_trino_login, kafka_users, trino_shared_secret
from kp_platform.local.servers import Service, mysql_init, redis_environment, redis_init
from kp_platform.settings import Settings, environment

STACK_VARIABLE = "KP_STACK"
"""Set to KP_HOME in every process of a stack, and nowhere else."""

_LONGEST_SOCKET_PATH = 107 - len(".1234567")  # supervisord first binds PATH.PID
_NOT_INHERITED = {"CLASSPATH", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS"}


@dataclass(frozen=True, slots=True)
class Program:
    """What supervisord knows about one service. `started` is seconds since the epoch."""

    state: str
    pid: int
    started: int


def log_file(home: Path, service: str) -> Path:
    return home / "log" / f"{service}.log"


def render(home: Path, services: tuple[Service, ...]) -> str:
    """supervisord.conf: every local service, started on request and restarted when it dies.

    No working folder is set: services have the one of `kp up`, where `.env` is.
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


def stack_environment(settings: Settings) -> dict[str, str]:
    """What the platform sets for every process of the stack, on top of the caller's environment."""
    return {
        **environment(settings, secrets=True),
        **redis_environment(settings),
        "KP_MYSQL_INIT": mysql_init(settings),
        "KP_REDIS_INIT": redis_init(settings),
        "KP_KAFKA_USERS": kafka_users(settings),
        "KP_KAFKA_TRINO_LOGIN": kafka_trino_login(settings),
        "KP_TRINO_SHARED_SECRET": trino_shared_secret(settings),
        STACK_VARIABLE: str(settings.home),
    }


class Supervisor:
    """The supervisord of one KP_HOME."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.config = home / "supervisord.conf"
        self.socket = home / "supervisor.sock"
        if len(os.fsencode(self.socket)) > _LONGEST_SOCKET_PATH:
            raise StackError(
                f"KP_HOME={home} is too long for a unix socket: name a folder of at most "
                f"{_LONGEST_SOCKET_PATH - len('/supervisor.sock')} characters"
            )

    def pid(self) -> int | None:
        """The process id of a supervisord that answers, else None."""
        try:
            with self._rpc() as supervisor:
                return int(supervisor.getPID())
        except (OSError, http.client.HTTPException, Fault):  # Fault: it is about to end
            return None

    def start(self, config: str, variables: dict[str, str], timeout_seconds: float = 15) -> None:
        """Starts supervisord, in a session of its own so that no terminal signal reaches it."""
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
        """Every local service in the order of the start; empty when no supervisord runs."""
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
        with self._rpc() as supervisor:
            supervisor.startProcess(name, False)

    def stop_program(self, name: str) -> None:
        """Returns when the process has ended; one that does not end in 20 s is killed."""
        with self._rpc() as supervisor:
            try:
                supervisor.stopProcess(name, True)
            except Fault as fault:
                if "NOT_RUNNING" not in fault.faultString:
                    raise

    def shutdown(self) -> None:
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
    """A proxy of the caller is not asked for what is on this machine."""
    hosts = ",".join(filter(None, (os.environ.get("NO_PROXY"), "127.0.0.1", "localhost")))
    return {"NO_PROXY": hosts, "no_proxy": hosts}


def differing(pid: int, wanted: dict[str, str]) -> list[str]:
    """The variables that a running supervisord was started with another value of."""
    running = psutil.Process(pid).environ()
    return sorted(name for name, value in wanted.items() if running.get(name) != value)


def processes(home: Path) -> list[psutil.Process]:
    """Every living process of the stack, whether or not its supervisord still lives."""
    return [process for process in psutil.process_iter() if _belongs(process, str(home))]


def _belongs(process: psutil.Process, home: str) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE or process.pid == os.getpid():
            return False
        return process.environ().get(STACK_VARIABLE) == home
    except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
        return False


def end_processes(home: Path, patience_seconds: float = 20) -> int:
    """Ends every process of a stack and waits for it; returns how many had to be killed."""
    _signal(processes(home), signal.SIGTERM)
    gone_by = time.monotonic() + patience_seconds
    while (left := processes(home)) and time.monotonic() < gone_by:
        time.sleep(0.1)
    killed = len(left)
    while left:
        _signal(left, signal.SIGKILL)
        psutil.wait_procs(left, timeout=5)
        left = processes(home)
    return killed


def _signal(targets: list[psutil.Process], number: signal.Signals) -> None:
    for target in targets:
        with suppress(psutil.NoSuchProcess):
            target.send_signal(number)


def tail(path: Path, lines: int = 15) -> tuple[str, ...]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 64_000))
            return tuple(file.read().decode("utf-8", "replace").splitlines()[-lines:])
    except OSError:
        return ()
