"""The pages people read, rendered on the server and complete without JavaScript.

Belongs here: requests to templates. Does not belong here: queries (`search.py`), response headers
(`security.py`). Links are paths, never made from a Host header, which anyone can forge.
"""

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import Response
from starlette.templating import Jinja2Templates

from web_emitter.search import LogQuery, SearchUnavailable
from web_emitter.security import SECURITY_HEADERS
from web_emitter.settings import Settings

_FOLDER = Path(__file__).parent
STATIC_FOLDER = _FOLDER / "static"

logger = logging.getLogger(__name__)


def utc_time(text: str) -> str:
    """An ISO 8601 time as a person reads it, in UTC, to the millisecond; other text as it is."""
    try:
        moment = datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        return text
    return f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1_000:03d}"


def is_web_address(text: str | None) -> bool:
    """Whether a stored value may become a link: `javascript:` and its like may not."""
    return text is not None and text.startswith(("https://", "http://"))


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["utc_time"] = utc_time
    environment.tests["web_address"] = is_web_address
    return environment


templates = Jinja2Templates(env=_environment())


def _page(request: Request, template: str, context: dict[str, Any], status: int = 200) -> Response:
    settings: Settings = request.app.state.settings
    links = {"dagster_url": settings.dagster_url}
    return templates.TemplateResponse(request, template, links | context, status_code=status)


async def home(request: Request) -> Response:
    return _page(request, "home.html", {})


async def analysis(request: Request) -> Response:
    """The newest enriched logs of a query, or what to do when there are none."""
    query = LogQuery(
        name=request.query_params.get("name", ""), uri=request.query_params.get("uri", "")
    )
    try:
        found = await request.state.search.newest(query)
    except SearchUnavailable as error:
        logger.warning("elasticsearch is unavailable: %s", error)
        return _unavailable(request, query, str(error))
    return _page(request, "analysis.html", {"query": query, "found": found})


def _unavailable(request: Request, query: LogQuery, reason: str) -> Response:
    context = {
        "query": query,
        "address": request.app.state.settings.elasticsearch_address,
        "reason": reason,
    }
    return _page(request, "unavailable.html", context, 503)


async def not_found(request: Request, error: Exception) -> Response:
    context = {"heading": "Page not found", "text": "This access was announced all the same."}
    return _page(request, "message.html", context, 404)


async def server_error(request: Request, error: Exception) -> Response:
    """Starlette answers this one outside all middleware, so the headers are set here."""
    context = {"heading": "Something went wrong", "text": "The error is in the emitter's log."}
    response = _page(request, "message.html", context, 500)
    response.headers.update(SECURITY_HEADERS)
    return response
