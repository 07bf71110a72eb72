"""What Dagster's own interface is asked: to run a job, and what its runs have done.

Belongs here: launching as the UI does it, waiting, the size of its database.
"""

import re
import time
from collections.abc import Mapping
from typing import Any

from kp_platform_tests.stack import Stack

RUN_SECONDS = 3_600.0
LOOK_SECONDS = 2.0  # a look costs the machine that is measured
_LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
_RUN = """query($id: ID!) { runOrError(runId: $id) { ... on Run {
  status stepStats { startTime endTime } } } }"""
_RUN_FILE = re.compile(r"history/runs/[0-9a-f-]{36}\.db")


def step_seconds(stack: Stack, job: str, *configs: Mapping[str, Any]) -> float:
    """Runs a job of one step, with several configs at the same time, and returns the seconds from
    the first step's start to the last one's end. Raises RuntimeError when one fails."""
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
    """When its step started and ended, in seconds since the epoch."""
    deadline = time.monotonic() + RUN_SECONDS
    while time.monotonic() < deadline:
        found = stack.graphql(_RUN, id=run_id)["runOrError"]
        if found["status"] == "SUCCESS":
            [step] = found["stepStats"]
            return float(step["startTime"]), float(step["endTime"])
        if found["status"] in ("FAILURE", "CANCELED"):
            raise RuntimeError(f"run {run_id}: {found['status']}")
        time.sleep(LOOK_SECONDS)
    raise RuntimeError(f"run {run_id} did not end within {RUN_SECONDS:.0f} s")


def database(stack: Stack) -> dict[str, int]:
    """Bytes of each file that Dagster keeps."""
    folder = stack.settings.home / "dagster"
    return {
        str(each.relative_to(folder)): each.stat().st_size
        for each in folder.rglob("*")
        if each.is_file()
    }


def bytes_a_day(
    before: Mapping[str, int], after: Mapping[str, int], seconds: float, run_seconds: float
) -> float:
    """What the database grows by in a day of what went on between two looks at it: by what was
    written to files that there were, and by the file of a new run, each time that one of those
    which were at work ends after `run_seconds`."""
    grown = {name: size - before.get(name, 0) for name, size in after.items()}
    written = sum(size for name, size in grown.items() if name in before)
    runs = {name: size for name, size in after.items() if _RUN_FILE.fullmatch(name)}
    at_work = sum(grown[name] > 0 for name in runs)
    return (written / seconds + at_work * min(runs.values(), default=0) / run_seconds) * 86_400
