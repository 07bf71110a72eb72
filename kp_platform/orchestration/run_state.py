"""What the latest runs of a job say to a sensor: one is live, or the last ones failed.

Belongs here: reading runs, and the rules that every sensor shares. Does not belong here: what a
sensor watches (`sensors.py`, `ranking.py`, `kpi.py`).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

import dagster as dg

from kp_platform.settings import Settings

# A run that did not start within this time never will; one that runs longer than its limit and
# this grace has lost its process. Neither may hold anything.
START_GRACE_SECONDS = 180.0
# A run is made and launched in one go; one that is only made was left by a daemon that died.
LAUNCH_GRACE_SECONDS = 30.0
LONGEST_PAUSE = 6  # times KP_FAILED_RUN_PAUSE_SECONDS
LATEST_RUNS = 10
# A run imports for some seconds before its first beat; then it beats every five. A second run
# beside one that was only slow does no harm.
FIRST_HEARTBEAT = 2.0  # times KP_STALLED_RUN_SECONDS
# On runs that stay to do their work again whenever it is due, and beat meanwhile.
FOLLOWS_TAG = "kp/follows"
_MOST_LIVE_RUNS = 100
_STARTING = (
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
)
_RUNNING = (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING)


@dataclass(frozen=True, slots=True)
class JobRun:
    """A run: its id, its status, the seconds since it was made, and its tags."""

    run_id: str
    status: dg.DagsterRunStatus
    age_seconds: float
    tags: Mapping[str, str] = field(default_factory=dict)

    def is_live(self, max_run_seconds: float) -> bool:
        """Whether its process can be alive, or can still be started."""
        if self.status == dg.DagsterRunStatus.NOT_STARTED:
            return self.age_seconds < LAUNCH_GRACE_SECONDS
        if self.status in _STARTING:
            return self.age_seconds < START_GRACE_SECONDS
        return self.status in _RUNNING and self.age_seconds < max_run_seconds + START_GRACE_SECONDS

    def is_stalled(self, heartbeat_age: float | None) -> bool:
        """Whether it started long enough ago to beat, and does not."""
        patience = Settings().stalled_run_seconds
        is_new = self.age_seconds < FIRST_HEARTBEAT * patience
        if self.status != dg.DagsterRunStatus.STARTED or is_new:
            return False
        return heartbeat_age is None or heartbeat_age >= patience

    def __str__(self) -> str:
        return f"run {self.run_id[:8]}"


def seconds_to_wait(runs: Sequence[JobRun]) -> float:
    """A server that is down fails every run: each failure in a row doubles the pause. `runs` are
    the latest, newest first."""
    failures = list(takewhile(lambda run: run.status == dg.DagsterRunStatus.FAILURE, runs))
    if not failures:
        return 0.0
    factor = min(2.0 ** (len(failures) - 1), LONGEST_PAUSE)
    return Settings().failed_run_pause_seconds * factor - failures[0].age_seconds


def obstacle_to_run(
    instance: dg.DagsterInstance,
    job_name: str,
    key: dg.AssetKey,
    max_run_seconds: float,
    heartbeat_age: Callable[[JobRun], float | None],
) -> str:
    """What keeps a sensor from starting the job of an asset now, in words; empty: nothing."""
    if live := live_runs(instance, job_name, key, max_run_seconds, heartbeat_age):
        return f"{live[0]} is {live[0].status.value.lower()}"
    latest = latest_runs(instance, dg.RunsFilter(job_name=job_name))
    if (left := seconds_to_wait(latest)) > 0:
        return f"{latest[0]} failed, the next starts in {left:.0f} s"
    return ""


def latest_runs(instance: dg.DagsterInstance, chosen: dg.RunsFilter) -> list[JobRun]:
    """The latest runs that the filter lets through, newest first."""
    now = time.time()
    return [_job_run(record, now) for record in instance.get_run_records(chosen, LATEST_RUNS)]


def live_runs(
    instance: dg.DagsterInstance,
    job_name: str,
    key: dg.AssetKey,
    max_run_seconds: float,
    heartbeat_age: Callable[[JobRun], float | None],
) -> list[JobRun]:
    """The runs that may write the asset now: those of its job, and those that people start on the
    asset itself, backfills too. One that follows is live only as long as it beats."""
    unfinished = dg.RunsFilter(statuses=[*_STARTING, *_RUNNING])
    now = time.time()
    runs = [
        _job_run(record, now)
        for record in instance.get_run_records(unfinished, _MOST_LIVE_RUNS)
        if record.dagster_run.job_name == job_name
        or key in (record.dagster_run.asset_selection or ())
    ]
    return [
        run
        for run in runs
        if run.is_live(max_run_seconds)
        and not (FOLLOWS_TAG in run.tags and run.is_stalled(heartbeat_age(run)))
    ]


def _job_run(record: dg.RunRecord, now: float) -> JobRun:
    run = record.dagster_run
    age = now - record.create_timestamp.timestamp()
    return JobRun(run.run_id, run.status, age, run.tags)
