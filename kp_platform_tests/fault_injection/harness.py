"""A stack that is broken on purpose: kill, freeze, stop, start and reroute its programs.

Belongs here: verbs that act on the processes and servers of one stack. Does not belong here: when
they are used and what must follow (`rows.py`).
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

import httpx
import psutil

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


class Late(Exception):
    """Something did not come within its deadline."""


def wait_until(condition: Callable[[], bool], what: str, seconds: float) -> None:
    """Look until the condition holds; servers that are down are waited for too. Raises Late."""
    deadline, last = time.monotonic() + seconds, ""
    while True:
        try:
            if condition():
                return
            last = ""
        except Exception as error:  # of any client: a server is down, which is why we wait
            last = f": {type(error).__name__}: {error}"
        if time.monotonic() > deadline:
            raise Late(f"not within {seconds:.0f} s: {what}{last}"[:500])
        time.sleep(0.2)


@dataclass(frozen=True, slots=True)
class FaultHarness(Stack):
    """A stack, with the verbs that break it."""

    @property
    def keeper(self) -> Supervisor:
        return Supervisor(self.settings.home)

    @property
    def servers(self) -> Servers:
        return Servers.of(self.settings)

    def service(self, name: str) -> Service:
        return next(each for each in services(self.settings) if each.name == name)

    def processes(self, name: str) -> list[psutil.Process]:
        """A program with its children, the parent first. Empty while it does not run."""
        with suppress(psutil.NoSuchProcess, KeyError):
            parent = psutil.Process(self.keeper.programs()[name].pid)
            if parent.pid > 0:
                return [parent, *parent.children(recursive=True)]
        return []

    def program(self, name: str) -> list[psutil.Process]:
        """As `processes`; of the code server without the runs that it has started."""
        if name == "dagster-code-server":
            return self.processes(name)[:1]
        return self.processes(name)

    def kill(self, name: str) -> None:
        """kill -9 at once of a program with its children; supervisord starts it again."""
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
            self.keeper.stop_program(name)
        try:
            yield
        finally:
            for name in reversed(names):
                self.start(name)

    def start(self, name: str) -> None:
        if self.keeper.programs()[name].state in ("STOPPED", "EXITED", "FATAL"):
            self.keeper.start_program(name)

    def await_ready(self, *names: str, seconds: float = READY_SECONDS) -> None:
        """Returns when each of them, or every service, answers. Raises Late."""
        for name in names or [each.name for each in services(self.settings)]:
            service = self.service(name)

            def answers(service: Service = service) -> bool:
                service.ready()
                return True

            wait_until(answers, f"{name} answers", seconds)

    @contextmanager
    def rerouted(self, name: str, *options: str, **variables: str) -> Iterator[None]:
        """A program run by us as supervisord ran it, but for these first options of its command and
        these variables of its environment."""
        parent = self.processes(name)[0]
        (program, *rest), environment = parent.cmdline(), {**parent.environ(), **variables}
        folder = parent.cwd()
        self.keeper.stop_program(name)
        process = self._spawn([program, *options, *rest], environment, folder)
        try:
            self.await_ready(name)
            yield
        finally:
            _end(process)
            self.start(name)
            self.await_ready(name)

    @contextmanager
    def doubled(self, name: str) -> Iterator[psutil.Process]:
        """A second process of a program beside the first."""
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
        """The processes of the runs that work now, of one job if it is named."""
        found = []
        for run in self.graphql(_RUNS, job=job)["runsOrError"].get("results", []):
            events = self.graphql(_EVENTS, run=run["runId"])["logsForRun"].get("events", [])
            texts = " ".join(str(event.get("message")) for event in events)
            for pid in _PID.findall(texts)[-1:]:
                with suppress(psutil.NoSuchProcess):
                    found.append(psutil.Process(int(pid)))
        return found

    def await_worker(self, job: str, seconds: float = 90) -> psutil.Process:
        """A run of the job that works. Raises Late."""
        wait_until(lambda: bool(self.workers(job)), f"a run of {job}", seconds)
        return self.workers(job)[0]

    def emitter_counts(self) -> dict[str, dict[str, Any]]:
        """What the emitter says of its events and notes, in its own words."""
        answer = httpx.get(f"{self.settings.emitter_url}/readyz", timeout=10, trust_env=False)
        found = answer.json()
        return {name: found[name] for name in ("events", "notes")}


def kill(process: psutil.Process) -> None:
    _signal([process], signal.SIGKILL)


def _signal(targets: list[psutil.Process], number: signal.Signals) -> None:
    for target in targets:
        with suppress(psutil.NoSuchProcess):
            target.send_signal(number)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Its children too: a code server has runs."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)
