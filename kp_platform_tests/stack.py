"""A running stack, and `kp` on it.

Belongs here: temporary stacks on free ports, and the calls of `kp` by tests, fault injection and
benchmarks. Does not belong here: the tests themselves.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from kp_platform.local import supervisor
from kp_platform.local.cluster import cluster
from kp_platform.local.http import http_client
from kp_platform.local.preflight import is_free
from kp_platform.local.servers import services
from kp_platform.local.settings import LocalSettings
from kp_platform.settings import environment

ROOT = Path(__file__).parents[1]
# For a stack that lives for minutes: fast starts and short intervals. Runs stay from one test to
# the next, since the start of a run takes five seconds.
TEMPO: dict[str, Any] = {
    "start_timeout_seconds": 600,
    "follow_idle_seconds": 20,
    "sensor_wait_seconds": 5,
    "stalled_run_seconds": 10,
    "failed_run_pause_seconds": 2,
    "ranking_seconds": 20,
    "ranking_sensor_seconds": 5,
    "kpi_sensor_seconds": 10,
    "jvm_options": "-XX:TieredStopAtLevel=1",
}


@dataclass(frozen=True, slots=True)
class Stack:
    """The programs of one KP_HOME. `kp` runs with `variables`, in the folder of its code."""

    settings: LocalSettings
    variables: dict[str, str]
    folder: Path = ROOT

    @classmethod
    def of(cls, settings: LocalSettings) -> Self:
        """These settings on top of the environment of this process."""
        return cls(settings, {**os.environ, **environment(settings, secrets=True)})

    def kp(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `kp`. Raises RuntimeError with its output if it fails."""
        done = subprocess.run(
            _command(*arguments),
            env=self.variables,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"kp {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done

    def kp_in_background(self, *arguments: str) -> "subprocess.Popen[str]":
        """Run `kp` in the background, out of reach of the terminal's signals. Its output, errors
        included, is in `stdout`."""
        return subprocess.Popen(
            _command(*arguments),
            env=self.variables,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def graphql(self, query: str, **variables: Any) -> Any:
        """Dagster's answer to a query. Raises httpx.HTTPError."""
        with http_client(self.settings.dagster_url, 30) as client:
            answer = client.post("/graphql", json={"query": query, "variables": variables})
        return answer.raise_for_status().json()["data"]

    def enter(self) -> None:
        """Connect probes and clients of this process to the stack."""
        os.environ.update(environment(self.settings, secrets=True))

    def end(self) -> None:
        """Kill every process of the stack at once: its data are not used again."""
        supervisor.end_processes(self.settings.home, timeout_seconds=0)


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "kp_platform", *arguments]


def on_free_ports(
    offsets: Iterable[int], home: Path, *, is_cluster: bool = False, **settings: Any
) -> LocalSettings:
    """Settings with a block of free ports. Raises RuntimeError if no offset has one."""
    for offset in offsets:
        variables = cluster(offset) if is_cluster else {}
        values = {name.removeprefix("KP_").lower(): value for name, value in variables.items()}
        found = LocalSettings(_env_file=None, home=home, port_offset=offset, **values | settings)
        if all(is_free(port.number) for each in services(found) for port in each.ports):
            return found
    raise RuntimeError(f"no free block of ports among offsets {offsets}")


@contextlib.contextmanager
def temporary_stack(
    name: str, offsets: Iterable[int], *, is_cluster: bool = False, **settings: Any
) -> Iterator[Stack]:
    """A stack in its own folder. This process is connected to it until it ends."""
    variables = dict(os.environ)
    home = Path(tempfile.mkdtemp(prefix=f"kp-{name}-"))
    stack = Stack.of(on_free_ports(offsets, home, is_cluster=is_cluster, **settings))
    stack.enter()
    try:
        stack.kp("up", *(["--cluster"] if is_cluster else []))
        yield stack
    finally:
        before = signal.signal(
            signal.SIGINT, signal.SIG_IGN
        )  # a second Ctrl-C leaves no stack running
        stack.end()
        shutil.rmtree(home, ignore_errors=True)
        os.environ.clear()
        os.environ.update(variables)
        signal.signal(signal.SIGINT, before)
