"""The sensors: one for each flow, which sees its topic's end offsets move and starts a run.

Belongs here: reading, deciding (a pure function) and answering. A sensor keeps no state: its cursor
and run keys could be deleted, or burnt by a failed launch, so positions alone say what is to do.
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
from kp_platform.orchestration.flow_assets import IndexConfig, work_of
from kp_platform.orchestration.jobs import ASSIGNMENT_TAG, FLOW_TAG, AssetJob
from kp_platform.orchestration.run_state import JobRun, latest_runs, seconds_to_wait
from kp_platform.settings import Settings

# A look at the topic costs 1 ms of CPU; positions and runs, which change by what follows from the
# topic or once in a while, ten times as much.
LOOK_SECONDS = 0.2
WHOLE_LOOK_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to start a run now, and the reason, for people."""

    start: bool
    reason: str


def decide(
    todo: Plan,
    runs: Sequence[JobRun],
    max_run_seconds: float,
    *,
    heartbeat_age: float | None = None,
    deleted: Sequence[str] = (),
) -> Decision:
    """Start a run when there is something to do, no run holds the flow, and the last did not just
    fail.

    `runs` are the latest that took these partitions of the flow, newest first; only the newest can
    hold them, for it was started when no other did. One whose process was lost with its code server
    stays STARTED for half an hour: it holds them only as long as it beats. `deleted` are indices
    whose events have to be read again.
    """
    if runs and runs[0].is_live(max_run_seconds) and not runs[0].is_stalled(heartbeat_age):
        return Decision(False, f"{runs[0]} is {runs[0].status.value.lower()}; lag {todo.lag}")
    if not todo.has_work and not deleted:
        return Decision(False, "caught up, lag 0")
    if (left := seconds_to_wait(runs)) > 0:
        return Decision(False, f"{runs[0]} failed, the next starts in {left:.0f} s; lag {todo.lag}")
    losses = (
        f", lost {len(todo.gaps) + len(todo.truncated)} range(s)" if todo.needs_recovery else ""
    )
    again = f", deleted: {' '.join(deleted)}" if deleted else ""
    return Decision(True, f"lag {todo.lag}{losses}{again}")


def run_tags(todo: Plan, decision: Decision) -> dict[str, str]:
    """What a run is found by in the Dagster UI: why it started, and where, e.g. partitions `0,3`
    and offsets `0:[120,131) 3:[7,9)` of its first slice."""
    tags = {"kp/reason": decision.reason}
    if todo.slice:
        tags["kp/partitions"] = ",".join(str(part.partition) for part in todo.slice.ranges)
        tags["kp/offsets"] = str(todo.slice)
    return tags


def assignment_tag(assignment: range) -> dict[str, str]:
    """What tells the runs of these partitions from other runs of their flow; empty for all."""
    text = assignment_text(assignment)
    return {ASSIGNMENT_TAG: text} if text else {}


@dataclass(frozen=True, slots=True)
class _Watch:
    """A look at a flow by its sensor."""

    flow: AnyFlow
    settings: Settings
    instance: dg.DagsterInstance
    elasticsearch: dg.ResourceParam[ElasticsearchAdapter]
    deleted: Sequence[str]

    def runs_to_start(
        self, state: TopicState, held: Mapping[int, Position]
    ) -> tuple[list[dg.RunRequest], list[str]]:
        """A run for each part of the flow that needs one, and what is said of all of them."""
        requests, said = [], []
        for assignment in state.assignments(self.settings.partitions_per_run):
            todo = positions.plan_from(state.of(assignment), held, self.settings.slice_rows)
            decision = self._decision(assignment, todo)
            part, tags = assignment_text(assignment), assignment_tag(assignment)
            said.append(f"{part}: {decision.reason}" if part else decision.reason)
            if decision.start:
                config = dg.RunConfig(ops={self.flow.asset: IndexConfig(partitions=part)})
                tags |= run_tags(todo, decision)
                requests.append(dg.RunRequest(run_config=config if part else None, tags=tags))
        return requests, said

    def _decision(self, assignment: range, todo: Plan) -> Decision:
        tags = {FLOW_TAG: self.flow.name, **assignment_tag(assignment)}
        runs = latest_runs(self.instance, dg.RunsFilter(tags=tags))
        beat = None
        if runs and runs[0].status == dg.DagsterRunStatus.STARTED:
            work = work_of(self.flow, assignment)
            beat = heartbeat.age_seconds(self.elasticsearch, work, runs[0].run_id)
        return decide(
            todo,
            runs,
            self.settings.max_run_seconds,
            heartbeat_age=beat,
            deleted=self.deleted,
        )


def offset_sensor(flow: AnyFlow, job: AssetJob) -> dg.SensorDefinition:
    """The sensor of a flow. A tick watches the topic for `KP_SENSOR_WAIT_SECONDS`, because Dagster
    starts ticks of one sensor at least five seconds apart."""

    @dg.sensor(
        name=f"{flow.name}_offsets",
        job=job,
        minimum_interval_seconds=5,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            f"Watches the end offsets of topic {flow.topic}; starts a run when they are past the "
            "positions and no run of these partitions is live."
        ),
    )
    def watch_offsets(
        context: dg.SensorEvaluationContext,
        kafka: dg.ResourceParam[KafkaAdapter],
        elasticsearch: dg.ResourceParam[ElasticsearchAdapter],
    ) -> list[dg.RunRequest] | dg.SkipReason:
        settings = Settings()
        deadline = time.monotonic() + settings.sensor_wait_seconds
        try:
            state, held = positions.read_consistent(kafka, elasticsearch, flow)
            deleted = index_registry.missing(elasticsearch, flow)
            watch = _Watch(flow, settings, context.instance, elasticsearch, deleted)
            while True:
                requests, said = watch.runs_to_start(state, held)
                if requests:
                    context.log.info("%s: %s", flow.topic, "; ".join(said))
                    return requests
                if time.monotonic() >= deadline:
                    return dg.SkipReason(f"{flow.topic}: {'; '.join(said)}")
                _wait_for_events(kafka, state)
                state, held = positions.read_consistent(kafka, elasticsearch, flow)
        except (ServerDown, TopicMissing) as error:
            return dg.SkipReason(str(error))

    return watch_offsets


def _wait_for_events(kafka: dg.ResourceParam[KafkaAdapter], seen: TopicState) -> None:
    """Returns when the topic is not as it was seen, or after `WHOLE_LOOK_SECONDS`."""
    until = time.monotonic() + WHOLE_LOOK_SECONDS
    while time.monotonic() < until:
        time.sleep(LOOK_SECONDS)
        if kafka.topic_state(seen.topic) != seen:
            return
