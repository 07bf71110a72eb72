"""Dead letters worked with by `kp dlq` and by Dagster, on the real servers."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.definitions import build_definitions
from kp_platform.flows.builtin import ACCESS_LOG
from kp_platform.settings import Settings
from kp_platform_tests.integration.events import (
    Event,
    dead_letters,
    documents,
    publish,
    run_indexer,
)
from kp_platform_tests.stack import ROOT, Stack

Place = tuple[int, int]
HOSTILE = b"\x1b]0;owned\x07\x1b[2J {\xe2\x80\xae"


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def identity(place: Place) -> str:
    [letter] = dead_letters(*place)
    return f"access_log:{letter['topic_id']}:{place[0]}:{place[1]}"


def store_dead_letters(value: bytes | None = b"not json") -> tuple[Place, str]:
    """Publish a message that becomes a dead letter; where it is, and the letter's id."""
    [place] = publish(value)
    run_indexer()
    return place, identity(place)


def conflict(name: str = "presto", uri: str = "/second") -> tuple[Event, Place]:
    """An event whose uuid was taken by another one, which a person has then taken away."""
    first = Event(uri="/first")
    second = Event(uri=uri, uuid=first.uuid, name=name)
    publish(first.value, partition=0)
    run_indexer()
    [place] = publish(second.value, partition=0)
    run_indexer()
    client = ElasticsearchAdapter(Settings()).client()
    [taken] = client.search(index=ACCESS_LOG.index, query={"term": {"uuid": first.uuid}})["hits"][
        "hits"
    ]
    client.delete(index=taken["_index"], id=taken["_id"], refresh=True)
    return second, place


def listed(stack: Stack, *arguments: str) -> dict[str, dict[str, Any]]:
    found = json.loads(stack.kp("dlq", "list", "--json", "--limit", "10000", *arguments).stdout)
    return {letter["id"]: letter for letter in found["dead_letters"]}


def test_a_letter_is_replayed_when_its_message_has_become_good(quiet_stack: Stack) -> None:
    event, place = conflict(name="kafka")
    assert [letter["reason"] for letter in dead_letters(*place)] == ["conflict"]
    letter_id = identity(place)
    said = quiet_stack.kp("dlq", "retry", letter_id, "--dry-run")
    assert said.stdout == "would process 1 of 1 messages again\n"
    said = quiet_stack.kp("dlq", "retry", letter_id, "--dry-run", "--json")
    assert json.loads(said.stdout) == {"readable": [letter_id], "unreadable": []}
    assert documents(event.uuid) == []
    said = quiet_stack.kp("dlq", "retry", letter_id)
    assert said.stdout == ("1 indexed and removed, 0 still dead, 0 cannot be read\n")
    [document] = documents(event.uuid)
    assert (document["uri"], document["partition"], document["offset"]) == ("/second", *place)
    assert document["enrichment"] == {"state": "complete", "missing": []}
    assert document["test_name"] == document["redis_key"] == "kafka"
    assert dead_letters(*place) == []
    gone = quiet_stack.kp("dlq", "retry", letter_id, check=False)
    assert gone.stderr == f"kp: there is no dead letter {letter_id}; see `kp dlq list`\n"


def test_a_letter_that_is_still_bad_stays_and_says_so(quiet_stack: Stack) -> None:
    place, letter_id = store_dead_letters(b"not json")
    said = quiet_stack.kp("dlq", "retry", letter_id, check=False)
    assert said.returncode == 1
    first, second = said.stdout.splitlines()
    assert first == ("0 indexed and removed, 1 still dead (1 not_json), 0 cannot be read")
    assert second.startswith(f"still a dead letter: {letter_id}: not_json: ")
    assert said.stderr == "kp: 1 of 1 dead letters remain; see `kp dlq list`\n"
    told = json.loads(quiet_stack.kp("dlq", "retry", letter_id, "--json", check=False).stdout)
    assert [each["id"] for each in told["still_dead"]] == [letter_id]
    [letter] = dead_letters(*place)
    assert letter["retried_at"] > letter["@timestamp"]


def test_the_job_replays_what_its_config_names_and_tells_nothing_of_the_message(
    quiet_stack: Stack, instance: dg.DagsterInstance
) -> None:
    event, place = conflict(uri="/a-secret")
    still, still_id = store_dead_letters(b"a-secret that is not json")
    config = {"ids": [identity(place), still_id]}
    job = build_definitions().resolve_job_def("retry_dead_letters")
    done = job.execute_in_process(
        run_config={"ops": {"retry": {"config": config}}}, instance=instance
    )
    assert done.success
    [output] = [e for e in done.all_node_events if e.event_type_value == "STEP_OUTPUT"]
    metadata = output.step_output_data.metadata
    assert {name: metadata[name].value for name in ("removed", "still dead")} == {
        "removed": 1,
        "still dead": 1,
    }
    assert [each["uri"] for each in documents(event.uuid)] == ["/a-secret"]
    assert dead_letters(*place) == []
    assert [letter["reason"] for letter in dead_letters(*still)] == ["not_json"]
    assert "a-secret" not in repr(instance.all_logs(done.run_id))


def test_the_asset_counts_the_letters_and_warns_of_open_ones(
    quiet_stack: Stack, instance: dg.DagsterInstance
) -> None:
    store_dead_letters(b"a-secret that is not json")
    definitions = build_definitions()
    asset = definitions.get_assets_def("dead_letters")
    done = dg.materialize(
        [asset], resources={"elasticsearch": ElasticsearchAdapter(Settings())}, instance=instance
    )
    [materialization] = done.asset_materializations_for_node("dead_letters")
    letters = listed(quiet_stack)
    assert materialization.metadata["open"].value == len(letters)
    assert materialization.metadata["flow access_log"].value == sum(
        letter["flow"] == "access_log" for letter in letters.values()
    )
    [evaluation] = done.get_asset_check_evaluations()
    assert (evaluation.passed, evaluation.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "a-secret" not in repr(instance.all_logs(done.run_id))


def test_a_hostile_message_is_shown_inert_and_written_exactly(quiet_stack: Stack) -> None:
    _, letter_id = store_dead_letters(HOSTILE)
    shown = quiet_stack.kp("dlq", "show", letter_id).stdout
    assert r"value            \x1b]0;owned\x07\x1b[2J {\u202e" in shown.splitlines()
    for said in (shown, quiet_stack.kp("dlq", "list").stdout, *map(str, listed(quiet_stack))):
        assert all(each.isprintable() or each == "\n" for each in said)
    done = subprocess.run(
        [sys.executable, "-m", "kp_platform", "dlq", "show", letter_id, "--raw"],
        env=quiet_stack.variables,
        cwd=ROOT,
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == HOSTILE


def test_letters_are_listed_the_latest_first_by_flow_and_reason(quiet_stack: Stack) -> None:
    _, first = store_dead_letters(b"not json")
    _, second = store_dead_letters(b"[]")
    assert list(listed(quiet_stack))[:2] == [second, first]
    of_reason = listed(quiet_stack, "--flow", "access_log", "--reason", "not_json")
    assert (first in of_reason, second in of_reason) == (True, False)
    lines = quiet_stack.kp("dlq", "list", "--limit", "1").stdout.splitlines()
    assert lines[1].split()[:2] == [second, "access_log"]
    assert lines[-1].startswith("1 shown of ")


def test_a_dropped_letter_keeps_its_place_and_loses_its_bytes(quiet_stack: Stack) -> None:
    place, letter_id = store_dead_letters(b"a-secret that is not json")
    asked = quiet_stack.kp("dlq", "discard", letter_id, check=False)
    assert asked.stderr == "kp: would discard 1 dead letters: confirm with --yes\n"
    done = quiet_stack.kp("dlq", "discard", letter_id, "--yes")
    assert done.stdout == "1 dead letters discarded\n"
    [letter] = dead_letters(*place)
    assert (letter["key"], letter["value"], letter["reason"]) == (None, None, "not_json")
    assert letter_id not in listed(quiet_stack)
    assert listed(quiet_stack, "--all")[letter_id]["discarded_at"] == letter["discarded_at"]
    raw = quiet_stack.kp("dlq", "show", letter_id, "--raw", check=False)
    assert raw.stderr == f"kp: its bytes were discarded at {letter['discarded_at']}\n"
    again = quiet_stack.kp("dlq", "retry", letter_id, check=False)
    assert f"{letter_id}: it was discarded at {letter['discarded_at']}" in again.stdout
