"""A stack whose programs can be killed, frozen, stopped, started and rerouted.

Belongs here: operations on the processes and servers of one stack. Does not belong here: when they
are used (`rows.py`), what must hold afterwards (`oracle.py`).
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psutil

from kp_platform.local.http import http_client
from kp_platform.local.servers import services
from kp_platform.local.service import Service
from kp_platform.local.supervisor import Supervisor
from kp_platform_tests.fault_injection.servers import Servers
from kp_platform_tests.stack import Stack

READY_SECONDS = 240.0
_PID = re.compile(r"\(pid: (\d+)\)")
_RUNS = """query($job: String) { runsOrError(filter: {pipelineName: $job, statuses: [STARTED]}) {
  ... on Runs { results { runId } } } }"""
_EVENTS = """query($run: ID!) { logsForRun(runId: $run) {
  ... on EventConnection { events { ... on MessageEvent { message } } } } }"""


class DeadlineExceeded(Exception):
    """A condition did not hold within its deadline."""


def wait_until(condition: Callable[[], bool], what: str, seconds: float) -> None:
    """Poll until the condition holds; its errors count as not yet. Raises DeadlineExceeded."""
    deadline, last = time.monotonic() + seconds, ""
    while True:
        try:
            if condition():
                return
            last = ""
        except Exception as error:  # of any client, e.g. while a server is down
            last = f": {type(error).__name__}: {error}"
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"not within {seconds:.0f} s: {what}{last}"[:500])
        time.sleep(0.2)


@dataclass(frozen=True, slots=True)
class FaultHarness(Stack):
    """A stack, with the operations that break it."""

    @property
    def supervisor(self) -> Supervisor:
        return Supervisor(self.settings.home)

    @property
    def servers(self) -> Servers:
        return Servers.of(self.settings)

    def service(self, name: str) -> Service:
        return next(each for each in services(self.settings) if each.name == name)

    def processes(self, name: str) -> list[psutil.Process]:
        """A program with its children, parent first. Empty while it is not running."""
        with suppress(psutil.NoSuchProcess, KeyError):
            parent = psutil.Process(self.supervisor.programs()[name].pid)
            if parent.pid > 0:
                return [parent, *parent.children(recursive=True)]
        return []

    def program(self, name: str) -> list[psutil.Process]:
        """As `processes`, but for the code server without its run workers."""
        if name == "dagster-code-server":
            return self.processes(name)[:1]
        return self.processes(name)

    def kill(self, name: str) -> None:
        """Send SIGKILL to a program and its children; supervisord restarts it."""
        _signal(self.program(name), signal.SIGKILL)

    def terminate(self, name: str) -> None:
        _signal(self.program(name)[:1], signal.SIGTERM)

    @contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """SIGSTOP, then SIGCONT."""
        targets = self.program(name)
        _signal(targets, signal.SIGSTOP)
        try:
            yield
        finally:
            _signal(targets, signal.SIGCONT)

    @contextmanager
    def stopped(self, *names: str) -> Iterator[None]:
        for name in names:
            self.supervisor.stop_program(name)
        try:
            yield
        finally:
            for name in reversed(names):
                self.start(name)

    def start(self, name: str) -> None:
        if self.supervisor.programs()[name].state in ("STOPPED", "EXITED", "FATAL"):
            self.supervisor.start_program(name)

    def await_ready(self, *names: str, seconds: float = READY_SECONDS) -> None:
        """Wait until the named services, by default all, answer. Raises DeadlineExceeded."""
        for name in names or [each.name for each in services(self.settings)]:
            service = self.service(name)

            def answers(service: Service = service) -> bool:
                service.ready()
                return True

            wait_until(answers, f"{name} answers", seconds)

    @contextmanager
    def rerouted(self, name: str, *options: str, **variables: str) -> Iterator[None]:
        """A program run by this process instead of supervisord, with additional options before the
        others and additional environment variables."""
        parent = self.processes(name)[0]
        (program, *rest), environment = parent.cmdline(), {**parent.environ(), **variables}
        folder = parent.cwd()
        self.supervisor.stop_program(name)
        process = self._spawn([program, *options, *rest], environment, folder)
        try:
            self.await_ready(name)
            yield
        finally:
            _end(process)
            self.start(name)
            self.await_ready(name)

    @contextmanager
    def duplicated(self, name: str) -> Iterator[psutil.Process]:
        """A second process of a program."""
        parent = self.processes(name)[0]
        process = self._spawn(parent.cmdline(), parent.environ(), parent.cwd())
        try:
            yield psutil.Process(process.pid)
        finally:
            _end(process)

    def _spawn(
        self, command: list[str], environment: dict[str, str], folder: str
    ) -> "subprocess.Popen[bytes]":
        with (self.settings.home / "log" / "faults.log").open("ab") as log:
            return subprocess.Popen(
                command, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True
            )

    def workers(self, job: str | None = None) -> list[psutil.Process]:
        """The processes of active runs, by default of all jobs."""
        workers = []
        for run in self.graphql(_RUNS, job=job)["runsOrError"].get("results", []):
            events = self.graphql(_EVENTS, run=run["runId"])["logsForRun"].get("events", [])
            texts = " ".join(str(event.get("message")) for event in events)
            for pid in _PID.findall(texts)[-1:]:
                with suppress(psutil.NoSuchProcess):
                    workers.append(psutil.Process(int(pid)))
        return workers

    def await_worker(self, job: str, seconds: float = 90) -> psutil.Process:
        """The process of an active run of the job. Raises DeadlineExceeded."""
        wait_until(lambda: bool(self.workers(job)), f"a run of {job}", seconds)
        return self.workers(job)[0]

    def emitter_counts(self) -> dict[str, dict[str, Any]]:
        """The emitter's counts of events and notes, from `/readyz`."""
        with http_client(self.settings.emitter_url, 10) as client:
            counts = client.get("/readyz").json()
        return {name: counts[name] for name in ("events", "notes")}


def kill(process: psutil.Process) -> None:
    _signal([process], signal.SIGKILL)


def _signal(targets: list[psutil.Process], number: signal.Signals) -> None:
    for target in targets:
        with suppress(psutil.NoSuchProcess):
            target.send_signal(number)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the process and its children, e.g. the run workers of a code server."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)
