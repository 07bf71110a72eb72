"""The global middleware: one event per access, then the request goes on.

Belongs here: which requests count as an access, and reading their URI and visitor. Does not belong
here: the event's shape (`events.py`), names (`identity.py`), what is left out of a URI
(`redaction.py`), sending (`producer.py`).

Pure ASGI, for Starlette's BaseHTTPMiddleware costs 85 % of the throughput and buffers streams.
The event goes to `scope["state"]["sink"]`, which a lifespan puts there, one for each worker.
"""

import logging
from functools import partial
from urllib.parse import quote

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from web_emitter.emitter.events import AccessEvent, now_ms, uri_as_received
from web_emitter.emitter.identity import Identity
from web_emitter.emitter.rate_limit import RateLimitedLogger
from web_emitter.emitter.redaction import Redaction

# Asked for by machines every few seconds, or parts of a page and not a page.
EXCLUDED_PATHS = frozenset(
    {"/livez", "/readyz", "/metrics", "/metrics/indexer", "/favicon.ico", "/analysis/live"}
)
EXCLUDED_PREFIXES = ("/static/",)
RETRY_AFTER_SECONDS = "5"


class AccessPublisher:
    """Names the visitor of an access, and leaves its event to a sink.

    `sink_failures` counts the events that the sink refused by raising: a defect, of which the
    visitor sees nothing.
    """

    def __init__(
        self,
        identity: Identity,
        redaction: Redaction,
        logger: logging.Logger,
        *,
        source: str = "/",
    ) -> None:
        self.identity = identity
        self.redaction = redaction
        self.sink_failures = 0
        self.rejected = 0
        self._source = source
        self._throttle = RateLimitedLogger(logger)

    def publish(self, uri: str, scope: Scope) -> bool:
        """False when the sink had no room and dropped the event."""
        make = partial(self._event, uri, self.identity(scope), now_ms())
        try:
            taken: bool = scope["state"]["sink"].defer(make)
            return taken
        except Exception as error:
            self.sink_failures += 1
            self._throttle.warning("an access event was not taken: %r", error)
            return True

    def _event(self, uri: str, name: str, timestamp_ms: int) -> AccessEvent:
        return AccessEvent.of(
            self.redaction(uri), name=name, source=self._source, timestamp_ms=timestamp_ms
        )


class AccessEventMiddleware:
    """Announces each HTTP request of a path that is not excluded, and passes everything on.

    A request target that is no URL is answered with 400 and is no access. With `reject`, a request
    whose event was dropped is answered with 503 and goes no further.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        announcer: AccessPublisher,
        reject: bool = False,
        excluded_paths: frozenset[str] = EXCLUDED_PATHS,
        excluded_prefixes: tuple[str, ...] = EXCLUDED_PREFIXES,
    ) -> None:
        self.app = app
        self._announcer = announcer
        self._reject = reject
        self._excluded_paths = excluded_paths
        self._excluded_prefixes = excluded_prefixes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._is_excluded(scope):
            try:
                uri = _uri(scope)
            except ValueError:
                return await PlainTextResponse("Bad Request", 400)(scope, receive, send)
            if not self._announcer.publish(uri, scope) and self._reject:
                self._announcer.rejected += 1
                return await _overloaded()(scope, receive, send)
        await self.app(scope, receive, send)

    def _is_excluded(self, scope: Scope) -> bool:
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        return path in self._excluded_paths or path.startswith(self._excluded_prefixes)


def _overloaded() -> PlainTextResponse:
    return PlainTextResponse("Service Unavailable", 503, {"Retry-After": RETRY_AFTER_SECONDS})


def _uri(scope: Scope) -> str:
    """ASGI may lack `raw_path`; the decoded `path` can hold a CR LF, so it is encoded again."""
    raw_path = scope.get("raw_path") or quote(scope["path"]).encode()
    return uri_as_received(raw_path, scope["query_string"])
