"""The application, assembled.

Belongs here: `create_app` and its lifespan, and `app` for a server (`__main__.py`). Does not
belong here: decisions. Importing this module reads no setting and opens no connection: `app` is
created when it is first accessed, so invalid settings stop the server at once.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import cache, partial
from typing import NamedTuple, TypedDict, TypeVar

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from web_emitter.contract import ACCESS_LOG_TOPIC, FULL_TEXT_TOPIC
from web_emitter.emitter.identity import IdentifyHook, Identity, load_hook
from web_emitter.emitter.metrics import registry_of
from web_emitter.emitter.middleware import AccessEventMiddleware, AccessPublisher
from web_emitter.emitter.producer import EventProducer, Sink
from web_emitter.emitter.redaction import Redaction
from web_emitter.site import pages
from web_emitter.site.analysis import pages as analysis_pages
from web_emitter.site.analysis.export import FORMATS, export
from web_emitter.site.analysis.insights import ElasticsearchInsights, Insights
from web_emitter.site.analysis.live import LiveViewers
from web_emitter.site.analysis.logs import ElasticsearchLogs, LogSearch
from web_emitter.site.analysis.overview import overview
from web_emitter.site.cache import TTLCache
from web_emitter.site.notes import pages as note_pages
from web_emitter.site.notes.search import ElasticsearchNotes, NoteSearch
from web_emitter.site.rendering import STATIC_FOLDER
from web_emitter.site.search import connection
from web_emitter.site.security import SecurityHeadersMiddleware
from web_emitter.site.settings import SiteSettings
from web_emitter.site.status.freshness import (
    ElasticsearchFreshness,
    Freshness,
    FreshnessSearch,
    KafkaTopics,
)
from web_emitter.site.status.health import Readiness, livez, readyz
from web_emitter.site.status.metrics import indexer_metrics, metrics

T = TypeVar("T")

# The cached values are the same for every visitor.
CACHE_SECONDS = 2.0

logger = logging.getLogger("web_emitter")


class Sinks(NamedTuple):
    """Where events are published, by kind."""

    accesses: Sink
    notes: Sink


class Searches(NamedTuple):
    """The sources of the pages."""

    logs: LogSearch
    notes: NoteSearch
    insights: Insights
    freshness: FreshnessSearch


class State(TypedDict):
    """The state of each worker, from its lifespan; `request.state` in a request."""

    sink: Sink
    note_sink: Sink
    logs: LogSearch
    notes: NoteSearch
    overview: Callable[[], Awaitable[str]]
    freshness: Callable[[], Awaitable[Freshness]]
    live_viewers: LiveViewers
    readiness: Readiness
    publisher: AccessPublisher
    registry: CollectorRegistry


def create_app(
    settings: SiteSettings,
    sinks: Sinks | None = None,
    searches: Searches | None = None,
    identify: IdentifyHook | None = None,
) -> Starlette:
    """The application. Sinks and searches that are passed stay open at the end; others are created
    and closed by the lifespan.

    Raises ValueError when `settings.emitter_identify` names no function.
    """
    identity = Identity(identify or load_hook(settings.emitter_identify), logger)
    redaction = Redaction(settings.emitter_query_allowed.split(","))
    publisher = AccessPublisher(identity, redaction, logger, source=settings.emitter_source)
    reject = settings.emitter_overflow == "reject"

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[State]:
        async with _given(sinks) or _producers(settings) as open_sinks:
            async with _given(searches) or _elasticsearch(settings) as open_searches:
                yield _state(open_sinks, open_searches, publisher)

    app = Starlette(
        routes=_routes(),
        middleware=[
            Middleware(SecurityHeadersMiddleware),
            Middleware(AccessEventMiddleware, publisher=publisher, reject=reject),
        ],
        exception_handlers={404: pages.not_found, Exception: pages.server_error},
        lifespan=lifespan,
    )
    # A redirect that adds or removes a trailing slash would be built from the Host header.
    app.router.redirect_slashes = False
    app.state.settings = settings
    return app


def _routes() -> list[BaseRoute]:
    return [
        Route("/", pages.home),
        Route("/analysis", analysis_pages.analysis),
        *(Route(f"/analysis.{kind}", export) for kind in FORMATS),
        Route("/analysis/live", analysis_pages.live),
        Route("/analysis/{uuid}", analysis_pages.document),
        Route("/fulltext", note_pages.notes),
        Route("/fulltext/form", note_pages.note_form),
        Route("/fulltext/register", note_pages.register_note, methods=["POST"]),
        Route("/fulltext/registered", note_pages.note_registered),
        Route("/livez", livez),
        Route("/readyz", readyz),
        Route("/metrics", metrics),
        Route("/metrics/indexer", indexer_metrics),
        # static/flow.svg is a symbolic link to the picture in docs/, which the README shows too.
        Mount("/static", StaticFiles(directory=STATIC_FOLDER, follow_symlink=True)),
    ]


def _state(sinks: Sinks, searches: Searches, publisher: AccessPublisher) -> State:
    topics = {ACCESS_LOG_TOPIC: sinks.accesses, FULL_TEXT_TOPIC: sinks.notes}
    return {
        "sink": sinks.accesses,
        "note_sink": sinks.notes,
        "logs": searches.logs,
        "notes": searches.notes,
        "overview": TTLCache(partial(overview, searches.insights, searches.logs), CACHE_SECONDS),
        "freshness": TTLCache(searches.freshness.now, CACHE_SECONDS),
        "live_viewers": LiveViewers(),
        "readiness": Readiness(sinks.accesses, searches.logs),
        "publisher": publisher,
        "registry": registry_of(topics, publisher),
    }


def _given(value: T | None) -> AbstractAsyncContextManager[T] | None:
    return None if value is None else nullcontext(value)


@asynccontextmanager
async def _elasticsearch(settings: SiteSettings) -> AsyncIterator[Searches]:
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
async def _producers(settings: SiteSettings) -> AsyncIterator[Sinks]:
    """One producer for each topic. They are closed concurrently, within one flush timeout."""
    producers: list[EventProducer] = []
    try:
        for binding in (settings.access_log, settings.full_text):
            producers.append(EventProducer(binding, logger))
            producers[-1].start()
        yield Sinks(*producers)
    finally:
        seconds = settings.emitter_flush_seconds
        await asyncio.gather(*(run_in_threadpool(each.close, seconds) for each in producers))


@cache
def _from_environment() -> Starlette:
    logging.basicConfig()
    logger.setLevel(logging.INFO)
    return create_app(SiteSettings())


def __getattr__(name: str) -> Starlette:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _from_environment()
