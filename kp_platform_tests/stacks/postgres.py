"""A temporary PostgreSQL server, Debian's, on loopback and with a password.

Belongs here: its start and end. Does not belong here: its data.
"""

import os
import secrets
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kp_platform.local.dagster import postgres_problem
from kp_platform.local.service import LOOPBACK

START_SECONDS = 60.0
_UNPRIVILEGED = 65_534  # initdb and postgres refuse root


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of an empty database; only the URL has its password. Raises RuntimeError
    when PostgreSQL is not installed or does not start."""
    with tempfile.TemporaryDirectory(prefix="kp-postgres-") as name:
        folder = Path(name)
        password = _initialised(folder)
        port = _free_port()
        serve = ("postgres", "-D", str(folder / "data"), "-h", LOOPBACK, "-p", str(port), "-k", "")
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                _command(*serve, "-c", "timezone=UTC"),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder,
            )  # fmt: skip
        url = f"postgresql+psycopg2://dagster:{password}@{LOOPBACK}:{port}/postgres"
        try:
            _await(url, server, folder / "log")
            yield url
        finally:
            server.send_signal(signal.SIGINT)  # fast shutdown: ends its sessions
            server.wait(60)


def _initialised(folder: Path) -> str:
    """Initialize the data folder; returns the password of user `dagster`."""
    data, file, password = folder / "data", folder / "password", secrets.token_urlsafe(16)
    data.mkdir(mode=0o700)
    file.touch(mode=0o600)
    file.write_text(password)
    if os.geteuid() == 0:
        for path in (folder, data, file):
            os.chown(path, _UNPRIVILEGED, _UNPRIVILEGED)
    user = ("--username=dagster", f"--pwfile={file}", "--auth=scram-sha-256")
    command = _command("initdb", f"--pgdata={data}", *user, "--encoding=UTF8", "--no-locale")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    file.unlink()
    if done.returncode != 0:
        raise RuntimeError(f"initdb: {done.stderr}")
    return password


def _command(program: str, *arguments: str) -> list[str]:
    """A command of the newest installed release, run as a user that it accepts."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))
    if not found:
        raise RuntimeError("no PostgreSQL below /usr/lib/postgresql: `make test-packages`")
    user = ("setpriv", f"--reuid={_UNPRIVILEGED}", f"--regid={_UNPRIVILEGED}", "--clear-groups")
    return [*(user if os.geteuid() == 0 else ()), str(found[-1]), *arguments]


def _await(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while reason := postgres_problem(url):
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{reason}: {log.read_text()}")
        time.sleep(0.1)


def _free_port() -> int:
    with socket.create_server((LOOPBACK, 0)) as free:
        port: int = free.getsockname()[1]
    return port
