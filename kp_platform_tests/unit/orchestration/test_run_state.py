"""What keeps a sensor from starting a run, with real run records on an ephemeral instance."""

from collections.abc import Callable, Iterator

import dagster as dg
import pytest

from kp_platform.orchestration import run_state
from kp_platform.orchestration.run_state import (
    FOLLOWS_TAG,
    JobRun,
    live_runs,
    obstacle_to_run,
)

KEY, JOB = dg.AssetKey("counted"), "count"


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def never(_run: JobRun) -> None:
    """No run beats."""


def obstacle(
    instance: dg.DagsterInstance, heartbeat_age: Callable[[JobRun], float | None] = never
) -> str:
    return obstacle_to_run(instance, JOB, KEY, 600, heartbeat_age)


def job(name: str, fails: bool = False) -> dg.JobDefinition:
    @dg.op
    def work() -> None:
        if fails:
            raise dg.Failure("told to")

    @dg.job(name=name)
    def worked() -> None:
        work()

    return worked


def test_nothing_keeps_the_first_run(instance: dg.DagsterInstance) -> None:
    assert obstacle(instance) == ""


def test_a_run_of_the_job_that_is_live_keeps_the_next(instance: dg.DagsterInstance) -> None:
    run = instance.create_run_for_job(job(JOB), status=dg.DagsterRunStatus.STARTED)
    assert obstacle(instance) == f"run {run.run_id[:8]} is started"


def test_a_run_of_another_job_does_not(instance: dg.DagsterInstance) -> None:
    instance.create_run_for_job(job("another"), status=dg.DagsterRunStatus.STARTED)
    assert obstacle(instance) == ""


def test_a_run_that_a_person_started_on_the_asset_keeps_the_next(
    instance: dg.DagsterInstance,
) -> None:
    @dg.asset(name="counted")
    def counted() -> None: ...

    of_people = dg.Definitions(assets=[counted]).resolve_implicit_global_asset_job_def()
    run = instance.create_run_for_job(
        of_people, status=dg.DagsterRunStatus.STARTED, asset_selection=frozenset({KEY})
    )
    assert [each.run_id for each in live_runs(instance, JOB, KEY, 600, never)] == [run.run_id]
    assert live_runs(instance, JOB, dg.AssetKey("other"), 600, never) == []


def test_a_run_that_failed_just_now_makes_the_next_wait(instance: dg.DagsterInstance) -> None:
    job(JOB, fails=True).execute_in_process(instance=instance, raise_on_error=False)
    assert "failed, the next starts in" in obstacle(instance)


def test_a_run_that_succeeded_does_not(instance: dg.DagsterInstance) -> None:
    job(JOB).execute_in_process(instance=instance)
    assert obstacle(instance) == ""


@pytest.mark.parametrize(
    ("tags", "beat", "live"),
    [
        ({FOLLOWS_TAG: "yes"}, None, False),  # its process went with the code server
        ({FOLLOWS_TAG: "yes"}, 31.0, False),
        ({FOLLOWS_TAG: "yes"}, 1.0, True),
        ({}, None, True),  # it does not stay, so it does not beat
    ],
)
def test_a_run_that_stays_is_live_only_as_long_as_it_beats(
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    tags: dict[str, str],
    beat: float | None,
    live: bool,
) -> None:
    monkeypatch.setattr(run_state, "FIRST_HEARTBEAT", 0.0)
    instance.create_run_for_job(job(JOB), status=dg.DagsterRunStatus.STARTED, tags=tags)
    assert bool(obstacle(instance, lambda _: beat)) is live


def test_a_run_may_take_its_time_until_the_first_beat(instance: dg.DagsterInstance) -> None:
    instance.create_run_for_job(
        job(JOB), status=dg.DagsterRunStatus.STARTED, tags={FOLLOWS_TAG: "yes"}
    )
    assert obstacle(instance) != ""
