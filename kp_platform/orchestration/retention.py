"""Retention in Dagster: its own history, and the job and schedule that delete expired data.

Belongs here: runs with their events and logs, and the sum of all that expires. Does not belong
here: which indices and documents expire (`operations/retention.py`), and what is deleted from
Dagster's private storage (`dagster_storage.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.adapters.kafka import KafkaAdapter
from kp_platform.engine.ports import DocumentStore, Log
from kp_platform.flows.model import AnyFlow
from kp_platform.operations.retention import Expired, RetentionPolicy, apply_retention
from kp_platform.orchestration import dagster_storage
from kp_platform.orchestration.jobs import op_job
from kp_platform.settings import Settings

JOB_NAME = "retention"
# UTC: at night, and not at the start of an hour, when other jobs run.
DAILY = "20 3 * * *"
_RUNS_PER_PAGE = 500
_FINISHED = [
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.CANCELED,
]
# The data that each setting keeps, in words.
_KINDS = {
    "log_retention_days": "daily indices",
    "dead_letter_retention_days": "dead letters and gaps",
    "kpi_retention_days": "KPIs",
    "run_retention_days": "runs of Dagster",
}


class RetentionConfig(dg.Config):
    """Whether anything is deleted."""

    dry_run: bool = Field(default=False, description="Only report what would be deleted.")


def retention_job(flows: Sequence[AnyFlow]) -> dg.JobDefinition:
    """Delete what is older than the KP_*_RETENTION_DAYS settings keep."""

    @dg.op(
        name="delete_expired",
        description="Delete expired indices, dead letters, KPIs and runs; reports their numbers.",
    )
    def delete_expired(
        context: dg.OpExecutionContext,
        config: RetentionConfig,
        settings: dg.ResourceParam[Settings],
        kafka: dg.ResourceParam[KafkaAdapter],
        elasticsearch: dg.ResourceParam[ElasticsearchAdapter],
    ) -> None:
        retention = Retention(elasticsearch, kafka, context.instance, flows, settings)
        found = retention.apply(datetime.now(UTC), dry_run=config.dry_run)
        for expired in found:
            context.log.info("%s", sentence(expired, config.dry_run))
        context.add_output_metadata(retention_metadata(found))

    return op_job(
        JOB_NAME,
        delete_expired,
        "Delete what is older than the KP_*_RETENTION_DAYS settings keep: daily indices, dead "
        "letters, KPIs, runs of Dagster, and the indices of killed replays. Config: `dry_run`. "
        "Nothing is deleted of which the topic still holds a message.",
    )


def retention_schedule(job: dg.JobDefinition) -> dg.ScheduleDefinition:
    """Once a day."""
    return dg.ScheduleDefinition(
        name="retention_daily",
        job=job,
        cron_schedule=DAILY,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Deletes expired data every night (UTC).",
    )


@dataclass(frozen=True, slots=True)
class Retention:
    """All data that the settings keep for a time: in Elasticsearch, and Dagster's history."""

    store: DocumentStore
    log: Log
    instance: dg.DagsterInstance
    flows: Sequence[AnyFlow]
    settings: Settings

    def apply(self, now: datetime, *, dry_run: bool) -> list[Expired]:
        """Delete what has expired, or only report it. Raises the errors of the servers."""
        settings = self.settings
        policy = RetentionPolicy(
            log_days=settings.log_retention_days,
            dead_letter_days=settings.dead_letter_retention_days,
            kpi_days=settings.kpi_retention_days,
        )
        found = apply_retention(self.store, self.log, self.flows, policy, now, dry_run=dry_run)
        if settings.run_retention_days:
            before = now - timedelta(days=settings.run_retention_days)
            found.append(expire_dagster_history(self.instance, before, dry_run))
        for name, kinds in _KINDS.items():
            if not getattr(settings, name):
                found.append(Expired(kinds, kept=[f"all, because KP_{name.upper()} is 0"]))
        return found


def expire_dagster_history(
    instance: dg.DagsterInstance, before: datetime, dry_run: bool
) -> Expired:
    """Delete finished runs that were created before a moment, with their events and logs, except
    the run of each asset's latest materialization. With a Dagster version whose private storage is
    not verified, everything but the runs is kept."""
    expired = Expired("runs of Dagster", names=_expired_runs(instance, before))
    try:
        dagster_storage.check_version()
        has_known_storage = True
    except dagster_storage.UnverifiedVersion as error:
        has_known_storage = False
        expired.kept.append(f"log files, events without a run and check results: {error}")
    for run_id in expired.names:
        if not dry_run:
            instance.delete_run(run_id)
        if has_known_storage:
            expired.bytes += _remove(dagster_storage.run_files(instance, run_id), dry_run)
    if has_known_storage:
        expired.bytes += _remove(dagster_storage.tick_logs(instance, before), dry_run)
        if not dry_run:
            dagster_storage.delete_events_and_checks(instance, before)
    return expired


def _expired_runs(instance: dg.DagsterInstance, before: datetime) -> list[str]:
    latest = _latest_materializations(instance)
    chosen = dg.RunsFilter(statuses=_FINISHED, created_before=before)
    run_ids: list[str] = []
    cursor: str | None = None
    while records := instance.get_run_records(chosen, limit=_RUNS_PER_PAGE, cursor=cursor):
        cursor = records[-1].dagster_run.run_id
        run_ids += [record.dagster_run.run_id for record in records]
    return [run_id for run_id in run_ids if run_id not in latest]


def _latest_materializations(instance: dg.DagsterInstance) -> set[str]:
    """The run of each asset's latest materialization."""
    records = instance.get_asset_records(instance.get_asset_keys())
    latest = (each.asset_entry.last_materialization for each in records)
    return {each.run_id for each in latest if each is not None}


def _remove(paths: Sequence[Path], dry_run: bool) -> int:
    """Delete files and folders unless it is a dry run; returns their size in bytes."""
    size = sum(each.stat().st_size for each in paths if each.is_file())
    for each in [] if dry_run else sorted(paths, reverse=True):  # a folder after its contents
        each.rmdir() if each.is_dir() else each.unlink(missing_ok=True)
    return size


def sentence(expired: Expired, dry_run: bool) -> str:
    """For the log of a run, or a terminal."""
    action = "would be deleted" if dry_run else "deleted"
    counts = [f"{len(expired.names)} of them"] if expired.names else []
    counts += [f"{expired.documents} documents"] if expired.documents else []
    counts += [f"{expired.bytes / 1e6:.1f} MB"] if expired.bytes else []
    kept = f"; kept: {'; '.join(expired.kept)}" if expired.kept else ""
    return f"{expired.what}: {', '.join(counts) or 'nothing'} {action}{kept}"


def retention_metadata(found: Sequence[Expired]) -> dict[str, dg.MetadataValue[Any]]:
    """What was deleted, for the Dagster UI."""
    value = dg.MetadataValue
    return {
        **{f"{each.what}: count": value.int(len(each.names)) for each in found},
        **{
            f"{each.what}: documents": value.int(each.documents) for each in found if each.documents
        },
        **{f"{each.what}: bytes": value.int(each.bytes) for each in found if each.bytes},
        "kept": value.json([reason for each in found for reason in each.kept]),
    }
