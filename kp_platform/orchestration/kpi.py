"""The KPIs in Dagster: the hourly asset `access_kpi`, its job and its sensor.

Belongs here: partitions, which hours a run or a backfill computes, when runs start, and how they
report. Does not belong here: how an hour is counted (`analytics/kpi.py`), and how a run repeats its
work (`periodic.py`).

The sensor keeps no state: it compares the log with index `access.kpi`. Consecutive hours are
computed by one run: a run costs four CPU-seconds, an hour in it some milliseconds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.adapters.errors import ServerDown
from kp_platform.analytics.kpi import (
    INDEX,
    HourReport,
    StaleHour,
    compute_hour,
    consecutive_hours,
    hours_to_check,
    stale_hours,
)
from kp_platform.engine.counting import HOUR
from kp_platform.engine.ports import DocumentStore
from kp_platform.flows.builtin import ACCESS_LOG
from kp_platform.orchestration.asset_keys import GROUP, flow_key
from kp_platform.orchestration.jobs import AssetJob
from kp_platform.orchestration.partitions import partitioned_asset
from kp_platform.orchestration.periodic import PeriodicJob, RepeatConfig
from kp_platform.orchestration.reporting import preview
from kp_platform.orchestration.run_state import JobRun
from kp_platform.settings import Settings

KEY = dg.AssetKey("access_kpi")
JOB = PeriodicJob("compute_access_kpi", KEY)
FIRST_HOUR = datetime(2026, 1, 1, tzinfo=UTC)
HOURS = dg.HourlyPartitionsDefinition(start_date=FIRST_HOUR, end_offset=1)
MAX_RUNS = 3
MAX_HOURS_PER_RUN = 48
PREVIEW_NAMES = 10
_DESCRIPTION = (
    "Accesses, distinct names and uris, share fully enriched, dead letters and p95 delay from "
    f"access to searchable, of each hour (UTC) and each name in it. Index `{INDEX}`: counted "
    "exactly from the log. An hour with late events is recomputed automatically."
)
_PARTITION = "dagster/partition"
_RANGE_START = "dagster/asset_partition_range_start"
_RANGE_END = "dagster/asset_partition_range_end"
_KEY_FORMAT = "%Y-%m-%d-%H:%M"


class KpiConfig(RepeatConfig):
    """Whether a run repeats its hours."""


def kpi_asset() -> dg.AssetsDefinition:
    """The asset, a partition for each hour up to the current one."""

    @partitioned_asset(
        key=KEY,
        deps=[flow_key(ACCESS_LOG)],
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
        settings: dg.ResourceParam[Settings],
        elasticsearch: dg.ResourceParam[ElasticsearchAdapter],
    ) -> Iterator[dg.AssetMaterialization]:
        hours = [hour_of(partition_key) for partition_key in context.partition_keys]
        run = _HoursOfRun(elasticsearch, hours, settings.kpi_seconds)
        with JOB.repetitions(
            elasticsearch,
            context.run.run_id,
            config,
            run.is_due,
            pause_seconds=settings.kpi_seconds,
            limit_seconds=(hours[-1] + HOUR - datetime.now(UTC)).total_seconds(),
        ) as repetitions:
            for report in (report for _ in repetitions for report in run.compute()):
                context.log.info("%s", sentence(report))
                yield dg.AssetMaterialization(
                    KEY, partition=key_of(report.hour), metadata=report_metadata(report)
                )

    return access_kpi


@dataclass(slots=True)
class _HoursOfRun:
    """The hours of a run: all are computed once, then those that have become stale."""

    store: DocumentStore
    hours: Sequence[datetime]
    pause_seconds: float
    due: Sequence[datetime] = field(init=False)

    def __post_init__(self) -> None:
        self.due = self.hours

    def is_due(self) -> bool:
        now = datetime.now(UTC)
        stale = stale_hours(self.store, ACCESS_LOG, self.hours, now, self.pause_seconds)
        self.due = [each.hour for each in stale]
        return bool(self.due)

    def compute(self) -> Iterator[HourReport]:
        for hour in self.due:
            yield compute_hour(self.store, ACCESS_LOG, hour, datetime.now(UTC))


def kpi_job() -> AssetJob:
    return JOB.define("Count the KPIs of one hour or of consecutive hours.")


def kpi_sensor(job: AssetJob, interval_seconds: int) -> dg.SensorDefinition:
    """The sensor: it starts runs for the hours whose documents differ from the log."""

    @dg.sensor(
        name="access_kpi_hours",
        job=job,
        minimum_interval_seconds=interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Compares the hours of events indexed in the last seven days with their KPIs; starts "
            "runs for those that differ, oldest first, each hour at most every KP_KPI_SECONDS. The "
            "run of the current hour repeats its count until the hour is over."
        ),
    )
    def check_hours(
        context: dg.SensorEvaluationContext,
        settings: dg.ResourceParam[Settings],
        elasticsearch: dg.ResourceParam[ElasticsearchAdapter],
    ) -> list[dg.RunRequest] | dg.SkipReason:
        if pause := JOB.pause(context.instance, settings):
            return dg.SkipReason(pause)
        now = datetime.now(UTC)
        try:
            live = JOB.live_runs(context.instance, elasticsearch, settings)
            hours = [
                hour
                for hour in hours_to_check(elasticsearch, ACCESS_LOG, now)
                if FIRST_HOUR <= hour <= now
            ]
            stale = stale_hours(elasticsearch, ACCESS_LOG, hours, now, settings.kpi_seconds)
        except ServerDown as error:
            return dg.SkipReason(str(error))
        requests = run_requests(stale, live, now, settings.max_run_seconds)
        return requests or dg.SkipReason(
            f"{len(hours)} hours checked, {len(stale)} to compute, {len(live)} runs live"
        )

    return check_hours


def run_requests(
    stale: Sequence[StaleHour], live: Sequence[JobRun], now: datetime, max_run_seconds: float
) -> list[dg.RunRequest]:
    """Runs for the oldest hours that no live run computes, one for consecutive hours. The run with
    the current hour repeats its work for at most `max_run_seconds`."""
    reasons = {each.hour: reason(each) for each in stale if not is_computed(each.hour, live)}
    requests = []
    for first, last in consecutive_hours(reasons, MAX_HOURS_PER_RUN)[:MAX_RUNS]:
        tags = {_RANGE_START: key_of(first), _RANGE_END: key_of(last)}
        config = KpiConfig(repeat_seconds=max_run_seconds) if now < last + HOUR else None
        requests.append(JOB.run_request(reasons[first], config, tags))
    return requests


def reason(stale: StaleHour) -> str:
    """Why an hour is computed, with numbers."""
    now = f"{stale.now.accesses} accesses, {stale.now.complete} complete"
    now += f", {stale.now.dead_letters} dead letters"
    if stale.before is None:
        return f"{now}, not computed yet"
    before = stale.before
    return f"{now}; computed {before.accesses}, {before.complete}, {before.dead_letters}"


def is_computed(hour: datetime, live: Sequence[JobRun]) -> bool:
    """Whether one of the live runs computes the hour; a run without a partition blocks every
    hour."""
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
