"""An HTTP stub in front of Elasticsearch, which forwards requests and injects failures.

Belongs here: rejecting some items of a bulk request (429) or all of it (503), dropping the response
after the request was applied, and reporting each bulk request to an observer. Does not belong here:
bytes of a connection (`proxy.py`).
"""

import http.client
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import orjson

Watcher = Callable[[str, str, bytes], None]
# The client rejects responses without the second header.
_HEADERS = {"Content-Type": "application/json", "X-Elastic-Product": "Elasticsearch"}
_NOT_FORWARDED = {"connection", "transfer-encoding", "content-length", "accept-encoding", "host"}


def _nothing(_when: str, _path: str, _body: bytes) -> None:
    return None


class ElasticsearchStub:
    """Listens on 127.0.0.1; a context manager.

    `reject_items`: every n-th operation of a bulk request gets 429 and is not forwarded. `reject`:
    every n-th bulk request gets 503. `drop_responses`: every n-th bulk request is applied, and its
    connection is closed without a response. 0: none. `watch` is called with `before` and `after`,
    the path and the body of each bulk request. `injected` counts the failures.
    """

    def __init__(self, url: str) -> None:
        self.reject_items = self.reject = self.drop_responses = 0
        self.watch: Watcher = _nothing
        self.injected = 0
        self._bulks = 0
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"stub": self, "upstream": urlsplit(url)})
        self._server = _Server(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def heal(self) -> None:
        self.reject_items = self.reject = self.drop_responses = 0
        self.watch = _nothing

    def is_turn(self, every: int) -> bool:
        """Whether this bulk request fails."""
        turn = every > 0 and self._bulks % every == 0
        self.injected += turn
        return turn

    def count(self) -> None:
        with self._lock:
            self._bulks += 1

    def __enter__(self) -> "ElasticsearchStub":
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def split(body: bytes) -> list[bytes]:
    """The operations of a bulk body, each with its document, if any."""
    lines = body.splitlines(keepends=True)
    operations, at = [], 0
    while at < len(lines):
        size = 1 if b'"delete"' in lines[at][:12] else 2
        operations.append(b"".join(lines[at : at + size]))
        at += size
    return operations


def rejected(operation: bytes) -> dict[str, Any]:
    """The response of an overloaded Elasticsearch to one operation."""
    (kind,) = orjson.loads(operation.split(b"\n", 1)[0])
    reason = "rejected execution of coordinating operation"
    error = {"type": "es_rejected_execution_exception", "reason": reason}
    return {kind: {"status": 429, "error": error}}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore the closed connection of a killed client."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stub: ElasticsearchStub
    upstream: Any

    def do_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        is_bulk = urlsplit(self.path).path.endswith("/_bulk")
        if not is_bulk:
            return self._answer(*self._forward(body))
        stub = self.stub
        stub.count()
        stub.watch("before", self.path, body)
        if stub.is_turn(stub.reject):
            return self._answer(503, _HEADERS, b'{"error": "busy"}')
        answer = self._partly(body, stub.reject_items) if stub.reject_items else self._forward(body)
        stub.watch("after", self.path, body)
        if stub.is_turn(stub.drop_responses):
            self.close_connection = True
            return None
        return self._answer(*answer)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_any

    def _partly(self, body: bytes, every: int) -> tuple[int, dict[str, str], bytes]:
        """Reject every n-th operation and forward the others."""
        operations = split(body)
        turn = [number % every == 0 for number in range(len(operations))]
        self.stub.injected += sum(turn)
        kept = [each for each, is_rejected in zip(operations, turn, strict=True) if not is_rejected]
        status, headers, content = 200, _HEADERS, b'{"errors": false, "items": []}'
        if kept:
            status, headers, content = self._forward(b"".join(kept))
        if status != 200:
            return status, headers, content
        answer = orjson.loads(content)
        if "errors" in answer:  # the client may filter the response
            answer["errors"] |= any(turn)
        if "items" in answer:
            forwarded = iter(answer["items"])
            answer["items"] = [
                rejected(each) if is_rejected else next(forwarded)
                for each, is_rejected in zip(operations, turn, strict=True)
            ]
        return status, headers, orjson.dumps(answer)

    def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        upstream = http.client.HTTPConnection(
            self.upstream.hostname, self.upstream.port, timeout=120
        )
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _NOT_FORWARDED}
        try:
            upstream.request(self.command, self.path, body or None, headers)
            answer = upstream.getresponse()
            content = answer.read()
            kept = {k: v for k, v in answer.getheaders() if k.lower() not in _NOT_FORWARDED}
            return answer.status, kept, content
        except (OSError, http.client.HTTPException) as error:
            return 502, {}, str(error).encode()
        finally:
            upstream.close()

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        with suppress(OSError):
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        return None
