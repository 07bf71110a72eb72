"""Replays on the real servers, while people read and visitors come."""

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import httpx
import pytest

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.adapters.kafka import KafkaAdapter
from kp_platform.adapters.redis import RedisAdapter
from kp_platform.definitions import build_definitions
from kp_platform.engine import index_registry, positions
from kp_platform.flows.builtin import ACCESS_LOG
from kp_platform.operations.reference_data import REFERENCE_VALUES
from kp_platform.settings import Settings
from kp_platform_tests.conftest import wait_for
from kp_platform_tests.integration.events import Event, publish, run_indexer, search, unused_hours
from kp_platform_tests.stack import Stack


@pytest.fixture
def another_value(quiet_stack: Stack) -> Iterator[str]:
    """The value of `presto` in Redis, changed without a word."""
    value = f"https://{uuid.uuid4()}.example/"
    RedisAdapter(Settings()).set_values({"presto": value})
    yield value
    RedisAdapter(Settings()).set_values({"presto": REFERENCE_VALUES["presto"]})


def logs(marker: str) -> list[dict[str, Any]]:
    ElasticsearchAdapter(Settings()).refresh(ACCESS_LOG.index)
    return search(ACCESS_LOG.index, {"prefix": {"uri": f"/{marker}/"}}, ["partition", "offset"])


def held() -> dict[int, int]:
    state = KafkaAdapter(Settings()).topic_state(ACCESS_LOG.topic)
    return positions.offsets(positions.read(ElasticsearchAdapter(Settings()), ACCESS_LOG, state))


def without(document: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in names}


@pytest.fixture
def day_of_events(quiet_stack: Stack) -> tuple[datetime, str]:
    """A day in which only these 40 events are, and what their uris begin with."""
    run_indexer()
    [hour] = unused_hours(1)
    marker = uuid.uuid4().hex
    publish(*(Event(uri=f"/{marker}/{number}").value for number in range(40)), at=hour)
    run_indexer()
    return hour, marker


@pytest.mark.parametrize("options", [(), ("--new-indices",)], ids=["in place", "new indices"])
def test_a_day_is_made_again_by_the_command_line(
    quiet_stack: Stack,
    day_of_events: tuple[datetime, str],
    another_value: str,
    options: tuple[str, ...],
) -> None:
    hour, marker = day_of_events
    before, held_before = logs(marker), held()
    until = datetime.fromtimestamp((hour.timestamp() // 86_400 + 1) * 86_400, UTC)
    day = f"--from={hour:%Y-%m-%d}", f"--to={until:%Y-%m-%d}"
    told = quiet_stack.kp("replay", *day, *options, "--dry-run")
    assert "offsets of analyze.action to read" in told.stdout
    assert logs(marker) == before
    done = json.loads(quiet_stack.kp("replay", *day, *options, "--json").stdout)
    assert done["remade"] >= 40
    assert (done["brought_back"], done["kept"], done["lost"]) == (0, 0, {})
    after = logs(marker)
    assert len(after) == 40
    for old, new in zip(before, after, strict=True):
        assert new["redis_value"] == another_value
        changed = ("redis_value", "run_id")
        assert without(new, *changed) == without(old, *changed)
    assert held() == held_before
    assert index_registry.missing(ElasticsearchAdapter(Settings()), ACCESS_LOG) == []


def test_offsets_of_a_run_are_made_again(
    quiet_stack: Stack, day_of_events: tuple[datetime, str], another_value: str
) -> None:
    _, marker = day_of_events
    [first, *_] = logs(marker)
    place = f"{first['partition']}:[{first['offset']},{first['offset'] + 1})"
    said = quiet_stack.kp("replay", "--offsets", place).stdout
    assert "1 messages read: 1 reprocessed" in said
    values = {each["uuid"]: each["redis_value"] for each in logs(marker)}
    assert values[first["uuid"]] == another_value
    assert list(values.values()).count(another_value) == 1


def test_what_cannot_be_done_is_one_line(quiet_stack: Stack) -> None:
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


def test_days_are_made_again_by_a_backfill_in_one_run(
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
        [told] = result.asset_materializations_for_node("replayed_access_log")
    metadata: dict[str, Any] = {name: each.value for name, each in told.metadata.items()}
    assert told.partition == key
    assert metadata["reprocessed"] >= 40
    assert metadata["new indices"] == [f"log.index-{hour:%Y.%m.%d}"]
    assert {each["redis_value"] for each in logs(marker)} == {another_value}


@contextmanager
def meanwhile(work: Callable[[], None]) -> Iterator[list[str]]:
    """Does the work again and again in a thread; yields what went wrong."""
    failures: list[str] = []
    done = threading.Event()

    def repeat() -> None:
        while not done.is_set() and not failures:
            try:
                work()
            except Exception as error:
                failures.append(repr(error))

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield failures
    finally:
        done.set()
        thread.join()


def test_today_changes_places_under_load_without_a_failed_or_half_filled_answer(
    whole_stack: Stack,
) -> None:
    marker, count = uuid.uuid4().hex[:8], 3_000  # a longer one would be redacted
    publish(*(Event(uri=f"/{marker}/{number}").value for number in range(count)))
    wait_for(lambda: len(logs(marker)) == count, "all are searchable", seconds=120)
    address = whole_stack.settings.emitter_url
    sent, looks = 0, 0

    def visit() -> None:
        nonlocal sent
        assert visitor.get("/", params={"page": f"{marker}-{sent}"}).status_code == 200
        sent += 1
        time.sleep(0.005)  # replay, runs and readers need the cores too

    def read() -> None:
        nonlocal looks
        page = reader.get("/analysis", params={"uri": f"/{marker}/"})
        assert page.status_code == 200
        assert "3,000" in page.text
        export = reader.get("/analysis.json", params={"uri": f"/{marker}/"})
        assert export.status_code == 200
        found = {each["uuid"] for each in export.json()["logs"]}
        assert len(found) == count
        looks += 1

    before = held()
    with (
        httpx.Client(base_url=address, trust_env=False, timeout=30) as visitor,
        httpx.Client(base_url=address, trust_env=False, timeout=30) as reader,
        meanwhile(visit) as failed_visits,
        meanwhile(read) as failed_reads,
    ):
        day = f"{datetime.now(UTC):%Y-%m-%d}"
        told = whole_stack.kp("replay", "--from", day, "--new-indices", "--json", check=False)
        assert told.returncode == 0, told.stderr
        report = json.loads(told.stdout)
        assert report["swapped"] == [f"log.index-{day.replace('-', '.')}"]
        assert report["remade"] >= count
    assert (failed_visits, failed_reads) == ([], [])
    assert looks > 3
    assert all(held()[part] >= before[part] for part in before)
    client = ElasticsearchAdapter(Settings()).client()
    query = {"prefix": {"uri": f"/?page={marker}-"}}

    def found() -> int:
        return int(client.count(index=ACCESS_LOG.index, query=query)["count"])

    wait_for(lambda: found() == sent, f"{sent} visits", seconds=120)
    assert index_registry.missing(ElasticsearchAdapter(Settings()), ACCESS_LOG) == []
