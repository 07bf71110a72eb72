"""The responses that all pages share: a template, a message, Elasticsearch being unavailable.

Belongs here: turning a context into an HTML response. Does not belong here: what a page shows (the
`pages.py` of each topic), formatting values (`rendering.py`), response headers (`security.py`).
Links are paths, never built from the Host header, which a client can forge.
"""

import logging
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.templating import Jinja2Templates

from web_emitter.site.rendering import environment
from web_emitter.site.search import SearchUnavailable
from web_emitter.site.settings import SiteSettings

logger = logging.getLogger(__name__)

templates = Jinja2Templates(env=environment())


def settings_of(request: Request) -> SiteSettings:
    """The settings of the application that serves the request."""
    settings: SiteSettings = request.app.state.settings
    return settings


def page(request: Request, template: str, context: dict[str, Any], status: int = 200) -> Response:
    """The template as an HTML response."""
    links = {"dagster_url": settings_of(request).dagster_url}
    return templates.TemplateResponse(request, template, links | context, status_code=status)


def message(request: Request, status: int, heading: str, text: str) -> Response:
    """A page with a heading and one paragraph."""
    return page(request, "message.html", {"heading": heading, "text": text}, status)


def unavailable(
    request: Request, template: str, context: dict[str, Any], error: SearchUnavailable
) -> Response:
    """The 503 page of a topic while Elasticsearch is unavailable; logs the reason."""
    address = log_unavailable(request, error)
    return page(request, template, context | {"address": address, "reason": str(error)}, 503)


def log_unavailable(request: Request, error: SearchUnavailable) -> str:
    """Log the reason; returns the address of Elasticsearch for the response."""
    logger.warning("Elasticsearch is unavailable: %s", error)
    return settings_of(request).elasticsearch_address
