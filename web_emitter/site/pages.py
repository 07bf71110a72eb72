"""The home page and the error pages.

Belongs here: pages that belong to no topic. Does not belong here: those of a topic (`analysis/`,
`notes/`, `status/`).
"""

from starlette.requests import Request
from starlette.responses import Response

from web_emitter.site.responses import message, page
from web_emitter.site.security import SECURITY_HEADERS


async def home(request: Request) -> Response:
    return page(request, "home.html", {})


async def not_found(request: Request, error: Exception) -> Response:
    return message(request, 404, "Page not found", "This access was published like any other.")


async def server_error(request: Request, error: Exception) -> Response:
    """Starlette sends this response outside all middleware, so the headers are set here."""
    text = "The error is in the emitter's log."
    response = message(request, 500, "Internal server error", text)
    response.headers.update(SECURITY_HEADERS)
    return response
