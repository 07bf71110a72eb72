"""What keeps a sensor from starting a run, with real run records on an ephemeral instance."""

from collections.abc import Iterator

import dagster as dg
import pytest

from kp_platform.runs import live_runs, obstacle_to_run

KEY, JOB = dg.AssetKey("counted"), "count"


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def obstacle(instance: dg.DagsterInstance) -> str:
    return obstacle_to_run(instance, JOB, KEY, max_run_seconds=600)


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
    assert [each.run_id for each in live_runs(instance, JOB, KEY, 600)] == [run.run_id]
    assert live_runs(instance, JOB, dg.AssetKey("other"), 600) == []


def test_a_run_that_failed_just_now_makes_the_next_wait(instance: dg.DagsterInstance) -> None:
    job(JOB, fails=True).execute_in_process(instance=instance, raise_on_error=False)
    assert "failed, the next starts in" in obstacle(instance)


def test_a_run_that_succeeded_does_not(instance: dg.DagsterInstance) -> None:
    job(JOB).execute_in_process(instance=instance)
    assert obstacle(instance) == ""
