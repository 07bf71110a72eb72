"""The upgrade of a state folder from the previous release.

`previous.tar.xz` is the code of that release; CONTRIBUTING.md describes how to make it.
"""

import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.adapters.kafka import KafkaAdapter
from kp_platform.engine import positions
from kp_platform.flows.builtin import FLOWS
from kp_platform.settings import Settings, environment
from kp_platform_tests.conftest import OFFSETS, wait_for
from kp_platform_tests.integration.events import (
    Event,
    documents,
    indexed_documents,
    publish,
    search,
)
from kp_platform_tests.stack import TEMPO, Stack, on_free_ports

PREVIOUS = Path(__file__).with_name("previous.tar.xz")
REQUESTS = 5
EVERYTHING = {"match_all": dict[str, object]()}
RUNS = "{runsOrError {... on Runs {results {runId status}}}}"


@pytest.fixture
def releases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Stack, Stack]]:
    """The same KP_HOME under the previous release, and under this one."""
    with tarfile.open(PREVIOUS) as archive:
        archive.extractall(tmp_path, filter="data")
    with (tmp_path / "presto_etc" / "jvm.config").open("a") as config:  # it has no KP_JVM_OPTIONS
        config.write(f"{TEMPO['jvm_options']}\n")
    home = Path(tempfile.mkdtemp(prefix="kp-upgrade-"))
    # A run ends soon after its last event, so that there are finished runs before the upgrade.
    now = Stack.of(on_free_ports(OFFSETS, home, **TEMPO | {"follow_idle_seconds": 2}))
    for name, value in environment(now.settings, secrets=True).items():
        monkeypatch.setenv(name, value)
    before = Stack(now.settings, now.variables | {"PYTHONPATH": str(tmp_path)}, tmp_path)
    try:
        yield before, now
    finally:
        now.end()
        shutil.rmtree(home, ignore_errors=True)


def finished_runs(stack: Stack) -> set[str]:
    runs = stack.graphql(RUNS)["runsOrError"]["results"]
    return {run["runId"] for run in runs if run["status"] == "SUCCESS"}


def stored_positions() -> dict[str, dict[int, int]]:
    """The positions of each flow."""
    kafka, store = KafkaAdapter(Settings()), ElasticsearchAdapter(Settings())
    return {
        flow.name: positions.offsets(positions.read_consistent(kafka, store, flow)[1])
        for flow in FLOWS
    }


def lag(stack: Stack) -> int:
    return sum(each["lag"] for each in json.loads(stack.kp("lag", "--json").stdout))


def dead_letters() -> dict[tuple[int, int], dict[str, Any]]:
    """All dead letters by partition and offset."""
    return {(each["partition"], each["offset"]): each for each in search("kp.dead", EVERYTHING)}


def upgraded(dead_letter: dict[str, Any]) -> dict[str, Any]:
    """A dead letter of the previous release as this release stores it."""
    names = {"dropped_at": "discarded_at", "replayed_at": "retried_at"}
    return {names.get(name, name): value for name, value in dead_letter.items()}


def index_names() -> set[str]:
    client = ElasticsearchAdapter(Settings()).client()
    return {name for name in client.indices.get(index="kp.*") if name.startswith("kp.")}


def listed(stack: Stack, *arguments: str) -> dict[tuple[int, int], dict[str, Any]]:
    """What `kp dlq list` shows, by partition and offset."""
    answer = json.loads(stack.kp("dlq", "list", "--json", *arguments).stdout)
    return {(each["partition"], each["offset"]): each for each in answer["dead_letters"]}


def test_this_release_continues_where_the_previous_one_stopped(
    releases: tuple[Stack, Stack],
) -> None:
    before, now = releases
    before.kp("up")
    assert "dead" in before.kp("--help").stdout.split()  # `kp dlq` has replaced `kp dead`
    open_one, discarded = publish(b"not json", b"[]")
    duplicate = Event()
    publish(duplicate.value)
    demo = before.kp("demo", "--requests", str(REQUESTS), "--json").stdout
    assert json.loads(demo)["documents"] == REQUESTS
    wait_for(lambda: lag(before) == 0, "the previous release has indexed everything")
    [topic_id] = {each["topic_id"] for each in dead_letters().values()}
    identity = f"access_log:{topic_id}:{discarded[0]}:{discarded[1]}"
    before.kp("dead", "drop", identity, "--yes")
    before.kp("dead", "replay", "--flow", "access_log", "--reason", "not_json", check=False)
    wait_for(
        lambda: "replayed_at" in dead_letters()[open_one],
        "the previous release has read the open dead letter again",
    )
    wait_for(lambda: bool(finished_runs(before)), "a run of the previous release has finished")
    logs = indexed_documents()
    dead_letters_before, positions_before = dead_letters(), stored_positions()
    runs_before, indices_before = finished_runs(before), index_names()
    assert len(logs) == REQUESTS + 1
    assert dead_letters_before.keys() == {open_one, discarded}
    assert dead_letters_before[discarded]["dropped_at"]
    assert "kp.leases" in indices_before
    before.kp("down")

    now.kp("up")
    assert indexed_documents() == logs
    wait_for(
        lambda: (
            dead_letters()
            == {location: upgraded(each) for location, each in dead_letters_before.items()}
        ),
        "the dead letters have the fields of this release",
    )
    assert stored_positions() == positions_before
    assert runs_before <= finished_runs(now)
    assert index_names() >= indices_before - {"kp.leases"}
    assert "kp.leases" not in index_names()
    assert listed(now).keys() == {open_one}
    assert listed(now, "--all").keys() == {open_one, discarded}
    assert (
        listed(now, "--all")[discarded]["discarded_at"]
        == dead_letters_before[discarded]["dropped_at"]
    )

    publish(duplicate.value)
    demo = now.kp("demo", "--requests", str(REQUESTS), "--json").stdout
    assert json.loads(demo)["documents"] == REQUESTS
    wait_for(lambda: lag(now) == 0, "this release has indexed everything")
    assert len(indexed_documents()) == 2 * REQUESTS + 1
    assert documents(duplicate.uuid) == [logs[duplicate.uuid]]
    assert stored_positions()["access_log"] != positions_before["access_log"]
    first_day = min(each["@timestamp"] for each in logs.values())[:10]
    replay = now.kp("replay", "--from", first_day, "--new-indices", "--json").stdout
    report = json.loads(replay)
    assert (report["reprocessed"], report["kept"]) == (2 * REQUESTS + 1, 0)
    assert report["dead_letters"] == 2
    assert len(indexed_documents()) == 2 * REQUESTS + 1
    expired = json.loads(now.kp("retention", "--json").stdout)
    assert [each["what"] for each in expired if not each["kept"]] == [
        "unfinished replays",
        "runs of Dagster",
    ]
