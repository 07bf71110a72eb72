"""When a run of periodic work starts, when it repeats its work, and when it ends."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import orjson
import pytest

from kp_platform.engine import heartbeat
from kp_platform.engine.bulk import put
from kp_platform.orchestration import run_state
from kp_platform.orchestration.periodic import (
    REPEATS_TAG,
    PeriodicJob,
    RepeatConfig,
    repeat,
)
from kp_platform.settings import Settings
from kp_platform_tests.fakes import FakeElasticsearch

KEY = dg.AssetKey("counted")
SETTINGS = Settings(_env_file=None)
JOB = PeriodicJob("count", KEY)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def store() -> FakeElasticsearch:
    return FakeElasticsearch()


def send_heartbeat(store: FakeElasticsearch, run_id: str, age_seconds: float) -> None:
    sent_at = datetime.now(UTC) - timedelta(seconds=age_seconds)
    body = orjson.dumps({"run_id": run_id, "sent_at": sent_at})
    store.bulk(put(heartbeat.INDEX, JOB.name, body))


def job(name: str, fails: bool = False) -> dg.JobDefinition:
    @dg.op
    def work() -> None:
        if fails:
            raise dg.Failure("intended")

    @dg.job(name=name)
    def worked() -> None:
        work()

    return worked


def test_nothing_blocks_the_first_run(
    instance: dg.DagsterInstance, store: FakeElasticsearch
) -> None:
    assert JOB.obstacle(instance, store, SETTINGS) == ""


def test_a_live_run_of_the_job_blocks_the_next(
    instance: dg.DagsterInstance, store: FakeElasticsearch
) -> None:
    run = instance.create_run_for_job(job(JOB.name), status=dg.DagsterRunStatus.STARTED)
    assert JOB.obstacle(instance, store, SETTINGS) == f"run {run.run_id[:8]} is started"


def test_a_run_of_another_job_does_not_block(
    instance: dg.DagsterInstance, store: FakeElasticsearch
) -> None:
    instance.create_run_for_job(job("another"), status=dg.DagsterRunStatus.STARTED)
    assert JOB.obstacle(instance, store, SETTINGS) == ""


def test_a_run_that_a_user_started_on_the_asset_blocks_the_next(
    instance: dg.DagsterInstance, store: FakeElasticsearch
) -> None:
    @dg.asset(name="counted")
    def counted() -> None: ...

    of_users = dg.Definitions(assets=[counted]).resolve_implicit_global_asset_job_def()
    run = instance.create_run_for_job(
        of_users, status=dg.DagsterRunStatus.STARTED, asset_selection=frozenset({KEY})
    )
    assert [each.run_id for each in JOB.live_runs(instance, store, SETTINGS)] == [run.run_id]
    other = PeriodicJob(JOB.name, dg.AssetKey("other"))
    assert other.live_runs(instance, store, SETTINGS) == []


def test_a_recent_failure_delays_the_next_run(
    instance: dg.DagsterInstance, store: FakeElasticsearch
) -> None:
    job(JOB.name, fails=True).execute_in_process(instance=instance, raise_on_error=False)
    assert "failed, the next starts in" in JOB.obstacle(instance, store, SETTINGS)


def test_a_successful_run_does_not_block(
    instance: dg.DagsterInstance, store: FakeElasticsearch
) -> None:
    job(JOB.name).execute_in_process(instance=instance)
    assert JOB.obstacle(instance, store, SETTINGS) == ""


@pytest.mark.parametrize(
    ("tags", "heartbeat_age", "live"),
    [
        ({REPEATS_TAG: "yes"}, None, False),  # its process ended with the code server
        ({REPEATS_TAG: "yes"}, SETTINGS.stalled_run_seconds + 1, False),
        ({REPEATS_TAG: "yes"}, 1.0, True),
        ({}, None, True),  # it does not repeat, so it sends no heartbeats
    ],
)
def test_a_repeating_run_is_live_only_as_long_as_it_sends_heartbeats(
    instance: dg.DagsterInstance,
    store: FakeElasticsearch,
    monkeypatch: pytest.MonkeyPatch,
    tags: dict[str, str],
    heartbeat_age: float | None,
    live: bool,
) -> None:
    monkeypatch.setattr(run_state, "FIRST_HEARTBEAT", 0.0)
    started = dg.DagsterRunStatus.STARTED
    run = instance.create_run_for_job(job(JOB.name), status=started, tags=tags)
    if heartbeat_age is not None:
        send_heartbeat(store, run.run_id, heartbeat_age)
    assert bool(JOB.obstacle(instance, store, SETTINGS)) is live


def test_a_run_has_time_until_its_first_heartbeat(
    instance: dg.DagsterInstance, store: FakeElasticsearch
) -> None:
    tags = {REPEATS_TAG: "yes"}
    instance.create_run_for_job(job(JOB.name), status=dg.DagsterRunStatus.STARTED, tags=tags)
    assert JOB.obstacle(instance, store, SETTINGS) != ""


@pytest.mark.parametrize(("seconds", "sends"), [(0.0, False), (5.0, True)])
def test_only_a_repeating_run_sends_heartbeats(
    store: FakeElasticsearch, seconds: float, sends: bool
) -> None:
    """Another run must not replace the heartbeats of the repeating run beside it."""
    config = RepeatConfig(repeat_seconds=seconds)
    with JOB.repetitions(
        store, "a-run", config, lambda: False, pause_seconds=0.0, limit_seconds=0.0
    ) as repetitions:
        assert len(list(repetitions)) == 1
    assert (heartbeat.age_seconds(store, JOB.name, "a-run") is not None) is sends


def count(is_due: Callable[[], bool], seconds: float, idle_seconds: float = 60.0) -> int:
    repetitions = repeat(is_due, seconds=seconds, idle_seconds=idle_seconds, check_seconds=0.001)
    return sum(1 for _ in repetitions)


def test_a_run_that_does_not_repeat_works_once_and_checks_nothing() -> None:
    assert count(lambda: pytest.fail("it checked"), seconds=0) == 1


def test_work_is_repeated_when_it_is_due_until_nothing_was_due_for_a_time() -> None:
    answers = iter([False, True, False, True])
    assert count(lambda: next(answers, False), seconds=60, idle_seconds=0.05) == 3


def test_a_run_ends_in_time_although_something_is_always_due() -> None:
    assert 1 < count(lambda: True, seconds=0.05) <= 50
