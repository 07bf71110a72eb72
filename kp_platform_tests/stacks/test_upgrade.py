"""A state folder of the release before: this one starts on it, and goes on where that had ended.

`previous.tar.xz` is the code of that release; CONTRIBUTING.md tells how it is made.
"""

import json
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.adapters.kafka import KafkaAdapter
from kp_platform.engine import positions
from kp_platform.flows.builtin import ACCESS_LOG, FLOWS
from kp_platform.settings import Settings, environment
from kp_platform_tests.conftest import OFFSETS, wait_for
from kp_platform_tests.integration.events import Event, documents, publish, search
from kp_platform_tests.stack import ROOT, Stack, on_free_ports

PREVIOUS = ROOT / "kp_platform_tests" / "upgrade" / "previous.tar.xz"
EVERYTHING = {"match_all": dict[str, object]()}
RUNS = "{runsOrError {... on Runs {results {runId status}}}}"


@pytest.fixture
def upgraded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Stack, Stack]]:
    """The same home under the release before, and under this one."""
    with tarfile.open(PREVIOUS) as archive:
        archive.extractall(tmp_path, filter="data")
    home = Path(tempfile.mkdtemp(prefix="kp-upgrade-"))
    now = Stack.of(on_free_ports(OFFSETS, home, follow_idle_seconds=2, sensor_wait_seconds=2))
    for name, value in environment(now.settings, secrets=True).items():
        monkeypatch.setenv(name, value)
    before = Stack(now.settings, now.variables | {"PYTHONPATH": str(tmp_path)}, tmp_path)
    try:
        yield before, now
    finally:
        now.end()


def finished_runs(stack: Stack) -> set[str]:
    runs = stack.graphql(RUNS)["runsOrError"]["results"]
    return {run["runId"] for run in runs if run["status"] == "SUCCESS"}


def held() -> dict[str, dict[int, int]]:
    """The positions of each flow."""
    kafka, store = KafkaAdapter(Settings()), ElasticsearchAdapter(Settings())
    return {
        flow.name: positions.offsets(positions.read_consistent(kafka, store, flow)[1])
        for flow in FLOWS
    }


def lag(stack: Stack) -> int:
    return sum(each["lag"] for each in json.loads(stack.kp("lag", "--json").stdout))


def test_this_release_goes_on_where_the_one_before_ended(upgraded: tuple[Stack, Stack]) -> None:
    before, now = upgraded
    before.kp("up")
    help_before = before.kp("--help").stdout
    assert "replay" not in help_before.split()  # else it is not the release before
    [bad] = publish(b"not json")
    duplicate = Event()
    publish(duplicate.value)
    assert json.loads(before.kp("demo", "--requests", "20", "--json").stdout)["documents"] == 20
    wait_for(lambda: lag(before) == 0, "the release before has indexed all")
    logs = {each["uuid"]: each for each in search(ACCESS_LOG.index, EVERYTHING)}
    letters = search("kp.dead", EVERYTHING)
    held_before = held()
    assert (len(logs), len(letters)) == (21, 1)
    before.kp("down")

    now.kp("up")
    assert {each["uuid"]: each for each in search(ACCESS_LOG.index, EVERYTHING)} == logs
    assert search("kp.dead", EVERYTHING) == letters
    assert held() == held_before
    assert finished_runs(now)
    publish(duplicate.value)
    assert json.loads(now.kp("demo", "--requests", "20", "--json").stdout)["documents"] == 20
    assert lag(now) == 0
    assert len(search(ACCESS_LOG.index, EVERYTHING)) == 41
    assert documents(duplicate.uuid) == [logs[duplicate.uuid]]
    [letter] = json.loads(now.kp("dlq", "list", "--json").stdout)["dead_letters"]
    assert (letter["partition"], letter["offset"]) == bad
    days = sorted({each["@timestamp"][:10] for each in logs.values()})
    told = json.loads(now.kp("replay", "--from", days[0], "--new-indices", "--json").stdout)
    assert (told["reprocessed"], told["kept"], told["dead_letters"]) == (41, 0, 1)
    assert len(search(ACCESS_LOG.index, EVERYTHING)) == 41
    kept_house = json.loads(now.kp("retention", "--json").stdout)
    assert [each["what"] for each in kept_house if not each["kept"]] == [
        "unfinished replays",
        "runs of Dagster",
    ]
