"""The ranking in Dagster: the asset `access_ranking`, its job and its sensor.

Belongs here: when the ranking is made anew, and how a run reports it. Does not belong here: how it
is made (`pipeline/ranking.py`). The three stand in one module because they are one thing: neither
asset nor job nor sensor of it is of use to another.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
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
from kp_platform.engine import heartbeat
from kp_platform.flows.builtin import ACCESS_LOG
from kp_platform.orchestration import periodic
from kp_platform.orchestration.flow_assets import (
    GROUP,
    REFERENCE_ROWS,
    REFERENCE_VALUES,
    REPORT_SECONDS,
    flow_asset_key,
    preview,
)
from kp_platform.orchestration.jobs import MAX_RUNTIME_SECONDS, SENSOR_RUN_TAGS, AssetJob
from kp_platform.orchestration.run_state import FOLLOWS_TAG, obstacle_to_run
from kp_platform.settings import Settings

KEY = dg.AssetKey("access_ranking")
JOB_NAME = "rank_accesses"
PREVIEW_PLACES = 10


class RankingConfig(dg.Config):
    """Bounds of one ranking; those left out come from the KP_* settings."""

    window_seconds: int | None = Field(
        default=None,
        ge=1,
        description="Seconds until now that are counted (KP_RANKING_WINDOW_SECONDS).",
    )
    size: int | None = Field(
        default=None, ge=1, description="Places of names, and of uris (KP_RANKING_SIZE)."
    )
    follow_seconds: float = Field(
        default=0.0,
        ge=0,
        description="Seconds for which the run stays and ranks anew when accesses changed.",
    )


def ranking_asset() -> dg.AssetsDefinition:
    """The asset, with the Redis keys and the index as its outcome."""

    @dg.asset(
        key=KEY,
        deps=[flow_asset_key(ACCESS_LOG), REFERENCE_ROWS, REFERENCE_VALUES],
        kinds={"redis", "trino", "elasticsearch"},
        group_name=GROUP,
        output_required=False,
        description=(
            "Which names and uris were accessed most in the last hour. Redis: sorted sets "
            f"{' and '.join(f'`{key}`' for key in KINDS.values())} for applications, a hash for "
            "each place. Trino joins these in popularity order with MySQL and the latest events in "
            f"Kafka. Index `{INDEX}`: a document for each place. Each event counts once."
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
        ranking, pause = _ranking(kafka, trino, elasticsearch, redis, config), _pause()
        due = time.monotonic()
        stays = config.follow_seconds > 0  # a run beside it must not take its lease away
        with (
            heartbeat.running(elasticsearch, JOB_NAME, context.run.run_id)
            if stays
            else nullcontext()
        ):
            for _ in periodic.turns(
                lambda: ranking.is_due(datetime.now(UTC), pause)[0],
                seconds=config.follow_seconds,
                idle_seconds=2 * pause + periodic.LOOK_SECONDS,
            ):
                report = ranking.compute(datetime.now(UTC))
                context.log.info("%s", sentence(report))
                if time.monotonic() >= due:  # each costs 11 kB of Dagster's database
                    yield dg.AssetMaterialization(KEY, metadata=report_metadata(report))
                    due = time.monotonic() + REPORT_SECONDS

    return access_ranking


def ranking_job() -> AssetJob:
    """Make the ranking anew, in one process."""
    return dg.define_asset_job(
        name=JOB_NAME,
        selection=dg.AssetSelection.assets(KEY),
        description="Rank the names and uris of the window that ends now.",
        executor_def=dg.in_process_executor,
        tags={**SENSOR_RUN_TAGS},
    )


def ranking_sensor(job: AssetJob) -> dg.SensorDefinition:
    """The sensor: stateless, what the window held when it was ranked lies in Redis."""

    @dg.sensor(
        name="access_ranking_refresh",
        job=job,
        minimum_interval_seconds=Settings().ranking_sensor_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Compares the window's events with those that were ranked last; starts a run when they "
            "differ, at most every KP_RANKING_SECONDS, and when no run of the ranking is live. The "
            "run stays and ranks anew itself, for at most KP_MAX_RUN_SECONDS."
        ),
    )
    def watch_window(
        context: dg.SensorEvaluationContext,
        kafka: dg.ResourceParam[KafkaAdapter],
        trino: dg.ResourceParam[TrinoAdapter],
        elasticsearch: dg.ResourceParam[ElasticsearchAdapter],
        redis: dg.ResourceParam[RedisAdapter],
    ) -> dg.RunRequest | dg.SkipReason:
        ranking = _ranking(kafka, trino, elasticsearch, redis, RankingConfig())
        try:
            due, reason = ranking.is_due(datetime.now(UTC), _pause())
            if not due:
                return dg.SkipReason(reason)
            obstacle = obstacle_to_run(
                context.instance,
                JOB_NAME,
                KEY,
                MAX_RUNTIME_SECONDS,
                lambda run: heartbeat.age_seconds(elasticsearch, JOB_NAME, run.run_id),
            )
        except ServerDown as error:
            return dg.SkipReason(str(error))
        if obstacle:
            return dg.SkipReason(f"{obstacle}; {reason}")
        stays = RankingConfig(follow_seconds=Settings().max_run_seconds)
        return dg.RunRequest(
            tags={"kp/reason": reason, FOLLOWS_TAG: "yes"},
            run_config=dg.RunConfig({KEY.to_python_identifier(): stays}),
        )

    return watch_window


def sentence(report: RankingReport) -> str:
    """A report for the log of a run."""
    places = ", ".join(f"{count} {kind}s" for kind, count in report.places.items())
    return (
        f"{report.events} events in {report.window}: {places}; "
        f"{report.removed} documents removed, {report.seconds:.2f} s"
    )


def report_metadata(report: RankingReport) -> dict[str, dg.MetadataValue[Any]]:
    """A report for the Dagster UI; numbers are plotted over time."""
    value = dg.MetadataValue
    return {
        "dagster/row_count": value.int(len(report.documents)),
        "window": value.text(str(report.window)),
        "events": value.int(report.events),
        "names": value.int(report.places["name"]),
        "uris": value.int(report.places["uri"]),
        "documents removed": value.int(report.removed),
        "seconds": value.float(round(report.seconds, 3)),
        "processed rows": value.int(report.query.processed_rows),
        "query": value.url(report.query.info_url),
        "preview": preview(_most_popular(report.documents), ("kind", "rank", "key", "accesses")),
    }


def _most_popular(documents: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for each in documents if each["rank"] <= PREVIEW_PLACES]


def _pause() -> float:
    return Settings().ranking_seconds


def _ranking(
    kafka: dg.ResourceParam[KafkaAdapter],
    trino: dg.ResourceParam[TrinoAdapter],
    elasticsearch: dg.ResourceParam[ElasticsearchAdapter],
    redis: dg.ResourceParam[RedisAdapter],
    config: RankingConfig,
) -> Ranking:
    settings = Settings()
    return Ranking(
        flow=ACCESS_LOG,
        log=kafka,
        engine=trino,
        store=elasticsearch,
        board=redis,
        window_seconds=config.window_seconds or settings.ranking_window_seconds,
        size=config.size or settings.ranking_size,
    )
