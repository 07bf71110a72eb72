"""Malformed and malicious requests, sent as bytes to a real server: response and event."""

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from kp_platform_tests.unit.web_emitter.server import EmitterProcess, spooled_events
from web_emitter.emitter.events import MAX_URI_LENGTH

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"
HOST = b"Host: good.test\r\nX-Remote-User: kafka\r\nConnection: close\r\n\r\n"


@dataclass
class Visited:
    """A server without a broker; its spool has the published events in order."""

    emitter: EmitterProcess
    folder: Path
    _seen: int = 0
    _numbers: Iterator[int] = field(default_factory=count)

    def raw(self, request: bytes) -> bytes:
        return self.emitter.raw(request)

    def new_events(self) -> list[dict[str, Any]]:
        """The events since the last call. They are written in order, so an event that is published
        now marks their end."""
        last = f"/last/{next(self._numbers)}"
        self.raw(f"GET {last} HTTP/1.1\r\n".encode() + HOST)
        self.emitter.wait_until(lambda: self._events()[-1:] and self._events()[-1]["uri"] == last)
        events = self._events()
        new, self._seen = events[self._seen : -1], len(events)
        return new

    def new_uris(self) -> list[str]:
        return [event["uri"] for event in self.new_events()]

    def _events(self) -> list[dict[str, Any]]:
        return spooled_events(self.folder)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visited]:
    folder = tmp_path_factory.mktemp("emitter")
    emitter = EmitterProcess.start(
        folder,
        KP_EMITTER_IDENTIFY="kp_platform_tests.unit.web_emitter.hooks:remote_user",
        KP_EMITTER_SPOOL_FSYNC_SECONDS="0.02",
    )
    try:
        yield Visited(emitter, folder)
    finally:
        emitter.kill()


@pytest.fixture
def visited(server: Visited) -> Visited:
    server.new_events()
    return server


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize(
    "target", [b"/caf\xe9", b"/\xff\xfe", b"/caf\xc3\xa9", b"/?q=\xff", b"host:443"]
)
def test_raw_bytes_in_the_target_are_answered_with_400_and_no_event(
    visited: Visited, target: bytes
) -> None:
    assert status(visited.raw(b"GET " + target + b" HTTP/1.1\r\n" + HOST)) == 400
    assert visited.new_uris() == []


@pytest.mark.parametrize(
    "target",
    ["/%ff%fe", "/%00", "/%0d%0aSet-Cookie:%20a=b", "/a/../../etc/passwd", "/%2f..%2f..%2fetc"]
    + ["//evil.test/x", "/%252e%252e/", "/<script>", "/a'--", "/{{7*7}}", "/|`$()"],
)
def test_a_target_is_stored_as_received(visited: Visited, target: str) -> None:
    answer = visited.raw(f"GET {target} HTTP/1.1\r\n".encode() + HOST)
    assert status(answer) == 404
    assert b"\r\nset-cookie" not in answer.lower()
    assert visited.new_uris() == [target]
    assert "\nSet-Cookie" not in visited.emitter.log.read_text()


def test_user_and_password_of_an_absolute_url_are_not_stored(visited: Visited) -> None:
    answer = visited.raw(b"GET http://u:hunter2@host.test/x?page=1 HTTP/1.1\r\n" + HOST)
    assert status(answer) == 404
    assert visited.new_uris() == ["/x?page=1"]
    assert b"hunter2" not in b"".join(
        path.read_bytes() for path in visited.folder.rglob("*") if path.is_file()
    )


def test_an_options_request_for_the_whole_server_is_an_access_to_the_asterisk(
    visited: Visited,
) -> None:
    visited.raw(b"OPTIONS * HTTP/1.1\r\n" + HOST)
    assert visited.new_uris() == ["*"]


def test_neither_of_two_host_headers_is_trusted(visited: Visited) -> None:
    answer = visited.raw(b"GET / HTTP/1.1\r\nHost: evil.test\r\n" + HOST)
    assert status(answer) == 200
    assert b"evil.test" not in answer
    assert b"good.test" not in answer
    assert visited.new_uris() == ["/"]


def test_a_url_of_20_kilobytes_is_truncated(visited: Visited) -> None:
    target = "/" + "a" * 20_000
    assert status(visited.raw(f"GET {target} HTTP/1.1\r\n".encode() + HOST)) == 404
    assert visited.new_uris() == [target[:MAX_URI_LENGTH]]


@pytest.mark.parametrize("target", ["/" + "a" * 70_000, "/?" + "a" * 70_000])
def test_a_url_of_70_kilobytes_is_too_long(visited: Visited, target: str) -> None:
    assert status(visited.raw(f"GET {target} HTTP/1.1\r\n".encode() + HOST)) in {400, 414}
    assert visited.new_uris() == []


def test_ten_thousand_query_keys_are_one_event(visited: Visited) -> None:
    target = "/?" + "&".join(["a=1"] * 10_000)
    assert status(visited.raw(f"GET {target} HTTP/1.1\r\n".encode() + HOST)) == 200
    stored = ("/?" + "&".join(["a=REDACTED"] * 10_000))[:MAX_URI_LENGTH]
    assert visited.new_uris() == [stored]


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        (b"X-Remote-User: a\r\nX-Remote-User: b\r\n", "raised"),  # ambiguous
        (b"X-Remote-User: \xff\xfe\r\n", "raised"),  # not UTF-8
        (b"", "raised"),  # missing
        (b"X-Remote-User:\r\n", "empty"),
        (b"X-Remote-User: " + b"a" * 10_000 + b"\r\n", "too_long"),
    ],
)
def test_an_invalid_user_header_is_anonymous_and_counted(
    visited: Visited, headers: bytes, reason: str
) -> None:
    before = visited.emitter.get("/readyz").json()["anonymous"].get(reason, 0)
    visited.raw(b"GET /who HTTP/1.1\r\nHost: a\r\n" + headers + b"Connection: close\r\n\r\n")
    (event,) = visited.new_events()
    assert (event["uri"], event["name"]) == ("/who", "anonymous")
    assert visited.emitter.get("/readyz").json()["anonymous"][reason] == before + 1


def test_a_client_that_disconnects_at_once_is_one_event(visited: Visited) -> None:
    with visited.emitter.connect() as connection:
        connection.sendall(b"GET /analysis HTTP/1.1\r\n" + HOST)
        reset = struct.pack("ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
    visited.emitter.wait_until(lambda: "/analysis" in visited._events()[-1]["uri"])
    assert visited.new_uris() == ["/analysis"]


def test_an_incomplete_request_is_no_event(visited: Visited) -> None:
    with visited.emitter.connect() as connection:
        connection.sendall(b"GET /half HTTP/1.1\r\nHost: a\r\nX-")
    assert visited.new_uris() == []


def test_bytes_that_are_not_http_are_answered_with_400_and_no_event(visited: Visited) -> None:
    assert status(visited.raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")) == 400
    assert visited.new_uris() == []


def test_a_websocket_is_rejected_and_no_event(visited: Visited) -> None:
    handshake = (
        b"GET /socket HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert status(visited.raw(handshake)) == 403
    assert visited.new_uris() == []


@pytest.mark.parametrize(
    "secret", ["hunter2", JWT, "jane%40example.com", "4111111111111111", "4111+1111+1111+1111"]
)
@pytest.mark.parametrize("key", ["page", "token", "q"])
def test_a_secret_in_a_query_is_not_written_anywhere(
    visited: Visited, key: str, secret: str
) -> None:
    visited.raw(f"GET /x?{key}={secret} HTTP/1.1\r\n".encode() + HOST)
    kept = secret if (key, secret) == ("page", "hunter2") else "REDACTED"
    assert visited.new_uris() == [f"/x?{key}={kept}"]
    if kept == "REDACTED":
        assert secret not in visited.emitter.log.read_text()
