"""The pages people read, rendered on the server and complete without JavaScript.

Belongs here: requests to templates. Does not belong here: questions to Elasticsearch (`search.py`),
values as text (`rendering.py`), response headers (`security.py`). Links are paths, never made from
a Host header, which anyone can forge.
"""

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import quote

import orjson
from sse_starlette import EventSourceResponse
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.templating import Jinja2Templates

from web_emitter.emitter.events import MAX_TEXT_LENGTH, FullTextEvent
from web_emitter.emitter.rate_limit import RateLimitedLogger
from web_emitter.emitter.settings import Settings
from web_emitter.site.chart import Chart
from web_emitter.site.export import EXPORT_CAP
from web_emitter.site.forms import FormRefused, InvalidNote, submitted_note
from web_emitter.site.insights import Insights, Popular, Ranking
from web_emitter.site.live import PING_SECONDS
from web_emitter.site.log_query import PRESETS_IN_WORDS, BadQuery, LogQuery
from web_emitter.site.logs import Found, LogSearch, Summary, fields_of
from web_emitter.site.notes import NoteQuery
from web_emitter.site.rendering import environment, number, span
from web_emitter.site.search import MAX_WORDS_LENGTH, SearchUnavailable
from web_emitter.site.security import FORM_HEADERS, SECURITY_HEADERS, is_cross_site

T = TypeVar("T")

logger = logging.getLogger(__name__)
_absent_insights = RateLimitedLogger(logger)

templates = Jinja2Templates(env=environment())


def _page(request: Request, template: str, context: dict[str, Any], status: int = 200) -> Response:
    settings: Settings = request.app.state.settings
    links = {"dagster_url": settings.dagster_url}
    return templates.TemplateResponse(request, template, links | context, status_code=status)


async def home(request: Request) -> Response:
    return _page(request, "home.html", {})


async def analysis(request: Request) -> Response:
    """The newest enriched logs of a query, or what to do when there are none."""
    try:
        query = LogQuery.of(request.query_params)
    except BadQuery as error:
        return _message(request, 400, "No such page", str(error))
    now = datetime.now(UTC)
    try:
        found, insights, freshness = await asyncio.gather(
            request.state.logs.newest(query),
            _insights(request, query, now),
            _or_absent(request.state.freshness()),
        )
    except SearchUnavailable as error:
        return _unavailable(request, "analysis_unavailable.html", _narrowing(query), error)
    context = _narrowing(query) | {
        "found": found,
        "insights": insights,
        "freshness": freshness,
        "is_live": bool(request.query_params.get("live"))
        and query.is_first_page
        and not request.state.followers.is_full,
        "export_cap": EXPORT_CAP,
    }
    return _page(request, "analysis.html", context)


def _narrowing(query: LogQuery) -> dict[str, Any]:
    return {
        "query": query,
        "presets": PRESETS_IN_WORDS,
        "max_words_length": MAX_WORDS_LENGTH,
    }


async def _insights(request: Request, query: LogQuery, now: datetime) -> str:
    """What stands above the newest logs: of all of them what the platform computes, of a filter
    what Elasticsearch counts."""
    if not query.is_first_page:
        return ""
    if query.is_filtered:
        return _rendered(query, await _counted(request.state.logs, query, now))
    overview: str = await request.state.overview()
    return overview


async def overview(insights: Insights, logs: LogSearch) -> str:
    """What stands above all logs: what the platform has computed of them, as far as it can be had,
    else what Elasticsearch counts."""
    now, everything = datetime.now(UTC), LogQuery()
    ranking, hours = await asyncio.gather(
        _or_absent(insights.ranking()), _or_absent(insights.hours(now))
    )
    found = {
        "top": ranking and _popular_now(ranking, now),
        "chart": Chart.of_hours(hours, now) if hours else None,
    }
    if not all(found.values()):  # in the first minute nothing is computed yet
        counted = await _counted(logs, everything, now)
        found = {name: part or counted[name] for name, part in found.items()}
    return _rendered(everything, found)


async def _counted(logs: LogSearch, query: LogQuery, now: datetime) -> dict[str, Any]:
    summary = await _or_absent(logs.summary(query, now))
    if not summary or not summary.total:
        return {"top": None, "chart": None}
    return {
        "top": _top_of(summary),
        "chart": Chart.of_counts(summary.counts, summary.start, summary.end, summary.step),
    }


def _rendered(query: LogQuery, parts: Mapping[str, Any]) -> str:
    """HTML, which stays the same for all who ask for it within a second."""
    if not any(parts.values()):
        return ""
    return templates.get_template("insights.html").render(query=query, **parts)


async def _or_absent(insight: Awaitable[T]) -> T | None:
    """Whatever is wrong with a part that is only nice to have, the logs are shown."""
    try:
        return await insight
    except Exception as error:
        _absent_insights.warning("a part of the analysis is left out: %r", error)
        return None


async def live(request: Request) -> Response:
    """The newest logs of a query as server-sent events, each the table as it is now."""
    if request.state.followers.is_full:
        return PlainTextResponse("Too many follow already.\n", 503)
    try:
        query = LogQuery.of(request.query_params)
    except BadQuery as error:
        return PlainTextResponse(f"{error}\n", 400)

    def table(found: Found) -> str:
        return templates.get_template("logs.html").render(query=query, found=found)

    def failure(error: SearchUnavailable) -> str:
        address = request.app.state.settings.elasticsearch_address
        down = templates.get_template("elasticsearch_down.html")
        return down.render(address=address, reason=str(error))

    events = request.state.followers.stream(request.state.logs, query, table, failure)
    return EventSourceResponse(events, ping=PING_SECONDS)


@dataclass(frozen=True, slots=True)
class Top:
    """The most popular names and URIs, with a heading and among what they are."""

    heading: str
    among: str
    names: tuple[Popular, ...]
    uris: tuple[Popular, ...]


def _popular_now(ranking: Ranking, now: datetime) -> Top:
    among = (
        f"{number(ranking.events)} accesses in {span(ranking.window)}, "
        f"counted {span(now - ranking.computed_at)} ago"
    )
    return Top("Popular now", among, ranking.names, ranking.uris)


def _top_of(summary: Summary) -> Top:
    among = f"{number(summary.total)} logs"
    if summary.sampled:
        among += f", estimated from {number(summary.sampled)} of them"
    return Top("Most frequent", among, summary.names, summary.uris)


async def document(request: Request) -> Response:
    """One document: its fields, and where each came from."""
    uuid = request.path_params["uuid"]
    try:
        found = await request.state.logs.one(uuid)
    except SearchUnavailable as error:
        return _unavailable(request, "analysis_unavailable.html", _narrowing(LogQuery()), error)
    if found is None:
        text = "No log has this UUID. A new one takes some seconds to arrive."
        return _message(request, 404, "No such log", text)
    settings: Settings = request.app.state.settings
    run_id = found.source.get("run_id")
    context = {
        "uuid": uuid,
        "document": found,
        "fields": fields_of(found.source),
        "run_url": f"{settings.dagster_url}/runs/{quote(run_id)}" if run_id else None,
        "json": orjson.dumps(found.source, option=orjson.OPT_INDENT_2).decode(),
    }
    return _page(request, "document.html", context)


async def notes(request: Request) -> Response:
    """The newest notes, or those that a search finds, or what to do when there are none."""
    query = NoteQuery(request.query_params.get("q", ""))
    context = {
        "query": query,
        "max_search_length": MAX_WORDS_LENGTH,
        "max_shown": MAX_TEXT_LENGTH,  # other producers may write a megabyte
    }
    try:
        found = await request.state.notes.find(query)
    except SearchUnavailable as error:
        return _unavailable(request, "notes_unavailable.html", context, error)
    return _page(request, "notes.html", context | {"found": found})


async def note_form(request: Request) -> Response:
    return _note_form(request)


async def register_note(request: Request) -> Response:
    """Sends a note on its way, and the browser to a page that may be loaded again."""
    if is_cross_site(request.headers):
        text = "A note is only taken from the form of this site."
        return _message(request, 403, "That came from another site", text)
    try:
        text = await submitted_note(request)
    except FormRefused as refused:
        return _message(request, refused.status, refused.heading, str(refused))
    except InvalidNote as invalid:
        return _note_form(request, 422, text=invalid.text, error=str(invalid))
    source = request.app.state.settings.emitter_source
    if not request.state.note_sink.send(FullTextEvent(text=text, source=source)):
        return _note_form(request, 503, text=text, is_refused=True)
    return RedirectResponse("/fulltext/registered", 303)


async def note_registered(request: Request) -> Response:
    return _page(request, "note_registered.html", {})


def _note_form(
    request: Request,
    status: int = 200,
    *,
    text: str = "",
    error: str | None = None,
    is_refused: bool = False,
) -> Response:
    context = {"text": text, "error": error, "is_refused": is_refused}
    response = _page(request, "note_form.html", {"max_length": MAX_TEXT_LENGTH} | context, status)
    response.headers.update(FORM_HEADERS)
    return response


def _unavailable(
    request: Request, template: str, context: dict[str, Any], error: SearchUnavailable
) -> Response:
    logger.warning("elasticsearch is unavailable: %s", error)
    address = request.app.state.settings.elasticsearch_address
    return _page(request, template, context | {"address": address, "reason": str(error)}, 503)


def _message(request: Request, status: int, heading: str, text: str) -> Response:
    return _page(request, "message.html", {"heading": heading, "text": text}, status)


async def not_found(request: Request, error: Exception) -> Response:
    return _message(request, 404, "Page not found", "This access was announced all the same.")


async def server_error(request: Request, error: Exception) -> Response:
    """Starlette answers this one outside all middleware, so the headers are set here."""
    text = "The error is in the emitter's log."
    response = _message(request, 500, "Something went wrong", text)
    response.headers.update(SECURITY_HEADERS)
    return response
