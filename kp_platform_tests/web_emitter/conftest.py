"""An application on fakes, and a client of it."""

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from kp_platform_tests.web_emitter.fakes import FakeSearch, FakeSink
from web_emitter.app import create_app
from web_emitter.settings import Settings


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The defaults, whatever the environment and the folder's `.env` say."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"KP_{name.upper()}", raising=False)
    monkeypatch.setitem(Settings.model_config, "env_file", None)
    return Settings()


@pytest.fixture
def sink() -> FakeSink:
    return FakeSink()


@pytest.fixture
def search() -> FakeSearch:
    return FakeSearch()


@pytest.fixture
def client(settings: Settings, sink: FakeSink, search: FakeSearch) -> Iterator[TestClient]:
    app = create_app(settings, sink, search, identify=lambda scope: "kafka")
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client
