"""The latest runs of a job: whether one is live, stalled, or failed recently.

Belongs here: reading runs, and the rules that all sensors share. Does not belong here: what a
sensor checks (`flow_sensors.py`, `ranking.py`, `kpi.py`).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

import dagster as dg

# A run that has not started within this time never does; one that exceeds its limit by this time
# has lost its process. Neither blocks the next run.
START_GRACE_SECONDS = 180.0
# A run is created and launched in one step; one that is only created was left by a killed daemon.
LAUNCH_GRACE_SECONDS = 30.0
LONGEST_PAUSE = 6  # times KP_FAILED_RUN_PAUSE_SECONDS
LATEST_RUNS = 10
# A run imports for some seconds before its first heartbeat, then sends one every five seconds. A
# second run beside one that was only slow does no harm.
FIRST_HEARTBEAT = 2.0  # times KP_STALLED_RUN_SECONDS
MAX_UNFINISHED_RUNS = 100
_STARTING = (
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
)
_RUNNING = (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING)


@dataclass(frozen=True, slots=True)
class JobRun:
    """A run: its id, its status, the seconds since its creation, and its tags."""

    run_id: str
    status: dg.DagsterRunStatus
    age_seconds: float
    tags: Mapping[str, str] = field(default_factory=dict)

    def is_live(self, max_run_seconds: float) -> bool:
        """Whether its process can be running, or can still be started."""
        if self.status == dg.DagsterRunStatus.NOT_STARTED:
            return self.age_seconds < LAUNCH_GRACE_SECONDS
        if self.status in _STARTING:
            return self.age_seconds < START_GRACE_SECONDS
        return self.status in _RUNNING and self.age_seconds < max_run_seconds + START_GRACE_SECONDS

    def is_stalled(self, heartbeat_age: float | None, stalled_seconds: float) -> bool:
        """Whether it should have sent a heartbeat by now and has not."""
        is_new = self.age_seconds < FIRST_HEARTBEAT * stalled_seconds
        if self.status != dg.DagsterRunStatus.STARTED or is_new:
            return False
        return heartbeat_age is None or heartbeat_age >= stalled_seconds

    @property
    def status_sentence(self) -> str:
        return f"{self} is {self.status.value.lower()}"

    def __str__(self) -> str:
        return f"run {self.run_id[:8]}"


def pause_after_failures(runs: Sequence[JobRun], pause_seconds: float) -> str:
    """The reason to wait when the latest runs failed; empty when the pause is over. `runs` are the
    latest, newest first. Each further failure doubles the pause, up to `LONGEST_PAUSE` times the
    first one: a server that is down fails every run."""
    failures = list(takewhile(lambda run: run.status == dg.DagsterRunStatus.FAILURE, runs))
    if not failures:
        return ""
    factor = min(2.0 ** (len(failures) - 1), LONGEST_PAUSE)
    left = pause_seconds * factor - failures[0].age_seconds
    return f"{failures[0]} failed, the next starts in {left:.0f} s" if left > 0 else ""


def latest_runs(instance: dg.DagsterInstance, chosen: dg.RunsFilter) -> list[JobRun]:
    """The latest runs that match the filter, newest first."""
    return [_job_run(record) for record in instance.get_run_records(chosen, LATEST_RUNS)]


def unfinished_runs(instance: dg.DagsterInstance, job_name: str, key: dg.AssetKey) -> list[JobRun]:
    """The unfinished runs that write an asset: those of its job, and those started on the asset
    itself, such as backfills."""
    unfinished = dg.RunsFilter(statuses=[*_STARTING, *_RUNNING])
    return [
        _job_run(record)
        for record in instance.get_run_records(unfinished, MAX_UNFINISHED_RUNS)
        if record.dagster_run.job_name == job_name
        or key in (record.dagster_run.asset_selection or ())
    ]


def _job_run(record: dg.RunRecord) -> JobRun:
    run = record.dagster_run
    age = time.time() - record.create_timestamp.timestamp()
    return JobRun(run.run_id, run.status, age, run.tags)
