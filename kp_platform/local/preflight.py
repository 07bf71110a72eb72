"""What must be true before the services start, and how to fix what is not.

Belongs here: the checks of the machine as a whole: platform, disks, memory, ports. Does not belong
here: what one server needs (`Service.prerequisites`).
`kp up` refuses to start on a finding that is not ok; `kp doctor` shows them all.
"""

import os
import platform
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
from rich.filesize import decimal

from kp_platform.local import artifacts
from kp_platform.local.service import LOOPBACK, Finding, Port, Service
from kp_platform.local.settings import LocalSettings

LEAST_MEMORY = 4_000_000_000
"""Bytes: the services together use 3 GB, Dagster's runs and the page cache need the rest."""
LEAST_DISK = 4_000_000_000
"""Bytes: unpacking Trino takes 2 GB temporarily, and logs and data need space to grow."""


def examine(
    settings: LocalSettings, services: tuple[Service, ...], *, running: bool = False
) -> list[Finding]:
    """All findings. The ports and the memory of a running stack are not checked: it uses them."""
    local = tuple(service for service in services if service.is_local)
    findings = [_platform()]
    for service in local:
        findings += service.prerequisites()
    findings += _disks(settings, local)
    if not running:
        findings += [_memory(services), *_ports(services)]
    return findings


def _platform() -> Finding:
    libc, machine_type = platform.libc_ver()[0], platform.machine()
    ok = platform.system() == "Linux" and machine_type == "x86_64" and libc == "glibc"
    detail = f"{platform.system()} {machine_type} {libc or 'without glibc'}"
    remedy = "use Linux on x86_64 with glibc, or servers elsewhere with KP_EXTERNAL"
    return Finding("platform", ok, detail, "" if ok else remedy)


def _disks(settings: LocalSettings, local: tuple[Service, ...]) -> Iterator[Finding]:
    yield _disk("KP_HOME", settings.home)
    if artifacts.missing((service.name for service in local), settings.cache):
        yield _disk("KP_CACHE", settings.cache)


def _disk(setting: str, folder: Path) -> Finding:
    subject = f"disk of {setting}"
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        detail = f"{existing} is not a writable folder"
        return Finding(subject, False, detail, f"set {setting} to another folder")
    free = shutil.disk_usage(existing).free
    detail = f"{decimal(free)} free at {folder}"
    if free >= LEAST_DISK:
        return Finding(subject, True, detail)
    remedy = f"free {decimal(LEAST_DISK)} or set {setting} to another folder"
    return Finding(subject, False, f"only {detail}", remedy)


def _memory(services: tuple[Service, ...]) -> Finding:
    available = psutil.virtual_memory().available
    least = LEAST_MEMORY + sum(service.extra_memory for service in services)
    detail = f"{decimal(available)} available"
    if available >= least:
        return Finding("memory", True, detail)
    remedy = f"stop other programs: the stack needs {decimal(least)}; or use KP_EXTERNAL"
    return Finding("memory", False, f"only {detail}", remedy)


def _ports(services: tuple[Service, ...]) -> Iterator[Finding]:
    seen: dict[int, str] = {}
    for service in services:
        for port in service.ports:
            if port.number in seen:
                detail = f"{port.setting} and {seen[port.number]} are both {port.number}"
                yield Finding(f"port of {service.name}", False, detail, f"change {port.setting}")
            else:
                yield _port(service.name, port)
            seen[port.number] = port.setting


def _port(service: str, port: Port) -> Finding:
    subject, address = f"port of {service}", f"{LOOPBACK}:{port.number}"
    if is_free(port.number):
        return Finding(subject, True, address)
    detail = f"{address} is in use{_listener(port.number)}"
    return Finding(subject, False, detail, f"change {port.setting} or KP_PORT_OFFSET")


def is_free(port: int) -> bool:
    """Whether a server can listen on this port of 127.0.0.1."""
    with socket.socket() as probe:
        # As servers do; without it a port whose last connection is in TIME_WAIT counts as in use.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _listener(port: int) -> str:
    """The process that listens on a port, if this user may see it."""
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
