"""A service of a local stack as a value: what is started, where it listens, when it is ready.

Belongs here: `Service`, `Port`, `Finding`, and what several servers need to declare one. Does not
belong here: a server (one module each), and the order of the services (`servers.py`).
The settings decide where a service listens: a server on this machine is bound to the port of its
own URL. All servers listen on 127.0.0.1 only.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from kp_platform.local.errors import StackError
from kp_platform.settings import LOOPBACK_HOSTS

LOOPBACK = "127.0.0.1"
SERVERS, CODE, CONSUMERS = range(3)
"""The stages of a start. A stage begins when the previous one is ready."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check before a start. `remedy` is the command or setting that fixes it."""

    subject: str
    ok: bool
    detail: str
    remedy: str = ""

    @classmethod
    def present(cls, subject: str, found: object, absent: str, remedy: str) -> "Finding":
        """Ok with what was found as its detail; without it, `absent` and the remedy."""
        return cls(subject, True, str(found)) if found else cls(subject, False, absent, remedy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A port that a service of this machine listens on, and the setting that changes it."""

    setting: str
    number: int


def _nothing() -> None:
    """For services without configuration files or initial data."""


def _no_findings() -> Iterable[Finding]:
    """For services that need nothing from the machine."""
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service. `command` is empty when it runs elsewhere and is only probed.

    `ready` returns when the service works and raises ServerDown when it does not (yet).
    `prepare` writes configuration files and initial data; `prerequisites` checks the machine. Both
    are called for local services only.
    `environment` is visible in the process list: it holds paths and ports, never a secret.
    `extra_memory`: bytes on top of what a stack with one node of each server needs.
    """

    name: str
    stage: int
    address: str
    ready: Callable[[], None]
    command: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    ports: tuple[Port, ...] = ()
    extra_memory: int = 0
    prepare: Callable[[], None] = _nothing
    prerequisites: Callable[[], Iterable[Finding]] = _no_findings

    @property
    def is_local(self) -> bool:
        return bool(self.command)


def local_port(setting: str, host: str | None, port: int | None, service: str = "") -> Port:
    """The port of a server to start here. Raises StackError for another host: `kp up` cannot start
    a server there. `service` is the name in KP_EXTERNAL, if it may run elsewhere."""
    if host not in LOOPBACK_HOSTS:
        fix = f"{_or_external(service)}use 127.0.0.1"
        raise StackError(f"{setting} has the host {host!r}: {fix}")
    if port is None or not 1 <= port <= 65_535:
        raise StackError(f"{setting} has no port from 1 to 65535: add one")
    return Port(setting=setting, number=port)


def url_port(setting: str, url: str, service: str = "", scheme: str = "http") -> Port:
    """The port of a URL with this scheme. Raises StackError."""
    parts = urlsplit(url)
    port = local_port(setting, parts.hostname, parts.port, service)
    if parts.scheme != scheme:
        fix = f"{_or_external(service)}use {scheme}, as the servers of `kp up` do"
        raise StackError(f"{setting} is {parts.scheme}: {fix}")
    return port


def _or_external(service: str) -> str:
    return f"add {service} to KP_EXTERNAL if it runs there, or " if service else ""


def with_standard_input(variable: str, command: tuple[str, ...]) -> tuple[str, ...]:
    """The command, reading an environment variable's value from its standard input: a secret is
    then in no file and no argument list."""
    script = Path(__file__).with_name("feed.sh")
    return ("/bin/sh", str(script), variable, *command)


def quoted(text: str) -> str:
    """Text in double quotes, as JAAS and redis.conf expect it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def needs_program(subject: str, path: str | None, package: str) -> Finding:
    """Whether a program of a Debian package is installed."""
    return Finding.present(subject, path, "not found", f"apt-get install -y {package}")
