"""Whether a run is at work, as the sensor is told."""

from kp_platform.engine import heartbeat
from kp_platform_tests.conftest import wait_for
from kp_platform_tests.fakes import FakeElasticsearch


def test_a_run_beats_from_its_beginning() -> None:
    store = FakeElasticsearch()
    with heartbeat.running(store, "access_log", "run"):
        wait_for(lambda: heartbeat.age_seconds(store, "access_log", "run") is not None, "a beat")
    beat = heartbeat.age_seconds(store, "access_log", "run")
    assert beat is not None
    assert 0 <= beat < 90


def test_the_latest_run_has_the_lease_of_its_work() -> None:
    store = FakeElasticsearch()
    heartbeat.send(store, "access_log", "first")
    heartbeat.send(store, "access_log", "second")
    assert heartbeat.age_seconds(store, "access_log", "first") is None
    assert heartbeat.age_seconds(store, "access_log", "second") is not None
    assert heartbeat.age_seconds(store, "full_text", "second") is None


def test_a_store_that_is_away_ends_no_run() -> None:
    store = FakeElasticsearch()
    store.dies_after = 0
    with heartbeat.running(store, "access_log", "run"):
        pass
    assert heartbeat.age_seconds(store, "access_log", "run") is None
