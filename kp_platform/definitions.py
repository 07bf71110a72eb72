"""What Dagster loads: assembly only.

Belongs here: putting flows, assets, jobs, sensors and resources together. Loading needs no server.
Of the settings it reads the intervals of sensors; all others are read when a run or a tick starts.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from kp_platform.flows.builtin import FLOWS
from kp_platform.flows.model import AnyFlow, document_flows
from kp_platform.orchestration.dead_letters import (
    dead_letters_asset,
    dead_letters_sensor,
    retry_job,
)
from kp_platform.orchestration.flow_assets import flow_asset, indexing_job, topic_asset
from kp_platform.orchestration.flow_sensors import offset_sensor
from kp_platform.orchestration.kpi import kpi_asset, kpi_job, kpi_sensor
from kp_platform.orchestration.notifications import failure_sensor
from kp_platform.orchestration.pages import page_assets
from kp_platform.orchestration.ranking import ranking_asset, ranking_job, ranking_sensor
from kp_platform.orchestration.reference_data import reference_assets, reference_job
from kp_platform.orchestration.replay import replay_asset, replay_job
from kp_platform.orchestration.resources import (
    ElasticsearchResource,
    KafkaResource,
    MySQLResource,
    RedisResource,
    TrinoResource,
    settings_resource,
)
from kp_platform.orchestration.retention import retention_job, retention_schedule
from kp_platform.settings import Settings


def build_definitions(
    *, flows: Sequence[AnyFlow] = FLOWS, resources: Mapping[str, object] | None = None
) -> dg.Definitions:
    """The same graph for production, tests and notebooks; `resources` replace the real ones."""
    settings = Settings()
    index_jobs = {flow.name: indexing_job(flow) for flow in flows}
    ranking, kpi, retention = ranking_job(), kpi_job(), retention_job(flows)
    replayable = document_flows(flows)
    return dg.Definitions(
        assets=_with_code_references(
            [
                *(topic_asset(flow) for flow in flows),
                *(flow_asset(flow) for flow in flows),
                *reference_assets(),
                ranking_asset(),
                kpi_asset(),
                dead_letters_asset(flows),
                *(replay_asset(flow, flows) for flow in replayable),
                *page_assets(),
            ]
        ),
        jobs=[
            *index_jobs.values(),
            reference_job(),
            ranking,
            kpi,
            retry_job(flows),
            *map(replay_job, replayable),
            retention,
        ],
        schedules=[retention_schedule(retention)],
        sensors=[
            *(offset_sensor(flow, index_jobs[flow.name]) for flow in flows),
            ranking_sensor(ranking, settings.ranking_sensor_seconds),
            kpi_sensor(kpi, settings.kpi_sensor_seconds),
            dead_letters_sensor(),
            failure_sensor(),
        ],
        resources={**_resources(), **(resources or {})},
        executor=dg.in_process_executor,  # a process for each step would cost 2.5 s
    )


def _resources() -> dict[str, object]:
    return {
        "settings": settings_resource(),
        "kafka": KafkaResource(),
        "trino": TrinoResource(),
        "elasticsearch": ElasticsearchResource(),
        "mysql": MySQLResource(),
        "redis": RedisResource(),
    }


def _with_code_references(assets: Sequence[Any]) -> Sequence[Any]:
    """The assets with the file and line of their functions, for the Dagster UI."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        return dg.with_source_code_references(assets)


defs = build_definitions()
