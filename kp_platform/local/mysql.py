"""MySQL of the local stack.

Belongs here: all that is particular to the local MySQL. Does not belong here: calls to MySQL
(`adapters/mysql.py`), and how Trino's catalog connects to it (`trino.py`).
"""

import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pymysql.converters import escape_string

from kp_platform.local import machine, state, tls
from kp_platform.local.artifacts import distribution_folder
from kp_platform.local.service import (
    LOOPBACK,
    SERVERS,
    Finding,
    Port,
    Service,
    local_port,
    with_standard_input,
)
from kp_platform.local.settings import LocalSettings

NAME = "mysql"
LIBRARY_FOLDERS = (
    Path("/usr/lib/x86_64-linux-gnu"),
    Path("/lib/x86_64-linux-gnu"),
    Path("/usr/lib64"),
)


def service(settings: LocalSettings) -> Service:
    """Raises StackError for settings that no local MySQL supports."""
    address = f"{settings.mysql_host}:{settings.mysql_port}"
    declare = partial(
        Service, name=NAME, stage=SERVERS, address=address, ready=partial(_ready, settings)
    )
    if NAME in settings.external_services:
        return declare()
    local_port("KP_MYSQL_HOST", settings.mysql_host, settings.mysql_port, NAME)
    server = (
        *_mysqld(settings),
        f"--datadir={settings.home / 'mysql'}",
        f"--bind-address={LOOPBACK}",
        f"--port={settings.mysql_port}",
        "--socket=mysql.sock",  # relative to the data folder: no limit on the length of KP_HOME
        "--mysqlx=OFF",
        "--skip-name-resolve",
        "--default-time-zone=+00:00",
        "--character-set-server=utf8mb4",
        "--skip-log-bin",
        "--init-file=/dev/stdin",
        *_tls_arguments(settings),
    )
    return declare(
        ports=(Port(setting="KP_MYSQL_PORT", number=settings.mysql_port),),
        command=with_standard_input("KP_MYSQL_INIT", server),
        environment=_environment(settings),
        prepare=partial(_prepare, settings),
        prerequisites=_prerequisites,
    )


def _mysqld(settings: LocalSettings) -> tuple[str, ...]:
    folder = distribution_folder(NAME, settings.cache)
    user = ("--user=root",) if os.geteuid() == 0 else ()
    return (str(folder / "bin" / "mysqld"), "--no-defaults", f"--basedir={folder}", *user)


def _environment(settings: LocalSettings) -> dict[str, str]:
    """MySQL loads libaio.so.1; `_link_libaio` links it where only the newer name exists."""
    if renamed_libaio() is None:
        return {}
    return {"LD_LIBRARY_PATH": str(settings.cache / "libaio")}


def _tls_arguments(settings: LocalSettings) -> tuple[str, ...]:
    if not settings.mysql_tls:
        return ()
    certificate = tls.require_certificate(settings, "KP_MYSQL_TLS", "true", NAME)
    return (
        f"--ssl-ca={tls.authority_file(settings)}",
        f"--ssl-cert={certificate}",
        f"--ssl-key={certificate}",
        "--tls-version=TLSv1.2",
        "--require-secure-transport=ON",
    )


def _ready(settings: LocalSettings) -> None:
    from kp_platform.adapters.mysql import MySQLAdapter

    MySQLAdapter(settings).probe()


def _prepare(settings: LocalSettings) -> None:
    data, fresh = settings.home / "mysql", settings.home / "mysql.new"
    _link_libaio(settings)
    if data.exists():
        return
    shutil.rmtree(fresh, ignore_errors=True)
    command = (*_mysqld(settings), "--initialize-insecure", f"--datadir={fresh}")
    state.run_initialization(NAME, command, _environment(settings))
    fresh.rename(data)  # an incomplete data folder is never started


def _link_libaio(settings: LocalSettings) -> None:
    renamed = renamed_libaio()
    link = settings.cache / "libaio" / "libaio.so.1"
    if renamed is not None and not link.is_symlink():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(renamed)


def renamed_libaio() -> Path | None:
    """libaio under its newer name (Debian 13, Ubuntu 24.04), when the older one is absent."""
    if machine.has_library("libaio.so.1"):
        return None
    candidates = (folder / "libaio.so.1t64" for folder in LIBRARY_FOLDERS)
    return next((path for path in candidates if path.exists()), None)


def secrets(settings: LocalSettings) -> dict[str, str]:
    """The variable that mysqld reads from its standard input."""
    return {"KP_MYSQL_INIT": init(settings)}


def init(settings: LocalSettings) -> str:
    """The statements that mysqld runs at each start before it listens: the database and its two
    users."""
    writes = "CREATE, SELECT, INSERT, UPDATE" if settings.mysql_tls else "ALL"
    users = (
        (writes, settings.mysql_user, settings.mysql_password),
        ("SELECT", settings.mysql_trino_user, settings.mysql_trino_password),
    )
    statements = ["CREATE DATABASE IF NOT EXISTS testing"]
    for grant, name, password in users:
        user = f"'{escape_string(name)}'@'%'"
        secret = escape_string(password.get_secret_value())
        statements += [
            f"CREATE USER IF NOT EXISTS {user}",
            f"ALTER USER {user} IDENTIFIED BY '{secret}'",
            f"GRANT {grant} ON testing.* TO {user}",
        ]
    statements.append("ALTER USER 'root'@'localhost' ACCOUNT LOCK")
    return "".join(f"{statement};\n" for statement in statements)


def _prerequisites() -> Iterator[Finding]:
    libaio = machine.has_library("libaio.so.1") or renamed_libaio() is not None
    remedy = "apt-get install -y libaio1 (libaio1t64 on newer systems)"
    yield Finding.present(
        "libaio", "installed" if libaio else None, "libaio.so.1 not found", remedy
    )
    numa = "installed" if machine.has_library("libnuma.so.1") else None
    yield Finding.present("libnuma", numa, "libnuma.so.1 not found", "apt-get install -y libnuma1")
