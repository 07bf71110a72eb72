"""The sensors: one for each flow, which sees its topic's end offsets move and starts a run.

Belongs here: reading, deciding (a pure function) and answering. A sensor keeps no state: its cursor
and run keys could be deleted, or burnt by a failed launch, so positions alone say what is to do.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import dagster as dg

from kp_platform.flows import Flow
from kp_platform.jobs import FLOW_TAG, AssetJob
from kp_platform.pipeline import positions
from kp_platform.pipeline.offsets import Plan
from kp_platform.resources.elasticsearch import ElasticsearchResource
from kp_platform.resources.errors import ServerDown, TopicMissing
from kp_platform.resources.kafka import KafkaResource
from kp_platform.settings import Settings

LOOK_SECONDS = 0.2
# A run that did not start within this time never will; one that runs longer than its limit and
# this grace has lost its process. Neither may hold the flow.
START_GRACE_SECONDS = 180.0
FAILURE_PAUSE_SECONDS = 10.0
LONGEST_PAUSE_SECONDS = 300.0
LATEST_RUNS = 10
_STARTING = (
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
)
_RUNNING = (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING)


@dataclass(frozen=True, slots=True)
class FlowRun:
    """A run of the flow: its id, its status and the seconds since it was made."""

    run_id: str
    status: dg.DagsterRunStatus
    age_seconds: float


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to start a run now, and the reason, for people."""

    start: bool
    reason: str


def decide(todo: Plan, runs: Sequence[FlowRun], max_run_seconds: float) -> Decision:
    """Start a run when there is something to do, no run holds the flow, and the last did not just
    fail. `runs` are the latest of the flow, newest first."""
    limits = dict.fromkeys(_STARTING, START_GRACE_SECONDS)
    limits |= dict.fromkeys(_RUNNING, max_run_seconds + START_GRACE_SECONDS)
    for run in runs:
        if run.age_seconds < limits.get(run.status, 0.0):
            status = run.status.value.lower()
            return Decision(False, f"run {run.run_id[:8]} is {status}; lag {todo.lag}")
    if not todo.work:
        return Decision(False, "caught up, lag 0")
    if (left := _seconds_to_wait(runs)) > 0:
        return Decision(
            False,
            f"run {runs[0].run_id[:8]} failed, the next starts in {left:.0f} s; lag {todo.lag}",
        )
    losses = f", lost {len(todo.gaps) + len(todo.truncated)} range(s)" if todo.losses else ""
    return Decision(True, f"lag {todo.lag}{losses}")


def _seconds_to_wait(runs: Sequence[FlowRun]) -> float:
    """A server that is down fails every run: each failure in a row doubles the pause."""
    failures = list(takewhile(lambda run: run.status == dg.DagsterRunStatus.FAILURE, runs))
    if not failures:
        return 0.0
    pause = min(FAILURE_PAUSE_SECONDS * 2.0 ** (len(failures) - 1), LONGEST_PAUSE_SECONDS)
    return pause - failures[0].age_seconds


def offset_sensor(flow: Flow, job: AssetJob) -> dg.SensorDefinition:
    """The sensor of a flow. A tick watches the topic for `KP_SENSOR_WAIT_SECONDS`, because Dagster
    starts ticks of one sensor at least five seconds apart."""

    @dg.sensor(
        name=f"{flow.name}_offsets",
        job=job,
        minimum_interval_seconds=5,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            f"Watches the end offsets of topic {flow.topic}; starts a run when they are past the "
            "positions and no run of the flow is live."
        ),
    )
    def watch_offsets(
        context: dg.SensorEvaluationContext,
        kafka: KafkaResource,
        elasticsearch: ElasticsearchResource,
    ) -> dg.RunRequest | dg.SkipReason:
        settings = Settings()
        deadline = time.monotonic() + settings.sensor_wait_seconds
        while True:
            try:
                todo = _look(flow, kafka, elasticsearch)
            except (ServerDown, TopicMissing) as error:
                return dg.SkipReason(str(error))
            decision = decide(todo, _latest_runs(context.instance, flow), settings.max_run_seconds)
            if decision.start:
                context.log.info("%s: %s", flow.topic, decision.reason)
                return dg.RunRequest(tags={"kp/reason": decision.reason})
            if time.monotonic() >= deadline:
                return dg.SkipReason(f"{flow.topic}: {decision.reason}")
            time.sleep(LOOK_SECONDS)

    return watch_offsets


def _look(flow: Flow, kafka: KafkaResource, elasticsearch: ElasticsearchResource) -> Plan:
    state, held = positions.look(kafka, elasticsearch, flow)
    return positions.plan_from(state, held, max_rows=1)


def _latest_runs(instance: dg.DagsterInstance, flow: Flow) -> list[FlowRun]:
    records = instance.get_run_records(dg.RunsFilter(tags={FLOW_TAG: flow.name}), limit=LATEST_RUNS)
    now = time.time()
    return [
        FlowRun(
            record.dagster_run.run_id,
            record.dagster_run.status,
            now - record.create_timestamp.timestamp(),
        )
        for record in records
    ]
