"""Fault injection tools: proxy, Elasticsearch stub and report."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from kp_platform_tests.fault_injection import report
from kp_platform_tests.fault_injection.__main__ import ORDER
from kp_platform_tests.fault_injection.elasticsearch_stub import ElasticsearchStub, split
from kp_platform_tests.fault_injection.oracle import KINDS
from kp_platform_tests.fault_injection.proxy import Proxy

BULK = b'{"create":{"_id":"1"}}\n{"a":1}\n{"delete":{"_id":"2"}}\n{"index":{"_id":"3"}}\n{}\n'


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that sends back what it reads."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection: socket.socket) -> None:
        with connection, suppress(ConnectionError):
            while read := connection.recv(65_536):
                connection.sendall(read)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def read(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size and (chunk := connection.recv(size - len(received))):
        received += chunk
    return received


def test_the_proxy_forwards_what_it_reads(echo: int) -> None:
    with (
        Proxy("127.0.0.1", echo) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as client,
    ):
        sent = bytes(range(256)) * 1_000
        threading.Thread(target=client.sendall, args=(sent,)).start()
        assert read(client, len(sent)) == sent


def test_the_proxy_cuts_a_connection_after_a_number_of_bytes(echo: int) -> None:
    with Proxy("127.0.0.1", echo) as proxy:
        proxy.cut_after = 10
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as client:
            client.sendall(b"x" * 25)
            with pytest.raises(ConnectionResetError):
                read(client, 25)


def test_a_frozen_proxy_forwards_nothing_until_it_is_healed(echo: int) -> None:
    with (
        Proxy("127.0.0.1", echo) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), timeout=0.3) as client,
    ):
        proxy.freeze()
        client.sendall(b"late")
        with pytest.raises(TimeoutError):
            client.recv(4)
        proxy.heal()
        client.settimeout(10)
        assert read(client, 4) == b"late"


def test_a_reset_closes_open_connections(echo: int) -> None:
    with (
        Proxy("127.0.0.1", echo) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as client,
    ):
        client.sendall(b"here")
        assert read(client, 4) == b"here"
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            client.recv(1)


class _Elasticsearch(BaseHTTPRequestHandler):
    """Answers 201 to each operation of a bulk request, and records the operations."""

    protocol_version = "HTTP/1.1"
    applied: list[bytes]

    def do_POST(self) -> None:
        operations = split(self.rfile.read(int(self.headers["Content-Length"])))
        self.applied += operations
        items = [{"create": {"status": 201}} for _ in operations]
        content = json.dumps({"items": items}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        return None


@pytest.fixture
def elasticsearch() -> Iterator[Any]:
    handler = type("Handler", (_Elasticsearch,), {"applied": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join(10)


@pytest.fixture
def stub(elasticsearch: Any) -> Iterator[ElasticsearchStub]:
    with ElasticsearchStub(f"http://127.0.0.1:{elasticsearch.server_address[1]}") as stub:
        yield stub


def bulk(stub: ElasticsearchStub) -> httpx.Response:
    return httpx.post(f"{stub.url}/_bulk", content=BULK, trust_env=False, timeout=10)


def statuses(answer: httpx.Response) -> list[int]:
    return [item["status"] for each in answer.json()["items"] for item in each.values()]


def test_a_bulk_body_is_split_into_operations() -> None:
    assert [each[:10] for each in split(BULK)] == [b'{"create":', b'{"delete":', b'{"index":{']
    assert b"".join(split(BULK)) == BULK


def test_the_stub_forwards_requests_and_reports_them(
    stub: ElasticsearchStub, elasticsearch: Any
) -> None:
    seen: list[str] = []
    stub.watch = lambda moment, path, body: seen.append(f"{moment} {path} {len(body)}")
    assert statuses(bulk(stub)) == [201, 201, 201]
    assert elasticsearch.RequestHandlerClass.applied == split(BULK)
    assert seen == [f"before /_bulk {len(BULK)}", f"after /_bulk {len(BULK)}"]


def test_rejected_items_are_not_applied(stub: ElasticsearchStub, elasticsearch: Any) -> None:
    stub.reject_items = 2
    assert statuses(bulk(stub)) == [429, 201, 429]
    assert elasticsearch.RequestHandlerClass.applied == [split(BULK)[1]]
    assert stub.injected == 2


def test_a_rejected_request_is_not_applied(stub: ElasticsearchStub, elasticsearch: Any) -> None:
    stub.reject = 1
    assert bulk(stub).status_code == 503
    assert elasticsearch.RequestHandlerClass.applied == []


def test_a_request_with_a_dropped_response_was_applied(
    stub: ElasticsearchStub, elasticsearch: Any
) -> None:
    stub.drop_responses = 1
    with pytest.raises(httpx.RemoteProtocolError):
        bulk(stub)
    assert elasticsearch.RequestHandlerClass.applied == split(BULK)


def result(row: str, seconds: float | None, **counts: int) -> dict[str, Any]:
    return {
        "row": row,
        "name": f"fault {row}",
        "events": 1_500,
        "counts": dict.fromkeys(KINDS, 0) | counts,
        "dropped": 0,
        "recovery_seconds": seconds,
        "visits_failed": 2,
        "problem": "too late" if seconds is None else "",
        "note": "",
        "commit": "abc",
    }


def test_the_table_sums_the_trials_of_several_calls() -> None:
    page = report.render(
        [result("2", 4.0), result("1", 7.0, lost=1), result("1", None, lost=2), result("1", 9.0)],
        order=["1", "2", "3"],
    )
    rows = [line for line in page.splitlines() if line.startswith(("| 1", "| 2"))]
    assert rows == [
        "| 1 | fault 1 | 3 | 4,500 | 3 | 0 | 0 | 0 | 0 | 0 | 6 | 8, 9, 1 not | too late |",
        "| 2 | fault 2 | 1 | 1,500 | 0 | 0 | 0 | 0 | 0 | 0 | 2 | 4, 4 |  |",
    ]
    assert "Here n = 4." in page


def test_a_cell_shows_distinct_notes_up_to_a_length() -> None:
    notes = ["stopped", "stopped", "a" * 140, "b" * 140, "c" * 140]
    page = report.render([result("1", 1.0) | {"note": note} for note in notes], order=["1"])
    assert f"| stopped; {'a' * 140}; {'b' * 140}; ... |" in page


def test_the_page_in_docs_is_rendered_from_its_results() -> None:
    results = report.read(report.RESULTS)
    assert report.PAGE.read_text() == report.render(results, ORDER)
    assert {each["row"] for each in results} >= set(ORDER)
    assert not [each for each in results if each["problem"]]


def test_the_table_lists_what_each_control_detects() -> None:
    page = report.render([result("control", 1.0, lost=100, wrong=2)], order=["1"])
    assert "| fault control | 1 | 100 lost, 2 wrong |" in page
