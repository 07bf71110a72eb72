"""The page of one document, and the vendored files."""

import hashlib
import re
from typing import Any

from starlette.testclient import TestClient

from kp_platform_tests.unit.web_emitter.fakes import FakeLogs
from kp_platform_tests.unit.web_emitter.html import Tags
from web_emitter.site.analysis.logs import Document
from web_emitter.site.rendering import STATIC_FOLDER

UUID = "0b1c6b1e-6f0f-4d3b-9a57-0d6f4d1f2a01"
SOURCE: dict[str, Any] = {
    "@timestamp": "2026-03-01T10:20:30.456Z",
    "uuid": UUID,
    "uri": "/x?<script>",
    "name": "kafka",
    "redis_key": "kafka",
    "redis_value": None,
    "test_id": 2,
    "topic": "analyze.action",
    "partition": 3,
    "offset": 41,
    "run_id": "a-run",
    "enrichment": {"state": "partial", "missing": ["redis", "mysql"]},
    "mine": "of another producer",
}


def test_each_field_shows_its_origin(client: TestClient, search: FakeLogs) -> None:
    search.documents = {UUID: Document("log.index-2026.03.01", SOURCE)}
    text = client.get(f"/analysis/{UUID}").text
    page = Tags(text)
    assert page.named("script") == []
    shown = " ".join(page.text.split())
    for each in (
        "log.index-2026.03.01",
        "uri /x?<script> Kafka, message value",
        "redis_value none Redis, red_tests.test.string",
        "test_id 2 MySQL, my_tests.testing.tests",
        "offset 41 Kafka, message metadata",
        "enrichment.missing redis, mysql kp_platform",
        "mine of another producer unknown",
    ):
        assert each in shown, each
    assert "http://127.0.0.1:18030/runs/a-run" in [link["href"] for link in page.named("a")]


def test_an_unknown_uuid_is_a_404(client: TestClient, search: FakeLogs) -> None:
    answer = client.get(f"/analysis/{UUID}")
    assert answer.status_code == 404
    assert "Log not found" in answer.text


def test_an_unavailable_elasticsearch_is_a_503(client: TestClient, search: FakeLogs) -> None:
    search.go_down()
    assert client.get(f"/analysis/{UUID}").status_code == 503


def test_the_vendored_files_match_their_list() -> None:
    folder = STATIC_FOLDER / "vendor"
    rows = re.findall(
        r"^\| (\S+) \|.*\| ([0-9a-f]{64}) \|$", (folder / "README.md").read_text(), re.M
    )
    assert dict(rows) == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.suffix != ".md"
    }


def test_a_document_may_lack_a_name(client: TestClient, search: FakeLogs) -> None:
    search.documents = {UUID: Document("log.index-2026.03.01", {"uuid": UUID, "uri": "/x"})}
    links = [link["href"] for link in Tags(client.get(f"/analysis/{UUID}").text).named("a")]
    assert "/analysis?uri=/x" in links
    assert not any("name=" in (link or "") for link in links)
