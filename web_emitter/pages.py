"""The pages people read, rendered on the server and complete without JavaScript.

Belongs here: requests to templates. Does not belong here: questions to Elasticsearch (`search.py`),
values as text (`rendering.py`), response headers (`security.py`). Links are paths, never made from
a Host header, which anyone can forge.
"""

import asyncio
import logging
from collections.abc import Awaitable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.templating import Jinja2Templates

from web_emitter.chart import Chart
from web_emitter.events import MAX_TEXT_LENGTH, FullTextEvent
from web_emitter.forms import FormRefused, InvalidNote, submitted_note
from web_emitter.logs import LogQuery
from web_emitter.notes import MAX_SEARCH_LENGTH, NoteQuery
from web_emitter.rendering import environment
from web_emitter.search import Cursor, SearchUnavailable
from web_emitter.security import FORM_HEADERS, SECURITY_HEADERS, is_cross_site
from web_emitter.settings import Settings
from web_emitter.throttle import Throttle

T = TypeVar("T")

logger = logging.getLogger(__name__)
_absent_insights = Throttle(logger)

templates = Jinja2Templates(env=environment())


def _page(request: Request, template: str, context: dict[str, Any], status: int = 200) -> Response:
    settings: Settings = request.app.state.settings
    links = {"dagster_url": settings.dagster_url}
    return templates.TemplateResponse(request, template, links | context, status_code=status)


async def home(request: Request) -> Response:
    return _page(request, "home.html", {})


async def analysis(request: Request) -> Response:
    """The newest enriched logs of a query, or what to do when there are none."""
    asked = request.query_params
    query = LogQuery(name=asked.get("name", ""), uri=asked.get("uri", ""))
    if token := asked.get("after"):
        try:
            query = replace(query, after=Cursor.from_token(token))
        except ValueError:
            return _message(request, 400, "No such page", "The link to it was cut or changed.")
    try:
        found, insights = await asyncio.gather(
            request.state.logs.newest(query), _insights(request, query)
        )
    except SearchUnavailable as error:
        return _unavailable(request, "analysis_unavailable.html", {"query": query}, error)
    return _page(request, "analysis.html", {"query": query, "found": found} | insights)


async def _insights(request: Request, query: LogQuery) -> dict[str, Any]:
    """What stands above all logs; above those of a filter it would say something else than they."""
    now = datetime.now(UTC)
    if not query.is_overview:
        return {"ranking": None, "chart": None, "now": now}
    ranking, hours = await asyncio.gather(
        _or_absent(request.state.insights.ranking()), _or_absent(request.state.insights.hours(now))
    )
    return {"ranking": ranking, "chart": Chart.of(hours, now) if hours else None, "now": now}


async def _or_absent(insight: Awaitable[T]) -> T | None:
    """Whatever is wrong with a part that is only nice to have, the logs are shown."""
    try:
        return await insight
    except Exception as error:
        _absent_insights.warning("a part of the analysis is left out: %r", error)
        return None


async def notes(request: Request) -> Response:
    """The newest notes, or those that a search finds, or what to do when there are none."""
    query = NoteQuery(request.query_params.get("q", ""))
    context = {
        "query": query,
        "max_search_length": MAX_SEARCH_LENGTH,
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
