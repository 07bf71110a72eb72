"""Periodic work on an asset: one run repeats it when it is due, instead of a new run each time. A
run costs four CPU-seconds and 160 kB of Dagster's database.

Belongs here: whether a run may start, the run that repeats its work and sends heartbeats, its tags.
Does not belong here: what is due, and the work (`ranking.py`, `kpi.py`).
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import dagster as dg
from pydantic import Field

from kp_platform.engine import heartbeat
from kp_platform.engine.ports import DocumentStore
from kp_platform.orchestration.jobs import MAX_RUNTIME_SECONDS, AssetJob, asset_job
from kp_platform.orchestration.run_state import (
    JobRun,
    latest_runs,
    pause_after_failures,
    unfinished_runs,
)
from kp_platform.settings import Settings

CHECK_SECONDS = 10.0
# On runs that repeat their work and send heartbeats.
REPEATS_TAG = "kp/repeats"


class RepeatConfig(dg.Config):
    """For how long a run repeats its work."""

    repeat_seconds: float = Field(
        default=0.0,
        ge=0,
        description="Seconds for which the run repeats its work when it is due; 0: once.",
    )


@dataclass(frozen=True, slots=True)
class PeriodicJob:
    """The job of an asset whose runs may repeat their work. Its name is that of its heartbeat."""

    name: str
    key: dg.AssetKey

    def define(self, description: str) -> AssetJob:
        return asset_job(self.name, [self.key], description)

    def run_request(
        self, reason: str, config: RepeatConfig | None = None, tags: Mapping[str, str] | None = None
    ) -> dg.RunRequest:
        """A run with its reason; with a `config` it repeats its work."""
        all_tags = {"kp/reason": reason, **(tags or {})}
        if config is None:
            return dg.RunRequest(tags=all_tags)
        run_config = dg.RunConfig({self.key.to_python_identifier(): config})
        return dg.RunRequest(tags={**all_tags, REPEATS_TAG: "yes"}, run_config=run_config)

    def obstacle(
        self, instance: dg.DagsterInstance, store: DocumentStore, settings: Settings
    ) -> str:
        """Why no run may start now: one is live, or one failed recently; empty: it may."""
        if live := self.live_runs(instance, store, settings):
            return live[0].status_sentence
        return self.pause(instance, settings)

    def pause(self, instance: dg.DagsterInstance, settings: Settings) -> str:
        """Why the next run waits after failures; empty: it does not."""
        latest = latest_runs(instance, dg.RunsFilter(job_name=self.name))
        return pause_after_failures(latest, settings.failed_run_pause_seconds)

    def live_runs(
        self, instance: dg.DagsterInstance, store: DocumentStore, settings: Settings
    ) -> list[JobRun]:
        """The runs that may be writing the asset. A run that repeats its work is live only as long
        as it sends heartbeats."""
        return [
            run
            for run in unfinished_runs(instance, self.name, self.key)
            if run.is_live(MAX_RUNTIME_SECONDS)
            and not (REPEATS_TAG in run.tags and self._is_stalled(run, store, settings))
        ]

    def _is_stalled(self, run: JobRun, store: DocumentStore, settings: Settings) -> bool:
        heartbeat_age = heartbeat.age_seconds(store, self.name, run.run_id)
        return run.is_stalled(heartbeat_age, settings.stalled_run_seconds)

    @contextmanager
    def repetitions(
        self,
        store: DocumentStore,
        run_id: str,
        config: RepeatConfig,
        is_due: Callable[[], bool],
        *,
        pause_seconds: float,
        limit_seconds: float = math.inf,
    ) -> Iterator[Iterator[None]]:
        """The times to do the work: now, and when it is due, for at most `limit_seconds`. Only a
        run that repeats sends heartbeats: any other must not replace those of the run beside it."""
        repeats = config.repeat_seconds > 0
        with heartbeat.running(store, self.name, run_id) if repeats else nullcontext():
            yield repeat(
                is_due,
                seconds=min(config.repeat_seconds, limit_seconds),
                idle_seconds=2 * pause_seconds + CHECK_SECONDS,
            )


def repeat(
    is_due: Callable[[], bool],
    *,
    seconds: float,
    idle_seconds: float,
    check_seconds: float = CHECK_SECONDS,
) -> Iterator[None]:
    """Yields at once, and again each time that `is_due`, until `seconds` are over or nothing was
    due for `idle_seconds`."""
    began = last = time.monotonic()
    yield
    while True:
        now = time.monotonic()
        if now - began + check_seconds > seconds or now - last > idle_seconds:
            return
        time.sleep(check_seconds)
        if is_due():
            last = time.monotonic()
            yield
