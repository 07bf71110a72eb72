"""What Dagster's own interface is asked: to run a job, and what its runs have done.

Belongs here: launching as the UI does it, waiting, slices, the size of its database.
"""

import time
from collections.abc import Mapping
from typing import Any

from kp_platform_tests.stack import Stack

RUN_SECONDS = 3_600.0
_LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
_RUN = """query($id: ID!) { runOrError(runId: $id) { ... on Run {
  status stepStats { startTime endTime } } } }"""
_SLICES = """query($path: [String!]!, $since: String) { assetOrError(assetKey: {path: $path}) {
  ... on Asset { assetMaterializations(afterTimestampMillis: $since) {
    metadataEntries { label ... on IntMetadataEntry { intValue } } } } } }"""


def step_seconds(stack: Stack, job: str, config: Mapping[str, Any]) -> float:
    """Runs a job of one step, and returns how long that took. Raises RuntimeError when it fails."""
    selector = {
        "repositoryLocationName": "kp_platform",
        "repositoryName": "__repository__",
        "jobName": job,
    }
    launched = stack.graphql(_LAUNCH, params={"selector": selector, "runConfigData": config})
    answer = launched["launchRun"]
    if "run" not in answer:
        raise RuntimeError(f"{job} was not launched: {answer}")
    return _wait(stack, answer["run"]["runId"])


def _wait(stack: Stack, run_id: str) -> float:
    deadline = time.monotonic() + RUN_SECONDS
    while time.monotonic() < deadline:
        found = stack.graphql(_RUN, id=run_id)["runOrError"]
        if found["status"] == "SUCCESS":
            [step] = found["stepStats"]
            return float(step["endTime"] - step["startTime"])
        if found["status"] in ("FAILURE", "CANCELED"):
            raise RuntimeError(f"run {run_id}: {found['status']}")
        time.sleep(0.5)
    raise RuntimeError(f"run {run_id} did not end within {RUN_SECONDS:.0f} s")


def slices_since(stack: Stack, asset: str, moment: float) -> int:
    """How many slices the asset's runs have reported since a moment, in seconds since the epoch."""
    found = stack.graphql(_SLICES, path=[asset], since=str(int(moment * 1000)))["assetOrError"]
    entries = [e for each in found["assetMaterializations"] for e in each["metadataEntries"]]
    return sum(entry["intValue"] for entry in entries if entry["label"] == "slices")


def database_bytes(stack: Stack) -> int:
    """All that Dagster keeps."""
    folder = stack.settings.home / "dagster"
    return sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())
