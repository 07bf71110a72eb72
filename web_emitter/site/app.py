"""The application, assembled.

Belongs here: `create_app` and its lifespan, and `app` for a server (`__main__.py`). Does not
belong here: anything that decides something. Importing this module reads no setting and opens
nothing: `app` is made when it is first asked for, so wrong settings end the server at once.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import cache, partial
from typing import Any, NamedTuple, TypedDict, TypeVar

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from web_emitter.emitter.identity import IdentifyHook, Identity, load_hook
from web_emitter.emitter.middleware import AccessEventMiddleware, AccessPublisher
from web_emitter.emitter.producer import EventProducer, Sink
from web_emitter.emitter.redaction import Redaction
from web_emitter.emitter.settings import ACCESS_LOG_TOPIC, FULL_TEXT_TOPIC, Settings
from web_emitter.site import health, pages
from web_emitter.site.cache import TTLCache
from web_emitter.site.export import FORMATS, export
from web_emitter.site.freshness import (
    ElasticsearchFreshness,
    Freshness,
    FreshnessSearch,
    KafkaTopics,
)
from web_emitter.site.health import Readiness
from web_emitter.site.insights import ElasticsearchInsights, Insights
from web_emitter.site.live import LiveViewers
from web_emitter.site.logs import ElasticsearchLogs, LogSearch
from web_emitter.site.metrics import indexer_metrics, metrics, registry_of
from web_emitter.site.notes import ElasticsearchNotes, NoteSearch
from web_emitter.site.rendering import STATIC_FOLDER
from web_emitter.site.search import connection
from web_emitter.site.security import SecurityHeadersMiddleware

T = TypeVar("T")

# The same for every reader.
KEPT_SECONDS = 2.0

logger = logging.getLogger("web_emitter")


class Sinks(NamedTuple):
    """Where events go, by topic."""

    accesses: Sink
    notes: Sink


class Searches(NamedTuple):
    """What the pages read."""

    logs: LogSearch
    notes: NoteSearch
    insights: Insights
    freshness: FreshnessSearch


class State(TypedDict):
    """What each worker has of its own, from its lifespan; in a request, `request.state`."""

    sink: Sink
    note_sink: Sink
    logs: LogSearch
    notes: NoteSearch
    overview: Callable[[], Awaitable[Any]]
    freshness: Callable[[], Awaitable[Freshness]]
    followers: LiveViewers
    readiness: Readiness
    announcer: AccessPublisher
    registry: CollectorRegistry


def create_app(
    settings: Settings,
    sinks: Sinks | None = None,
    searches: Searches | None = None,
    identify: IdentifyHook | None = None,
) -> Starlette:
    """The emitter. What is given is used and left open; what is not is made in the lifespan.

    Raises ValueError when `settings.emitter_identify` names no function.
    """
    identity = Identity(identify or load_hook(settings.emitter_identify), logger)
    redaction = Redaction(settings.emitter_query_allowed.split(","))
    announcer = AccessPublisher(identity, redaction, logger, source=settings.emitter_source)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[State]:
        async with _given(sinks) or _producers(settings) as to:
            topics = {ACCESS_LOG_TOPIC: to.accesses, FULL_TEXT_TOPIC: to.notes}
            async with _given(searches) or _elasticsearch(settings) as read:
                yield {
                    "sink": to.accesses,
                    "note_sink": to.notes,
                    "logs": read.logs,
                    "notes": read.notes,
                    "overview": TTLCache(
                        partial(pages.overview, read.insights, read.logs), KEPT_SECONDS
                    ),
                    "freshness": TTLCache(read.freshness.now, KEPT_SECONDS),
                    "followers": LiveViewers(),
                    "readiness": Readiness(to.accesses, read.logs),
                    "announcer": announcer,
                    "registry": registry_of(topics, announcer),
                }

    app = Starlette(
        routes=[
            Route("/", pages.home),
            Route("/analysis", pages.analysis),
            *(Route(f"/analysis.{kind}", export) for kind in FORMATS),
            Route("/analysis/live", pages.live),
            Route("/analysis/{uuid}", pages.document),
            Route("/fulltext", pages.notes),
            Route("/fulltext/form", pages.note_form),
            Route("/fulltext/register", pages.register_note, methods=["POST"]),
            Route("/fulltext/registered", pages.note_registered),
            Route("/livez", health.livez),
            Route("/readyz", health.readyz),
            Route("/metrics", metrics),
            Route("/metrics/indexer", indexer_metrics),
            # static/flow.svg is a link: the picture is one file, which the README shows too.
            Mount("/static", StaticFiles(directory=STATIC_FOLDER, follow_symlink=True)),
        ],
        middleware=[
            Middleware(SecurityHeadersMiddleware),
            Middleware(
                AccessEventMiddleware,
                announcer=announcer,
                reject=settings.emitter_overflow == "reject",
            ),
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


@asynccontextmanager
async def _elasticsearch(settings: Settings) -> AsyncIterator[Searches]:
    topics = KafkaTopics(settings.kafka_bootstrap_servers, settings.kafka_security)
    async with connection(
        settings.elasticsearch_url,
        settings.emitter_search_timeout_seconds,
        settings.ca_file,
        settings.elasticsearch_api_key.get_secret_value(),
    ) as client:
        yield Searches(
            ElasticsearchLogs(client),
            ElasticsearchNotes(client),
            ElasticsearchInsights(client),
            ElasticsearchFreshness(client, topics),
        )


@asynccontextmanager
async def _producers(settings: Settings) -> AsyncIterator[Sinks]:
    """One producer for each topic; they end side by side, within the one grace."""
    made: list[EventProducer] = []
    try:
        for binding in (settings.access_log, settings.full_text):
            made.append(EventProducer(binding, logger))
            made[-1].start()
        yield Sinks(*made)
    finally:
        seconds = settings.emitter_flush_seconds
        await asyncio.gather(*(run_in_threadpool(each.close, seconds) for each in made))


@cache
def _from_environment() -> Starlette:
    logging.basicConfig()
    logger.setLevel(logging.INFO)
    return create_app(Settings())


def __getattr__(name: str) -> Starlette:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _from_environment()
