"""A stack as a whole: up, down and how it is.

Belongs here: the order of things, deadlines, what a person sees meanwhile. Does not belong here:
how one is started (`servers.py`), asked (`probes.py`) or kept alive (`supervisor.py`).
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
from kp_platform.local import artifacts, preflight, state, supervisor
from kp_platform.local.errors import StackError
from kp_platform.local.security import kafka_certificate
from kp_platform.local.servers import LOOPBACK, SERVERS, Service, services
from kp_platform.local.supervisor import Supervisor
from kp_platform.settings import Settings

MOST_STARTS = 3
"""A service that had to be started so often during one `kp up` will not come up by waiting."""
STOPPED_FIRST = (("emitter", "dagster-daemon", "dagster-webserver"), ("dagster-code-server",))
"""All others are servers, which stop after these stages."""


def up(settings: Settings, console: Console) -> None:
    """Starts what does not run and returns when every service answers.

    Raises StackError; then nothing runs that this call started.
    """
    wanted = services(settings)
    keeper = Supervisor(settings.home)
    deadline = time.monotonic() + settings.start_timeout_seconds
    state.claim(settings.home)
    with _alone(settings), _signals_as_exceptions():
        pid = keeper.pid()
        if pid is None:
            _start(settings, wanted, keeper, console)
            return
        _compare(settings, wanted, keeper, pid)
        for service in wanted:
            _start_if_stopped(service, keeper)
        _await(wanted, keeper, deadline, console)
        console.print(f"already running in {settings.home}")


def _start(
    settings: Settings, wanted: tuple[Service, ...], keeper: Supervisor, console: Console
) -> None:
    if left := supervisor.end_processes(settings.home):
        console.print(f"killed {left} process(es) of a stack whose supervisor had died")
    findings = [each for each in preflight.examine(settings, wanted) if not each.ok]
    if findings:
        raise StackError("; ".join(f"{each.detail}: {each.remedy}" for each in findings))
    artifacts.ensure(
        (service.name for service in wanted if service.is_local), settings.cache, console
    )
    deadline = time.monotonic() + settings.start_timeout_seconds
    try:
        state.prepare(settings, wanted)
        keeper.start(
            supervisor.render(settings.home, wanted), supervisor.stack_environment(settings)
        )
        for stage in sorted({service.stage for service in wanted}):
            _start_stage(stage, settings, wanted, keeper, deadline, console)
    except BaseException:
        with _signals_ignored():
            console.print("stopping what was started")
            _end(settings, keeper)
        raise


def _start_stage(
    stage: int,
    settings: Settings,
    wanted: tuple[Service, ...],
    keeper: Supervisor,
    deadline: float,
    console: Console,
) -> None:
    members = tuple(service for service in wanted if service.stage == stage)
    for service in members:
        if service.is_local:
            keeper.start_program(service.name)
    _await(members, keeper, deadline, console)
    if stage == SERVERS:
        _load(settings, console)


def _load(settings: Settings, console: Console) -> None:
    """What the services need to find: the topics, and the reference data of a first start."""
    from kp_platform.adapters.kafka import KafkaAdapter
    from kp_platform.adapters.mysql import MySQLAdapter
    from kp_platform.adapters.redis import RedisAdapter
    from kp_platform.flows.builtin import FLOWS
    from kp_platform.operations.reference_data import is_seeded, seed

    kafka = KafkaAdapter(Settings())
    if "kafka" not in settings.external_services and kafka_certificate(settings):
        from kp_platform.local.secure import grants  # slow to import

        kafka.allow(grants(settings))
    created = kafka.create_topics({flow.topic: settings.topic_partitions for flow in FLOWS})
    topics = ", ".join(created) + " created" if created else "all there"
    console.print(f"  topics: {topics}")
    mysql = MySQLAdapter(Settings())
    if is_seeded(mysql):
        console.print("  reference data: there")
        return
    report = seed(mysql, RedisAdapter(Settings()), kafka.publish_changes)
    console.print(f"  reference data: {report.rows} rows in MySQL, {report.keys} keys in Redis")


def _compare(settings: Settings, wanted: tuple[Service, ...], keeper: Supervisor, pid: int) -> None:
    """A running stack must be the one that the settings describe."""
    names = supervisor.differing(pid, supervisor.stack_environment(settings))
    rendered = supervisor.render(settings.home, wanted)
    if not names and keeper.config.read_text(encoding="utf-8") == rendered:
        return
    changed = ", ".join(names) or "the version of kp_platform"
    raise StackError(
        f"the running stack was started with another {changed}: `kp down`, then `kp up`"
    )


def _start_if_stopped(service: Service, keeper: Supervisor) -> None:
    if service.is_local and keeper.programs()[service.name].state in ("STOPPED", "FATAL"):
        keeper.start_program(service.name)


def _await(
    members: tuple[Service, ...], keeper: Supervisor, deadline: float, console: Console
) -> None:
    """Returns when all are ready; a line for each as it comes. Raises StackError."""
    begun, stop = time.monotonic(), threading.Event()
    ready: SimpleQueue[Service] = SimpleQueue()
    waiting = {service.name: service for service in members}
    reasons: dict[str, str] = {}
    starts: dict[str, set[int]] = {name: set() for name in waiting}
    for service in members:
        arguments = (service, ready, reasons, stop)
        threading.Thread(target=_ask_until_ready, args=arguments, daemon=True).start()
    try:
        while waiting:
            try:
                service = ready.get(timeout=0.3)
            except Empty:
                _fail_early(waiting, starts, keeper)
                if time.monotonic() > deadline:
                    _give_up(waiting, reasons, keeper)
                continue
            del waiting[service.name]
            console.print(_line("✓", service, f"{time.monotonic() - begun:.1f} s"))
    finally:
        stop.set()


def _line(sign: str, service: Service, text: str) -> str:
    return f"{sign} {service.name:<20} {service.address:<28} {text}"


def _ask_until_ready(
    service: Service, ready: SimpleQueue[Service], reasons: dict[str, str], stop: threading.Event
) -> None:
    while not stop.is_set():
        if not (reason := _reason_not_listening(service) or _reason_not_ready(service)):
            ready.put(service)
            return
        reasons[service.name] = reason
        stop.wait(0.25)


def _reason_not_listening(service: Service) -> str:
    """Empty when something listens on the service's port. A connection costs a hundredth of a
    probe, and servers take most of their start before they listen."""
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
    except Exception as error:  # a client surprised by a server that has half started
        return f"{service.name}: {type(error).__name__}: {error}"
    return ""


def _fail_early(
    waiting: dict[str, Service], starts: dict[str, set[int]], keeper: Supervisor
) -> None:
    """A service that dies again and again is not waited for until the deadline."""
    programs = keeper.programs()
    for service in waiting.values():
        if not service.is_local:
            continue
        if service.name not in programs:
            raise StackError("the supervisor of the stack has ended: `kp up` starts it again")
        program = programs[service.name]
        if program.started:
            starts[service.name].add(program.started)
        if program.state == "FATAL" or len(starts[service.name]) >= MOST_STARTS:
            _blame(service, "ends as soon as it is started", keeper)


def _give_up(waiting: dict[str, Service], reasons: dict[str, str], keeper: Supervisor) -> NoReturn:
    service = next(iter(waiting.values()))
    reason = reasons.get(service.name, "no answer yet")
    if not service.is_local:
        raise StackError(reason)
    _blame(service, f"was not ready in KP_START_TIMEOUT_SECONDS: {reason}", keeper)


def _blame(service: Service, what: str, keeper: Supervisor) -> NoReturn:
    tail = supervisor.tail(supervisor.log_file(keeper.home, service.name))
    raise StackError(f"{service.name} {what}; see `kp logs {service.name}`", tail)


def down(settings: Settings, console: Console, *, purge: bool) -> None:
    """Stops the stack of KP_HOME in reverse order and waits until no process of it is left."""
    keeper = Supervisor(settings.home)
    if not state.is_ours(settings.home):
        if purge and settings.home.exists():
            state.purge(settings.home)
        console.print(f"nothing runs in {settings.home}")
        return
    with _alone(settings):
        if keeper.pid() is None and not supervisor.processes(settings.home):
            console.print(f"nothing runs in {settings.home}")
        else:
            _end(settings, keeper, console)
            console.print("the stack is down")
    if purge:
        state.purge(settings.home)
        console.print(f"removed {settings.home}")


def _end(settings: Settings, keeper: Supervisor, console: Console | None = None) -> None:
    """Whatever the settings say now: what is stopped is what supervisord has."""
    programs = keeper.programs()

    def stop(name: str) -> None:
        begun = time.monotonic()
        keeper.stop_program(name)
        if console is not None and programs[name].pid:
            console.print(f"- {name:<20} stopped in {time.monotonic() - begun:.1f} s")

    with ThreadPoolExecutor(max_workers=len(programs) or 1) as pool:
        for names in _stages_of_stop(programs):
            list(pool.map(stop, names))
    if keeper.pid() is not None:
        keeper.shutdown()
    killed = supervisor.end_processes(settings.home)
    if killed and console is not None:
        console.print(f"killed {killed} process(es) that did not end")


def _stages_of_stop(names: Iterable[str]) -> list[list[str]]:
    """Programs of one stage stop together, after those that use them."""
    rank = {name: stage for stage, group in enumerate(STOPPED_FIRST) for name in group}
    last = len(STOPPED_FIRST)
    return [[name for name in names if rank.get(name, last) == stage] for stage in range(last + 1)]


@dataclass(frozen=True, slots=True)
class Status:
    """How one service is. `state` is supervisord's word, or `external`."""

    service: str
    state: str
    pid: int | None
    uptime_seconds: int | None
    address: str
    ready: bool
    reason: str


def status(settings: Settings) -> list[Status]:
    """Every service asked once, all at the same time; what does not run is not asked."""
    wanted = services(settings)
    programs = Supervisor(settings.home).programs()
    answers: dict[str, Status] = {}

    def ask(service: Service) -> None:
        answers[service.name] = _status(service, programs)

    threads = [threading.Thread(target=ask, args=(service,)) for service in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [answers[service.name] for service in wanted]


def _status(service: Service, programs: dict[str, supervisor.Program]) -> Status:
    program = programs.get(service.name)
    word = program.state.lower() if program else "stopped"
    pid = program.pid if program and program.pid else None
    uptime = int(time.time()) - program.started if program and pid else None
    if service.is_local and pid is None:
        reason = f"{service.name} does not run: `kp up`"
    else:
        reason = _reason_not_ready(service)
    word = word if service.is_local else "external"
    return Status(service.name, word, pid, uptime, service.address, not reason, reason)


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """One `kp up` or `kp down` at a time works on a KP_HOME."""
    with (settings.home / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackError(
                f"another `kp up` or `kp down` works on KP_HOME={settings.home}: "
                "wait for it, or name another folder"
            ) from None
        yield


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """So that a start that is interrupted by any of them stops what it started."""

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
    """A second Ctrl-C must not keep the first one from cleaning up."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
