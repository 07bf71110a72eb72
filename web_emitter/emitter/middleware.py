"""The ASGI middleware that publishes one event per access and passes the request on.

Belongs here: which requests are accesses, and reading their URI and visitor. Does not belong here:
the event (`events.py`), names (`identity.py`), redaction of a URI (`redaction.py`), producing to
Kafka (`producer.py`).

It is plain ASGI: Starlette's BaseHTTPMiddleware costs 85 % of the throughput and buffers streams.
The event goes to `scope["state"]["sink"]`, which the lifespan of each worker sets.
"""

import logging
from functools import partial
from urllib.parse import quote

from web_emitter.emitter.asgi import ASGIApp, Receive, Scope, Send, send_text
from web_emitter.emitter.events import AccessEvent, now_ms, uri_as_received
from web_emitter.emitter.identity import Identity
from web_emitter.emitter.rate_limit import RateLimitedLogger
from web_emitter.emitter.redaction import Redaction

# Requested by programs every few seconds, or parts of a page.
EXCLUDED_PATHS = frozenset(
    {"/livez", "/readyz", "/metrics", "/metrics/indexer", "/favicon.ico", "/analysis/live"}
)
EXCLUDED_PREFIXES = ("/static/",)
RETRY_AFTER_SECONDS = 5
_RETRY_AFTER = ((b"retry-after", str(RETRY_AFTER_SECONDS).encode()),)


class AccessPublisher:
    """Names the visitor of an access and publishes its event to a sink.

    `sink_failures` counts the events for which the sink raised: a defect, which does not affect the
    response. `rejected` counts the requests answered with 503.
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
        self._logger = RateLimitedLogger(logger)

    def publish(self, uri: str, scope: Scope) -> bool:
        """False when the sink was full and dropped the event."""
        make = partial(self._event, uri, self.identity(scope), now_ms())
        try:
            accepted: bool = scope["state"]["sink"].defer(make)
            return accepted
        except Exception as error:
            self.sink_failures += 1
            self._logger.warning("an access event was not accepted: %r", error)
            return True

    def _event(self, uri: str, name: str, timestamp_ms: int) -> AccessEvent:
        return AccessEvent.of(
            self.redaction(uri), name=name, source=self._source, timestamp_ms=timestamp_ms
        )


class AccessEventMiddleware:
    """Publishes an event for each HTTP request whose path is not excluded.

    A request target that is no URL is answered with 400 and is no access. With `reject`, a request
    whose event was dropped is answered with 503 and does not reach the application.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        publisher: AccessPublisher,
        reject: bool = False,
        excluded_paths: frozenset[str] = EXCLUDED_PATHS,
        excluded_prefixes: tuple[str, ...] = EXCLUDED_PREFIXES,
    ) -> None:
        self.app = app
        self._publisher = publisher
        self._reject = reject
        self._excluded_paths = excluded_paths
        self._excluded_prefixes = excluded_prefixes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._is_excluded(scope):
            try:
                uri = _uri(scope)
            except ValueError:
                return await send_text(send, 400, "Bad Request")
            if not self._publisher.publish(uri, scope) and self._reject:
                self._publisher.rejected += 1
                return await send_text(send, 503, "Service Unavailable", _RETRY_AFTER)
        await self.app(scope, receive, send)

    def _is_excluded(self, scope: Scope) -> bool:
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        return path in self._excluded_paths or path.startswith(self._excluded_prefixes)


def _uri(scope: Scope) -> str:
    """`raw_path` is optional in ASGI; the decoded `path` may contain CR LF, so it is encoded."""
    raw_path = scope.get("raw_path") or quote(scope["path"]).encode()
    return uri_as_received(raw_path, scope["query_string"])
