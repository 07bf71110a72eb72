"""A start of a stack that is interrupted or refused, which leaves nothing running."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from kp_platform.local import supervisor
from kp_platform_tests.stack import ROOT

OFFSET = 14_000


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """The environment of a stack of which nothing runs."""
    return {**os.environ, "KP_HOME": str(tmp_path / "home"), "KP_PORT_OFFSET": str(OFFSET)}


def start(variables: dict[str, str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "kp_platform", "up"],
        env=variables,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_start_leaves_nothing_running(
    variables: dict[str, str], number: signal.Signals, code: int
) -> None:
    starting = start(variables)
    assert starting.stdout is not None
    assert "✓" in starting.stdout.readline()  # servers run at this point
    starting.send_signal(number)
    _, errors = starting.communicate(timeout=120)
    assert starting.returncode == code
    assert len(errors.splitlines()) <= 1
    assert supervisor.processes(Path(variables["KP_HOME"])) == []


def test_an_occupied_port_is_reported_with_its_setting_and_nothing_starts(
    variables: dict[str, str],
) -> None:
    port = 18_080 + OFFSET
    with socket.socket() as occupied:
        occupied.bind(("127.0.0.1", port))
        occupied.listen()
        starting = start(variables)
        _, errors = starting.communicate(timeout=60)
    assert starting.returncode == 1
    assert len(errors.splitlines()) == 1
    assert str(port) in errors
    assert "KP_TRINO_URL" in errors
    assert supervisor.processes(Path(variables["KP_HOME"])) == []
