"""One event per access, whatever the application does; none for other requests."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from kp_platform_tests.unit.web_emitter.fakes import FakeSink
from web_emitter.emitter.events import MAX_URI_LENGTH
from web_emitter.emitter.identity import Identity
from web_emitter.emitter.middleware import AccessEventMiddleware, AccessPublisher
from web_emitter.emitter.redaction import Redaction

LOGGER = logging.getLogger("test")


async def streaming(request: Request) -> Response:
    async def chunks() -> AsyncIterator[str]:
        for chunk in ("a", "b", "c"):
            yield chunk

    return StreamingResponse(chunks())


async def failing(request: Request) -> Response:
    raise RuntimeError("a bug in the application")


async def reading(request: Request) -> Response:
    return PlainTextResponse(await request.body())


async def echoing(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("hello")
    await websocket.close()


def publisher() -> AccessPublisher:
    identity = Identity(lambda scope: "kafka", LOGGER)
    return AccessPublisher(identity, Redaction(["page"]), LOGGER, source="/test")


def application(the_publisher: AccessPublisher, *, reject: bool = False) -> Starlette:
    return Starlette(
        routes=[
            Route("/streaming", streaming),
            Route("/failing", failing),
            Route("/reading", reading, methods=["POST"]),
            WebSocketRoute("/socket", echoing),
        ],
        middleware=[Middleware(AccessEventMiddleware, publisher=the_publisher, reject=reject)],
    )


def visitor_of(app: Starlette, sink: FakeSink) -> TestClient:
    """A client of an application whose state has the sink, as a lifespan sets it."""
    client = TestClient(app, raise_server_exceptions=False)
    client.app_state["sink"] = sink
    return client


@pytest.fixture
def visitor(sink: FakeSink) -> TestClient:
    return visitor_of(application(publisher()), sink)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/streaming", 200),
        ("GET", "/failing", 500),
        ("GET", "/missing", 404),
        ("GET", "/reading", 405),
        ("POST", "/reading", 200),
        ("HEAD", "/streaming", 200),
        ("GET", "/livezz", 404),  # resembles an excluded path
        ("GET", "/staticfiles", 404),
    ],
)
def test_every_request_is_one_event(
    visitor: TestClient, sink: FakeSink, method: str, path: str, status: int
) -> None:
    assert visitor.request(method, path).status_code == status
    assert sink.uris == [path]


@pytest.mark.parametrize(
    "path", ["/livez", "/readyz", "/metrics", "/favicon.ico", "/static/kp.css"]
)
def test_excluded_paths_are_no_access(visitor: TestClient, sink: FakeSink, path: str) -> None:
    visitor.get(path)
    assert sink.events == []


def test_a_response_is_passed_on_unchanged(visitor: TestClient) -> None:
    assert visitor.get("/streaming").text == "abc"
    assert visitor.post("/reading", content="body").text == "body"


def test_the_event_has_name_uri_and_source(visitor: TestClient, sink: FakeSink) -> None:
    visitor.get("/streaming?page=%E2%98%83&q=%E2%98%83&page=2")
    (event,) = sink.access_events
    assert (event.uri, event.name, event.source) == (
        "/streaming?page=%E2%98%83&q=REDACTED&page=2",
        "kafka",
        "/test",
    )


def test_a_websocket_is_no_access(visitor: TestClient, sink: FakeSink) -> None:
    with visitor.websocket_connect("/socket") as websocket:
        assert websocket.receive_text() == "hello"
    assert sink.events == []


def test_a_lifespan_is_no_access(sink: FakeSink) -> None:
    with visitor_of(application(publisher()), sink):
        pass
    assert sink.events == []


@pytest.mark.parametrize("failure", [RuntimeError("broken"), BufferError("full"), OSError(28)])
def test_a_failing_sink_is_counted_and_does_not_affect_the_response(
    sink: FakeSink, caplog: pytest.LogCaptureFixture, failure: Exception
) -> None:
    the_publisher = publisher()
    visitor = visitor_of(application(the_publisher), sink)
    sink.failure = failure
    for _ in range(3):
        assert visitor.get("/streaming").text == "abc"
    assert the_publisher.sink_failures == 3
    assert [record.name for record in caplog.records] == ["test"]


def test_a_dropped_event_does_not_affect_the_response(sink: FakeSink) -> None:
    the_publisher = publisher()
    sink.is_full = True
    assert visitor_of(application(the_publisher), sink).get("/streaming").status_code == 200
    assert the_publisher.sink_failures == 0


def test_with_reject_a_request_whose_event_was_dropped_is_a_503(sink: FakeSink) -> None:
    the_publisher = publisher()
    visitor = visitor_of(application(the_publisher, reject=True), sink)
    assert visitor.get("/streaming").status_code == 200
    sink.is_full = True
    for path in ("/streaming", "/failing"):
        answer = visitor.get(path)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert visitor.get("/livez").status_code == 404  # an excluded path is passed on
    assert (the_publisher.rejected, sink.uris) == (2, ["/streaming"])


def test_with_reject_a_failing_sink_does_not_affect_the_response(sink: FakeSink) -> None:
    sink.failure = RuntimeError("broken")
    visitor = visitor_of(application(publisher(), reject=True), sink)
    assert visitor.get("/streaming").status_code == 200


def test_a_forged_name_in_a_header_is_ignored(sink: FakeSink) -> None:
    forged = [(b"x-user", b"root"), (b"x-forwarded-user", b"root"), (b"remote-user", b"root")]
    sent_for(scope_of(sink, headers=forged))
    assert [event.name for event in sink.access_events] == ["kafka"]


def test_an_application_without_a_sink_still_responds() -> None:
    the_publisher = publisher()
    visitor = TestClient(application(the_publisher))
    assert visitor.get("/streaming").text == "abc"
    assert the_publisher.sink_failures == 1


def scope_of(sink: FakeSink, **values: Any) -> Scope:
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "state": {"sink": sink},
    }
    return {**scope, **values}


def sent_for(scope: Scope, app: Any = None) -> list[Message]:
    """The messages that the application behind the middleware sends for an ASGI scope."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    middleware = AccessEventMiddleware(app or PlainTextResponse("ok"), publisher=publisher())
    anyio.run(middleware, scope, receive, send)
    return sent


@pytest.mark.parametrize(
    ("raw_path", "path", "uri"),
    [
        (b"/%0d%0a%00", "/\r\n\x00", "/%0d%0a%00"),
        (b"/%ff%fe", "/\ufffd\ufffd", "/%ff%fe"),
        (b"http://u:p@host/x", "http://u:p@host/x", "/x"),
        (b"*", "*", "*"),
        (None, "/caf\u00e9\r\n", "/caf%C3%A9%0D%0A"),  # a server without raw_path
    ],
)
def test_the_uri_is_never_decoded(
    sink: FakeSink, raw_path: bytes | None, path: str, uri: str
) -> None:
    messages = sent_for(scope_of(sink, raw_path=raw_path, path=path))
    assert messages[0]["status"] == 200
    assert sink.uris == [uri]


@pytest.mark.parametrize(
    ("raw_path", "query_string"), [(b"/caf\xe9", b""), (b"/", b"\xff"), (b"host:443", b"")]
)
def test_a_malformed_target_is_answered_with_400_and_is_no_event(
    sink: FakeSink, raw_path: bytes, query_string: bytes
) -> None:
    messages = sent_for(scope_of(sink, raw_path=raw_path, path="/", query_string=query_string))
    assert messages[0]["status"] == 400
    assert sink.events == []


def test_ten_thousand_query_keys_are_one_truncated_event(sink: FakeSink) -> None:
    keys = "&".join(f"number{number}=1" for number in range(10_000))
    messages = sent_for(scope_of(sink, query_string=keys.encode()))
    (event,) = sink.access_events
    assert messages[0]["status"] == 200
    redacted = keys.replace("=1", "=REDACTED")
    assert (event.uri, event.truncated) == (f"/?{redacted}"[:MAX_URI_LENGTH], True)


def test_two_host_headers_are_one_event_and_none_is_trusted(sink: FakeSink) -> None:
    sent_for(scope_of(sink, headers=[(b"host", b"good"), (b"host", b"evil")]))
    assert sink.uris == ["/"]


def test_a_visitor_that_disconnects_is_one_event(sink: FakeSink) -> None:
    async def notices_the_disconnect(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "http.disconnect"

    assert sent_for(scope_of(sink), notices_the_disconnect) == []
    assert sink.uris == ["/"]


def test_the_event_is_published_before_the_application_runs(sink: FakeSink) -> None:
    async def checks_the_sink(scope: Scope, receive: Receive, send: Send) -> None:
        assert sink.uris == ["/"]
        await PlainTextResponse("ok")(scope, receive, send)

    assert sent_for(scope_of(sink), checks_the_sink)[0]["status"] == 200


def test_excluded_paths_are_recognised_below_a_root_path(sink: FakeSink) -> None:
    sent_for(scope_of(sink, root_path="/shop", path="/shop/livez", raw_path=b"/shop/livez"))
    assert sink.events == []
