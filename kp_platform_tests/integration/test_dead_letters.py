"""The dead-letter queue by `kp dlq` and by Dagster, on the real servers."""

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

Location = tuple[int, int]
HOSTILE = b"\x1b]0;owned\x07\x1b[2J {\xe2\x80\xae"


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def id_of(location: Location) -> str:
    [dead_letter] = dead_letters(*location)
    return f"access_log:{dead_letter['topic_id']}:{location[0]}:{location[1]}"


def store_dead_letters(value: bytes | None = b"not json") -> tuple[Location, str]:
    """Publish a message that becomes a dead letter; returns its location and its id."""
    [location] = publish(value)
    run_indexer()
    return location, id_of(location)


def conflict(name: str = "presto", uri: str = "/second") -> tuple[Event, Location]:
    """An event whose uuid another document had when it was indexed; that document is deleted."""
    first = Event(uri="/first")
    second = Event(uri=uri, uuid=first.uuid, name=name)
    publish(first.value, partition=0)
    run_indexer()
    [location] = publish(second.value, partition=0)
    run_indexer()
    client = ElasticsearchAdapter(Settings()).client()
    [taken] = client.search(index=ACCESS_LOG.index, query={"term": {"uuid": first.uuid}})["hits"][
        "hits"
    ]
    client.delete(index=taken["_index"], id=taken["_id"], refresh=True)
    return second, location


def listed(stack: Stack, *arguments: str) -> dict[str, dict[str, Any]]:
    found = json.loads(stack.kp("dlq", "list", "--json", "--limit", "10000", *arguments).stdout)
    return {dead_letter["id"]: dead_letter for dead_letter in found["dead_letters"]}


def test_a_retry_indexes_a_message_that_has_become_valid(quiet_stack: Stack) -> None:
    event, location = conflict(name="kafka")
    assert [dead_letter["reason"] for dead_letter in dead_letters(*location)] == ["conflict"]
    dead_letter_id = id_of(location)
    done = quiet_stack.kp("dlq", "retry", dead_letter_id, "--dry-run")
    assert done.stdout == "would process 1 of 1 messages again\n"
    done = quiet_stack.kp("dlq", "retry", dead_letter_id, "--dry-run", "--json")
    assert json.loads(done.stdout) == {"readable": [dead_letter_id], "unreadable": []}
    assert documents(event.uuid) == []
    done = quiet_stack.kp("dlq", "retry", dead_letter_id)
    assert done.stdout == ("1 indexed and removed, 0 still dead, 0 cannot be read\n")
    [document] = documents(event.uuid)
    assert (document["uri"], document["partition"], document["offset"]) == ("/second", *location)
    assert document["enrichment"] == {"state": "complete", "missing": []}
    assert document["test_name"] == document["redis_key"] == "kafka"
    assert dead_letters(*location) == []
    gone = quiet_stack.kp("dlq", "retry", dead_letter_id, check=False)
    assert gone.stderr == f"kp: there is no dead letter {dead_letter_id}; see `kp dlq list`\n"


def test_a_retry_keeps_and_reports_a_message_that_is_still_rejected(quiet_stack: Stack) -> None:
    location, dead_letter_id = store_dead_letters(b"not json")
    done = quiet_stack.kp("dlq", "retry", dead_letter_id, check=False)
    assert done.returncode == 1
    first, second = done.stdout.splitlines()
    assert first == ("0 indexed and removed, 1 still dead (1 not_json), 0 cannot be read")
    assert second.startswith(f"still a dead letter: {dead_letter_id}: not_json: ")
    assert done.stderr == "kp: 1 of 1 dead letters remain; see `kp dlq list`\n"
    report = json.loads(
        quiet_stack.kp("dlq", "retry", dead_letter_id, "--json", check=False).stdout
    )
    assert [each["id"] for each in report["still_dead"]] == [dead_letter_id]
    [dead_letter] = dead_letters(*location)
    assert dead_letter["retried_at"] > dead_letter["@timestamp"]


def test_the_job_retries_the_configured_ids_and_logs_nothing_of_the_messages(
    quiet_stack: Stack, instance: dg.DagsterInstance
) -> None:
    event, location = conflict(uri="/a-secret")
    still, still_id = store_dead_letters(b"a-secret that is not json")
    config = {"ids": [id_of(location), still_id]}
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
    assert dead_letters(*location) == []
    assert [dead_letter["reason"] for dead_letter in dead_letters(*still)] == ["not_json"]
    assert "a-secret" not in repr(instance.all_logs(done.run_id))


def test_the_asset_counts_dead_letters_and_its_check_warns(
    quiet_stack: Stack, instance: dg.DagsterInstance
) -> None:
    store_dead_letters(b"a-secret that is not json")
    definitions = build_definitions()
    asset = definitions.get_assets_def("dead_letters")
    done = dg.materialize(
        [asset], resources={"elasticsearch": ElasticsearchAdapter(Settings())}, instance=instance
    )
    [materialization] = done.asset_materializations_for_node("dead_letters")
    all_listed = listed(quiet_stack)
    assert materialization.metadata["open"].value == len(all_listed)
    assert materialization.metadata["flow access_log"].value == sum(
        dead_letter["flow"] == "access_log" for dead_letter in all_listed.values()
    )
    [evaluation] = done.get_asset_check_evaluations()
    assert (evaluation.passed, evaluation.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "a-secret" not in repr(instance.all_logs(done.run_id))


def test_a_hostile_message_is_shown_escaped_and_written_exactly(quiet_stack: Stack) -> None:
    _, dead_letter_id = store_dead_letters(HOSTILE)
    shown = quiet_stack.kp("dlq", "show", dead_letter_id).stdout
    assert r"value            \x1b]0;owned\x07\x1b[2J {\u202e" in shown.splitlines()
    for printed in (shown, quiet_stack.kp("dlq", "list").stdout, *map(str, listed(quiet_stack))):
        assert all(each.isprintable() or each == "\n" for each in printed)
    done = subprocess.run(
        [sys.executable, "-m", "kp_platform", "dlq", "show", dead_letter_id, "--raw"],
        env=quiet_stack.variables,
        cwd=ROOT,
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == HOSTILE


def test_dead_letters_are_listed_latest_first_by_flow_and_reason(quiet_stack: Stack) -> None:
    _, first = store_dead_letters(b"not json")
    _, second = store_dead_letters(b"[]")
    assert list(listed(quiet_stack))[:2] == [second, first]
    of_reason = listed(quiet_stack, "--flow", "access_log", "--reason", "not_json")
    assert (first in of_reason, second in of_reason) == (True, False)
    lines = quiet_stack.kp("dlq", "list", "--limit", "1").stdout.splitlines()
    assert lines[1].split()[:2] == [second, "access_log"]
    assert lines[-1].startswith("1 shown of ")


def test_a_discarded_dead_letter_keeps_its_offset_and_loses_its_bytes(quiet_stack: Stack) -> None:
    location, dead_letter_id = store_dead_letters(b"a-secret that is not json")
    refused = quiet_stack.kp("dlq", "discard", dead_letter_id, check=False)
    assert refused.stderr == "kp: would discard 1 dead letters: confirm with --yes\n"
    done = quiet_stack.kp("dlq", "discard", dead_letter_id, "--yes")
    assert done.stdout == "1 dead letters discarded\n"
    [dead_letter] = dead_letters(*location)
    assert (dead_letter["key"], dead_letter["value"], dead_letter["reason"]) == (
        None,
        None,
        "not_json",
    )
    assert dead_letter_id not in listed(quiet_stack)
    assert (
        listed(quiet_stack, "--all")[dead_letter_id]["discarded_at"] == dead_letter["discarded_at"]
    )
    raw = quiet_stack.kp("dlq", "show", dead_letter_id, "--raw", check=False)
    assert raw.stderr == f"kp: its bytes were discarded at {dead_letter['discarded_at']}\n"
    again = quiet_stack.kp("dlq", "retry", dead_letter_id, check=False)
    assert f"{dead_letter_id}: it was discarded at {dead_letter['discarded_at']}" in again.stdout
