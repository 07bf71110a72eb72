"""Replay in Dagster: for each flow an asset with daily partitions; a backfill reprocesses any days.

Belongs here: the days, and how a run reports them. Does not belong here: what a replay does
(`operations/replay.py`).
"""

import gc
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
from pydantic import Field

from kp_platform import wiring
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
from kp_platform.orchestration.asset_keys import GROUP, flow_key
from kp_platform.orchestration.flow_assets import GC_THRESHOLD
from kp_platform.orchestration.jobs import RUN_TAGS, AssetJob, asset_job
from kp_platform.orchestration.partitions import partitioned_asset
from kp_platform.settings import Settings

# Older than any topic; messages that the topic no longer holds are reported.
FIRST_DAY = "2026-01-01"
DAYS = dg.DailyPartitionsDefinition(start_date=FIRST_DAY, end_offset=1)
MAX_RUNTIME_SECONDS = 24 * 3600


class ReplayConfig(dg.Config):
    """How days are reprocessed."""

    new_indices: bool = Field(
        default=False,
        description="Create new indices that then replace the old ones; otherwise overwrite.",
    )


def replay_key(flow: Flow) -> dg.AssetKey:
    return dg.AssetKey(f"replayed_{flow.name}")


def replay_asset(flow: Flow, flows: Sequence[AnyFlow]) -> dg.AssetsDefinition:
    """The reprocessed days of a flow."""
    key = replay_key(flow)

    @partitioned_asset(
        key=key,
        deps=[flow_key(flow)],
        partitions_def=DAYS,
        kinds={"trino", "elasticsearch"},
        group_name=GROUP,
        output_required=False,
        description=(
            f"Days of index `{flow.index}` reprocessed from topic {flow.topic}, with the current "
            "SQL and reference data. A backfill reprocesses a range of days in one run. Documents "
            "whose message the topic no longer holds stay as they are. Like `kp replay`."
        ),
        metadata={"index": flow.index, "topic": flow.topic},
    )
    def reprocess_days(
        context: dg.AssetExecutionContext,
        config: ReplayConfig,
        settings: dg.ResourceParam[Settings],
        kafka: dg.ResourceParam[KafkaAdapter],
        trino: dg.ResourceParam[TrinoAdapter],
        elasticsearch: dg.ResourceParam[ElasticsearchAdapter],
    ) -> Iterator[dg.AssetMaterialization]:
        gc.set_threshold(GC_THRESHOLD)
        limits, run_id = wiring.limits(settings), context.run.run_id
        indexers = wiring.indexers_of(flows, Servers(kafka, trino, elasticsearch), limits, run_id)
        indexer, refreshes = indexers[flow.name], refreshes_of(indexers.values(), flow)
        replay = replay_into_new_indices if config.new_indices else replay_in_place
        for day in context.partition_keys:
            replay_range = range_of_time(indexer, _window(day))
            context.log.info("%s", replay_range)
            if lost := replay_range.describe_lost():
                context.log.warning("%s", lost)
            report = ReplayReport()
            for report in replay(indexer, replay_range, refreshes):
                context.log.info("%s", report)
            metadata = replay_metadata(replay_range, report)
            yield dg.AssetMaterialization(key, partition=day, metadata=metadata)

    return reprocess_days


def replay_job(flow: Flow) -> AssetJob:
    """Reprocess days of a flow."""
    return asset_job(
        f"replay_{flow.name}",
        [replay_key(flow)],
        f"Reprocess days of index {flow.index} from the retained messages of topic {flow.topic}.",
        tags={**RUN_TAGS, "dagster/max_runtime": str(MAX_RUNTIME_SECONDS)},
    )


def replay_metadata(
    replay_range: ReplayRange, report: ReplayReport
) -> dict[str, dg.MetadataValue[Any]]:
    """A replay for the Dagster UI; numbers are plotted over the days."""
    value = dg.MetadataValue
    return {
        "dagster/row_count": value.int(report.reprocessed + report.restored),
        "messages read": value.int(report.rows),
        "reprocessed": value.int(report.reprocessed),
        "unchanged": value.int(report.unchanged),
        "restored": value.int(report.restored),
        "duplicates": value.int(report.duplicates),
        "dead letters": value.int(report.dead_letters),
        "outside range": value.int(report.outside),
        "kept without a message": value.int(report.kept),
        "new indices": value.json(report.swapped),
        "offsets": value.text(" ".join(str(each) for each in replay_range.ranges) or "none"),
        "seconds": value.float(round(report.seconds, 3)),
    }


def _window(day: str) -> Window:
    start = datetime.fromisoformat(f"{day}T00:00:00+00:00")
    return Window(start, start + timedelta(days=1))
