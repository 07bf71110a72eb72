"""Dead letters in Dagster: the asset `dead_letters`, its sensor, and the job that retries them.

Belongs here: when and how their numbers are reported, and which dead letters a retry selects. Does
not belong here: how dead letters are stored (`engine/dead_letters.py`) and retried
(`operations/dead_letter_retry.py`).

Dagster gets nothing of a message, because it stores what it gets: neither the bytes of a dead
letter nor its detail, which may quote them. `kp dlq show` prints these.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg
from pydantic import Field

from kp_platform import wiring
from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.adapters.errors import ServerDown
from kp_platform.adapters.kafka import KafkaAdapter
from kp_platform.adapters.trino import TrinoAdapter
from kp_platform.engine import dead_letters
from kp_platform.engine.dead_letters import DEAD_INDEX, DeadLetter, Selection, Tally
from kp_platform.engine.ports import Servers
from kp_platform.flows.model import AnyFlow
from kp_platform.operations import dead_letter_retry
from kp_platform.operations.dead_letter_retry import RetryReport
from kp_platform.orchestration.asset_keys import GROUP, flow_key
from kp_platform.orchestration.jobs import op_job
from kp_platform.orchestration.reporting import preview
from kp_platform.settings import Settings

KEY = dg.AssetKey("dead_letters")
CHECK = "no_open_dead_letters"
JOB_NAME = "retry_dead_letters"
INTERVAL_SECONDS = 60
PREVIEW_ROWS = 10
_ALL = Selection(with_discarded=True)
# The metadata of a materialization that the next one is compared with.
_NUMBERS = "numbers"
_COLUMNS = ("id", "flow", "offset", "reason", "since")


class RetryConfig(dg.Config):
    """The dead letters to retry: those with the ids, else those of a flow or a reason."""

    ids: list[str] = Field(default=[], description="Ids of dead letters, as `kp dlq list` shows.")
    flow: str = Field(
        default="", description="All open dead letters of this flow, e.g. access_log."
    )
    reason: str = Field(default="", description="Only those with this reason, e.g. conflict.")

    def selection(self) -> Selection:
        """Raises Failure when it selects no dead letters."""
        if not (self.ids or self.flow or self.reason):
            raise dg.Failure("select dead letters: ids, a flow or a reason", allow_retries=False)
        return Selection(tuple(self.ids), self.flow, self.reason)


def dead_letters_asset(flows: Sequence[AnyFlow]) -> dg.AssetsDefinition:
    """The asset: the number of dead letters by flow and by reason."""

    @dg.asset(
        key=KEY,
        deps=[flow_key(flow) for flow in flows],
        kinds={"elasticsearch"},
        group_name=GROUP,
        description=(
            f"Messages that cannot be indexed. Index `{DEAD_INDEX}`: reason, offset and bytes of "
            f"each. `kp dlq list` lists them; job `{JOB_NAME}`, or `kp dlq retry`, processes them "
            "again; `kp dlq discard` deletes their bytes."
        ),
        metadata={"index": DEAD_INDEX},
        check_specs=[dg.AssetCheckSpec(CHECK, asset=KEY, description="No dead letter is open.")],
    )
    def count_dead_letters(
        context: dg.AssetExecutionContext, elasticsearch: dg.ResourceParam[ElasticsearchAdapter]
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        elasticsearch.ensure_index(DEAD_INDEX)
        elasticsearch.refresh(DEAD_INDEX)
        counted = dead_letters.tally(elasticsearch, _ALL)
        current = numbers(counted, _reported(context.instance))
        context.log.info("%s", counted)
        yield dg.MaterializeResult(metadata=tally_metadata(current, _latest(elasticsearch)))
        yield dg.AssetCheckResult(**check(counted))

    return count_dead_letters


def dead_letters_sensor() -> dg.SensorDefinition:
    """The sensor: it reports numbers that have changed. It does so without a run, which would cost
    four CPU-seconds."""

    @dg.sensor(
        name="dead_letters_counts",
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            f"Counts index {DEAD_INDEX}; materializes the asset `{KEY.to_user_string()}` when "
            "the numbers have changed, without a run."
        ),
    )
    def report_dead_letters(
        context: dg.SensorEvaluationContext, elasticsearch: dg.ResourceParam[ElasticsearchAdapter]
    ) -> dg.SensorResult | dg.SkipReason:
        before = _reported(context.instance)
        try:
            counted = dead_letters.tally(elasticsearch, _ALL)
            current = numbers(counted, before)
            if current == before:
                return dg.SkipReason(str(counted))
            latest = _latest(elasticsearch)
        except ServerDown as error:
            return dg.SkipReason(str(error))
        return dg.SensorResult(
            skip_reason=str(counted),
            asset_events=[
                dg.AssetMaterialization(KEY, metadata=tally_metadata(current, latest)),
                dg.AssetCheckEvaluation(**check(counted)),
            ],
        )

    return report_dead_letters


def retry_job(flows: Sequence[AnyFlow]) -> dg.JobDefinition:
    """Retry dead letters; those whose messages become documents are removed."""

    @dg.op(
        name="retry",
        description="Process the messages of dead letters again, by the queries of their flows.",
    )
    def retry(
        context: dg.OpExecutionContext,
        config: RetryConfig,
        settings: dg.ResourceParam[Settings],
        kafka: dg.ResourceParam[KafkaAdapter],
        trino: dg.ResourceParam[TrinoAdapter],
        elasticsearch: dg.ResourceParam[ElasticsearchAdapter],
    ) -> None:
        elasticsearch.refresh(DEAD_INDEX)
        selected = dead_letters.read(elasticsearch, config.selection())
        limits, run_id = wiring.limits(settings), context.run.run_id
        indexers = wiring.indexers_of(flows, Servers(kafka, trino, elasticsearch), limits, run_id)
        report = dead_letter_retry.retry(indexers, selected)
        context.log.info("%s", report)
        for dead_letter, cause in report.unreadable:
            context.log.warning("%s: %s", dead_letter.id, cause)
        context.add_output_metadata(retry_metadata(report))

    return op_job(
        JOB_NAME,
        retry,
        "Retry dead letters: those whose messages now become documents are removed, the others "
        "stay with their current reason. Config: ids, or a flow, or a reason.",
    )


def numbers(counted: Tally, before: Mapping[str, int]) -> dict[str, int]:
    """The numbers plotted over time. A number that was reported before falls to 0."""
    now = {"open": counted.open.total(), "discarded": counted.discarded}
    now |= {f"flow {name}": count for name, count in counted.by_flow().items()}
    now |= {f"reason {name}": count for name, count in counted.by_reason().items()}
    return dict.fromkeys(before, 0) | now


def tally_metadata(
    current: Mapping[str, int], latest: Sequence[DeadLetter]
) -> dict[str, dg.MetadataValue[Any]]:
    """Numbers for the Dagster UI, which plots them over time, and the latest dead letters."""
    value = dg.MetadataValue
    return {
        "dagster/row_count": value.int(current["open"] + current["discarded"]),
        **{name: value.int(count) for name, count in current.items()},
        _NUMBERS: value.json(dict(current)),
        "latest": preview([_row(each) for each in latest], _COLUMNS),
    }


def check(counted: Tally) -> dict[str, Any]:
    """The fields of the check, which are the same with and without a run."""
    return {
        "asset_key": KEY,
        "check_name": CHECK,
        "passed": not counted.open,
        "severity": dg.AssetCheckSeverity.WARN,
        "description": str(counted),
        "metadata": {},
    }


def retry_metadata(report: RetryReport) -> dict[str, dg.MetadataValue[Any]]:
    """A retry for the Dagster UI."""
    value = dg.MetadataValue
    return {
        "removed": value.int(len(report.removed)),
        "still dead": value.int(len(report.still_dead)),
        "unreadable": value.int(len(report.unreadable)),
        "causes": value.json(sorted({cause for _, cause in report.unreadable})),
    }


def _reported(instance: dg.DagsterInstance) -> dict[str, int]:
    """The numbers of the latest materialization; empty when there is none."""
    event = instance.get_latest_materialization_event(KEY)
    if event is None or event.asset_materialization is None:
        return {}
    found = event.asset_materialization.metadata.get(_NUMBERS)
    reported = found.value if isinstance(found, dg.JsonMetadataValue) else None
    return dict(reported) if isinstance(reported, Mapping) else {}


def _latest(elasticsearch: dg.ResourceParam[ElasticsearchAdapter]) -> list[DeadLetter]:
    return next(dead_letters.pages(elasticsearch, Selection(), PREVIEW_ROWS), [])


def _row(dead_letter: DeadLetter) -> dict[str, Any]:
    source = dead_letter.source
    return {
        "id": dead_letter.id,
        "flow": source["flow"],
        "offset": str(dead_letter),
        "reason": source["reason"],
        "since": source["@timestamp"],
    }
