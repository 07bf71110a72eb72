"""Replays on the real servers, by the command line and by Dagster."""

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.adapters.kafka import KafkaAdapter
from kp_platform.adapters.redis import RedisAdapter
from kp_platform.definitions import build_definitions
from kp_platform.engine import index_registry, positions
from kp_platform.flows.builtin import ACCESS_LOG
from kp_platform.operations.reference_data import REFERENCE_VALUES
from kp_platform.settings import Settings
from kp_platform_tests.integration.events import Event, publish, run_indexer, search, unused_hours
from kp_platform_tests.stack import Stack


@pytest.fixture
def another_value(quiet_stack: Stack) -> Iterator[str]:
    """A new value of `presto` in Redis, of which no change is published."""
    value = f"https://{uuid.uuid4()}.example/"
    RedisAdapter(Settings()).set_values({"presto": value})
    yield value
    RedisAdapter(Settings()).set_values({"presto": REFERENCE_VALUES["presto"]})


def logs(marker: str) -> list[dict[str, Any]]:
    ElasticsearchAdapter(Settings()).refresh(ACCESS_LOG.index)
    return search(ACCESS_LOG.index, {"prefix": {"uri": f"/{marker}/"}}, ["partition", "offset"])


def stored_offsets() -> dict[int, int]:
    state = KafkaAdapter(Settings()).topic_state(ACCESS_LOG.topic)
    return positions.offsets(positions.read(ElasticsearchAdapter(Settings()), ACCESS_LOG, state))


def without(document: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in names}


@pytest.fixture
def day_of_events(quiet_stack: Stack) -> tuple[datetime, str]:
    """A day with 40 events only, and the prefix of their uris."""
    run_indexer()
    [hour] = unused_hours(1)
    marker = uuid.uuid4().hex
    publish(*(Event(uri=f"/{marker}/{number}").value for number in range(40)), at=hour)
    run_indexer()
    return hour, marker


@pytest.mark.parametrize("options", [(), ("--new-indices",)], ids=["in place", "new indices"])
def test_a_day_is_reprocessed_by_the_command_line(
    quiet_stack: Stack,
    day_of_events: tuple[datetime, str],
    another_value: str,
    options: tuple[str, ...],
) -> None:
    hour, marker = day_of_events
    before, offsets_before = logs(marker), stored_offsets()
    until = datetime.fromtimestamp((hour.timestamp() // 86_400 + 1) * 86_400, UTC)
    day = f"--from={hour:%Y-%m-%d}", f"--to={until:%Y-%m-%d}"
    printed = quiet_stack.kp("replay", *day, *options, "--dry-run")
    assert "offsets of analyze.action to read" in printed.stdout
    assert logs(marker) == before
    done = json.loads(quiet_stack.kp("replay", *day, *options, "--json").stdout)
    assert done["reprocessed"] >= 40
    assert (done["restored"], done["kept"], done["lost"]) == (0, 0, {})
    after = logs(marker)
    assert len(after) == 40
    for old, new in zip(before, after, strict=True):
        assert new["redis_value"] == another_value
        changed = ("redis_value", "run_id")
        assert without(new, *changed) == without(old, *changed)
    assert stored_offsets() == offsets_before
    assert index_registry.missing(ElasticsearchAdapter(Settings()), ACCESS_LOG) == []


def test_offsets_are_reprocessed_by_the_command_line(
    quiet_stack: Stack, day_of_events: tuple[datetime, str], another_value: str
) -> None:
    _, marker = day_of_events
    [first, *_] = logs(marker)
    offsets = f"{first['partition']}:[{first['offset']},{first['offset'] + 1})"
    output = quiet_stack.kp("replay", "--offsets", offsets).stdout
    assert "1 messages read: 1 reprocessed" in output
    values = {each["uuid"]: each["redis_value"] for each in logs(marker)}
    assert values[first["uuid"]] == another_value
    assert list(values.values()).count(another_value) == 1


def test_an_invalid_range_is_reported_in_one_line(quiet_stack: Stack) -> None:
    for arguments, message in (
        (("--from", "2026-11-01T10:00", "--to", "2026-11-02", "--new-indices"), "whole days"),
        (("--from", "soon"), "not a time"),
        (("--offsets", "0:[0,99999999)"), "is indexed only up to"),
        (("--from", "2026-11-01", "--flow", "reference_changes"), "no documents of its own"),
    ):
        done = quiet_stack.kp("replay", *arguments, check=False)
        assert done.returncode == 1
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_backfill_reprocesses_days_in_one_run(
    quiet_stack: Stack, day_of_events: tuple[datetime, str], another_value: str
) -> None:
    hour, marker = day_of_events
    key = f"{hour:%Y-%m-%d}"
    job = build_definitions().resolve_job_def("replay_access_log")
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(
            instance=instance,
            tags={
                "dagster/asset_partition_range_start": key,
                "dagster/asset_partition_range_end": key,
            },
            run_config={"ops": {"replayed_access_log": {"config": {"new_indices": True}}}},
        )
        [materialization] = result.asset_materializations_for_node("replayed_access_log")
    metadata: dict[str, Any] = {name: each.value for name, each in materialization.metadata.items()}
    assert materialization.partition == key
    assert metadata["reprocessed"] >= 40
    assert metadata["new indices"] == [f"log.index-{hour:%Y.%m.%d}"]
    assert {each["redis_value"] for each in logs(marker)} == {another_value}
