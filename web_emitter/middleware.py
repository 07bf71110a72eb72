"""The global middleware: one event per access, then the request goes on.

Belongs here: which requests count as an access, and reading their URI and visitor. Does not belong
here: the event's shape (`events.py`), names (`identity.py`), sending (`producer.py`).

Pure ASGI, for Starlette's BaseHTTPMiddleware costs 85 % of the throughput and buffers streams.
The event goes to `scope["state"]["sink"]`, which a lifespan puts there, one for each worker.
"""

import logging
from urllib.parse import quote

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from web_emitter.events import AccessEvent, uri_as_received
from web_emitter.identity import Identity
from web_emitter.throttle import Throttle

# Asked for by machines every few seconds, or parts of a page and not a page.
EXCLUDED_PATHS = frozenset({"/livez", "/readyz", "/metrics", "/favicon.ico"})
EXCLUDED_PREFIXES = ("/static/",)


class Announcer:
    """Makes the event of an access and hands it to a sink; nothing it does reaches the visitor.

    `sink_failures` counts the events that the sink refused by raising.
    """

    def __init__(self, identity: Identity, logger: logging.Logger, *, source: str = "/") -> None:
        self.identity = identity
        self.sink_failures = 0
        self._source = source
        self._throttle = Throttle(logger)

    def announce(self, uri: str, scope: Scope) -> None:
        name = self.identity(scope)
        try:
            scope["state"]["sink"].send(AccessEvent.of(uri, name=name, source=self._source))
        except Exception as error:
            self.sink_failures += 1
            self._throttle.warning("an access event was not taken: %r", error)


class AccessEventMiddleware:
    """Announces each HTTP request of a path that is not excluded, and passes everything on.

    A request target that is no URL is answered with 400 and is no access.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        announcer: Announcer,
        excluded_paths: frozenset[str] = EXCLUDED_PATHS,
        excluded_prefixes: tuple[str, ...] = EXCLUDED_PREFIXES,
    ) -> None:
        self.app = app
        self._announcer = announcer
        self._excluded_paths = excluded_paths
        self._excluded_prefixes = excluded_prefixes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._is_excluded(scope):
            try:
                uri = _uri(scope)
            except ValueError:
                return await PlainTextResponse("Bad Request", 400)(scope, receive, send)
            self._announcer.announce(uri, scope)
        await self.app(scope, receive, send)

    def _is_excluded(self, scope: Scope) -> bool:
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        return path in self._excluded_paths or path.startswith(self._excluded_prefixes)


def _uri(scope: Scope) -> str:
    """ASGI may lack `raw_path`; the decoded `path` can hold a CR LF, so it is encoded again."""
    raw_path = scope.get("raw_path") or quote(scope["path"]).encode()
    return uri_as_received(raw_path, scope["query_string"])
