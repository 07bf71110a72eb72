"""Housekeeping in Dagster: its own history, and the job and schedule that delete what is old.

Belongs here: runs with their events and logs. Does not belong here: which indices and documents may
go (`pipeline/housekeeping.py`).
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.adapters.kafka import KafkaAdapter
from kp_platform.flows.model import AnyFlow
from kp_platform.operations.retention import Expired, RetentionPolicy, apply_retention
from kp_platform.orchestration.jobs import MAX_RUNTIME_SECONDS
from kp_platform.settings import Settings

JOB_NAME = "retention"
# In UTC: little is read at night, and no hour begins.
DAILY = "20 3 * * *"
_RUNS_AT_ONCE = 500
# What a setting keeps, in words.
_KINDS = {
    "log_retention_days": "daily indices",
    "dead_letter_retention_days": "dead letters and gaps",
    "kpi_retention_days": "KPIs",
    "run_retention_days": "runs of Dagster",
}
# The last of each stays, for its asset shows it. In SQL that SQLite and PostgreSQL know.
_OLD_CHECKS = """
DELETE FROM asset_check_executions WHERE evaluation_event_timestamp < :before AND id NOT IN
(SELECT max(id) FROM asset_check_executions GROUP BY asset_key, check_name)
"""
_OLD_EVENTS_OF_NO_RUN = """
DELETE FROM event_logs WHERE run_id = '' AND timestamp < :before AND id NOT IN
(SELECT max(id) FROM event_logs WHERE run_id = '' GROUP BY asset_key, dagster_event_type)
"""
_ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


class RetentionConfig(dg.Config):
    """Whether anything is deleted."""

    dry_run: bool = Field(default=False, description="Only tell what would be deleted.")


def retention_job(flows: Sequence[AnyFlow]) -> dg.JobDefinition:
    """Delete what is older than the KP_KEEP_* settings say."""

    @dg.op(
        name="delete_expired",
        description="Delete old indices, dead letters, KPIs and runs; each with its numbers.",
    )
    def delete_what_is_old(
        context: dg.OpExecutionContext,
        config: RetentionConfig,
        kafka: dg.ResourceParam[KafkaAdapter],
        elasticsearch: dg.ResourceParam[ElasticsearchAdapter],
    ) -> None:
        found = expire(
            elasticsearch, kafka, context.instance, flows, datetime.now(UTC), config.dry_run
        )
        for old in found:
            context.log.info("%s", sentence(old, config.dry_run))
        context.add_output_metadata(retention_metadata(found))

    @dg.job(
        name=JOB_NAME,
        description=(
            "Delete what is older than the KP_KEEP_* settings say: daily indices, dead letters, "
            "KPIs, runs of Dagster, and what replays left that were killed. Config: `dry_run`. "
            "Nothing goes of which the topic still holds a message."
        ),
        executor_def=dg.in_process_executor,
        tags={"dagster/max_runtime": str(MAX_RUNTIME_SECONDS), "dagster/max_retries": "0"},
    )
    def housekeeping() -> None:
        delete_what_is_old()

    return housekeeping


def retention_schedule(job: dg.JobDefinition) -> dg.ScheduleDefinition:
    """Once a day."""
    return dg.ScheduleDefinition(
        name="retention_daily",
        job=job,
        cron_schedule=DAILY,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Deletes what has become old, once a night (UTC).",
    )


def expire(
    elasticsearch: dg.ResourceParam[ElasticsearchAdapter],
    kafka: dg.ResourceParam[KafkaAdapter],
    instance: dg.DagsterInstance,
    flows: Sequence[AnyFlow],
    now: datetime,
    dry_run: bool,
) -> list[Expired]:
    """What was deleted, or would be, by the settings. Raises what the servers raise."""
    settings = Settings()
    keep = RetentionPolicy(
        log_days=settings.log_retention_days,
        dead_letter_days=settings.dead_letter_retention_days,
        kpi_days=settings.kpi_retention_days,
    )
    found = apply_retention(elasticsearch, kafka, flows, keep, now, dry_run=dry_run)
    if settings.run_retention_days:
        before = now - timedelta(days=settings.run_retention_days)
        found.append(expire_runs(instance, before, dry_run))
    for name, kinds in _KINDS.items():
        if not getattr(settings, name):
            found.append(Expired(kinds, kept=[f"all, for KP_{name.upper()} is 0"]))
    return found


def expire_runs(instance: dg.DagsterInstance, before: datetime, dry_run: bool) -> Expired:
    """Runs that ended and were made before a moment: their events and logs too. What an asset shows
    of its last materialization is kept."""
    old = Expired("runs of Dagster")
    shown = _shown_runs(instance)
    chosen = dg.RunsFilter(statuses=_ENDED, created_before=before)
    cursor: str | None = None
    while records := instance.get_run_records(chosen, limit=_RUNS_AT_ONCE, cursor=cursor):
        cursor = records[-1].dagster_run.run_id
        old.names += [
            run.run_id for run in (each.dagster_run for each in records) if run.run_id not in shown
        ]
    for run_id in old.names:
        if not dry_run:
            instance.delete_run(run_id)
        old.bytes += _remove(_files(instance, run_id), dry_run)
    old.bytes += _remove(_tick_logs(instance, before), dry_run)
    if not dry_run:
        _forget_what_is_of_no_run(instance, before)
    return old


def _remove(files: Sequence[Path], dry_run: bool) -> int:
    """The bytes that files and folders take, which are gone then unless it is a dry run."""
    taken = sum(each.stat().st_size for each in files if each.is_file())
    for each in [] if dry_run else sorted(files, reverse=True):  # a folder after what is in it
        each.rmdir() if each.is_dir() else each.unlink(missing_ok=True)
    return taken


def _forget_what_is_of_no_run(instance: dg.DagsterInstance, before: datetime) -> None:
    """What sensors report without a run, and what checks have found, which Dagster keeps when it
    deletes their run (1.13); it has no verb for either."""
    import sqlalchemy  # which who only loads the definitions does not need

    moment = sqlalchemy.bindparam(
        "before", before.astimezone(UTC).replace(tzinfo=None), sqlalchemy.DateTime
    )
    events, checks = (
        sqlalchemy.text(sql).bindparams(moment) for sql in (_OLD_EVENTS_OF_NO_RUN, _OLD_CHECKS)
    )
    storage: Any = instance.event_log_storage
    with storage.run_connection("") as connection:  # SQLite: a file of its own
        connection.execute(events)
    with storage.index_connection() as connection:
        connection.execute(events)
        connection.execute(checks)


def _shown_runs(instance: dg.DagsterInstance) -> set[str]:
    """The run of each asset's last materialization."""
    records = instance.get_asset_records(instance.get_asset_keys())
    latest = (each.asset_entry.last_materialization for each in records)
    return {each.run_id for each in latest if each is not None}


def _files(instance: dg.DagsterInstance, run_id: str) -> list[Path]:
    """What Dagster keeps of a run beside its storage: its logs, and where the storage is SQLite its
    events in a file of their own, which it empties but does not delete."""
    home, logs = Path(instance.root_directory), Path(instance.storage_directory()) / run_id
    events = (home / "history" / "runs").glob(f"{run_id}.db*")
    return [*events, *([logs, *logs.rglob("*")] if logs.is_dir() else [])]


def _tick_logs(instance: dg.DagsterInstance, before: datetime) -> list[Path]:
    """What ticks said: Dagster deletes ticks without it."""
    logs = Path(instance.storage_directory()) / "__repository__"
    return [
        path
        for path in logs.rglob("*")
        if path.is_file() and path.stat().st_mtime < before.timestamp()
    ]


def sentence(old: Expired, dry_run: bool) -> str:
    """For the log of a run, or a terminal."""
    done = "would be deleted" if dry_run else "deleted"
    counts = [f"{len(old.names)} of them"] if old.names else []
    counts += [f"{old.documents} documents"] if old.documents else []
    counts += [f"{old.bytes / 1e6:.1f} MB"] if old.bytes else []
    kept = f"; kept: {'; '.join(old.kept)}" if old.kept else ""
    return f"{old.what}: {', '.join(counts) or 'nothing'} {done}{kept}"


def retention_metadata(found: Sequence[Expired]) -> dict[str, dg.MetadataValue[Any]]:
    """What went, for the Dagster UI."""
    value = dg.MetadataValue
    return {
        **{f"{old.what}: count": value.int(len(old.names)) for old in found},
        **{f"{old.what}: documents": value.int(old.documents) for old in found if old.documents},
        **{f"{old.what}: bytes": value.int(old.bytes) for old in found if old.bytes},
        "kept": value.json([reason for old in found for reason in old.kept]),
    }
