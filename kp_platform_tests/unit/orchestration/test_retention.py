"""Dagster's history: runs that are old go with all that is kept of them."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy

from kp_platform.operations.retention import Expired
from kp_platform.orchestration.retention import expire_runs, retention_metadata, sentence

TABLES = ("asset_check_executions", "event_logs WHERE run_id = ''")
IN_A_MONTH = datetime.now(UTC) + timedelta(days=30)


@dg.asset
def some_asset(context: dg.AssetExecutionContext) -> None:
    print("said")


@dg.asset_check(asset=some_asset)
def some_check() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True)


@dg.job
def some_job() -> None:
    @dg.op
    def work() -> None: ...

    work()


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance


def files(home: Path) -> list[str]:
    """What is kept of single runs."""
    found = [*(home / "history" / "runs").glob("*.db*"), *(home / "storage").rglob("*")]
    return [str(each) for each in found]


def sqlite_rows(instance: dg.DagsterInstance, table: str) -> list[int]:
    """The ids of the rows that are there, ascending."""
    storage: Any = instance.event_log_storage
    with storage.index_connection() as connection:
        found = connection.execute(sqlalchemy.text(f"SELECT id FROM {table} ORDER BY id"))
        return [number for (number,) in found]


def test_old_runs_go_with_events_and_logs_but_for_what_an_asset_shows(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    runs = [some_job.execute_in_process(instance=instance).run_id for _ in range(3)]
    runs += [dg.materialize([some_asset], instance=instance).run_id for _ in range(2)]
    assert all(any(run in each for each in files(tmp_path)) for run in runs)
    told = expire_runs(instance, IN_A_MONTH, dry_run=True)
    assert sorted(told.names) == sorted(runs[:4])
    assert told.bytes > 100_000
    assert len(instance.get_run_ids()) == 5
    assert expire_runs(instance, IN_A_MONTH, dry_run=False) == told
    assert instance.get_run_ids() == runs[4:]
    left = files(tmp_path)
    assert any(runs[4] in each for each in left)
    assert not any(run in each for each in left for run in runs[:4])
    assert instance.get_latest_materialization_event(some_asset.key) is not None
    assert expire_runs(instance, IN_A_MONTH, dry_run=False).names == []


def test_what_is_of_no_run_goes_but_for_the_last_that_an_asset_shows(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    for number in range(3):
        instance.report_runless_asset_event(dg.AssetMaterialization("counted", str(number)))
        dg.materialize([some_asset, some_check], instance=instance)
    said = tmp_path / "storage" / "__repository__" / "some_sensor" / "1.err"
    said.parent.mkdir(parents=True)
    said.write_text("said by a tick")
    rows = [sqlite_rows(instance, table) for table in TABLES]
    expire_runs(instance, datetime.now(UTC) - timedelta(days=1), dry_run=False)
    expire_runs(instance, IN_A_MONTH, dry_run=True)
    assert [sqlite_rows(instance, table) for table in TABLES] == rows
    assert said.exists()
    expire_runs(instance, IN_A_MONTH, dry_run=False)
    assert [sqlite_rows(instance, table) for table in TABLES] == [row[-1:] for row in rows]
    assert not said.exists()
    shown = instance.get_latest_materialization_event(dg.AssetKey("counted"))
    assert shown is not None
    assert shown.asset_materialization is not None
    assert shown.asset_materialization.description == "2"


def test_runs_that_are_young_or_have_not_ended_stay(instance: dg.DagsterInstance) -> None:
    some_job.execute_in_process(instance=instance)
    instance.create_run_for_job(some_job)
    assert expire_runs(instance, datetime.now(UTC) - timedelta(days=1), dry_run=False).names == []
    assert len(expire_runs(instance, IN_A_MONTH, dry_run=False).names) == 1
    assert len(instance.get_run_ids()) == 1


def test_what_went_and_what_stays_is_told_with_numbers() -> None:
    old = Expired("log.index", ["a", "b"], documents=7, bytes=2_500_000, kept=["c: still read"])
    assert sentence(old, dry_run=True) == (
        "log.index: 2 of them, 7 documents, 2.5 MB would be deleted; kept: c: still read"
    )
    assert sentence(Expired("kp.dead"), dry_run=False) == "kp.dead: nothing deleted"
    told = {name: each.value for name, each in retention_metadata([old]).items()}
    assert told == {
        "log.index: count": 2,
        "log.index: documents": 7,
        "log.index: bytes": 2_500_000,
        "kept": ["c: still read"],
    }
