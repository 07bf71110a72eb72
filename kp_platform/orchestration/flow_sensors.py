"""The sensors of the flows: each detects that its topic's end offsets have moved and starts a run.

Belongs here: reading, the decision (a pure function), and the answer. A sensor keeps no state: its
cursor and run keys could be deleted, or used up by a failed launch, so positions alone determine
what is to be done.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.adapters.errors import ServerDown, TopicMissing
from kp_platform.adapters.kafka import KafkaAdapter
from kp_platform.engine import heartbeat, index_registry, positions
from kp_platform.engine.offsets import Plan, TopicState, assignment_text
from kp_platform.engine.positions import Position
from kp_platform.flows.model import AnyFlow
from kp_platform.orchestration.flow_assets import ASSIGNMENT_TAG, FLOW_TAG, IndexConfig
from kp_platform.orchestration.jobs import AssetJob
from kp_platform.orchestration.run_state import JobRun, latest_runs, pause_after_failures
from kp_platform.settings import Settings

# Reading the topic costs 1 ms of CPU. Positions and runs change after the topic, or rarely, and
# cost ten times as much.
POLL_SECONDS = 0.2
FULL_READ_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to start a run now, and the reason in words."""

    start: bool
    reason: str


def decide(
    todo: Plan,
    runs: Sequence[JobRun],
    settings: Settings,
    *,
    heartbeat_age: float | None = None,
    deleted: Sequence[str] = (),
) -> Decision:
    """Start a run when there is something to do, no run of these partitions is live, and no failure
    was too recent.

    `runs` are the latest runs of these partitions, newest first; only the newest can be live,
    because it was started when no other was. A run whose process ended with its code server stays
    STARTED for half an hour, so a run without a heartbeat counts as stalled. `deleted` are indices
    whose events have to be reprocessed.
    """
    if _is_running(runs, settings, heartbeat_age):
        return Decision(False, f"{runs[0].status_sentence}; lag {todo.lag}")
    if not todo.has_work and not deleted:
        return Decision(False, "caught up, lag 0")
    if pause := pause_after_failures(runs, settings.failed_run_pause_seconds):
        return Decision(False, f"{pause}; lag {todo.lag}")
    lost = f", lost {len(todo.gaps) + len(todo.truncated)} range(s)" if todo.needs_recovery else ""
    restored = f", deleted: {' '.join(deleted)}" if deleted else ""
    return Decision(True, f"lag {todo.lag}{lost}{restored}")


def _is_running(runs: Sequence[JobRun], settings: Settings, heartbeat_age: float | None) -> bool:
    return (
        bool(runs)
        and runs[0].is_live(settings.max_run_seconds)
        and not runs[0].is_stalled(heartbeat_age, settings.stalled_run_seconds)
    )


def decision_tags(todo: Plan, decision: Decision) -> dict[str, str]:
    """Tags to search for in the Dagster UI: why the run started, and the offsets of its first
    slice, e.g. partitions `0,3` and offsets `0:[120,131) 3:[7,9)`."""
    tags = {"kp/reason": decision.reason}
    if todo.slice:
        tags["kp/partitions"] = ",".join(str(each.partition) for each in todo.slice.ranges)
        tags["kp/offsets"] = str(todo.slice)
    return tags


def assignment_tags(assignment: range) -> dict[str, str]:
    """Tags that distinguish the runs of these partitions from others of their flow; empty for
    all partitions."""
    text = assignment_text(assignment)
    return {ASSIGNMENT_TAG: text} if text else {}


@dataclass(frozen=True, slots=True)
class _Tick:
    """One tick of a flow's sensor."""

    flow: AnyFlow
    settings: Settings
    instance: dg.DagsterInstance
    elasticsearch: dg.ResourceParam[ElasticsearchAdapter]
    deleted: Sequence[str]

    def runs_to_start(
        self, state: TopicState, current: Mapping[int, Position]
    ) -> tuple[list[dg.RunRequest], list[str]]:
        """A run for each assignment that needs one, and the reasons of all decisions."""
        requests, reasons = [], []
        for assignment in state.assignments(self.settings.partitions_per_run):
            todo = positions.plan_from(state.of(assignment), current, self.settings.slice_rows)
            decision = self._decision(assignment, todo)
            text, tags = assignment_text(assignment), assignment_tags(assignment)
            reasons.append(f"{text}: {decision.reason}" if text else decision.reason)
            if decision.start:
                config = dg.RunConfig(ops={self.flow.asset: IndexConfig(partitions=text)})
                tags |= decision_tags(todo, decision)
                requests.append(dg.RunRequest(run_config=config if text else None, tags=tags))
        return requests, reasons

    def _decision(self, assignment: range, todo: Plan) -> Decision:
        tags = {FLOW_TAG: self.flow.name, **assignment_tags(assignment)}
        runs = latest_runs(self.instance, dg.RunsFilter(tags=tags))
        age = None
        if runs and runs[0].status == dg.DagsterRunStatus.STARTED:
            work = heartbeat.work_name(self.flow.name, assignment)
            age = heartbeat.age_seconds(self.elasticsearch, work, runs[0].run_id)
        return decide(
            todo,
            runs,
            self.settings,
            heartbeat_age=age,
            deleted=self.deleted,
        )


def offset_sensor(flow: AnyFlow, job: AssetJob) -> dg.SensorDefinition:
    """The sensor of a flow. A tick polls the topic for `KP_SENSOR_WAIT_SECONDS`, because Dagster
    starts the ticks of a sensor at least five seconds apart."""

    @dg.sensor(
        name=f"{flow.name}_offsets",
        job=job,
        minimum_interval_seconds=5,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            f"Polls the end offsets of topic {flow.topic}; starts a run when they are past the "
            "positions and no run of these partitions is live."
        ),
    )
    def poll_offsets(
        context: dg.SensorEvaluationContext,
        settings: dg.ResourceParam[Settings],
        kafka: dg.ResourceParam[KafkaAdapter],
        elasticsearch: dg.ResourceParam[ElasticsearchAdapter],
    ) -> list[dg.RunRequest] | dg.SkipReason:
        deadline = time.monotonic() + settings.sensor_wait_seconds
        try:
            state, current = positions.read_consistent(kafka, elasticsearch, flow)
            deleted = index_registry.missing(elasticsearch, flow)
            tick = _Tick(flow, settings, context.instance, elasticsearch, deleted)
            while True:
                requests, reasons = tick.runs_to_start(state, current)
                if requests:
                    context.log.info("%s: %s", flow.topic, "; ".join(reasons))
                    return requests
                if time.monotonic() >= deadline:
                    return dg.SkipReason(f"{flow.topic}: {'; '.join(reasons)}")
                _wait_for_events(kafka, state)
                state, current = positions.read_consistent(kafka, elasticsearch, flow)
        except (ServerDown, TopicMissing) as error:
            return dg.SkipReason(str(error))

    return poll_offsets


def _wait_for_events(kafka: dg.ResourceParam[KafkaAdapter], seen: TopicState) -> None:
    """Returns when the topic differs from `seen`, at the latest after `FULL_READ_SECONDS`."""
    until = time.monotonic() + FULL_READ_SECONDS
    while time.monotonic() < until:
        time.sleep(POLL_SECONDS)
        if kafka.topic_state(seen.topic) != seen:
            return
