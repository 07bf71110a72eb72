"""Dagster's history: expired runs are deleted with all their data."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy

from kp_platform.operations.retention import Expired
from kp_platform.orchestration import dagster_storage
from kp_platform.orchestration.dagster_storage import UnverifiedVersion, check_version
from kp_platform.orchestration.retention import (
    expire_dagster_history,
    retention_metadata,
    sentence,
)

TABLES = ("asset_check_executions", "event_logs WHERE run_id = ''")
IN_A_MONTH = datetime.now(UTC) + timedelta(days=30)


@dg.asset
def some_asset(context: dg.AssetExecutionContext) -> None:
    print("logged")


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
    """The files of single runs."""
    found = [*(home / "history" / "runs").glob("*.db*"), *(home / "storage").rglob("*")]
    return [str(each) for each in found]


def sqlite_rows(instance: dg.DagsterInstance, table: str) -> list[int]:
    """The ids of the existing rows, ascending."""
    storage: Any = instance.event_log_storage
    with storage.index_connection() as connection:
        found = connection.execute(sqlalchemy.text(f"SELECT id FROM {table} ORDER BY id"))
        return [number for (number,) in found]


def test_expired_runs_are_deleted_except_the_latest_of_an_asset(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    runs = [some_job.execute_in_process(instance=instance).run_id for _ in range(3)]
    runs += [dg.materialize([some_asset], instance=instance).run_id for _ in range(2)]
    assert all(any(run in each for each in files(tmp_path)) for run in runs)
    expired = expire_dagster_history(instance, IN_A_MONTH, dry_run=True)
    assert sorted(expired.names) == sorted(runs[:4])
    assert expired.bytes > 100_000
    assert len(instance.get_run_ids()) == 5
    assert expire_dagster_history(instance, IN_A_MONTH, dry_run=False) == expired
    assert instance.get_run_ids() == runs[4:]
    left = files(tmp_path)
    assert any(runs[4] in each for each in left)
    assert not any(run in each for each in left for run in runs[:4])
    assert instance.get_latest_materialization_event(some_asset.key) is not None
    assert expire_dagster_history(instance, IN_A_MONTH, dry_run=False).names == []


def test_data_without_a_run_is_deleted_except_the_latest_of_an_asset(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    for number in range(3):
        instance.report_runless_asset_event(dg.AssetMaterialization("counted", str(number)))
        dg.materialize([some_asset, some_check], instance=instance)
    log_file = tmp_path / "storage" / "__repository__" / "some_sensor" / "1.err"
    log_file.parent.mkdir(parents=True)
    log_file.write_text("logged by a tick")
    rows = [sqlite_rows(instance, table) for table in TABLES]
    expire_dagster_history(instance, datetime.now(UTC) - timedelta(days=1), dry_run=False)
    expire_dagster_history(instance, IN_A_MONTH, dry_run=True)
    assert [sqlite_rows(instance, table) for table in TABLES] == rows
    assert log_file.exists()
    expire_dagster_history(instance, IN_A_MONTH, dry_run=False)
    assert [sqlite_rows(instance, table) for table in TABLES] == [row[-1:] for row in rows]
    assert not log_file.exists()
    shown = instance.get_latest_materialization_event(dg.AssetKey("counted"))
    assert shown is not None
    assert shown.asset_materialization is not None
    assert shown.asset_materialization.description == "2"


def test_recent_and_unfinished_runs_are_kept(instance: dg.DagsterInstance) -> None:
    some_job.execute_in_process(instance=instance)
    instance.create_run_for_job(some_job)
    yesterday = datetime.now(UTC) - timedelta(days=1)
    assert expire_dagster_history(instance, yesterday, dry_run=False).names == []
    assert len(expire_dagster_history(instance, IN_A_MONTH, dry_run=False).names) == 1
    assert len(instance.get_run_ids()) == 1


def test_with_an_unverified_version_only_runs_are_deleted(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dagster_storage, "VERIFIED_VERSIONS", ("1.12",))
    for _ in range(2):
        dg.materialize([some_asset, some_check], instance=instance)
    rows, logs = sqlite_rows(instance, TABLES[0]), files(tmp_path)
    expired = expire_dagster_history(instance, IN_A_MONTH, dry_run=False)
    assert (len(expired.names), expired.bytes) == (1, 0)
    [kept] = expired.kept
    assert kept.startswith("log files, events without a run and check results: Dagster 1.")
    assert kept.endswith("its storage was verified only with 1.12")
    assert len(instance.get_run_ids()) == 1
    assert sqlite_rows(instance, TABLES[0]) == rows
    assert sorted(files(tmp_path)) == sorted(logs)


@pytest.mark.parametrize("version", ["1.12.9", "1.14.0", "2.0.0", "1.1.13"])
def test_other_minor_versions_are_refused(version: str) -> None:
    with pytest.raises(UnverifiedVersion, match=f"Dagster {version} is installed"):
        check_version(version)


def test_the_installed_version_is_verified() -> None:
    check_version()


def test_private_storage_is_not_touched_with_an_unverified_version(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dagster_storage, "VERIFIED_VERSIONS", ("1.12",))
    for read_or_delete in (
        lambda: dagster_storage.delete_events_and_checks(instance, IN_A_MONTH),
        lambda: dagster_storage.run_files(instance, "a-run"),
        lambda: dagster_storage.tick_logs(instance, IN_A_MONTH),
    ):
        with pytest.raises(UnverifiedVersion):
            read_or_delete()


def test_the_sentence_and_the_metadata_contain_the_numbers() -> None:
    old = Expired("log.index", ["a", "b"], documents=7, bytes=2_500_000, kept=["c: still read"])
    assert sentence(old, dry_run=True) == (
        "log.index: 2 of them, 7 documents, 2.5 MB would be deleted; kept: c: still read"
    )
    assert sentence(Expired("kp.dead"), dry_run=False) == "kp.dead: nothing deleted"
    reported = {name: each.value for name, each in retention_metadata([old]).items()}
    assert reported == {
        "log.index: count": 2,
        "log.index: documents": 7,
        "log.index: bytes": 2_500_000,
        "kept": ["c: still read"],
    }
