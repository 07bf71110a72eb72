"""What must be true before anything is started, and what to do when it is not.

Belongs here: one `Finding` for each thing that is looked at. Does not belong here: finding things
on the machine (`machine.py`).
`kp up` refuses to start on a finding that is not ok; `kp doctor` shows them all.
"""

import os
import platform
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.filesize import decimal

from kp_platform.local import artifacts, machine
from kp_platform.local.servers import LOOPBACK, TUNNEL, Port, Service
from kp_platform.settings import Settings, without_password

LEAST_MEMORY = 4_000_000_000
"""Bytes: the services together hold 3 GB, Dagster's runs and the page cache need the rest."""
LEAST_DISK = 4_000_000_000
"""Bytes: unpacking Trino takes 2 GB for a moment, and the logs and data are to grow a little."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `remedy` is the command or setting that mends it."""

    subject: str
    ok: bool
    detail: str
    remedy: str = ""


def examine(
    settings: Settings, services: tuple[Service, ...], *, running: bool = False
) -> list[Finding]:
    """All findings; of a running stack without its ports and the memory that it holds itself."""
    local = {service.name for service in services if service.is_local}
    findings = [_platform(), *_software(settings, local), *_disks(settings, local)]
    findings += _history(settings)
    if not running:
        findings += [_memory(services), *_ports(services)]
    return findings


def _platform() -> Finding:
    libc, machine_type = platform.libc_ver()[0], platform.machine()
    ok = platform.system() == "Linux" and machine_type == "x86_64" and libc == "glibc"
    detail = f"{platform.system()} {machine_type} {libc or 'without glibc'}"
    remedy = "use Linux on x86_64 with glibc, or servers elsewhere by KP_EXTERNAL"
    return Finding("platform", ok, detail, "" if ok else remedy)


def _software(settings: Settings, local: set[str]) -> Iterator[Finding]:
    if "elasticsearch" in local:
        home = machine.elasticsearch_java_home(settings)
        where = settings.elasticsearch_java_home or machine.JAVA_FOLDER
        remedy = "apt-get install -y default-jre-headless, or set KP_ELASTICSEARCH_JAVA_HOME"
        absent = f"no Java 17 or newer with all modules at {where}"
        yield _present("java for elasticsearch", home, absent, remedy)
        if os.geteuid() == 0:
            setpriv = shutil.which("setpriv")
            yield _present("setpriv", setpriv, "not found", "apt-get install -y util-linux")
    if "redis" in local:
        found = machine.redis_server()
        yield _present("redis-server", found, "not found", "apt-get install -y redis-server")
    if TUNNEL in local:
        yield _present("stunnel", machine.stunnel(), "not found", "apt-get install -y stunnel4")
    if "mysql" in local:
        libaio = machine.has_library("libaio.so.1") or machine.renamed_libaio() is not None
        remedy = "apt-get install -y libaio1 (libaio1t64 on newer systems)"
        yield _present("libaio", "installed" if libaio else None, "libaio.so.1 not found", remedy)
        numa = "installed" if machine.has_library("libnuma.so.1") else None
        yield _present("libnuma", numa, "libnuma.so.1 not found", "apt-get install -y libnuma1")


def _present(subject: str, found: object, absent: str, remedy: str) -> Finding:
    return Finding(subject, True, str(found)) if found else Finding(subject, False, absent, remedy)


def _disks(settings: Settings, local: set[str]) -> Iterator[Finding]:
    yield _disk("KP_HOME", settings.home)
    if artifacts.missing(local, settings.cache):
        yield _disk("KP_CACHE", settings.cache)


def _disk(setting: str, folder: Path) -> Finding:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        detail = f"{existing} is no folder that can be written"
        return Finding(f"disk of {setting}", False, detail, f"name another folder in {setting}")
    free = shutil.disk_usage(existing).free
    detail = f"{decimal(free)} free at {folder}"
    if free >= LEAST_DISK:
        return Finding(f"disk of {setting}", True, detail)
    remedy = f"free {decimal(LEAST_DISK)} or name another folder in {setting}"
    return Finding(f"disk of {setting}", False, f"only {detail}", remedy)


def _history(settings: Settings) -> Iterator[Finding]:
    if url := settings.dagster_postgres_url.get_secret_value():
        from kp_platform.local import history  # Dagster takes a second to import

        reason = history.why_not_postgres(url)
        remedy = f"start it, or mend {history.VARIABLE}" if reason else ""
        yield Finding("history of dagster", not reason, reason or without_password(url), remedy)


def _memory(services: tuple[Service, ...]) -> Finding:
    available = psutil.virtual_memory().available
    least = LEAST_MEMORY + sum(service.more_memory for service in services)
    detail = f"{decimal(available)} available"
    if available >= least:
        return Finding("memory", True, detail)
    remedy = f"end other programs: {decimal(least)} are needed; or use KP_EXTERNAL"
    return Finding("memory", False, f"only {detail}", remedy)


def _ports(services: tuple[Service, ...]) -> Iterator[Finding]:
    seen: dict[int, str] = {}
    for service in services:
        for port in service.ports:
            if port.number in seen:
                detail = f"{port.setting} and {seen[port.number]} are both {port.number}"
                yield Finding(f"port of {service.name}", False, detail, f"move {port.setting}")
            else:
                yield _port(service.name, port)
            seen[port.number] = port.setting


def _port(service: str, port: Port) -> Finding:
    subject, where = f"port of {service}", f"{LOOPBACK}:{port.number}"
    if is_free(port.number):
        return Finding(subject, True, where)
    detail = f"{where} is taken{_holder(port.number)}"
    return Finding(subject, False, detail, f"set {port.setting} or KP_PORT_OFFSET")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do; without it a port whose last connection is in TIME_WAIT counts as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _holder(port: int) -> str:
    """Who listens there, as far as this user may see."""
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        return ""
    for connection in connections:
        listens = connection.status == psutil.CONN_LISTEN
        if listens and connection.laddr[1:] == (port,) and connection.pid:
            return f" by {_process_name(connection.pid)} (pid {connection.pid})"
    return ""


def _process_name(pid: int) -> str:
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return "a process"
