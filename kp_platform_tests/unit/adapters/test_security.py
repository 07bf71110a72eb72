"""What clients do with TLS and logins, on a small server of one's own that speaks both.

The local Elasticsearch is a build without security, so this is where its client is tried. The other
servers are tried for real in `integration/test_secure.py`.
"""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import anyio
import pytest
from confluent_kafka.admin import ResourcePatternType, ResourceType

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.adapters.errors import ServerDown, shut_out, speaks_tls
from kp_platform.adapters.kafka import Grant
from kp_platform.adapters.trino import TrinoAdapter
from kp_platform.local.secure import write_certificate
from kp_platform.settings import Settings
from web_emitter.site.search import SearchUnavailable, connection, run_search

API_KEY = "ApiKey c2VjcmV0OmtleQ=="


class Elasticsearch(BaseHTTPRequestHandler):
    """Answers who has the key, and any search with nothing found."""

    def do_GET(self) -> None:
        allowed = self.headers["Authorization"] == API_KEY
        body = b'{"status": "green", "hits": {"hits": []}}' if allowed else b"{}"
        self.send_response(200 if allowed else 401)
        self.send_header("Content-Type", "application/vnd.elasticsearch+json;compatible-with=8")
        self.send_header("X-Elastic-Product", "Elasticsearch")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


class Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that hangs up is what is tried here."""


@contextmanager
def serving(certificate: Path | None, host: str = "127.0.0.1") -> Iterator[str]:
    """The address of a server, with TLS if there is a certificate."""
    server = Server((host, 0), Elasticsearch)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        # Not on accept: one client that breaks its handshake would end the server.
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"{host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    write_certificate(tmp_path)
    return tmp_path / "tls" / "server.pem"


@pytest.fixture
def encrypted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a server with TLS, which our settings name and trust."""
    with serving(certificate) as address:
        monkeypatch.setenv("KP_ELASTICSEARCH_URL", f"https://{address}")
        monkeypatch.setenv("KP_CA_FILE", str(certificate.with_name("ca.pem")))
        monkeypatch.setenv("KP_ELASTICSEARCH_API_KEY", API_KEY.removeprefix("ApiKey "))
        yield f"https://{address}"


def test_elasticsearch_is_asked_over_https_with_an_api_key(encrypted: str) -> None:
    ElasticsearchAdapter(Settings()).probe()


def test_a_wrong_api_key_is_refused(encrypted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KP_ELASTICSEARCH_API_KEY", "hunter2")
    sentence = "refuses the user .*KP_ELASTICSEARCH_URL, KP_ELASTICSEARCH_API_KEY"
    with pytest.raises(ServerDown, match=sentence) as refused:
        ElasticsearchAdapter(Settings()).probe()
    assert "hunter2" not in str(refused.value)


def test_elasticsearch_with_a_certificate_of_strangers_is_refused(
    encrypted: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write_certificate(other)
    monkeypatch.setenv("KP_CA_FILE", str(other / "tls" / "ca.pem"))
    with pytest.raises(ServerDown, match="certificate that KP_CA_FILE does not trust .*KP_CA_FILE"):
        ElasticsearchAdapter(Settings()).probe()


def test_the_name_in_the_certificate_is_looked_at(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """127.0.0.2 is the same machine, and stands in no certificate of ours."""
    monkeypatch.setenv("KP_CA_FILE", str(certificate.with_name("ca.pem")))
    with serving(certificate, "127.0.0.2") as address:
        with pytest.raises(ServerDown, match="KP_CA_FILE.*IP address mismatch"):
            ElasticsearchAdapter(Settings(elasticsearch_url=f"https://{address}")).probe()


def test_http_to_a_server_that_speaks_tls_only_is_named(encrypted: str) -> None:
    plain = encrypted.replace("https:", "http:")
    with pytest.raises(ServerDown, match="Elasticsearch speaks TLS only .*KP_ELASTICSEARCH_URL"):
        ElasticsearchAdapter(Settings(elasticsearch_url=plain)).probe()
    with pytest.raises(ServerDown, match="Trino speaks TLS only .*KP_TRINO_URL"):
        TrinoAdapter(Settings(trino_url=plain)).probe()


def test_https_to_a_server_without_tls_is_named() -> None:
    with serving(None) as address:
        with pytest.raises(ServerDown, match="Elasticsearch speaks no TLS"):
            ElasticsearchAdapter(Settings(elasticsearch_url=f"https://{address}")).probe()
        with pytest.raises(ServerDown, match="Trino speaks no TLS"):
            TrinoAdapter(Settings(trino_url=f"https://{address}")).probe()


def test_the_pages_of_the_emitter_ask_over_https_with_the_api_key(
    encrypted: str, certificate: Path
) -> None:
    async def hits(ca_file: str, api_key: str) -> object:
        async with connection(encrypted, 5, ca_file, api_key) as client:
            return (await run_search(client, "log.index"))["hits"]["hits"]

    trusted, key = str(certificate.with_name("ca.pem")), API_KEY.removeprefix("ApiKey ")
    assert anyio.run(hits, trusted, key) == []
    with pytest.raises(SearchUnavailable, match="TlsError"):
        anyio.run(hits, "", key)
    with pytest.raises(SearchUnavailable, match="HTTP 401"):
        anyio.run(hits, trusted, "hunter2")


def test_who_speaks_tls_is_seen_without_trusting_him(certificate: Path) -> None:
    with serving(certificate) as encrypted, serving(None) as plain, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        for address, expected in ((encrypted, True), (plain, False)):
            host, _, port = address.partition(":")
            assert speaks_tls(host, int(port)) is expected
        assert speaks_tls(*closed.getsockname()) is None


def test_a_server_that_is_silent_is_just_down() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        error = shut_out("Trino", url, "KP_TRINO_URL", "timed out")
    assert "Trino does not answer" in str(error)
    assert "`kp up`" in str(error)


def test_a_grant_is_of_one_topic_or_of_groups_with_one_beginning() -> None:
    read = Grant("kp", "READ", "analyze.action").binding()
    assert (read.principal, read.name) == ("User:kp", "analyze.action")
    assert (read.restype, read.resource_pattern_type) == (
        ResourceType.TOPIC,
        ResourcePatternType.LITERAL,
    )
    groups = Grant("kp", "READ", "kp-", of_groups=True).binding()
    assert (groups.restype, groups.resource_pattern_type) == (
        ResourceType.GROUP,
        ResourcePatternType.PREFIXED,
    )
