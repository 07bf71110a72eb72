"""The KPIs on the real servers, compared with counts of published events and of raw documents."""

import math
import random
import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.definitions import build_definitions
from kp_platform.orchestration.kpi import key_of
from kp_platform.settings import Settings
from kp_platform_tests.conftest import wait_for
from kp_platform_tests.integration.events import Event, publish, run_indexer, search, unused_hours
from kp_platform_tests.stack import Stack

HOUR = timedelta(hours=1)
MILLISECOND = timedelta(milliseconds=1)
KNOWN = ("presto", "kafka")  # with complete reference data
NAMES = (*KNOWN, "nobody", "", "😀" * 300)


@pytest.fixture(autouse=True)
def caught_up(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events of other tests are indexed, and no pause separates two counts of an hour."""
    if "quiet_stack" in request.fixturenames:
        request.getfixturevalue("quiet_stack")
        monkeypatch.setenv("KP_KPI_SECONDS", "0")
        run_indexer()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def publish_in(hour: datetime, count: int, seed: int) -> list[Event]:
    """Events all over the hour, first and last millisecond included, and three dead letters."""
    chance, marker = random.Random(seed), uuid.uuid4().hex
    events = [
        Event(name=chance.choice(NAMES), uri=f"/{marker}/{chance.randrange(20)}")
        for _ in range(count)
    ]
    for number, event in enumerate(events):
        at = hour + (HOUR - MILLISECOND) * (number / (count - 1))
        publish(event.value, at=at, partition=number % 4)
    publish(b"not json", b"[]", Event(uuid="none").value, at=hour + 7 * MILLISECOND)
    return events


def run(instance: dg.DagsterInstance, tags: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Run the job; returns the metadata of each materialized partition."""
    job = build_definitions().resolve_job_def("compute_access_kpi")
    result = job.execute_in_process(instance=instance, tags=tags)
    return {
        str(each.partition): {key: value.value for key, value in each.metadata.items()}
        for each in result.asset_materializations_for_node("access_kpi")
    }


def backfill(instance: dg.DagsterInstance, first: datetime, last: datetime) -> dict[str, Any]:
    """One run over consecutive hours, as a backfill in the Dagster UI starts it."""
    return run(
        instance,
        {
            "dagster/asset_partition_range_start": key_of(first),
            "dagster/asset_partition_range_end": key_of(last),
        },
    )


def tick(instance: dg.DagsterInstance) -> list[dg.RunRequest]:
    """The runs that a tick of the sensor requests."""
    sensor = build_definitions().resolve_sensor_def("access_kpi_hours")
    resources = {"settings": Settings(), "elasticsearch": ElasticsearchAdapter(Settings())}
    with dg.build_sensor_context(instance=instance, resources=resources) as context:
        return list(sensor.evaluate_tick(context).run_requests or [])


def settle(instance: dg.DagsterInstance) -> set[str]:
    """Run what the sensor requests until it requests nothing; returns the computed partitions."""
    computed: set[str] = set()
    for _ in range(30):
        requests = tick(instance)
        if not requests:
            return computed
        for request in requests:
            computed |= run(instance, dict(request.tags)).keys()
    pytest.fail("the sensor does not stop requesting runs")


def kpi(hour: datetime, scope: str) -> dict[str, dict[str, Any]]:
    """The stored KPIs of an hour by name."""
    query = {"bool": {"filter": [{"term": {"hour": hour.isoformat()}}, {"term": {"scope": scope}}]}}
    return {each.get("name", ""): each for each in search("access.kpi", query)}


def delays(hour: datetime) -> list[tuple[str, int]]:
    """Name and delay of each document of the log in the hour, by a plain search."""
    client = ElasticsearchAdapter(Settings()).client()
    window = {"gte": hour.isoformat(), "lt": (hour + HOUR).isoformat()}
    answer = client.search(index="log.index", query={"range": {"@timestamp": window}}, size=10_000)
    found = []
    for hit in answer["hits"]["hits"]:
        source = hit["_source"]
        at, indexed = (datetime.fromisoformat(source[f]) for f in ("@timestamp", "indexed_at"))
        found.append((source["name"], (indexed - at) // MILLISECOND))
    return found


def p95(values: Sequence[int]) -> float:
    return sorted(values)[math.ceil(len(values) * 0.95) - 1] / 1000


def check(hour: datetime, events: Sequence[Event], dead_letters: int) -> None:
    """Fails unless the stored KPIs are those of exactly these events."""
    measured = delays(hour)
    assert len(measured) == len(events)
    [total] = kpi(hour, "all").values()
    names = kpi(hour, "name")
    assert names.keys() == {event.name for event in events}
    for document, ours in [
        (total, list(events)),
        *((names[name], [e for e in events if e.name == name]) for name in names),
    ]:
        complete = sum(event.name in KNOWN for event in ours)
        its_delays = [delay for name, delay in measured if name in {e.name for e in ours}]
        assert document["accesses"] == len(ours)
        assert document["distinct_names"] == len({event.name for event in ours})
        assert document["distinct_uris"] == len({event.uri for event in ours})
        assert document["complete"] == complete
        assert document["share_complete"] == complete / len(ours)
        assert document["p95_delay_seconds"] == p95(its_delays)
    assert total["dead_letters"] == dead_letters
    assert all("dead_letters" not in document for document in names.values())


def test_hours_equal_an_independent_count_after_a_backfill_over_several_hours(
    quiet_stack: Stack, instance: dg.DagsterInstance
) -> None:
    hours = unused_hours(4)
    events = {hour: publish_in(hour, 60 + n, seed=n) for n, hour in enumerate(hours[:3])}
    duplicates = events[hours[0]][:5]
    publish(*(event.value for event in duplicates), at=hours[0])  # counted once
    run_indexer()
    materialized = backfill(instance, hours[0], hours[3])
    assert list(materialized) == [key_of(hour) for hour in hours]
    for hour in hours[:3]:
        check(hour, events[hour], dead_letters=3)
        assert materialized[key_of(hour)]["accesses"] == len(events[hour])
    [empty] = kpi(hours[3], "all").values()  # the backfill includes it
    assert {field: empty[field] for field in ("accesses", "distinct_names", "dead_letters")} == {
        "accesses": 0,
        "distinct_names": 0,
        "dead_letters": 0,
    }
    assert (empty["share_complete"], empty["p95_delay_seconds"]) == (0.0, None)
    assert instance.get_materialized_partitions(dg.AssetKey("access_kpi")) == set(materialized)


def test_late_events_are_detected_and_only_their_hour_is_recomputed(
    quiet_stack: Stack, instance: dg.DagsterInstance
) -> None:
    hours = unused_hours(3)
    events = {hour: publish_in(hour, 40, seed=n) for n, hour in enumerate(hours)}
    run_indexer()
    assert settle(instance) >= {key_of(hour) for hour in hours}
    assert settle(instance) == set()
    late = [Event(name="kafka", uri="/late"), Event(name="late", uri="/late")]
    publish(*(event.value for event in late), at=hours[1] + HOUR / 2)
    publish(b"late and not json", at=hours[2])
    run_indexer()
    assert settle(instance) == {key_of(hours[1]), key_of(hours[2])}
    check(hours[0], events[hours[0]], dead_letters=3)
    check(hours[1], events[hours[1]] + late, dead_letters=3)
    check(hours[2], events[hours[2]], dead_letters=4)


def test_refreshed_and_deleted_documents_are_detected(
    quiet_stack: Stack, instance: dg.DagsterInstance
) -> None:
    [hour] = unused_hours(1)
    deleted_name = f"deleted-{uuid.uuid4().hex}"
    kept, deleted = Event(name="nobody"), Event(name=deleted_name)
    publish(kept.value, deleted.value, at=hour)
    run_indexer()
    settle(instance)
    assert kpi(hour, "name").keys() == {"nobody", deleted_name}
    client, index = ElasticsearchAdapter(Settings()).client(), f"log.index-{hour:%Y.%m.%d}"
    client.update(index=index, id=kept.uuid, doc={"enrichment": {"state": "complete"}})
    client.delete(index=index, id=deleted.uuid)
    client.indices.refresh(index=index)
    assert settle(instance) == {key_of(hour)}
    assert kpi(hour, "name").keys() == {"nobody"}
    [total] = kpi(hour, "all").values()
    assert (total["accesses"], total["complete"], total["distinct_names"]) == (1, 1, 1)


def test_an_hour_is_recomputed_after_its_pause(
    quiet_stack: Stack, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    [hour] = unused_hours(1)
    publish(Event().value, at=hour)
    run_indexer()
    settle(instance)
    publish(Event().value, at=hour)
    run_indexer()
    monkeypatch.setenv("KP_KPI_SECONDS", "3600")
    assert tick(instance) == []
    monkeypatch.setenv("KP_KPI_SECONDS", "0")
    assert settle(instance) == {key_of(hour)}


def test_late_events_are_counted_automatically(whole_stack: Stack) -> None:
    """Topic -> enriched log -> sensor tick of the daemon -> run -> the hour's KPIs."""
    [hour] = unused_hours(1)
    publish(Event(name="presto").value, Event(name="nobody").value, at=hour)
    fields = ("accesses", "distinct_names", "complete", "dead_letters")

    def figures() -> list[tuple[int, ...]]:
        return [tuple(total[field] for field in fields) for total in kpi(hour, "all").values()]

    wait_for(lambda: figures() == [(2, 2, 1, 0)], "the hour is computed", seconds=400)
