"""The assets: what flows read from, what they write, and the reference data.

Belongs here: each asset with its description, checks and metadata; bodies read, call the pipeline
and report. Does not belong here: how a slice is indexed (`pipeline/`), when a run starts
(`sensors.py`).
"""

import gc
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import dagster as dg
from pydantic import Field

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.adapters.kafka import KafkaAdapter
from kp_platform.adapters.mysql import MySQLAdapter
from kp_platform.adapters.redis import RedisAdapter
from kp_platform.adapters.trino import TrinoAdapter
from kp_platform.engine import heartbeat
from kp_platform.engine.indexer import Indexer, Limits
from kp_platform.engine.offsets import assignment_text, parse_assignment
from kp_platform.engine.ports import Servers
from kp_platform.engine.reports import Outcome, SliceReport
from kp_platform.flows.builtin import ACCESS_LOG, FULL_TEXT
from kp_platform.flows.model import AnyFlow, ReferenceRefresh
from kp_platform.operations import reference_data
from kp_platform.orchestration.lineage import column_metadata
from kp_platform.settings import Settings

REFERENCE_ROWS = dg.AssetKey(["mysql", "testing.tests"])
REFERENCE_VALUES = dg.AssetKey(["redis", "test.string"])
REFERENCE_KEYS = {"mysql": REFERENCE_ROWS, "redis": REFERENCE_VALUES}
# One group: the asset graph of Dagster folds several, and hides the lineage behind a click.
GROUP = "enriched_logs"
# A report costs 11 kB of Dagster's database: small slices that follow each other are reported
# together, the first ones of a run soon, later ones every few minutes.
FIRST_REPORT_SECONDS = 5.0
REPORT_SECONDS = 240.0
REPORT_ROWS = 100_000
# A run makes a dozen objects for each event and no cycles of them: at Python's 700, its garbage
# collector takes half as much CPU as all else.
OBJECTS_UNTIL_COLLECTED = 50_000


class IndexConfig(dg.Config):
    """What one run takes; limits that are left out come from the KP_* settings."""

    partitions: str = Field(
        default="", description="Partitions that the run takes, e.g. `0-5`. Empty: all."
    )

    slice_rows: int | None = Field(
        default=None, ge=1, description="Most events that one Trino query reads (KP_SLICE_ROWS)."
    )
    bulk_rows: int | None = Field(
        default=None, ge=1, description="Most documents in one bulk request (KP_BULK_ROWS)."
    )
    follow_idle_seconds: float | None = Field(
        default=None,
        ge=0,
        description="Seconds without an event after which the run ends (KP_FOLLOW_IDLE_SECONDS).",
    )
    max_run_seconds: float | None = Field(
        default=None, gt=0, description="Seconds after which the run ends (KP_MAX_RUN_SECONDS)."
    )

    def limits(self) -> Limits:
        settings = Settings()
        return Limits(
            **{
                name: getattr(settings, name) if given is None else given
                for name, given in self.model_dump(exclude={"partitions"}).items()
            }
        )


def topic_asset(flow: AnyFlow) -> dg.AssetSpec:
    """The topic that a flow reads; made by the emitter, so Dagster only shows it."""
    return dg.AssetSpec(
        key=dg.AssetKey(["kafka", flow.topic]),
        kinds={"kafka"},
        group_name=GROUP,
        description=f"Topic {flow.topic}: JSON objects {', '.join(flow.fields)}, one per event.",
        metadata={"table": f"presto_etc/kafka, topic {flow.topic}"},
    )


def flow_asset_key(flow: AnyFlow) -> dg.AssetKey:
    return dg.AssetKey(flow.asset)


def flow_asset(flow: AnyFlow) -> dg.AssetsDefinition:
    """What a flow writes."""
    key = flow_asset_key(flow)

    @dg.asset(
        key=key,
        deps=_upstream(flow),
        kinds={"trino", "elasticsearch"},
        group_name=GROUP,
        output_required=False,
        freshness_policy=_freshness(flow),
        description=(
            f"{flow.description}. Index `{flow.index}`{_documents(flow)}. A run takes slices until "
            "it is caught up, then follows the topic. Each materialization reports one slice, or "
            "several small ones in a row."
        ),
        metadata={
            "index": flow.index,
            "topic": flow.topic,
            "sql": dg.MetadataValue.md(f"```sql\n{flow.sql}\n```"),
            **column_metadata(flow, _tables(flow)),
        },
        check_specs=[
            dg.AssetCheckSpec(
                "slice_complete",
                asset=key,
                description="Each offset that was asked for came once, and is accounted for.",
            ),
            dg.AssetCheckSpec(
                "no_dead_letters",
                asset=key,
                description="No message of this run went to the dead letters (index kp.dead).",
            ),
            dg.AssetCheckSpec(
                "no_gaps",
                asset=key,
                description="Kafka still had every event that was not indexed yet; else: kp.gaps.",
            ),
        ],
    )
    def index_slices(
        context: dg.AssetExecutionContext,
        config: IndexConfig,
        kafka: dg.ResourceParam[KafkaAdapter],
        trino: dg.ResourceParam[TrinoAdapter],
        elasticsearch: dg.ResourceParam[ElasticsearchAdapter],
    ) -> Iterator[dg.AssetMaterialization | dg.AssetCheckResult]:
        run_id, limits = context.run.run_id, config.limits()
        assignment = parse_assignment(config.partitions)
        yield from _index(
            context,
            key,
            Indexer(flow, Servers(kafka, trino, elasticsearch), limits, run_id, assignment),
        )

    return index_slices


def _freshness(flow: AnyFlow) -> dg.FreshnessPolicy | None:
    if flow.stale_hours is None:
        return None
    return dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=flow.stale_hours))


def _upstream(flow: AnyFlow) -> list[dg.AssetKey]:
    references = [REFERENCE_KEYS[source] for source in flow.references]
    refreshed = [flow_asset_key(flow.target)] if isinstance(flow, ReferenceRefresh) else []
    return [topic_asset(flow).key, *references, *refreshed]


def _tables(flow: AnyFlow) -> dict[str, dg.AssetKey]:
    """The assets behind the catalogs of Trino that a flow's query reads."""
    return {
        "kafka_tests": topic_asset(flow).key,
        "my_tests": REFERENCE_ROWS,
        "red_tests": REFERENCE_VALUES,
    }


def _documents(flow: AnyFlow) -> str:
    if isinstance(flow, ReferenceRefresh):
        return f": its documents whose {flow.document_field} is a message's key"
    return f", one document for each event, its id the event's {flow.id_field}"


def work_of(flow: AnyFlow, assignment: range) -> str:
    """The name of a run's lease: the flow, and the partitions of it unless it takes all."""
    return heartbeat.OF.join(filter(None, (flow.name, assignment_text(assignment))))


def _index(
    context: dg.AssetExecutionContext, key: dg.AssetKey, indexer: Indexer
) -> Iterator[dg.AssetMaterialization | dg.AssetCheckResult]:
    total = SliceReport()
    gc.set_threshold(OBJECTS_UNTIL_COLLECTED)
    try:
        work = work_of(indexer.flow, indexer.assignment)
        with heartbeat.running(indexer.servers.store, work, indexer.run_id):
            for report in gathered(indexer.run()):
                context.log.info("%s", sentence(report))
                metadata = report_metadata(indexer.flow, report, indexer.run_id)
                yield dg.AssetMaterialization(key, metadata=metadata)
                total = total.followed_by(report)
    except Exception as error:
        yield from check_results(key, total, failure=error)
        raise
    if not total.slices:
        context.log.info("nothing to index: the flow is caught up, or another run holds it")
    yield from check_results(key, total)


def gathered(
    reports: Iterator[SliceReport | None], seconds: float = FIRST_REPORT_SECONDS
) -> Iterator[SliceReport]:
    """Reports joined until they count `REPORT_ROWS` rows, or for a while: `seconds` after the
    first, which goes out at once, then always twice as long, at most `REPORT_SECONDS`."""
    waiting: SliceReport | None = None
    due = time.monotonic()
    try:
        for report in reports:
            if report is not None:
                waiting = waiting.followed_by(report) if waiting else report
            if waiting is None:
                continue
            if waiting.rows >= REPORT_ROWS or time.monotonic() >= due:
                yield waiting
                waiting, due = None, time.monotonic() + seconds
                seconds = min(2 * seconds, REPORT_SECONDS)
    except Exception:
        if waiting is not None:  # what was done before the failure stays told
            yield waiting
        raise
    if waiting is not None:
        yield waiting


def sentence(report: SliceReport) -> str:
    """A report for the log of a run."""
    outcome = report.outcome
    done = ", ".join(f"{count} {what}" for what, count in _counts(outcome).items() if count)
    empty = f" ({report.empty} offsets hold no message)" if report.empty else ""
    return (
        f"{_offsets(report)}: {report.rows} rows{empty}, {done or 'nothing'}, "
        f"{report.total_seconds:.2f} s, lag {report.lag_after}"
    )


def _counts(outcome: Outcome) -> dict[str, int]:
    return {
        "indexed": outcome.indexed,
        "already indexed": outcome.already_indexed,
        "duplicates": outcome.duplicates,
        "changes applied": outcome.applied,
        "documents rewritten": outcome.refreshed,
        "dead letters": outcome.dead_lettered.total(),
    }


def report_metadata(
    flow: AnyFlow, report: SliceReport, run_id: str
) -> dict[str, dg.MetadataValue[Any]]:
    """A report for the Dagster UI; numbers are plotted over time."""
    value, outcome = dg.MetadataValue, report.outcome
    return {
        "dagster/row_count": value.int(outcome.indexed + outcome.refreshed),
        "slices": value.int(report.slices),
        "offsets": value.text(_offsets(report)),
        "rows": value.int(report.rows),
        "offsets without a message": value.int(report.empty),
        **{name: value.int(count) for name, count in _counts(outcome).items()},
        "gaps": value.json(list(report.gaps)),
        "missing enrichment": value.json({s: report.missing[s] for s in flow.references}),
        "seconds": value.float(round(report.total_seconds, 3)),
        "seconds in Trino": value.float(round(report.trino_seconds, 3)),
        "seconds in Elasticsearch": value.float(round(report.elasticsearch_seconds, 3)),
        "lag after": value.int(report.lag_after),
        "processed rows": value.int(report.query.processed_rows),
        "query id": value.text(report.query.query_id),
        "query": value.url(report.query.info_url),
        **{name: value.url(url) for name, url in _pages(flow, report, run_id).items()},
        "preview": preview(report.preview, ("@timestamp", *flow.fields, *flow.references.values())),
    }


def _pages(flow: AnyFlow, report: SliceReport, run_id: str) -> dict[str, str]:
    """Where people read what was written, on the pages of the emitter."""
    address = Settings().emitter_url
    if flow is FULL_TEXT:
        return {"page": f"{address}/fulltext"}
    if flow is not ACCESS_LOG:
        return {}
    pages = {"page": f"{address}/analysis?run={run_id}"}
    if report.preview:
        pages["document"] = f"{address}/analysis/{report.preview[0]['uuid']}"
    return pages


def partitioned_asset(**options: Any) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """`dg.asset`, of which a backfill is one run for all partitions that it is asked for."""
    with warnings.catch_warnings():
        # The parameter is beta. Without it a run for each partition would cost four CPU-seconds.
        warnings.simplefilter("ignore", dg.BetaWarning)
        policy = dg.BackfillPolicy.single_run()
        made: Callable[[Callable[..., Any]], dg.AssetsDefinition] = dg.asset(
            backfill_policy=policy, **options
        )
    return made


def preview(documents: Sequence[dict[str, Any]], columns: Sequence[str]) -> dg.TableMetadataValue:
    """Some columns of a few documents as a table, so that a person sees what was handled; each
    column costs 200 bytes of Dagster's database."""
    schema = dg.TableSchema(columns=[dg.TableColumn(name, "string") for name in columns])
    rows = [{name: _shown(document.get(name)) for name in columns} for document in documents]
    return dg.MetadataValue.table([dg.TableRecord(row) for row in rows], schema=schema)


def check_results(
    key: dg.AssetKey, total: SliceReport, failure: Exception | None = None
) -> Iterator[dg.AssetCheckResult]:
    """The checks of a run, from the sum of its reports and the error that ended it, if any."""
    outcome = total.outcome
    asked, settled = sum(len(part) for part in total.asked), outcome.settled
    yield dg.AssetCheckResult(
        asset_key=key,
        check_name="slice_complete",
        passed=failure is None and asked - total.empty == total.rows == settled,
        description=str(failure) if failure else None,
        metadata={
            "offsets asked for": asked,
            "offsets without a message": total.empty,
            "rows": total.rows,
            "accounted for": settled,
        },
    )
    yield dg.AssetCheckResult(
        asset_key=key,
        check_name="no_dead_letters",
        passed=not outcome.dead_lettered,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "dead letters": outcome.dead_lettered.total(),
            "reasons": dict(outcome.dead_lettered),
        },
    )
    yield dg.AssetCheckResult(
        asset_key=key,
        check_name="no_gaps",
        passed=not total.gaps,
        metadata={"gaps": list(total.gaps)},
    )


def reference_assets() -> list[dg.AssetsDefinition]:
    """The example's rows and values, loaded when materialized."""

    @dg.asset(
        key=REFERENCE_ROWS,
        kinds={"mysql"},
        group_name=GROUP,
        description="Table testing.tests in MySQL: who can be accessed. Loading keeps ids.",
    )
    def reference_rows(
        mysql: dg.ResourceParam[MySQLAdapter], kafka: dg.ResourceParam[KafkaAdapter]
    ) -> dg.MaterializeResult[None]:
        count = reference_data.seed_rows(mysql, kafka.publish_changes)
        return dg.MaterializeResult(metadata={"dagster/row_count": count})

    @dg.asset(
        key=REFERENCE_VALUES,
        kinds={"redis"},
        group_name=GROUP,
        description="Plain string keys in Redis: the URL of each name. Loading sets them anew.",
    )
    def reference_values(
        redis: dg.ResourceParam[RedisAdapter], kafka: dg.ResourceParam[KafkaAdapter]
    ) -> dg.MaterializeResult[None]:
        count = reference_data.seed_values(redis, kafka.publish_changes)
        return dg.MaterializeResult(metadata={"dagster/row_count": count})

    return [reference_rows, reference_values]


def _offsets(report: SliceReport) -> str:
    return " ".join(str(part) for part in report.asked) or "none"


def _shown(value: object) -> str:
    return "" if value is None else str(value)[:200]
