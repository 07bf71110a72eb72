"""The dead letters in Dagster: the asset `dead_letters`, its sensor, and the job that replays.

Belongs here: when their numbers are told, how, and what a replay is asked for. Does not belong
here: how letters are kept (`pipeline/dead_letters.py`) and read again (`pipeline/dead_replay.py`).

Nothing of a message is told to Dagster, which keeps what it is told: not its bytes, and not the
detail of a letter, which may quote them. `kp dlq show` shows these.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg
from pydantic import Field

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.adapters.errors import ServerDown
from kp_platform.adapters.kafka import KafkaAdapter
from kp_platform.adapters.trino import TrinoAdapter
from kp_platform.engine import dead_letters
from kp_platform.engine.dead_letters import DEAD_INDEX, DeadLetter, Selection, Tally
from kp_platform.engine.ports import Servers
from kp_platform.flows.model import AnyFlow
from kp_platform.operations.dead_letter_retry import RetryReport, retry
from kp_platform.orchestration.flow_assets import GROUP, flow_asset_key, preview
from kp_platform.orchestration.jobs import MAX_RUNTIME_SECONDS
from kp_platform.settings import Settings
from kp_platform.wiring import indexers_of, limits

KEY = dg.AssetKey("dead_letters")
CHECK = "no_open_dead_letters"
JOB_NAME = "retry_dead_letters"
LOOK_SECONDS = 60
PREVIEW_LETTERS = 10
_ALL = Selection(with_discarded=True)
# Under this name a materialization keeps its numbers, for the next one to be compared with.
_NUMBERS = "numbers"
_SHOWN = ("id", "flow", "place", "reason", "since")


class ReplayConfig(dg.Config):
    """Which dead letters are read again: those with the ids, else those of a flow or a reason."""

    ids: list[str] = Field(default=[], description="Ids of dead letters, as `kp dlq list` shows.")
    flow: str = Field(default="", description="All open letters of this flow, e.g. access_log.")
    reason: str = Field(default="", description="Only those with this reason, e.g. conflict.")

    def selection(self) -> Selection:
        """Raises Failure when it names no letters."""
        if not (self.ids or self.flow or self.reason):
            raise dg.Failure("name dead letters: ids, a flow or a reason", allow_retries=False)
        return Selection(tuple(self.ids), self.flow, self.reason)


def dead_letters_asset(flows: Sequence[AnyFlow]) -> dg.AssetsDefinition:
    """The asset: how many there are, by flow and by reason."""

    @dg.asset(
        key=KEY,
        deps=[flow_asset_key(flow) for flow in flows],
        kinds={"elasticsearch"},
        group_name=GROUP,
        description=(
            f"Messages that cannot be indexed. Index `{DEAD_INDEX}`: reason, offset and bytes of "
            f"each. `kp dlq list` lists them; job `{JOB_NAME}`, or `kp dlq retry`, reads them "
            "again; `kp dlq discard` forgets their bytes."
        ),
        metadata={"index": DEAD_INDEX},
        check_specs=[
            dg.AssetCheckSpec(CHECK, asset=KEY, description="No dead letter waits for a person.")
        ],
    )
    def dead_letters_counted(
        context: dg.AssetExecutionContext, elasticsearch: dg.ResourceParam[ElasticsearchAdapter]
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        elasticsearch.ensure_index(DEAD_INDEX)
        elasticsearch.refresh(DEAD_INDEX)
        counted = dead_letters.tally(elasticsearch, _ALL)
        told = numbers(counted, _told(context.instance))
        context.log.info("%s", counted)
        yield dg.MaterializeResult(metadata=tally_metadata(told, _latest(elasticsearch)))
        yield dg.AssetCheckResult(**check(counted))

    return dead_letters_counted


def dead_letters_sensor() -> dg.SensorDefinition:
    """The sensor: it tells numbers that are not those told last. A run for that would cost four
    CPU-seconds, so it tells them itself."""

    @dg.sensor(
        name="dead_letters_counts",
        minimum_interval_seconds=LOOK_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            f"Counts index {DEAD_INDEX}; materializes the asset `{KEY.to_user_string()}` when "
            "there are other numbers than before, without a run."
        ),
    )
    def watch_dead_letters(
        context: dg.SensorEvaluationContext, elasticsearch: dg.ResourceParam[ElasticsearchAdapter]
    ) -> dg.SensorResult | dg.SkipReason:
        before = _told(context.instance)
        try:
            counted = dead_letters.tally(elasticsearch, _ALL)
            told = numbers(counted, before)
            if told == before:
                return dg.SkipReason(str(counted))
            latest = _latest(elasticsearch)
        except ServerDown as error:
            return dg.SkipReason(str(error))
        return dg.SensorResult(
            skip_reason=str(counted),
            asset_events=[
                dg.AssetMaterialization(KEY, metadata=tally_metadata(told, latest)),
                dg.AssetCheckEvaluation(**check(counted)),
            ],
        )

    return watch_dead_letters


def retry_job(flows: Sequence[AnyFlow]) -> dg.JobDefinition:
    """Read dead letters again; those that have become good are indexed and removed."""

    @dg.op(
        name="replay",
        description="Read the messages of dead letters again, through the queries of their flows.",
    )
    def replay_letters(
        context: dg.OpExecutionContext,
        config: ReplayConfig,
        kafka: dg.ResourceParam[KafkaAdapter],
        trino: dg.ResourceParam[TrinoAdapter],
        elasticsearch: dg.ResourceParam[ElasticsearchAdapter],
    ) -> None:
        elasticsearch.refresh(DEAD_INDEX)
        letters = dead_letters.read(elasticsearch, config.selection())
        indexers = indexers_of(
            flows, Servers(kafka, trino, elasticsearch), limits(Settings()), context.run.run_id
        )
        report = retry(indexers, letters)
        context.log.info("%s", report)
        for letter, cause in report.unreadable:
            context.log.warning("%s: %s", letter.id, cause)
        context.add_output_metadata(replay_metadata(report))

    @dg.job(
        name=JOB_NAME,
        description=(
            "Read dead letters again: those whose messages become documents now are removed, the "
            "others stay with the reason of now. Config: ids, or a flow, or a reason."
        ),
        executor_def=dg.in_process_executor,
        tags={"dagster/max_runtime": str(MAX_RUNTIME_SECONDS), "dagster/max_retries": "0"},
    )
    def retry_dead_letters() -> None:
        replay_letters()

    return retry_dead_letters


def numbers(counted: Tally, before: Mapping[str, int]) -> dict[str, int]:
    """What is plotted over time. A number that was told once is told again when it is 0."""
    now = {"open": counted.open.total(), "discarded": counted.discarded}
    now |= {f"flow {name}": count for name, count in counted.by_flow().items()}
    now |= {f"reason {name}": count for name, count in counted.by_reason().items()}
    return dict.fromkeys(before, 0) | now


def tally_metadata(
    told: Mapping[str, int], latest: Sequence[DeadLetter]
) -> dict[str, dg.MetadataValue[Any]]:
    """Numbers for the Dagster UI, which plots them over time, and the latest letters."""
    value = dg.MetadataValue
    return {
        "dagster/row_count": value.int(told["open"] + told["discarded"]),
        **{name: value.int(count) for name, count in told.items()},
        _NUMBERS: value.json(dict(told)),
        "latest": preview([_shown(letter) for letter in latest], _SHOWN),
    }


def check(counted: Tally) -> dict[str, Any]:
    """The check, with a run or without one: the two have the same fields."""
    return {
        "asset_key": KEY,
        "check_name": CHECK,
        "passed": not counted.open,
        "severity": dg.AssetCheckSeverity.WARN,
        "description": str(counted),
        "metadata": {},
    }


def replay_metadata(report: RetryReport) -> dict[str, dg.MetadataValue[Any]]:
    """A replay for the Dagster UI."""
    value = dg.MetadataValue
    return {
        "removed": value.int(len(report.removed)),
        "still dead": value.int(len(report.still_dead)),
        "cannot be read again": value.int(len(report.unreadable)),
        "causes": value.json(sorted({cause for _, cause in report.unreadable})),
    }


def _told(instance: dg.DagsterInstance) -> dict[str, int]:
    """The numbers that were told last; none when nothing was told yet."""
    event = instance.get_latest_materialization_event(KEY)
    if event is None or event.asset_materialization is None:
        return {}
    found = event.asset_materialization.metadata.get(_NUMBERS)
    told = found.value if isinstance(found, dg.JsonMetadataValue) else None
    return dict(told) if isinstance(told, Mapping) else {}


def _latest(elasticsearch: dg.ResourceParam[ElasticsearchAdapter]) -> list[DeadLetter]:
    return next(dead_letters.pages(elasticsearch, Selection(), PREVIEW_LETTERS), [])


def _shown(letter: DeadLetter) -> dict[str, Any]:
    source = letter.source
    return {
        "id": letter.id,
        "flow": source["flow"],
        "place": str(letter),
        "reason": source["reason"],
        "since": source["@timestamp"],
    }
