"""A stack as a whole: start, stop and status.

Belongs here: the order of the steps, deadlines, and what is printed. Does not belong here: how one
service is started and probed (its module), and what restarts it (`supervisor.py`).
"""

import fcntl
import signal
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from types import FrameType
from typing import NoReturn

from rich.console import Console

from kp_platform.adapters.errors import ServerDown
from kp_platform.local import artifacts, kafka, preflight, state, supervisor
from kp_platform.local.errors import StackError
from kp_platform.local.servers import services, stack_environment
from kp_platform.local.service import LOOPBACK, SERVERS, Service
from kp_platform.local.settings import LocalSettings
from kp_platform.local.supervisor import Supervisor

MAX_STARTS = 3
"""A service that was started this often during one `kp up` does not become ready by waiting."""
STOPPED_FIRST = (("emitter", "dagster-daemon", "dagster-webserver"), ("dagster-code-server",))
"""The stages of a stop; all other services are servers, which stop after these stages."""


def up(settings: LocalSettings, console: Console) -> None:
    """Start the services that do not run, and return when every service is ready.

    Raises StackError; then nothing runs that this call started.
    """
    members = services(settings)
    supervisord = Supervisor(settings.home)
    deadline = time.monotonic() + settings.start_timeout_seconds
    state.claim(settings.home)
    with _locked(settings), _signals_as_exceptions():
        pid = supervisord.pid()
        if pid is None:
            _start(settings, members, supervisord, console)
            return
        _compare(settings, members, supervisord, pid)
        for service in members:
            _start_if_stopped(service, supervisord)
        _wait_until_ready(members, supervisord, deadline, console)
        console.print(f"already running in {settings.home}")


def _start(
    settings: LocalSettings,
    members: tuple[Service, ...],
    supervisord: Supervisor,
    console: Console,
) -> None:
    if killed := supervisor.end_processes(settings.home):
        console.print(f"killed {killed} process(es) of a stack whose supervisor had ended")
    _check_prerequisites(settings, members)
    local = tuple(service for service in members if service.is_local)
    artifacts.ensure((service.name for service in local), settings.cache, console)
    deadline = time.monotonic() + settings.start_timeout_seconds
    try:
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda service: service.prepare(), local))
        supervisord.start(supervisor.render(settings.home, members), stack_environment(settings))
        for stage in sorted({service.stage for service in members}):
            started = tuple(service for service in members if service.stage == stage)
            _start_stage(started, supervisord, deadline, console)
            if stage == SERVERS:
                _create_initial_data(settings, console)
    except BaseException:
        with _signals_ignored():
            console.print("stopping the services that were started")
            _stop(settings, supervisord)
        raise


def _check_prerequisites(settings: LocalSettings, members: tuple[Service, ...]) -> None:
    findings = [each for each in preflight.examine(settings, members) if not each.ok]
    if findings:
        raise StackError("; ".join(f"{each.detail}: {each.remedy}" for each in findings))


def _start_stage(
    members: tuple[Service, ...], supervisord: Supervisor, deadline: float, console: Console
) -> None:
    for service in members:
        if service.is_local:
            supervisord.start_program(service.name)
    _wait_until_ready(members, supervisord, deadline, console)


def _create_initial_data(settings: LocalSettings, console: Console) -> None:
    """Create the topics, and at the first start the reference data; upgrade stored documents."""
    from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
    from kp_platform.adapters.kafka import KafkaAdapter
    from kp_platform.adapters.mysql import MySQLAdapter
    from kp_platform.adapters.redis import RedisAdapter
    from kp_platform.engine.upgrade import upgrade
    from kp_platform.operations.reference_data import is_seeded, seed

    upgrade(ElasticsearchAdapter(settings))
    created = kafka.create_topics(settings)
    topics = ", ".join(created) + " created" if created else "all exist"
    console.print(f"  topics: {topics}")
    mysql = MySQLAdapter(settings)
    if is_seeded(mysql):
        console.print("  reference data: already loaded")
        return
    report = seed(mysql, RedisAdapter(settings), KafkaAdapter(settings).publish_changes)
    console.print(f"  reference data: {report.rows} rows in MySQL, {report.keys} keys in Redis")


def _compare(
    settings: LocalSettings, members: tuple[Service, ...], supervisord: Supervisor, pid: int
) -> None:
    """Raises StackError when the running stack is not the one that the settings describe."""
    names = supervisor.differing(pid, stack_environment(settings))
    rendered = supervisor.render(settings.home, members)
    if not names and supervisord.config.read_text(encoding="utf-8") == rendered:
        return
    changed = ", ".join(names) or "version of kp_platform"
    raise StackError(
        f"the running stack was started with another {changed}: `kp down`, then `kp up`"
    )


def _start_if_stopped(service: Service, supervisord: Supervisor) -> None:
    if service.is_local and supervisord.programs()[service.name].state in ("STOPPED", "FATAL"):
        supervisord.start_program(service.name)


def _wait_until_ready(
    members: tuple[Service, ...], supervisord: Supervisor, deadline: float, console: Console
) -> None:
    """Return when all are ready; print a line for each. Raises StackError."""
    started_at, stop = time.monotonic(), threading.Event()
    ready: SimpleQueue[Service] = SimpleQueue()
    waiting = {service.name: service for service in members}
    reasons: dict[str, str] = {}
    starts: dict[str, set[int]] = {name: set() for name in waiting}
    for service in members:
        arguments = (service, ready, reasons, stop)
        threading.Thread(target=_probe_until_ready, args=arguments, daemon=True).start()
    try:
        while waiting:
            try:
                service = ready.get(timeout=0.3)
            except Empty:
                _fail_early(waiting, starts, supervisord)
                if time.monotonic() > deadline:
                    _time_out(waiting, reasons, supervisord)
                continue
            del waiting[service.name]
            console.print(_line(service, f"{time.monotonic() - started_at:.1f} s"))
    finally:
        stop.set()


def _line(service: Service, text: str) -> str:
    return f"✓ {service.name:<20} {service.address:<28} {text}"


def _probe_until_ready(
    service: Service, ready: SimpleQueue[Service], reasons: dict[str, str], stop: threading.Event
) -> None:
    while not stop.is_set():
        if not (reason := _reason_not_listening(service) or _reason_not_ready(service)):
            ready.put(service)
            return
        reasons[service.name] = reason
        stop.wait(0.25)


def _reason_not_listening(service: Service) -> str:
    """Empty when a process listens on the service's port. A connection costs a hundredth of a
    probe, and servers use most of their start time before they listen."""
    if not service.ports:
        return ""
    port = service.ports[0].number
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError as error:
        return f"{service.name} does not listen on port {port}: {error}"
    return ""


def _reason_not_ready(service: Service) -> str:
    """Empty when the service is ready."""
    try:
        service.ready()
    except ServerDown as error:
        return str(error)
    except Exception as error:  # a client cannot handle a server that is starting
        return f"{service.name}: {type(error).__name__}: {error}"
    return ""


def _fail_early(
    waiting: dict[str, Service], starts: dict[str, set[int]], supervisord: Supervisor
) -> None:
    """Raises StackError, before the deadline, for a service that ends again and again."""
    programs = supervisord.programs()
    for service in waiting.values():
        if not service.is_local:
            continue
        if service.name not in programs:
            raise StackError("the supervisor of the stack has ended: restart it with `kp up`")
        program = programs[service.name]
        if program.started:
            starts[service.name].add(program.started)
        if program.state == "FATAL" or len(starts[service.name]) >= MAX_STARTS:
            _fail(service, "ends immediately after its start", supervisord)


def _time_out(
    waiting: dict[str, Service], reasons: dict[str, str], supervisord: Supervisor
) -> NoReturn:
    service = next(iter(waiting.values()))
    reason = reasons.get(service.name, "no answer yet")
    if not service.is_local:
        raise StackError(reason)
    _fail(service, f"was not ready within KP_START_TIMEOUT_SECONDS: {reason}", supervisord)


def _fail(service: Service, problem: str, supervisord: Supervisor) -> NoReturn:
    tail = supervisor.tail(supervisor.log_file(supervisord.home, service.name))
    raise StackError(f"{service.name} {problem}; see `kp logs {service.name}`", tail)


def down(settings: LocalSettings, console: Console, *, purge: bool) -> None:
    """Stop the stack of KP_HOME, consumers first, and wait until all its processes have ended."""
    supervisord = Supervisor(settings.home)
    if not state.is_stack(settings.home):
        if purge and settings.home.exists():
            state.purge(settings.home)
        console.print(f"nothing runs in {settings.home}")
        return
    with _locked(settings):
        if supervisord.pid() is None and not supervisor.processes(settings.home):
            console.print(f"nothing runs in {settings.home}")
        else:
            _stop(settings, supervisord, console)
            console.print("the stack is stopped")
    if purge:
        state.purge(settings.home)
        console.print(f"removed {settings.home}")


def _stop(settings: LocalSettings, supervisord: Supervisor, console: Console | None = None) -> None:
    """Stop what supervisord runs, which may differ from the current settings."""
    programs = supervisord.programs()

    def stop(name: str) -> None:
        started_at = time.monotonic()
        supervisord.stop_program(name)
        if console is not None and programs[name].pid:
            console.print(f"- {name:<20} stopped in {time.monotonic() - started_at:.1f} s")

    with ThreadPoolExecutor(max_workers=len(programs) or 1) as pool:
        for names in _stages_of_stop(programs):
            list(pool.map(stop, names))
    if supervisord.pid() is not None:
        supervisord.shutdown()
    killed = supervisor.end_processes(settings.home)
    if killed and console is not None:
        console.print(f"killed {killed} process(es) that did not end")


def _stages_of_stop(names: Iterable[str]) -> list[list[str]]:
    """Services of one stage stop in parallel, after those that use them."""
    rank = {name: stage for stage, group in enumerate(STOPPED_FIRST) for name in group}
    last = len(STOPPED_FIRST)
    return [[name for name in names if rank.get(name, last) == stage] for stage in range(last + 1)]


@dataclass(frozen=True, slots=True)
class Status:
    """The state of one service. `state` is the one of supervisord, or `external`."""

    service: str
    state: str
    pid: int | None
    uptime_seconds: int | None
    address: str
    ready: bool
    reason: str


def status(settings: LocalSettings) -> list[Status]:
    """Probe every running service once, in parallel."""
    members = services(settings)
    programs = Supervisor(settings.home).programs()
    results: dict[str, Status] = {}

    def probe(service: Service) -> None:
        results[service.name] = _status(service, programs)

    threads = [threading.Thread(target=probe, args=(service,)) for service in members]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[service.name] for service in members]


def _status(service: Service, programs: dict[str, supervisor.Program]) -> Status:
    program = programs.get(service.name)
    pid = program.pid if program and program.pid else None
    uptime = int(time.time()) - program.started if program and pid else None
    if service.is_local and pid is None:
        reason = f"{service.name} does not run: `kp up`"
    else:
        reason = _reason_not_ready(service)
    if not service.is_local:
        word = "external"
    else:
        word = program.state.lower() if program else "stopped"
    return Status(service.name, word, pid, uptime, service.address, not reason, reason)


@contextmanager
def _locked(settings: LocalSettings) -> Iterator[None]:
    """Only one `kp up` or `kp down` at a time uses a KP_HOME. Raises StackError."""
    with (settings.home / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackError(
                f"another `kp up` or `kp down` uses KP_HOME={settings.home}: "
                "wait for it, or set another folder"
            ) from None
        yield


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """A start that a signal interrupts stops the services that it started."""

    def end(number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number in _SIGNALS:
        if number != signal.SIGHUP or before[number] != signal.SIG_IGN:  # nohup kp up
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _signals_ignored() -> Iterator[None]:
    """A second Ctrl-C must not interrupt the cleanup of the first."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
