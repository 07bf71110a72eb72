"""What the emitter costs a request.

Belongs here: the time that `announce` adds while the broker is up, slow, down or silent, and
requests per CPU-second with and without the middleware. Does not belong here: what must hold on any
machine, which tests assert, and how a figure is shown (`report.py`). Needs no stack: the broker is
librdkafka's own, in a process of its own, so that its work is not ours. Variants take turns, so
that a busy machine is equally busy for all.
"""

import logging
import multiprocessing
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from http.client import HTTPConnection
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from time import perf_counter_ns, process_time, sleep
from uuid import uuid4

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from kp_platform_tests.unit.web_emitter.server import NO_BROKER, MockBroker
from web_emitter.emitter.identity import Identity, random_demo_name
from web_emitter.emitter.middleware import AccessEventMiddleware, AccessPublisher
from web_emitter.emitter.producer import EventProducer
from web_emitter.emitter.redaction import Redaction
from web_emitter.site.settings import SiteSettings

REQUESTS = 2_000
REQUESTS_PER_SECOND = 500
SLOW_MILLISECONDS = 1_000
WITHOUT = "without"
DEAD = ("down", "silent")
LOGGER = logging.getLogger("benchmark")
LOGGER.setLevel(logging.CRITICAL)


@contextmanager
def brokers() -> Iterator[Mapping[str, str]]:
    """The address of a broker in each state."""
    with _broker() as up, _broker(SLOW_MILLISECONDS) as slow, _silent_server() as silent:
        yield {"up": up, "slow": slow, "down": NO_BROKER, "silent": silent}


def added_milliseconds(brokers: Mapping[str, str], rounds: int) -> dict[str, list[float]]:
    """Of each request, by the broker's state. Paced, so that the threads behind it have the share
    of the CPU that they have in service."""
    publisher = _publisher()
    added: dict[str, list[float]] = {name: [] for name in brokers}
    with ExitStack() as stack:
        states = {
            name: {"sink": stack.enter_context(_producer(address))}
            for name, address in brokers.items()
        }
        for _ in range(rounds):
            for name, state in states.items():
                for _ in range(REQUESTS):
                    sleep(1 / REQUESTS_PER_SECOND)
                    started = perf_counter_ns()
                    publisher.publish("/hello/world?page=2&q=shoes", {"state": state})
                    added[name].append((perf_counter_ns() - started) / 1e6)
    return added


def requests_per_cpu_second(brokers: Mapping[str, str], rounds: int) -> dict[str, list[float]]:
    """Of real servers, by the broker's state; the one `WITHOUT` announces nothing."""
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(_elsewhere(_serve_pages, address))
            for name, address in {WITHOUT: "", **brokers}.items()
        }
        found: dict[str, list[float]] = {name: [] for name in servers}
        for _ in range(rounds):
            for name, server in servers.items():
                found[name].append(_requests_per_cpu_second(server))
    return found


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
    with ExitStack() as stack:
        state = {"sink": stack.enter_context(_producer(address))} if address else {}

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[dict[str, EventProducer]]:
            yield state

        middleware = [Middleware(AccessEventMiddleware, publisher=_publisher())] if address else []
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


def _publisher() -> AccessPublisher:
    return AccessPublisher(Identity(random_demo_name, LOGGER), Redaction(["page"]), LOGGER)


@contextmanager
def _producer(address: str) -> Iterator[EventProducer]:
    with tempfile.TemporaryDirectory() as folder:
        settings = SiteSettings(
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
