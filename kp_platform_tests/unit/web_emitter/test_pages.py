"""The pages: the table, the three empty states, hostile text, headers, health checks."""

from dataclasses import replace
from uuid import uuid4

import pytest
from starlette.testclient import TestClient

from kp_platform_tests.stack import ROOT
from kp_platform_tests.unit.web_emitter.fakes import (
    FakeFreshness,
    FakeInsights,
    FakeLogs,
    FakeNotes,
    FakeSink,
    enriched_log,
)
from kp_platform_tests.unit.web_emitter.html import OUR_SCRIPTS, Tags
from web_emitter.emitter.ledger import Counts
from web_emitter.site.app import Searches, Sinks, create_app
from web_emitter.site.search import Cursor
from web_emitter.site.security import SECURITY_HEADERS
from web_emitter.site.settings import SiteSettings

PAGES = ("/", "/analysis", "/fulltext", "/fulltext/form", "/fulltext/registered")
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{7*7}}\u202e=cmd()"


def test_the_analysis_shows_the_columns_of_the_join(client: TestClient, search: FakeLogs) -> None:
    search.logs = (enriched_log(),)
    text = Tags(client.get("/analysis").text).text
    for shown in (
        "2026-03-01 10:20:30.456",
        "kafka",
        "/hello?from=home",
        "https://kafka.apache.org/",
        "2",
        "complete",
        "0b1c6b1e-6f0f-4d3b-9a57-0d6f4d1f2a01",
        "The newest 1 of 1 logs",
    ):
        assert shown in text


def test_a_log_shows_which_reference_data_is_missing(client: TestClient, search: FakeLogs) -> None:
    search.logs = (enriched_log(redis_value=None, test_id=None, missing=("mysql", "redis")),)
    assert "without mysql, redis" in client.get("/analysis").text


def test_the_newest_fifty_are_shown(client: TestClient, search: FakeLogs) -> None:
    search.logs = tuple(enriched_log(uuid=str(uuid4())) for _ in range(60))
    page = Tags(client.get("/analysis").text)
    assert len(page.named("time")) == 50
    assert "The newest 50 of 60 logs" in page.text


def test_links_lead_to_older_logs_and_to_the_newest(client: TestClient, search: FakeLogs) -> None:
    search.logs = tuple(enriched_log(uuid=f"{n:036}", name="a&b") for n in range(120))
    shown: list[str] = []
    link = "/analysis?name=a%26b"
    while link:
        page = Tags(client.get(link).text)
        shown += [log.uuid for log in search.logs if log.uuid in page.text]
        link = next((a["href"] or "" for a in page.named("a") if a.get("rel") == "next"), "")
    assert shown == [log.uuid for log in search.logs]
    assert "20 older logs" in page.text
    assert "/analysis?name=a%26b" in [a["href"] for a in page.named("a")]


def test_the_page_after_the_oldest_log_is_empty(client: TestClient, search: FakeLogs) -> None:
    search.logs = (enriched_log(),)
    answer = client.get(f"/analysis?after={Cursor(0, 0, 0, reach=0).token}")
    assert answer.status_code == 200
    assert "No older logs" in answer.text


@pytest.mark.parametrize(
    "token",
    ["x", "W10", "%F0%9F%98%80", "W10K" * 100, "bnVsbA", "WzEsMiwzLC0xXQ", "W3RydWUsMiwzLDRd"],
)
def test_a_changed_link_is_a_400(client: TestClient, token: str) -> None:
    answer = client.get(f"/analysis?after={token}")
    assert answer.status_code == 400
    assert "Invalid address" in answer.text


def test_a_page_has_one_heading_and_an_accessible_table(
    client: TestClient, search: FakeLogs
) -> None:
    search.logs = (enriched_log(),)
    page = Tags(client.get("/analysis").text)
    assert len(page.named("h1")) == 1
    assert len(page.named("caption")) == 1
    assert {heading["scope"] for heading in page.named("th")} == {"col"}
    assert len(page.named("th")) == len(page.named("td"))


def test_filters_apply_and_stay_in_the_form(client: TestClient, search: FakeLogs) -> None:
    search.logs = (enriched_log(name="kafka"), enriched_log(name="presto", uri="/other"))
    page = Tags(client.get("/analysis?name=presto&uri=/oth").text)
    assert len(page.named("time")) == 1
    assert [field["value"] for field in page.named("input")] == ["", "presto", "/oth", "", ""]
    assert "/analysis" in [link["href"] for link in page.named("a")]


def test_a_page_without_logs_has_instructions(client: TestClient) -> None:
    answer = client.get("/analysis")
    assert answer.status_code == 200
    assert "Nothing is indexed yet" in answer.text
    assert "kp status" in answer.text


def test_a_filter_without_results_links_to_all_logs(client: TestClient, search: FakeLogs) -> None:
    search.logs = (enriched_log(),)
    answer = client.get("/analysis?name=nobody")
    assert answer.status_code == 200
    assert "No matching logs" in answer.text
    assert '<a href="/analysis">Clear the filter</a>' in answer.text


def test_an_unavailable_elasticsearch_is_a_503_with_its_address(
    client: TestClient, search: FakeLogs
) -> None:
    search.go_down()
    answer = client.get("/analysis?name=kafka")
    assert answer.status_code == 503
    assert "http://127.0.0.1:18020" in answer.text
    assert "kp status" in answer.text
    fields = {field["name"]: field["value"] for field in Tags(answer.text).named("input")}
    assert fields == {"q": "", "name": "kafka", "uri": "", "from": "", "to": ""}


def test_the_password_of_elasticsearch_is_on_no_page(
    settings: SiteSettings, sink: FakeSink, search: FakeLogs, notes: FakeNotes
) -> None:
    secret = settings.model_copy(
        update={"elasticsearch_url": "http://elastic:hunter2@127.0.0.1:18020"}
    )
    app = create_app(
        secret, Sinks(sink, sink), Searches(search, notes, FakeInsights(), FakeFreshness())
    )
    search.go_down()
    notes.go_down()
    with TestClient(app) as client:
        for path in ("/analysis", "/fulltext"):
            assert "hunter2" not in client.get(path).text


def test_hostile_text_is_escaped(client: TestClient, search: FakeLogs) -> None:
    search.logs = (
        replace(
            enriched_log(),
            accessed_at=HOSTILE,
            uuid=HOSTILE,
            uri=HOSTILE,
            name=HOSTILE,
            redis_key=HOSTILE,
            redis_value=HOSTILE,
            test_name=HOSTILE,
            state=HOSTILE,
            missing=(HOSTILE,),
        ),
    )
    page = Tags(client.get("/analysis").text)
    assert page.named("script") == []
    assert page.named("img") == []
    assert page.text.count("{{7*7}}") == 9
    assert [name for _, attributes in page.tags for name in attributes if name[:2] == "on"] == []


def test_a_hostile_filter_is_escaped(client: TestClient, search: FakeLogs) -> None:
    search.logs = (enriched_log(),)
    page = Tags(client.get("/analysis", params={"name": HOSTILE, "uri": HOSTILE}).text)
    assert page.named("script") == []
    assert [field["value"] for field in page.named("input")] == ["", HOSTILE, HOSTILE, "", ""]


def test_no_page_has_an_inline_script_a_style_or_a_foreign_asset(
    client: TestClient, search: FakeLogs
) -> None:
    search.logs = (enriched_log(),)
    for path in (*PAGES, "/missing"):
        page = Tags(client.get(path).text)
        assert page.named("script") == page.named("style") == []  # except the vendored ones
        assert [tag for tag, attributes in page.tags if "style" in attributes] == []
        for link in page.named("link"):
            assert client.get(str(link["href"])).status_code == 200
    for script in OUR_SCRIPTS:
        assert client.get(str(dict(script)["src"])).status_code == 200


@pytest.mark.parametrize(
    "path", ["/", "/analysis", "/fulltext", "/missing", "/livez", "/readyz", "/metrics"]
)
def test_every_response_has_the_security_headers(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    assert {name: headers[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS
    assert headers["content-security-policy"].startswith("default-src 'self';")


def test_static_files_are_cached_and_revalidated(client: TestClient) -> None:
    headers = client.get("/static/kp.css").headers
    assert headers["cache-control"] == "no-cache"
    assert headers["x-content-type-options"] == "nosniff"


def test_an_error_is_a_500_page_with_the_security_headers_and_an_event(
    client: TestClient, search: FakeLogs, sink: FakeSink
) -> None:
    search.failure = RuntimeError("a bug")
    answer = client.get("/analysis")
    assert answer.status_code == 500
    assert "Internal server error" in answer.text
    assert {name: answer.headers[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS
    assert sink.uris == ["/analysis"]


def test_an_unknown_page_is_a_404_page_and_an_event(client: TestClient, sink: FakeSink) -> None:
    answer = client.get("/missing?page=1")
    assert answer.status_code == 404
    assert "Page not found" in answer.text
    assert sink.uris == ["/missing?page=1"]


def test_a_forged_host_is_in_no_response(client: TestClient) -> None:
    for path in (*PAGES, "/analysis/", "/static"):
        answer = client.get(path, headers={"host": "evil.test"}, follow_redirects=False)
        assert "evil.test" not in answer.text + str(answer.headers)


def test_the_start_page_links_to_all_pages(client: TestClient) -> None:
    links = [link["href"] for link in Tags(client.get("/").text).named("a")]
    assert {*PAGES[:-1], "/readyz", "http://127.0.0.1:18030"} <= set(links)


def test_the_start_page_shows_the_picture_of_the_readme(client: TestClient) -> None:
    (picture,) = Tags(client.get("/").text).named("img")
    assert len(str(picture["alt"])) > 100
    answer = client.get(str(picture["src"]))
    assert answer.headers["content-type"] == "image/svg+xml"
    assert answer.content == (ROOT / "docs" / "flow.svg").read_bytes()
    assert "](docs/flow.svg)" in (ROOT / "README.md").read_text()


def test_a_running_worker_is_live(client: TestClient, sink: FakeSink) -> None:
    sink.broker_count = 0
    assert client.get("/livez").status_code == 200


def test_a_worker_is_ready_when_brokers_answer(client: TestClient) -> None:
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json() == {
        "ready": True,
        "checks": {
            "kafka": {"ok": True, "detail": "1 broker"},
            "elasticsearch": {"ok": True, "detail": "answers"},
        },
        "events": Counts().as_json(),
        "notes": Counts().as_json(),
        "sink_failures": 0,
        "rejected": 0,
        "anonymous": {},
    }


def test_a_worker_without_brokers_is_not_ready(client: TestClient, sink: FakeSink) -> None:
    sink.broker_count = 0
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"]["kafka"] == {
        "ok": False,
        "detail": "Local: Broker transport failure",
    }


def test_an_unavailable_elasticsearch_is_reported_but_does_not_affect_readiness(
    client: TestClient, search: FakeLogs
) -> None:
    search.go_down()
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert not answer.json()["checks"]["elasticsearch"]["ok"]


def test_probes_within_a_second_share_one_request_to_the_brokers(
    client: TestClient, sink: FakeSink
) -> None:
    for _ in range(5):
        client.get("/readyz")
    assert sink.broker_requests == 1


def test_the_form_keeps_the_run_and_the_preset(client: TestClient, search: FakeLogs) -> None:
    search.logs = (enriched_log(),)
    inputs = Tags(client.get("/analysis?run=a-run&last=24h").text).named("input")
    hidden = {each["name"]: each["value"] for each in inputs if each.get("type") == "hidden"}
    assert hidden == {"run": "a-run", "last": "24h"}


@pytest.mark.parametrize("path", ["/", "/fulltext", "/fulltext/registered"])
def test_the_note_form_is_a_page_of_its_own(client: TestClient, path: str) -> None:
    """Swapped into another page it would have that page's Referrer-Policy and be rejected."""
    links = Tags(client.get(path).text).named("a")
    to_form = [link for link in links if link["href"] == "/fulltext/form"]
    assert to_form
    assert {link.get("hx-boost") for link in to_form} == {"false"}
