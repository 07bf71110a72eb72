"""What Dagster loads: assembly only.

Belongs here: putting flows, assets, jobs, sensors and resources together. Loading needs no server
and no environment: resources read their settings when a connection is opened.
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
from kp_platform.orchestration.flow_assets import flow_asset, reference_assets, topic_asset
from kp_platform.orchestration.flow_sensors import offset_sensor
from kp_platform.orchestration.jobs import indexing_job, reference_job
from kp_platform.orchestration.kpi import kpi_asset, kpi_job, kpi_sensor
from kp_platform.orchestration.notifications import failure_sensor
from kp_platform.orchestration.pages import page_assets
from kp_platform.orchestration.ranking import ranking_asset, ranking_job, ranking_sensor
from kp_platform.orchestration.replay import replay_asset, replay_job
from kp_platform.orchestration.resources import (
    ElasticsearchResource,
    KafkaResource,
    MySQLResource,
    RedisResource,
    TrinoResource,
)
from kp_platform.orchestration.retention import retention_job, retention_schedule


def build_definitions(
    *, flows: Sequence[AnyFlow] = FLOWS, resources: Mapping[str, object] | None = None
) -> dg.Definitions:
    """The same graph for production, tests and notebooks; `resources` replace the real ones."""
    jobs = {flow.name: indexing_job(flow) for flow in flows}
    ranking, kpi, keeping = ranking_job(), kpi_job(), retention_job(flows)
    again = document_flows(flows)
    return dg.Definitions(
        assets=_with_code_references(
            [
                *(topic_asset(flow) for flow in flows),
                *(flow_asset(flow) for flow in flows),
                *reference_assets(),
                ranking_asset(),
                kpi_asset(),
                dead_letters_asset(flows),
                *(replay_asset(flow, flows) for flow in again),
                *page_assets(),
            ]
        ),
        jobs=[
            *jobs.values(),
            reference_job(),
            ranking,
            kpi,
            retry_job(flows),
            *map(replay_job, again),
            keeping,
        ],
        schedules=[retention_schedule(keeping)],
        sensors=[
            *(offset_sensor(flow, jobs[flow.name]) for flow in flows),
            ranking_sensor(ranking),
            kpi_sensor(kpi),
            dead_letters_sensor(),
            failure_sensor(),
        ],
        resources={
            "kafka": KafkaResource(),
            "trino": TrinoResource(),
            "elasticsearch": ElasticsearchResource(),
            "mysql": MySQLResource(),
            "redis": RedisResource(),
            **(resources or {}),
        },
        executor=dg.in_process_executor,
    )


def _with_code_references(assets: Sequence[Any]) -> Sequence[Any]:
    """The same, each with the file and line of its function for the Dagster UI."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        return dg.with_source_code_references(assets)


defs = build_definitions()
