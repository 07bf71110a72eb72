"""B6: the cost of the emitter per request.

Belongs here: the latency that `AccessPublisher.publish` adds while the broker is up, slow, down or
unresponsive, requests per CPU-second with and without the middleware, and the figures. Does not
belong here: bounds that hold on any machine, which tests assert, and how a figure is shown
(`report.py`). It needs no stack: librdkafka's mock broker runs in a separate process, so that its
CPU time is not counted. Variants run in turns, so that other load affects all of them equally.
"""

import logging
import multiprocessing
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
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

from kp_platform_tests.benchmarks.measure import Spread, percentile
from kp_platform_tests.benchmarks.report import Figure, Result, Table
from kp_platform_tests.benchmarks.session import Session
from kp_platform_tests.unit.web_emitter.server import NO_BROKER, MockBroker
from web_emitter.emitter.identity import Identity, random_demo_name
from web_emitter.emitter.middleware import AccessEventMiddleware, AccessPublisher
from web_emitter.emitter.producer import EventProducer
from web_emitter.emitter.redaction import Redaction
from web_emitter.site.settings import SiteSettings

REQUESTS = 2_000
REQUESTS_PER_SECOND = 500
SLOW_MILLISECONDS = 1_000
UP, SLOW, DOWN, UNRESPONSIVE = "up", "slow", "down", "unresponsive"
NO_MIDDLEWARE = "no middleware"
LOGGER = logging.getLogger("benchmark")
LOGGER.setLevel(logging.CRITICAL)


@contextmanager
def brokers() -> Iterator[Mapping[str, str]]:
    """The address of a broker in each state."""
    with _broker() as up, _broker(SLOW_MILLISECONDS) as slow, _unresponsive_server() as frozen:
        yield {UP: up, SLOW: slow, DOWN: NO_BROKER, UNRESPONSIVE: frozen}


def added_milliseconds(brokers: Mapping[str, str], rounds: int) -> dict[str, list[float]]:
    """Added latency of each request, by the broker's state. Requests are paced, so that background
    threads get the share of the CPU that they get in production."""
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
    """Of HTTP servers, by the broker's state; the one with `NO_MIDDLEWARE` publishes no events."""
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(_process(_serve_pages, address))
            for name, address in {NO_MIDDLEWARE: "", **brokers}.items()
        }
        rates: dict[str, list[float]] = {name: [] for name in servers}
        for _ in range(rounds):
            for name, server in servers.items():
                rates[name].append(_requests_per_cpu_second(server))
    return rates


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


def _serve_pages(parent: Connection, address: str) -> None:
    """Serve pages; answer each request on the connection with the port and the CPU-seconds."""
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
        parent.send("ready")
        while parent.recv() != "end":
            parent.send((port, process_time()))
        server.should_exit = True
        thread.join()


async def _page(request: Request) -> HTMLResponse:
    """300 rows: a page that takes little CPU."""
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
def _unresponsive_server() -> Iterator[str]:
    """As a frozen broker: the kernel accepts connections, and no request is answered."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def _process(serve: Callable[..., None], *arguments: object) -> Iterator[Connection]:
    """A connection to a process that runs `serve` and has reported that it is ready."""
    spawn = multiprocessing.get_context("spawn")
    child, parent = spawn.Pipe()
    process = spawn.Process(target=serve, args=(parent, *arguments))
    process.start()
    child.recv()
    yield child
    child.send("end")
    process.join(30)


@contextmanager
def _broker(answer_milliseconds: int = 0) -> Iterator[str]:
    with _process(_serve_events, answer_milliseconds) as server:
        server.send("address")
        yield server.recv()


def _serve_events(parent: Connection, answer_milliseconds: int) -> None:
    broker = MockBroker(answer_milliseconds)
    parent.send("ready")
    while parent.recv() != "end":
        parent.send(broker.address)
    broker.close()


def results(session: Session) -> Iterator[Result]:
    with brokers() as addresses:
        session.log("timing the publication of events")
        added = added_milliseconds(addresses, session.rounds)
        session.log("counting requests per CPU-second")
        served = requests_per_cpu_second(addresses, session.rounds)
    yield Result(
        "B6",
        "cost of the emitter",
        f"Added latency: {session.rounds * REQUESTS:,} requests at {REQUESTS_PER_SECOND} per "
        f"second for each state of the broker. Slow: it answers after {SLOW_MILLISECONDS} ms. "
        "Unresponsive: it accepts connections and sends nothing.",
        _figures(added, served),
        Table(
            ("broker", "requests per CPU-second",
             *(f"added {share} (ms)" for share in ("p50", "p99", "p99.9"))),
            [
                [name, f"{Spread.of(turns):,.0f}"]
                + [
                    f"{percentile(added[name], share):.3f}" if name in added else ""
                    for share in (0.5, 0.99, 0.999)
                ]
                for name, turns in served.items()
            ],
        ),
    )  # fmt: skip


def _figures(
    added: Mapping[str, Sequence[float]], served: Mapping[str, Sequence[float]]
) -> list[Figure]:
    ratios = {
        name: Spread.of([a / b for a, b in zip(turns, served[NO_MIDDLEWARE], strict=True)])
        for name, turns in served.items()
    }
    up = ratios[UP].median
    away = min(ratios[name].median for name in (DOWN, UNRESPONSIVE))
    p99 = max(percentile(each, 0.99) for each in added.values())
    p999 = max(percentile(each, 0.999) for each in added.values())
    return [
        Figure("throughput relative to no middleware", ">= 0.75", f"{ratios[UP]:.2f}", up >= 0.75),
        Figure(
            "throughput relative to no middleware, broker down or unresponsive",
            "as with the broker up",
            f"{away:.2f}",
            away >= up - 0.05,
        ),
        Figure("added latency p99, any broker state", "<= 0.5 ms", f"{p99:.2f} ms", p99 <= 0.5),
        Figure("added latency p99.9, any broker state", "<= 1 ms", f"{p999:.2f} ms", p999 <= 1),
    ]
