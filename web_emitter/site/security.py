"""Protection against cross-site scripting and cross-site request forgery.

Belongs here: the security headers of every response, and detection of cross-site requests. Does not
belong here: escaping, which the templates do (`rendering.py`).
"""

from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# data: is allowed for images only, which are the form icons in Pico's stylesheet.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "object-src 'none'",
    )
)
SECURITY_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
# Static files have an ETag: they are cached and revalidated each time.
STATIC_CACHE_CONTROL = "no-cache"

# For a page with a form. With no-referrer a browser posts `Origin: null`. Without TLS it sends no
# Sec-Fetch-Site either, so that the site's own form would look like a cross-site request.
FORM_HEADERS: Mapping[str, str] = {"Referrer-Policy": "same-origin"}


def is_cross_site(headers: Headers) -> bool:
    """Whether a page of another site sent this request, which must not be a GET or HEAD.

    The rules of Go's http.CrossOriginProtection: Sec-Fetch-Site decides, which all browsers send to
    a trustworthy origin since 2023; otherwise Origin must equal the Host; a request with neither
    header does not come from a browser. https://github.com/golang/go/blob/go1.25.0/src/net/http/csrf.go#L120-L165
    """
    if site := headers.get("sec-fetch-site"):
        return site not in {"same-origin", "none"}
    origin = headers.get("origin")
    if not origin:
        return False
    try:
        host = urlsplit(origin).netloc
    except ValueError:
        return True
    return not host or host != headers.get("host")


class SecurityHeadersMiddleware:
    """Adds those SECURITY_HEADERS that the application did not set."""

    def __init__(self, app: ASGIApp, *, static_prefix: str = "/static/") -> None:
        self.app = app
        self._static_prefix = static_prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if scope["path"].startswith(self._static_prefix):
                    headers.setdefault("Cache-Control", STATIC_CACHE_CONTROL)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers)
