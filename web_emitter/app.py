"""The application, assembled.

Belongs here: `create_app` and its lifespan, and `app` for `uvicorn web_emitter.app:app`. Does not
belong here: anything that decides something. Importing this module reads no setting and opens
nothing: `app` is made when it is first asked for, so wrong settings end the server at once.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import cache
from typing import TypedDict, TypeVar

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from web_emitter import health, pages
from web_emitter.health import Readiness
from web_emitter.identity import IdentifyHook, Identity, load_hook
from web_emitter.middleware import AccessEventMiddleware, Announcer
from web_emitter.producer import EventProducer, Sink
from web_emitter.search import LogSearch, elasticsearch_logs
from web_emitter.security import SecurityHeadersMiddleware
from web_emitter.settings import Settings

T = TypeVar("T")

logger = logging.getLogger("web_emitter")


class State(TypedDict):
    """What each worker has of its own, from its lifespan; in a request, `request.state`."""

    sink: Sink
    search: LogSearch
    readiness: Readiness
    announcer: Announcer


def create_app(
    settings: Settings,
    sink: Sink | None = None,
    search: LogSearch | None = None,
    identify: IdentifyHook | None = None,
) -> Starlette:
    """The emitter. What is given is used and left open; what is not is made in the lifespan.

    Raises ValueError when `settings.emitter_identify` names no function.
    """
    identity = Identity(identify or load_hook(settings.emitter_identify), logger)
    announcer = Announcer(identity, logger, source=settings.emitter_source)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[State]:
        async with _given(sink) or _producer(settings) as the_sink:
            async with _given(search) or _elasticsearch(settings) as the_search:
                yield {
                    "sink": the_sink,
                    "search": the_search,
                    "readiness": Readiness(the_sink, the_search),
                    "announcer": announcer,
                }

    app = Starlette(
        routes=[
            Route("/", pages.home),
            Route("/analysis", pages.analysis),
            Route("/livez", health.livez),
            Route("/readyz", health.readyz),
            Mount("/static", StaticFiles(directory=pages.STATIC_FOLDER)),
        ],
        middleware=[
            Middleware(SecurityHeadersMiddleware),
            Middleware(AccessEventMiddleware, announcer=announcer),
        ],
        exception_handlers={404: pages.not_found, Exception: pages.server_error},
        lifespan=lifespan,
    )
    # A redirect to the path with or without a slash would be made from the Host header.
    app.router.redirect_slashes = False
    app.state.settings = settings
    return app


def _given(value: T | None) -> AbstractAsyncContextManager[T] | None:
    return None if value is None else nullcontext(value)


def _elasticsearch(settings: Settings) -> AbstractAsyncContextManager[LogSearch]:
    return elasticsearch_logs(settings.elasticsearch_url, settings.emitter_search_timeout_seconds)


@asynccontextmanager
async def _producer(settings: Settings) -> AsyncIterator[Sink]:
    producer = EventProducer(settings.access_log, logger)
    try:
        yield producer
    finally:
        await run_in_threadpool(producer.close, settings.emitter_flush_seconds)


@cache
def _from_environment() -> Starlette:
    logging.basicConfig()
    logger.setLevel(logging.INFO)
    return create_app(Settings())


def __getattr__(name: str) -> Starlette:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _from_environment()
