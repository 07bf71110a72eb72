"""What the emitter costs a request: `python -m kp_platform_tests.benchmarks.emitter`.

Belongs here: the time that `announce` adds while the broker is up, slow, down or silent, and
requests per CPU-second with and without the middleware. Does not belong here: what must hold on any
machine, which tests assert. Needs no stack: the broker is librdkafka's own, in a process of its
own, so that its work is not ours. Variants take turns, so that a busy machine is equally busy for
all.
"""

import logging
import multiprocessing
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from http.client import HTTPConnection
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from threading import Thread
from time import perf_counter_ns, process_time, sleep
from uuid import uuid4

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from kp_platform_tests.web_emitter.server import NO_BROKER, MockBroker
from web_emitter.identity import Identity, random_demo_name
from web_emitter.middleware import AccessEventMiddleware, Announcer
from web_emitter.producer import EventProducer
from web_emitter.redaction import Redaction
from web_emitter.settings import Settings

ROUNDS = 7
REQUESTS = 2_000
REQUESTS_PER_SECOND = 500
SLOW_MILLISECONDS = 1_000
LOGGER = logging.getLogger("benchmark")


def main() -> None:
    LOGGER.setLevel(logging.CRITICAL)
    with ExitStack() as stack:
        brokers = {
            "up": stack.enter_context(_broker()),
            "slow": stack.enter_context(_broker(SLOW_MILLISECONDS)),
            "down": NO_BROKER,
            "silent": stack.enter_context(_silent_server()),
        }
        states = {
            name: {"sink": stack.enter_context(_producer(address))}
            for name, address in brokers.items()
        }
        _latencies(states)
        for name, state in states.items():
            print(f"{name:>7}: {state['sink'].counts()}")
        _throughput(brokers)


def _latencies(states: dict[str, dict[str, EventProducer]]) -> None:
    """Paced, so that the threads behind it have the share of the CPU that they have in service."""
    announcer = _announcer()
    added: dict[str, list[int]] = {name: [] for name in states}
    for _ in range(ROUNDS):
        for name, state in states.items():
            for _ in range(REQUESTS):
                sleep(1 / REQUESTS_PER_SECOND)
                started = perf_counter_ns()
                announcer.announce("/hello/world?page=2&q=shoes", {"state": state})
                added[name].append(perf_counter_ns() - started)
    print(f"milliseconds that announcing adds, {ROUNDS * REQUESTS} requests each")
    for name, times in added.items():
        times.sort()
        shown = (f"p{p} {times[int(len(times) * p / 100)] / 1e6:.3f}" for p in (50, 99, 99.9))
        print(f"{name:>7}: {'  '.join(shown)}  max {times[-1] / 1e6:.3f}")


def _throughput(brokers: dict[str, str]) -> None:
    """Of real servers, of which one announces nothing."""
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(_elsewhere(_serve_pages, address))
            for name, address in {"without": "", **brokers}.items()
        }
        found: dict[str, list[float]] = {name: [] for name in servers}
        for _ in range(ROUNDS):
            for name, server in servers.items():
                found[name].append(_requests_per_cpu_second(server))
    print(f"requests per CPU-second of the server, median of {ROUNDS} rounds")
    base = median(found["without"])
    for name, numbers in found.items():
        print(f"{name:>7}: {median(numbers):8.0f}  {median(numbers) / base:.2f} of without")


def _requests_per_cpu_second(server: Connection) -> float:
    server.send("cpu")
    port, before = server.recv()
    connection = HTTPConnection("127.0.0.1", port)
    for number in range(REQUESTS):
        connection.request("GET", f"/hello/{number}?page=2&q=shoes")
        connection.getresponse().read()
    connection.close()
    server.send("cpu")
    _, after = server.recv()
    return REQUESTS / float(after - before)


def _serve_pages(there: Connection, address: str) -> None:
    """Tells its port and its CPU seconds whenever it is asked."""
    LOGGER.setLevel(logging.CRITICAL)
    with ExitStack() as stack:
        state = {"sink": stack.enter_context(_producer(address))} if address else {}

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[dict[str, EventProducer]]:
            yield state

        middleware = [Middleware(AccessEventMiddleware, announcer=_announcer())] if address else []
        app = Starlette(
            routes=[Route("/hello/{name}", _page)], middleware=middleware, lifespan=lifespan
        )
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", access_log=False))
        thread = Thread(target=server.run, kwargs={"sockets": [listener]})
        port = listener.getsockname()[1]
        thread.start()
        there.send("ready")
        while there.recv() != "end":
            there.send((port, process_time()))
        server.should_exit = True
        thread.join()


async def _page(request: Request) -> HTMLResponse:
    """300 rows: cheap as pages go."""
    rows = "".join(f"<tr><td>{number}</td><td>a row</td></tr>" for number in range(300))
    return HTMLResponse(f"<table>{rows}</table>")


def _announcer() -> Announcer:
    return Announcer(Identity(random_demo_name, LOGGER), Redaction(["page"]), LOGGER)


@contextmanager
def _producer(address: str) -> Iterator[EventProducer]:
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            kafka_bootstrap_servers=address,
            emitter_spool=Path(folder) / str(uuid4()),
            emitter_spool_bytes=1 << 30,
        )
        producer = EventProducer(settings.access_log, LOGGER)
        producer.start()
        yield producer
        producer.close(1)


@contextmanager
def _silent_server() -> Iterator[str]:
    """What a frozen broker looks like: the kernel accepts, nobody answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def _elsewhere(serve: Callable[..., None], *arguments: object) -> Iterator[Connection]:
    """A process of its own, that has said that it is ready."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=serve, args=(there, *arguments))
    process.start()
    here.recv()
    yield here
    here.send("end")
    process.join(30)


@contextmanager
def _broker(answer_milliseconds: int = 0) -> Iterator[str]:
    with _elsewhere(_serve_events, answer_milliseconds) as server:
        server.send("address")
        yield server.recv()


def _serve_events(there: Connection, answer_milliseconds: int) -> None:
    broker = MockBroker(answer_milliseconds)
    there.send("ready")
    while there.recv() != "end":
        there.send(broker.address)
    broker.close()


if __name__ == "__main__":
    main()
