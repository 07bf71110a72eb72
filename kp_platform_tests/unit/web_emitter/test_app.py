"""The assembled application: imports, lifespan, and the object that a server imports."""

import subprocess
import sys
from time import monotonic

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

import web_emitter.site.app
from kp_platform_tests.unit.web_emitter.fakes import (
    FakeFreshness,
    FakeInsights,
    FakeLogs,
    FakeNotes,
    FakeSink,
)
from web_emitter.emitter.producer import EventProducer
from web_emitter.site.app import Searches, Sinks, create_app
from web_emitter.site.settings import SiteSettings


def test_importing_the_application_with_an_empty_environment_opens_nothing() -> None:
    program = (
        "import sys, threading, web_emitter.site.app;"
        "assert threading.active_count() == 1, threading.enumerate();"
        "assert 'elasticsearch' not in sys.modules;"
        "assert 'app' not in vars(web_emitter.site.app)"
    )
    subprocess.run([sys.executable, "-c", program], env={}, check=True, timeout=60)


def test_a_server_imports_one_application(
    settings: SiteSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KP_DAGSTER_URL", "http://dagster.test")
    app = web_emitter.site.app.app
    assert isinstance(app, Starlette)
    assert web_emitter.site.app.app is app
    assert app.state.settings.dagster_url == "http://dagster.test"


def test_an_unknown_module_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'application'"):
        _ = web_emitter.site.app.application


def test_an_unknown_hook_prevents_the_start(settings: SiteSettings) -> None:
    wrong = settings.model_copy(update={"emitter_identify": "nowhere:hook"})
    with pytest.raises(ValueError, match="KP_EMITTER_IDENTIFY"):
        create_app(wrong)


def test_sinks_that_are_passed_stay_open(settings: SiteSettings) -> None:
    sink, note_sink = FakeSink(), FakeSink()
    searches = Searches(FakeLogs(), FakeNotes(), FakeInsights(), FakeFreshness())
    with TestClient(create_app(settings, Sinks(sink, note_sink), searches)) as client:
        client.get("/")
    assert not sink.closed
    assert not note_sink.closed


def test_without_servers_the_pages_answer_and_the_end_counts_every_event(
    settings: SiteSettings,
) -> None:
    nowhere = settings.model_copy(
        update={
            "kafka_bootstrap_servers": "127.0.0.1:1",
            "elasticsearch_url": "http://127.0.0.1:1",
            "emitter_flush_seconds": 0.1,
        }
    )
    with TestClient(create_app(nowhere)) as client:
        sink, note_sink = client.app_state["sink"], client.app_state["note_sink"]
        assert client.get("/").status_code == 200
        assert client.get("/analysis").status_code == 503
        assert client.get("/fulltext").status_code == 503
        assert client.post("/fulltext/register", data={"text": "a note"}).status_code == 200
        assert client.get("/readyz").status_code == 503
    for each, topic, accepted in ((sink, "analyze.action", 5), (note_sink, "fulltext.register", 1)):
        assert isinstance(each, EventProducer)
        assert each.settings.topic == topic
        counts = each.counts()
        assert (counts.accepted, counts.in_flight) == (accepted, 0)
        assert counts.balanced


def test_both_producers_close_within_one_flush_timeout(settings: SiteSettings) -> None:
    nowhere = settings.model_copy(
        update={"kafka_bootstrap_servers": "127.0.0.1:1", "emitter_flush_seconds": 3.0}
    )
    with TestClient(create_app(nowhere)) as client:
        client.post("/fulltext/register", data={"text": "a note"})
        started = monotonic()
    assert 2.9 <= monotonic() - started < 6.0
