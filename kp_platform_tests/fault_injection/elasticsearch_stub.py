"""An HTTP stub in front of Elasticsearch, which passes requests on and spoils some of them.

Belongs here: refusing part of a bulk (429), refusing all of it (503), losing the answer after the
request was applied, and telling of what goes by. Does not belong here: bytes on the wire
(`proxy.py`).
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
# The client refuses an answer without the second one.
_HEADERS = {"Content-Type": "application/json", "X-Elastic-Product": "Elasticsearch"}
_NOT_PASSED_ON = {"connection", "transfer-encoding", "content-length", "accept-encoding", "host"}


def _nothing(_when: str, _path: str, _body: bytes) -> None:
    return None


class ElasticsearchStub:
    """Listens on 127.0.0.1; a context manager.

    `refuse_items`: of each bulk request every n-th operation gets 429 and is not passed on.
    `refuse`: every n-th bulk request gets 503. `lose`: every n-th bulk request is applied and its
    connection cut instead of an answer. 0: none. `watch` is called with `before` and `after`, the
    path and the body of each bulk request.
    """

    def __init__(self, url: str) -> None:
        self.refuse_items = self.refuse = self.lose = 0
        self.watch: Watcher = _nothing
        self.spoilt = 0
        self._bulks = 0
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"stub": self, "upstream": urlsplit(url)})
        self._server = _Server(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def heal(self) -> None:
        self.refuse_items = self.refuse = self.lose = 0
        self.watch = _nothing

    def is_turn(self, every: int) -> bool:
        """Whether this bulk request is one to spoil."""
        turn = every > 0 and self._bulks % every == 0
        self.spoilt += turn
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
    """The operations of a bulk body, each with its document, if it has one."""
    lines = body.splitlines(keepends=True)
    operations, at = [], 0
    while at < len(lines):
        size = 1 if b'"delete"' in lines[at][:12] else 2
        operations.append(b"".join(lines[at : at + size]))
        at += size
    return operations


def refused(operation: bytes) -> dict[str, Any]:
    """What a busy Elasticsearch answers for one operation."""
    (kind,) = orjson.loads(operation.split(b"\n", 1)[0])
    reason = "rejected execution of coordinating operation"
    error = {"type": "es_rejected_execution_exception", "reason": reason}
    return {kind: {"status": 429, "error": error}}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed ends its connection: nothing to tell."""


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
        if stub.is_turn(stub.refuse):
            return self._answer(503, _HEADERS, b'{"error": "busy"}')
        answer = self._partly(body, stub.refuse_items) if stub.refuse_items else self._forward(body)
        stub.watch("after", self.path, body)
        if stub.is_turn(stub.lose):
            self.close_connection = True
            return None
        return self._answer(*answer)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_any

    def _partly(self, body: bytes, every: int) -> tuple[int, dict[str, str], bytes]:
        """Every n-th operation is refused, the others are passed on."""
        operations = split(body)
        turn = [number % every == 0 for number in range(len(operations))]
        self.stub.spoilt += sum(turn)
        kept = [each for each, is_refused in zip(operations, turn, strict=True) if not is_refused]
        status, headers, content = 200, _HEADERS, b'{"errors": false, "items": []}'
        if kept:
            status, headers, content = self._forward(b"".join(kept))
        if status != 200:
            return status, headers, content
        answer = orjson.loads(content)
        if "errors" in answer:  # the client asks for what it wants to know
            answer["errors"] |= any(turn)
        if "items" in answer:
            passed = iter(answer["items"])
            answer["items"] = [
                refused(each) if is_refused else next(passed)
                for each, is_refused in zip(operations, turn, strict=True)
            ]
        return status, headers, orjson.dumps(answer)

    def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        upstream = http.client.HTTPConnection(
            self.upstream.hostname, self.upstream.port, timeout=120
        )
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _NOT_PASSED_ON}
        try:
            upstream.request(self.command, self.path, body or None, headers)
            answer = upstream.getresponse()
            content = answer.read()
            kept = {k: v for k, v in answer.getheaders() if k.lower() not in _NOT_PASSED_ON}
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
