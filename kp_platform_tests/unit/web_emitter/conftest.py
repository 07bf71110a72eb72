"""An application with fakes, and a client of it."""

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from kp_platform_tests.unit.web_emitter.fakes import (
    FakeFreshness,
    FakeInsights,
    FakeLogs,
    FakeNotes,
    FakeSink,
)
from web_emitter.site.app import Searches, Sinks, create_app
from web_emitter.site.settings import SiteSettings


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> SiteSettings:
    """The defaults, independent of the environment and of `.env`."""
    for name in SiteSettings.model_fields:
        monkeypatch.delenv(f"KP_{name.upper()}", raising=False)
    monkeypatch.setitem(SiteSettings.model_config, "env_file", None)
    return SiteSettings()


@pytest.fixture
def sink() -> FakeSink:
    return FakeSink()


@pytest.fixture
def note_sink() -> FakeSink:
    return FakeSink()


@pytest.fixture
def search() -> FakeLogs:
    return FakeLogs()


@pytest.fixture
def notes() -> FakeNotes:
    return FakeNotes()


@pytest.fixture
def insights() -> FakeInsights:
    return FakeInsights()


@pytest.fixture
def freshness() -> FakeFreshness:
    return FakeFreshness()


@pytest.fixture
def client(
    settings: SiteSettings,
    sink: FakeSink,
    note_sink: FakeSink,
    search: FakeLogs,
    notes: FakeNotes,
    insights: FakeInsights,
    freshness: FakeFreshness,
) -> Iterator[TestClient]:
    sinks, searches = Sinks(sink, note_sink), Searches(search, notes, insights, freshness)
    app = create_app(settings, sinks, searches, identify=lambda scope: "kafka")
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client
