"""The KPIs in Dagster: the hourly asset `access_kpi`, its job and its sensor.

Belongs here: partitions, which hours a run or a backfill computes, when they are asked for, and how
a run reports them. Does not belong here: how an hour is counted (`pipeline/kpi.py`). The three
stand in one module because they share the partitions.

The sensor keeps no state: it compares the log with what `access.kpi` tells. Hours that follow each
other are computed by one run (a run costs four CPU-seconds, an hour in it some milliseconds).
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from pydantic import Field

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.adapters.errors import ServerDown
from kp_platform.analytics.kpi import (
    INDEX,
    HourReport,
    StaleHour,
    compute_hour,
    hours_to_look_at,
    spans,
    stale_hours,
)
from kp_platform.engine import heartbeat
from kp_platform.engine.counting import HOUR
from kp_platform.engine.store import DocumentStore
from kp_platform.flows.builtin import ACCESS_LOG
from kp_platform.orchestration import periodic
from kp_platform.orchestration.flow_assets import GROUP, flow_asset_key, partitioned_asset, preview
from kp_platform.orchestration.jobs import MAX_RUNTIME_SECONDS, SENSOR_RUN_TAGS, AssetJob
from kp_platform.orchestration.run_state import (
    FOLLOWS_TAG,
    JobRun,
    latest_runs,
    live_runs,
    seconds_to_wait,
)
from kp_platform.settings import Settings

KEY = dg.AssetKey("access_kpi")
JOB_NAME = "compute_access_kpi"
FIRST_HOUR = datetime(2026, 1, 1, tzinfo=UTC)
HOURS = dg.HourlyPartitionsDefinition(start_date=FIRST_HOUR, end_offset=1)
MOST_RUNS = 3
MOST_HOURS_PER_RUN = 48
PREVIEW_NAMES = 10
_DESCRIPTION = (
    "Accesses, distinct names and uris, share fully enriched, dead letters and p95 delay from "
    f"access to searchable, of each hour (UTC) and each name in it. Index `{INDEX}`: counted "
    "exactly from the log. An hour with late events is computed again by itself."
)
_PARTITION = "dagster/partition"
_RANGE_START = "dagster/asset_partition_range_start"
_RANGE_END = "dagster/asset_partition_range_end"
_KEY_FORMAT = "%Y-%m-%d-%H:%M"


class KpiConfig(dg.Config):
    """Whether a run stays."""

    follow_seconds: float = Field(
        default=0.0,
        ge=0,
        description="Seconds for which the run stays and counts its hours anew when they changed.",
    )


def kpi_asset() -> dg.AssetsDefinition:
    """The asset, a partition for each hour up to the one that is running."""

    @partitioned_asset(
        key=KEY,
        deps=[flow_asset_key(ACCESS_LOG)],
        kinds={"elasticsearch"},
        group_name=GROUP,
        partitions_def=HOURS,
        output_required=False,
        description=_DESCRIPTION,
        metadata={"index": INDEX},
    )
    def access_kpi(
        context: dg.AssetExecutionContext,
        config: KpiConfig,
        elasticsearch: dg.ResourceParam[ElasticsearchAdapter],
    ) -> Iterator[dg.AssetMaterialization]:
        hours = [hour_of(partition_key) for partition_key in context.partition_keys]
        stays = config.follow_seconds > 0  # a run beside it must not take its lease away
        with (
            heartbeat.running(elasticsearch, JOB_NAME, context.run.run_id)
            if stays
            else nullcontext()
        ):
            for report in _reports(elasticsearch, hours, config.follow_seconds):
                context.log.info("%s", sentence(report))
                yield dg.AssetMaterialization(
                    KEY, partition=key_of(report.hour), metadata=report_metadata(report)
                )

    return access_kpi


def _reports(
    store: DocumentStore, hours: Sequence[datetime], follow_seconds: float
) -> Iterator[HourReport]:
    """Each hour once, and those that changed again, as long as the last one is not over."""
    pause, due = Settings().kpi_seconds, list(hours)

    def is_due() -> bool:
        stale = stale_hours(store, ACCESS_LOG, hours, datetime.now(UTC), pause)
        due[:] = [each.hour for each in stale]
        return bool(due)

    left = (hours[-1] + HOUR - datetime.now(UTC)).total_seconds()
    for _ in periodic.turns(
        is_due, seconds=min(follow_seconds, left), idle_seconds=2 * pause + periodic.LOOK_SECONDS
    ):
        for hour in due:
            yield compute_hour(store, ACCESS_LOG, hour, datetime.now(UTC))


def kpi_job() -> AssetJob:
    """Compute the KPIs of one hour, or of hours that follow each other, in one process."""
    return dg.define_asset_job(
        name=JOB_NAME,
        selection=dg.AssetSelection.assets(KEY),
        description="Count the KPIs of the hours asked for.",
        executor_def=dg.in_process_executor,
        tags={**SENSOR_RUN_TAGS},
    )


def kpi_sensor(job: AssetJob) -> dg.SensorDefinition:
    """The sensor: it finds the hours whose documents no longer tell what the log holds."""

    @dg.sensor(
        name="access_kpi_hours",
        job=job,
        minimum_interval_seconds=Settings().kpi_sensor_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Compares the hours of events indexed in the last seven days with their KPIs; starts "
            "runs for those that differ, oldest first, each hour at most every KP_KPI_SECONDS. The "
            "run of the hour that is not over stays and counts it anew itself."
        ),
    )
    def watch_hours(
        context: dg.SensorEvaluationContext, elasticsearch: dg.ResourceParam[ElasticsearchAdapter]
    ) -> list[dg.RunRequest] | dg.SkipReason:
        latest = latest_runs(context.instance, dg.RunsFilter(job_name=JOB_NAME))
        if (left := seconds_to_wait(latest)) > 0:
            return dg.SkipReason(f"{latest[0]} failed, the next starts in {left:.0f} s")
        now = datetime.now(UTC)
        try:
            live = live_runs(
                context.instance,
                JOB_NAME,
                KEY,
                MAX_RUNTIME_SECONDS,
                lambda run: heartbeat.age_seconds(elasticsearch, JOB_NAME, run.run_id),
            )
            hours = [
                hour
                for hour in hours_to_look_at(elasticsearch, ACCESS_LOG, now)
                if FIRST_HOUR <= hour <= now
            ]
            stale = stale_hours(elasticsearch, ACCESS_LOG, hours, now, Settings().kpi_seconds)
        except ServerDown as error:
            return dg.SkipReason(str(error))
        requests = run_requests(stale, live, now)
        return requests or dg.SkipReason(
            f"{len(hours)} hours looked at, {len(stale)} to compute, {len(live)} runs live"
        )

    return watch_hours


def run_requests(
    stale: Sequence[StaleHour], live: Sequence[JobRun], now: datetime
) -> list[dg.RunRequest]:
    """Runs for the oldest hours that no live run holds, one for hours that follow each other. The
    one with the hour that is not over yet stays."""
    reasons = {each.hour: reason(each) for each in stale if not is_held(each.hour, live)}
    found = spans(reasons, MOST_HOURS_PER_RUN)[:MOST_RUNS]
    return [_request(first, last, reasons[first], stays=now < last + HOUR) for first, last in found]


def _request(first: datetime, last: datetime, reason: str, *, stays: bool) -> dg.RunRequest:
    tags = {_RANGE_START: key_of(first), _RANGE_END: key_of(last), "kp/reason": reason}
    if not stays:
        return dg.RunRequest(tags=tags)
    config = KpiConfig(follow_seconds=Settings().max_run_seconds)
    return dg.RunRequest(
        tags=tags | {FOLLOWS_TAG: "yes"},
        run_config=dg.RunConfig({KEY.to_python_identifier(): config}),
    )


def reason(stale: StaleHour) -> str:
    """Why an hour is computed (again), with numbers."""
    found = f"{stale.now.accesses} accesses, {stale.now.complete} complete"
    found += f", {stale.now.dead_letters} dead letters"
    if stale.before is None:
        return f"{found}, not computed yet"
    before = stale.before
    return f"{found}; computed {before.accesses}, {before.complete}, {before.dead_letters}"


def is_held(hour: datetime, live: Sequence[JobRun]) -> bool:
    """Whether one of the live runs computes the hour; one without a partition holds every hour."""
    for run in live:
        only = run.tags.get(_PARTITION)
        first = run.tags.get(_RANGE_START, only)
        last = run.tags.get(_RANGE_END, only)
        if first is None or last is None or hour_of(first) <= hour <= hour_of(last):
            return True
    return False


def hour_of(partition_key: str) -> datetime:
    return datetime.strptime(partition_key, _KEY_FORMAT).replace(tzinfo=UTC)


def key_of(hour: datetime) -> str:
    return hour.strftime(_KEY_FORMAT)


def sentence(report: HourReport) -> str:
    """A report for the log of a run."""
    total = report.total
    return (
        f"{key_of(report.hour)}: {total['accesses']} accesses of {total['distinct_names']} names, "
        f"{total['complete']} complete, {total['dead_letters']} dead letters, "
        f"{report.removed} documents removed"
    )


def report_metadata(report: HourReport) -> dict[str, dg.MetadataValue[Any]]:
    """A report for the Dagster UI; numbers are plotted over the hours."""
    value, total = dg.MetadataValue, report.total
    delay = total["p95_delay_seconds"]
    return {
        "dagster/row_count": value.int(1 + len(report.names)),
        "accesses": value.int(total["accesses"]),
        "distinct names": value.int(total["distinct_names"]),
        "distinct uris": value.int(total["distinct_uris"]),
        "complete": value.int(total["complete"]),
        "share complete": value.float(total["share_complete"]),
        "dead letters": value.int(total["dead_letters"]),
        **({} if delay is None else {"p95 delay seconds": value.float(delay)}),
        "documents removed": value.int(report.removed),
        "preview": preview(
            _most_accessed(report), ("name", "accesses", "distinct_uris", "share_complete")
        ),
    }


def _most_accessed(report: HourReport) -> list[dict[str, Any]]:
    names = sorted(report.names, key=lambda each: (-each["accesses"], each["name"]))
    return [{"name": "(all)", **report.total}, *names[:PREVIEW_NAMES]]
