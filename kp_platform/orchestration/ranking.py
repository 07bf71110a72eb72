"""The ranking in Dagster: the asset `access_ranking`, its job and its sensor.

Belongs here: when the ranking is computed, and how a run reports it. Does not belong here: how it
is computed (`analytics/ranking.py`), and how a run repeats its work (`periodic.py`).
"""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from pydantic import Field

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.adapters.errors import ServerDown
from kp_platform.adapters.kafka import KafkaAdapter
from kp_platform.adapters.redis import RedisAdapter
from kp_platform.adapters.trino import TrinoAdapter
from kp_platform.analytics.ranking import INDEX, KINDS, SQL_PATH, Ranking, RankingReport
from kp_platform.flows.builtin import ACCESS_LOG
from kp_platform.orchestration.asset_keys import GROUP, REFERENCE_ROWS, REFERENCE_VALUES, flow_key
from kp_platform.orchestration.jobs import AssetJob
from kp_platform.orchestration.periodic import PeriodicJob, RepeatConfig
from kp_platform.orchestration.reporting import REPORT_SECONDS, preview

KEY = dg.AssetKey("access_ranking")
JOB = PeriodicJob("rank_accesses", KEY)
PREVIEW_RANKS = 10


class RankingConfig(RepeatConfig):
    """Bounds of one ranking; those left out come from the KP_* settings."""

    window_seconds: int | None = Field(
        default=None,
        ge=1,
        description="Length in seconds of the ranked window (KP_RANKING_WINDOW_SECONDS).",
    )
    size: int | None = Field(
        default=None, ge=1, description="Number of ranked names, and of uris (KP_RANKING_SIZE)."
    )


def ranking_asset() -> dg.AssetsDefinition:
    """The asset: the Redis keys and the index."""

    @dg.asset(
        key=KEY,
        deps=[flow_key(ACCESS_LOG), REFERENCE_ROWS, REFERENCE_VALUES],
        kinds={"redis", "trino", "elasticsearch"},
        group_name=GROUP,
        output_required=False,
        description=(
            "The most accessed names and uris of the last hour. Redis: sorted sets "
            f"{' and '.join(f'`{key}`' for key in KINDS.values())} for applications, a hash for "
            "each ranked key. Trino joins these in popularity order with MySQL and the latest "
            f"events in Kafka. Index `{INDEX}`: a document for each ranked key. Each event counts "
            "once."
        ),
        metadata={
            "index": INDEX,
            "sql": dg.MetadataValue.md(f"```sql\n{SQL_PATH.read_text()}\n```"),
        },
    )
    def access_ranking(
        context: dg.AssetExecutionContext,
        config: RankingConfig,
        kafka: dg.ResourceParam[KafkaAdapter],
        trino: dg.ResourceParam[TrinoAdapter],
        elasticsearch: dg.ResourceParam[ElasticsearchAdapter],
        redis: dg.ResourceParam[RedisAdapter],
    ) -> Iterator[dg.AssetMaterialization]:
        ranking = _ranking(kafka, trino, elasticsearch, redis, config)
        yield from _materializations(context, config, ranking, redis.settings.ranking_seconds)

    return access_ranking


def _ranking(
    kafka: KafkaAdapter,
    trino: TrinoAdapter,
    elasticsearch: ElasticsearchAdapter,
    redis: RedisAdapter,
    config: RankingConfig,
) -> Ranking:
    settings = redis.settings
    return Ranking(
        flow=ACCESS_LOG,
        log=kafka,
        engine=trino,
        store=elasticsearch,
        ranking_store=redis,
        window_seconds=config.window_seconds or settings.ranking_window_seconds,
        size=config.size or settings.ranking_size,
    )


def _materializations(
    context: dg.AssetExecutionContext, config: RankingConfig, ranking: Ranking, pause_seconds: float
) -> Iterator[dg.AssetMaterialization]:
    due = time.monotonic()
    with JOB.repetitions(
        ranking.store,
        context.run.run_id,
        config,
        lambda: ranking.is_due(datetime.now(UTC), pause_seconds)[0],
        pause_seconds=pause_seconds,
    ) as repetitions:
        for _ in repetitions:
            report = ranking.compute(datetime.now(UTC))
            context.log.info("%s", sentence(report))
            if time.monotonic() >= due:  # each costs 11 kB of Dagster's database
                yield dg.AssetMaterialization(KEY, metadata=report_metadata(report))
                due = time.monotonic() + REPORT_SECONDS


def ranking_job() -> AssetJob:
    return JOB.define("Rank the names and uris of the window that ends now.")


def ranking_sensor(job: AssetJob, interval_seconds: int) -> dg.SensorDefinition:
    """The sensor. It keeps no state: Redis stores which window was ranked."""

    @dg.sensor(
        name="access_ranking_refresh",
        job=job,
        minimum_interval_seconds=interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Compares the events of the window with those of the latest ranking; starts a run when "
            "they differ, at most every KP_RANKING_SECONDS, and no run of the ranking is live. The "
            "run repeats the ranking for at most KP_MAX_RUN_SECONDS."
        ),
    )
    def check_window(
        context: dg.SensorEvaluationContext,
        kafka: dg.ResourceParam[KafkaAdapter],
        trino: dg.ResourceParam[TrinoAdapter],
        elasticsearch: dg.ResourceParam[ElasticsearchAdapter],
        redis: dg.ResourceParam[RedisAdapter],
    ) -> dg.RunRequest | dg.SkipReason:
        settings = redis.settings
        config = RankingConfig(repeat_seconds=settings.max_run_seconds)
        ranking = _ranking(kafka, trino, elasticsearch, redis, config)
        try:
            due, reason = ranking.is_due(datetime.now(UTC), settings.ranking_seconds)
            if not due:
                return dg.SkipReason(reason)
            obstacle = JOB.obstacle(context.instance, elasticsearch, settings)
        except ServerDown as error:
            return dg.SkipReason(str(error))
        if obstacle:
            return dg.SkipReason(f"{obstacle}; {reason}")
        return JOB.run_request(reason, config)

    return check_window


def sentence(report: RankingReport) -> str:
    """A report for the log of a run."""
    ranked = ", ".join(f"{count} {kind}s" for kind, count in report.ranked.items())
    return (
        f"{report.events} events in {report.window}: {ranked}; "
        f"{report.removed} documents removed, {report.seconds:.2f} s"
    )


def report_metadata(report: RankingReport) -> dict[str, dg.MetadataValue[Any]]:
    """A report for the Dagster UI; numbers are plotted over time."""
    value = dg.MetadataValue
    top = [each for each in report.documents if each["rank"] <= PREVIEW_RANKS]
    return {
        "dagster/row_count": value.int(len(report.documents)),
        "window": value.text(str(report.window)),
        "events": value.int(report.events),
        "names": value.int(report.ranked["name"]),
        "uris": value.int(report.ranked["uri"]),
        "documents removed": value.int(report.removed),
        "seconds": value.float(round(report.seconds, 3)),
        "processed rows": value.int(report.query.processed_rows),
        "query": value.url(report.query.info_url),
        "preview": preview(top, ("kind", "rank", "key", "accesses")),
    }
