"""TLS and logins of the clients, against a small server that supports both.

The local Elasticsearch is a build without security, so its client is tested here. The other servers
are tested for real in `stacks/test_secure.py`.
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
from kp_platform.adapters.errors import ServerDown, accepts_tls, server_error
from kp_platform.adapters.kafka_admin import Grant
from kp_platform.adapters.trino import TrinoAdapter
from kp_platform.local.secure import write_certificate
from kp_platform.settings import Settings
from web_emitter.site.search import SearchUnavailable, connection, run_search

API_KEY = "ApiKey c2VjcmV0OmtleQ=="


class Elasticsearch(BaseHTTPRequestHandler):
    """Answers requests with the key, and any search with no hits."""

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
        """Log nothing."""


class Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Ignore clients that hang up: the tests provoke them."""


@contextmanager
def serving(certificate: Path | None, host: str = "127.0.0.1") -> Iterator[str]:
    """The address of a server, with TLS if a certificate is given."""
    server = Server((host, 0), Elasticsearch)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        # Not on accept: a client that breaks its handshake would end the server.
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
    """The URL of a server with TLS, which the settings name and trust."""
    with serving(certificate) as address:
        monkeypatch.setenv("KP_ELASTICSEARCH_URL", f"https://{address}")
        monkeypatch.setenv("KP_CA_FILE", str(certificate.with_name("ca.pem")))
        monkeypatch.setenv("KP_ELASTICSEARCH_API_KEY", API_KEY.removeprefix("ApiKey "))
        yield f"https://{address}"


def test_elasticsearch_is_queried_over_https_with_an_api_key(encrypted: str) -> None:
    ElasticsearchAdapter(Settings()).probe()


def test_a_wrong_api_key_is_refused(encrypted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KP_ELASTICSEARCH_API_KEY", "hunter2")
    sentence = "refuses the user .*KP_ELASTICSEARCH_URL, KP_ELASTICSEARCH_API_KEY"
    with pytest.raises(ServerDown, match=sentence) as refused:
        ElasticsearchAdapter(Settings()).probe()
    assert "hunter2" not in str(refused.value)


def test_elasticsearch_with_an_untrusted_certificate_is_refused(
    encrypted: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write_certificate(other)
    monkeypatch.setenv("KP_CA_FILE", str(other / "tls" / "ca.pem"))
    with pytest.raises(ServerDown, match="certificate that KP_CA_FILE does not trust .*KP_CA_FILE"):
        ElasticsearchAdapter(Settings()).probe()


def test_the_name_in_the_certificate_is_verified(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """127.0.0.2 is the same machine but is in no test certificate."""
    monkeypatch.setenv("KP_CA_FILE", str(certificate.with_name("ca.pem")))
    with serving(certificate, "127.0.0.2") as address:
        with pytest.raises(ServerDown, match="KP_CA_FILE.*IP address mismatch"):
            ElasticsearchAdapter(Settings(elasticsearch_url=f"https://{address}")).probe()


def test_http_to_a_server_that_requires_tls_is_reported(encrypted: str) -> None:
    plain = encrypted.replace("https:", "http:")
    with pytest.raises(ServerDown, match="Elasticsearch requires TLS .*KP_ELASTICSEARCH_URL"):
        ElasticsearchAdapter(Settings(elasticsearch_url=plain)).probe()
    with pytest.raises(ServerDown, match="Trino requires TLS .*KP_TRINO_URL"):
        TrinoAdapter(Settings(trino_url=plain)).probe()


def test_https_to_a_server_without_tls_is_reported() -> None:
    with serving(None) as address:
        with pytest.raises(ServerDown, match="Elasticsearch does not accept TLS"):
            ElasticsearchAdapter(Settings(elasticsearch_url=f"https://{address}")).probe()
        with pytest.raises(ServerDown, match="Trino does not accept TLS"):
            TrinoAdapter(Settings(trino_url=f"https://{address}")).probe()


def test_the_pages_of_the_emitter_query_over_https_with_the_api_key(
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


def test_tls_is_detected_without_trusting_the_server(certificate: Path) -> None:
    with serving(certificate) as encrypted, serving(None) as plain, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # without listening
        for address, expected in ((encrypted, True), (plain, False)):
            host, _, port = address.partition(":")
            assert accepts_tls(host, int(port)) is expected
        assert accepts_tls(*closed.getsockname()) is None


def test_a_server_that_never_answers_is_reported_as_down() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        error = server_error("Trino", url, "KP_TRINO_URL", "timed out")
    assert "Trino does not answer" in str(error)
    assert "`kp up`" in str(error)


def test_a_grant_applies_to_one_topic_or_to_groups_with_a_prefix() -> None:
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
