"""Heartbeats of running work."""

from kp_platform.engine import heartbeat
from kp_platform_tests.conftest import wait_for
from kp_platform_tests.fakes import FakeElasticsearch


def test_a_run_sends_a_heartbeat_at_its_start() -> None:
    store = FakeElasticsearch()
    with heartbeat.running(store, "access_log", "run"):
        wait_for(
            lambda: heartbeat.age_seconds(store, "access_log", "run") is not None, "a heartbeat"
        )
    age = heartbeat.age_seconds(store, "access_log", "run")
    assert age is not None
    assert 0 <= age < 90


def test_the_latest_heartbeat_of_the_work_is_that_of_the_latest_run() -> None:
    store = FakeElasticsearch()
    heartbeat.send(store, "access_log", "first")
    heartbeat.send(store, "access_log", "second")
    assert heartbeat.age_seconds(store, "access_log", "first") is None
    assert heartbeat.age_seconds(store, "access_log", "second") is not None
    assert heartbeat.age_seconds(store, "full_text", "second") is None


def test_a_failed_heartbeat_does_not_end_the_run() -> None:
    store = FakeElasticsearch()
    store.dies_after = 0
    with heartbeat.running(store, "access_log", "run"):
        pass
    assert heartbeat.age_seconds(store, "access_log", "run") is None
