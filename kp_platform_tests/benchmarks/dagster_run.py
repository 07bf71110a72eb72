"""Dagster's GraphQL interface and storage: launch a job, wait for its runs, measure the database.

Belongs here: requests as the UI sends them, and the size of the storage. Does not belong here: what
the jobs do.
"""

import re
import time
from collections.abc import Mapping
from typing import Any

from kp_platform_tests.stack import Stack

RUN_SECONDS = 3_600.0
POLL_SECONDS = 2.0  # each poll takes CPU from what is measured
_LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
_RUN = """query($id: ID!) { runOrError(runId: $id) { ... on Run {
  status stepStats { startTime endTime } } } }"""
_RUN_FILE = re.compile(r"history/runs/[0-9a-f-]{36}\.db")


def step_seconds(stack: Stack, job: str, *configs: Mapping[str, Any]) -> float:
    """Run a job of one step, once per config and concurrently. Returns the seconds from the start
    of the first step to the end of the last. Raises RuntimeError when a run fails."""
    steps = [_wait(stack, run) for run in [_launch(stack, job, each) for each in configs]]
    return max(end for _, end in steps) - min(start for start, _ in steps)


def _launch(stack: Stack, job: str, config: Mapping[str, Any]) -> str:
    selector = {
        "repositoryLocationName": "kp_platform",
        "repositoryName": "__repository__",
        "jobName": job,
    }
    launched = stack.graphql(_LAUNCH, params={"selector": selector, "runConfigData": config})
    answer = launched["launchRun"]
    if "run" not in answer:
        raise RuntimeError(f"{job} was not launched: {answer}")
    return str(answer["run"]["runId"])


def _wait(stack: Stack, run_id: str) -> tuple[float, float]:
    """Start and end of its step, in seconds since the epoch. Raises RuntimeError."""
    deadline = time.monotonic() + RUN_SECONDS
    while time.monotonic() < deadline:
        found = stack.graphql(_RUN, id=run_id)["runOrError"]
        if found["status"] == "SUCCESS":
            [step] = found["stepStats"]
            return float(step["startTime"]), float(step["endTime"])
        if found["status"] in ("FAILURE", "CANCELED"):
            raise RuntimeError(f"run {run_id}: {found['status']}")
        time.sleep(POLL_SECONDS)
    raise RuntimeError(f"run {run_id} did not end within {RUN_SECONDS:.0f} s")


def database(stack: Stack) -> dict[str, int]:
    """The size in bytes of each file in Dagster's storage, by relative path."""
    folder = stack.settings.home / "dagster"
    return {
        str(each.relative_to(folder)): each.stat().st_size
        for each in folder.rglob("*")
        if each.is_file()
    }


def bytes_a_day(
    before: Mapping[str, int], after: Mapping[str, int], seconds: float, run_seconds: float
) -> float:
    """The growth of the database in a day, extrapolated from two states `seconds` apart: the bytes
    appended to existing files, plus the file of a new run for each active run that ends after
    `run_seconds`."""
    growth = {name: size - before.get(name, 0) for name, size in after.items()}
    appended = sum(size for name, size in growth.items() if name in before)
    runs = {name: size for name, size in after.items() if _RUN_FILE.fullmatch(name)}
    active_runs = sum(growth[name] > 0 for name in runs)
    return (appended / seconds + active_runs * min(runs.values(), default=0) / run_seconds) * 86_400
