"""The assets and jobs of the flows: topics, and the indices that flows write.

Belongs here: the assets with their descriptions, the configuration of a run, the indexing jobs.
Does not belong here: how a slice is indexed (`engine/`) or shown (`reporting.py`), when a run
starts (`flow_sensors.py`).
"""

import gc
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import dagster as dg
from pydantic import Field

from kp_platform import wiring
from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.adapters.kafka import KafkaAdapter
from kp_platform.adapters.trino import TrinoAdapter
from kp_platform.engine import heartbeat
from kp_platform.engine.indexer import Indexer, Limits
from kp_platform.engine.offsets import parse_assignment
from kp_platform.engine.ports import Servers
from kp_platform.engine.reports import SliceReport
from kp_platform.flows.model import AnyFlow, ReferenceRefresh
from kp_platform.orchestration.asset_keys import GROUP, REFERENCE_KEYS, flow_key, topic_key
from kp_platform.orchestration.jobs import RUN_TAGS, AssetJob, asset_job
from kp_platform.orchestration.lineage import column_metadata
from kp_platform.orchestration.reporting import (
    check_results,
    check_specs,
    grouped,
    report_metadata,
    sentence,
)
from kp_platform.settings import Settings

FLOW_TAG = "kp/flow"
# On runs that consume only some partitions of a flow, e.g. `0-5`.
ASSIGNMENT_TAG = "kp/assignment"
# A run creates a dozen objects per event and no reference cycles: at Python's default of 700, the
# garbage collector takes half as much CPU as everything else.
GC_THRESHOLD = 50_000


class IndexConfig(dg.Config):
    """What a run consumes; limits that are left out come from the KP_* settings."""

    partitions: str = Field(
        default="", description="Partitions that the run consumes, e.g. `0-5`. Empty: all."
    )

    slice_rows: int | None = Field(
        default=None, ge=1, description="Maximum events per Trino query (KP_SLICE_ROWS)."
    )
    bulk_rows: int | None = Field(
        default=None, ge=1, description="Maximum documents per bulk request (KP_BULK_ROWS)."
    )
    follow_idle_seconds: float | None = Field(
        default=None,
        ge=0,
        description="Seconds without an event after which the run ends (KP_FOLLOW_IDLE_SECONDS).",
    )
    max_run_seconds: float | None = Field(
        default=None, gt=0, description="Seconds after which the run ends (KP_MAX_RUN_SECONDS)."
    )

    def limits(self, settings: Settings) -> Limits:
        values = self.model_dump(exclude={"partitions"}, exclude_none=True)
        return replace(wiring.limits(settings), **values)


def topic_asset(flow: AnyFlow) -> dg.AssetSpec:
    """The topic that a flow reads; it is written by the emitter, so Dagster only shows it."""
    return dg.AssetSpec(
        key=topic_key(flow),
        kinds={"kafka"},
        group_name=GROUP,
        description=f"Topic {flow.topic}: JSON objects {', '.join(flow.fields)}, one per event.",
        metadata={"table": f"presto_etc/kafka, topic {flow.topic}"},
    )


def flow_asset(flow: AnyFlow) -> dg.AssetsDefinition:
    """The documents that a flow writes."""
    key = flow_key(flow)

    @dg.asset(
        key=key,
        deps=_upstream(flow),
        kinds={"trino", "elasticsearch"},
        group_name=GROUP,
        output_required=False,
        freshness_policy=_freshness(flow),
        description=(
            f"{flow.description}. Index `{flow.index}`{_documents(flow)}. A run processes slices "
            "until it is caught up, then follows the topic. Each materialization reports one "
            "slice, or several small consecutive ones."
        ),
        metadata={
            "index": flow.index,
            "topic": flow.topic,
            "sql": dg.MetadataValue.md(f"```sql\n{flow.sql}\n```"),
            **column_metadata(flow),
        },
        check_specs=check_specs(key),
    )
    def index_slices(
        context: dg.AssetExecutionContext,
        config: IndexConfig,
        settings: dg.ResourceParam[Settings],
        kafka: dg.ResourceParam[KafkaAdapter],
        trino: dg.ResourceParam[TrinoAdapter],
        elasticsearch: dg.ResourceParam[ElasticsearchAdapter],
    ) -> Iterator[dg.AssetMaterialization | dg.AssetCheckResult]:
        run_id, limits = context.run.run_id, config.limits(settings)
        assignment = parse_assignment(config.partitions)
        indexer = Indexer(flow, Servers(kafka, trino, elasticsearch), limits, run_id, assignment)
        yield from _index(context, key, indexer, settings.emitter_url)

    return index_slices


def indexing_job(flow: AnyFlow) -> AssetJob:
    """Index a flow's topic until idle."""
    return asset_job(
        f"index_{flow.name}",
        [flow_key(flow)],
        f"Index topic {flow.topic} in slices until caught up, then follow it until idle.",
        tags={FLOW_TAG: flow.name, **RUN_TAGS},
    )


def _freshness(flow: AnyFlow) -> dg.FreshnessPolicy | None:
    if flow.stale_hours is None:
        return None
    return dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=flow.stale_hours))


def _upstream(flow: AnyFlow) -> list[dg.AssetKey]:
    references = [REFERENCE_KEYS[source] for source in flow.references]
    refreshed = [flow_key(flow.target)] if isinstance(flow, ReferenceRefresh) else []
    return [topic_key(flow), *references, *refreshed]


def _documents(flow: AnyFlow) -> str:
    if isinstance(flow, ReferenceRefresh):
        return f": its documents whose {flow.document_field} is a message's key"
    return f", one document for each event; its id is the event's {flow.id_field}"


def _index(
    context: dg.AssetExecutionContext, key: dg.AssetKey, indexer: Indexer, emitter_url: str
) -> Iterator[dg.AssetMaterialization | dg.AssetCheckResult]:
    total = SliceReport()
    gc.set_threshold(GC_THRESHOLD)
    try:
        work = heartbeat.work_name(indexer.flow.name, indexer.assignment)
        with heartbeat.running(indexer.servers.store, work, indexer.run_id):
            for report in grouped(indexer.run()):
                context.log.info("%s", sentence(report))
                metadata = report_metadata(indexer.flow, report, indexer.run_id, emitter_url)
                yield dg.AssetMaterialization(key, metadata=metadata)
                total = total.followed_by(report)
    except Exception as error:
        yield from check_results(key, total, failure=error)
        raise
    if not total.slices:
        context.log.info("nothing to index: the flow is caught up, or another run indexes it")
    yield from check_results(key, total)
