"""The replay in Dagster: for each flow an asset of days, of which a backfill makes any again.

Belongs here: the days, and how a run reports them. Does not belong here: what a replay does
(`pipeline/replay.py`).
"""

import gc
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
from pydantic import Field

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.adapters.kafka import KafkaAdapter
from kp_platform.adapters.trino import TrinoAdapter
from kp_platform.engine.counting import Window
from kp_platform.engine.ports import Servers
from kp_platform.flows.model import AnyFlow, Flow
from kp_platform.operations.replay import (
    ReplayReport,
    refreshes_of,
    replay_in_place,
    replay_into_new_indices,
)
from kp_platform.operations.replay_range import ReplayRange, range_of_time
from kp_platform.orchestration.flow_assets import (
    GROUP,
    OBJECTS_UNTIL_COLLECTED,
    flow_asset_key,
    partitioned_asset,
)
from kp_platform.orchestration.jobs import AssetJob
from kp_platform.settings import Settings
from kp_platform.wiring import indexers_of, limits

# Older than any topic: what is not held is told.
FIRST_DAY = "2026-01-01"
DAYS = dg.DailyPartitionsDefinition(start_date=FIRST_DAY, end_offset=1)
MAX_RUNTIME_SECONDS = 24 * 3600


class ReplayConfig(dg.Config):
    """How days are made again."""

    new_indices: bool = Field(
        default=False,
        description="Make new indices that then take the place of the old; else write over them.",
    )


def can_replay(flow: AnyFlow) -> bool:
    """A flow of changes has no documents of its own."""
    return isinstance(flow, Flow)


def replay_asset(flow: Flow, flows: Sequence[AnyFlow]) -> dg.AssetsDefinition:
    """The days of a flow that were made again."""
    key = dg.AssetKey(f"replayed_{flow.name}")

    @partitioned_asset(
        key=key,
        deps=[flow_asset_key(flow)],
        partitions_def=DAYS,
        kinds={"trino", "elasticsearch"},
        group_name=GROUP,
        output_required=False,
        description=(
            f"Days whose documents were made again from topic {flow.topic}, with the SQL and the "
            f"reference data of now. Index `{flow.index}`. A backfill makes a range of days in one "
            "run. What the topic does not hold any more stays as it is. As `kp replay`."
        ),
        metadata={"index": flow.index, "topic": flow.topic},
    )
    def make_days_again(
        context: dg.AssetExecutionContext,
        config: ReplayConfig,
        kafka: dg.ResourceParam[KafkaAdapter],
        trino: dg.ResourceParam[TrinoAdapter],
        elasticsearch: dg.ResourceParam[ElasticsearchAdapter],
    ) -> Iterator[dg.AssetMaterialization]:
        gc.set_threshold(OBJECTS_UNTIL_COLLECTED)
        indexers = indexers_of(
            flows, Servers(kafka, trino, elasticsearch), limits(Settings()), context.run.run_id
        )
        changes = refreshes_of(indexers.values(), flow)
        write = replay_into_new_indices if config.new_indices else replay_in_place
        for day in context.partition_keys:
            span = range_of_time(indexers[flow.name], _window(day))
            context.log.info("%s", span)
            if lost := span.describe_lost():
                context.log.warning("%s", lost)
            report = ReplayReport()
            for report in write(indexers[flow.name], span, changes):
                context.log.info("%s", report)
            yield dg.AssetMaterialization(
                key, partition=day, metadata=replay_metadata(span, report)
            )

    return make_days_again


def replay_job(flow: Flow) -> AssetJob:
    """Make days of a flow again, in one process."""
    return dg.define_asset_job(
        name=f"replay_{flow.name}",
        selection=dg.AssetSelection.assets(dg.AssetKey(f"replayed_{flow.name}")),
        description=f"Make days of index {flow.index} again from what topic {flow.topic} holds.",
        executor_def=dg.in_process_executor,
        tags={"dagster/max_runtime": str(MAX_RUNTIME_SECONDS), "dagster/max_retries": "0"},
    )


def replay_metadata(span: ReplayRange, report: ReplayReport) -> dict[str, dg.MetadataValue[Any]]:
    """A replay for the Dagster UI; numbers are plotted over the days."""
    value = dg.MetadataValue
    return {
        "dagster/row_count": value.int(report.reprocessed + report.restored),
        "messages read": value.int(report.rows),
        "made again": value.int(report.reprocessed),
        "unchanged": value.int(report.unchanged),
        "brought back": value.int(report.restored),
        "duplicates": value.int(report.duplicates),
        "dead letters": value.int(report.dead_letters),
        "of another time": value.int(report.outside),
        "kept, messages are gone": value.int(report.kept),
        "new indices": value.json(report.swapped),
        "offsets": value.text(" ".join(str(part) for part in span.ranges) or "none"),
        "seconds": value.float(round(report.seconds, 3)),
    }


def _window(day: str) -> Window:
    start = datetime.fromisoformat(f"{day}T00:00:00+00:00")
    return Window(start, start + timedelta(days=1))
