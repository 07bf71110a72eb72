"""The ranking on the real servers, compared with counts of the published events."""

import random
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
import pytest
import redis

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.adapters.kafka import KafkaAdapter
from kp_platform.adapters.mysql import MySQLAdapter
from kp_platform.adapters.redis import RedisAdapter
from kp_platform.adapters.trino import TrinoAdapter
from kp_platform.analytics.ranking import Ranking
from kp_platform.definitions import build_definitions
from kp_platform.flows.builtin import ACCESS_LOG
from kp_platform.operations.reference_data import REFERENCE_VALUES
from kp_platform.settings import Settings
from kp_platform_tests.conftest import wait_for
from kp_platform_tests.integration.events import Event, publish, run_indexer, search, unused_hours
from kp_platform_tests.stack import ROOT, Stack

HOUR = timedelta(hours=1)
MILLISECOND = timedelta(milliseconds=1)
Scores = list[tuple[str, int]]
# Computes the ranking of each hour in turn until it is killed.
RANK_REPEATEDLY = """
import sys
from datetime import datetime
from kp_platform_tests.integration.test_ranking import ranking
while True:
    for end in sys.argv[1:]:
        ranking().compute(datetime.fromisoformat(end))
        print(end, flush=True)
"""


def ranking(size: int = 100) -> Ranking:
    return Ranking(
        flow=ACCESS_LOG,
        log=KafkaAdapter(Settings()),
        engine=TrinoAdapter(Settings()),
        store=ElasticsearchAdapter(Settings()),
        ranking_store=RedisAdapter(Settings()),
        window_seconds=3600,
        size=size,
    )


@pytest.fixture(autouse=True)
def caught_up(request: pytest.FixtureRequest) -> None:
    """The events of other tests are indexed."""
    if "quiet_stack" in request.fixturenames:
        request.getfixturevalue("quiet_stack")
        run_indexer()


@pytest.fixture
def plain_redis(quiet_stack: Stack) -> Iterator["redis.Redis"]:
    """A plain Redis client."""
    url = quiet_stack.settings.redis_url.get_secret_value()
    with redis.Redis.from_url(url, decode_responses=True) as client:
        yield client


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def popular(plain_redis: "redis.Redis", key: str, last: int = -1) -> Scores:
    """ZREVRANGE key 0 last WITHSCORES."""
    answer: Any = plain_redis.zrevrange(key, 0, last, withscores=True)
    return [(member, int(score)) for member, score in answer]


def counted(keys: Sequence[str]) -> Scores:
    """Sorted by accesses, equal ones by their bytes, both descending."""
    scores = Counter(keys).items()
    return sorted(scores, key=lambda item: (item[1], item[0].encode()), reverse=True)


def ranked_documents(kind: str) -> list[dict[str, Any]]:
    return search("access.ranking", {"term": {"kind": kind}}, ["rank"])


def publish_in(hour: datetime, events: Sequence[Event]) -> None:
    """Spread over the hour, first and last millisecond included."""
    last = len(events) - 1
    for number, event in enumerate(events):
        at = hour + (HOUR - MILLISECOND) * (number / last)
        publish(event.value, at=at, partition=number % 4)


def some_events(marker: str) -> list[Event]:
    """Names and uris that are accessed unequally often, some of them equally often."""
    names = ["presto", "kafka", "", f"nobody-{marker}", "x' OR 1=1 --", "ÄÖÜ", "😀", "laravel"]
    uris = [f"/{marker}/{number}" for number in range(40)] + [f"/{marker}/" + "é" * 4_000, "/"]
    chance = random.Random(7)
    return [
        Event(name=names[min(chance.getrandbits(3), chance.getrandbits(3))], uri=uris[number % 42])
        for number in range(150)
    ]


def test_the_ranking_equals_an_independent_count_of_the_window(
    quiet_stack: Stack, plain_redis: "redis.Redis"
) -> None:
    [hour] = unused_hours(1)
    events = some_events(uuid.uuid4().hex)
    publish_in(hour, events)
    publish(*(event.value for event in events[:20]), at=hour)  # duplicates
    publish(Event().value, b"not an event", at=hour - MILLISECOND)  # before the window
    publish(Event().value, at=hour + HOUR)  # its end is not part of it
    publish(b"not an event", at=hour)
    run_indexer()
    report = ranking().compute(hour + HOUR)
    names, uris = counted([e.name for e in events]), counted([e.uri for e in events])
    assert popular(plain_redis, "ranking:names") == names
    assert popular(plain_redis, "ranking:names", last=2) == names[:3]
    assert popular(plain_redis, "ranking:uris") == uris
    assert report.events == len(events)
    for kind, expected in (("name", names), ("uri", uris)):
        found = ranked_documents(kind)
        assert [(each["rank"], each["key"], each["accesses"]) for each in found] == [
            (rank, key, accesses) for rank, (key, accesses) in enumerate(expected, start=1)
        ]
        assert {each["events"] for each in found} == {len(events)}
        assert {each["window_seconds"] for each in found} == {3600}


def test_each_ranked_key_has_its_reference_data_and_latest_event(quiet_stack: Stack) -> None:
    [hour] = unused_hours(1)
    marker = uuid.uuid4().hex
    unknown = f"nobody-{marker}"
    events = [
        Event(name="presto", uri=f"/{marker}/a"),
        Event(name=unknown, uri=f"/{marker}/a"),
        Event(name=unknown, uri=f"/{marker}/b"),
        Event(name="presto", uri=f"/{marker}/b"),
        Event(name="presto", uri=f"/{marker}/b"),
    ]
    publish_in(hour, events)
    run_indexer()
    ranking().compute(hour + HOUR)
    presto, nobody = ranked_documents("name")
    assert (presto["key"], presto["test_name"]) == ("presto", "presto")
    assert presto["test_id"] == MySQLAdapter(Settings()).ids()["presto"]
    assert presto["created_at"].endswith("Z")
    assert presto["redis_value"] == REFERENCE_VALUES["presto"]
    missing = ("test_id", "test_name", "created_at", "redis_value")
    assert [nobody[field] for field in missing] == [None] * 4
    assert (nobody["last_uri"], nobody["last_uuid"]) == (events[2].uri, events[2].uuid)
    assert nobody["last_accessed_at"] == f"{hour:%Y-%m-%dT%H}:30:00.000Z"
    [last, first] = ranked_documents("uri")
    assert (last["key"], last["last_uuid"]) == (events[3].uri, events[4].uuid)
    assert (first["key"], first["last_uuid"]) == (events[0].uri, events[1].uuid)


def test_a_ranking_replaces_a_larger_one_completely(
    quiet_stack: Stack, plain_redis: "redis.Redis"
) -> None:
    [hour] = unused_hours(1)
    publish_in(hour, [Event(name=f"n{number}") for number in range(6)])
    run_indexer()
    ranking().compute(hour + HOUR)
    assert [each["key"] for each in ranked_documents("name")] == [
        "n5",
        "n4",
        "n3",
        "n2",
        "n1",
        "n0",
    ]
    report = ranking(size=2).compute(hour + HOUR)
    assert report.removed == 8
    assert [each["key"] for each in ranked_documents("name")] == ["n5", "n4"]
    assert len(ranked_documents("uri")) == 2
    keys = ["ranking:name:1", "ranking:name:2", "ranking:uri:1", "ranking:uri:2"]
    assert sorted(plain_redis.keys("ranking:name:*") + plain_redis.keys("ranking:uri:*")) == keys
    empty = ranking().compute(hour)
    assert (empty.events, empty.removed) == (0, 4)
    assert plain_redis.keys("ranking:*") == ["ranking:state"]
    assert ranked_documents("name") == ranked_documents("uri") == []


def test_a_killed_run_leaves_a_complete_ranking_and_the_next_is_exact(
    quiet_stack: Stack, plain_redis: "redis.Redis"
) -> None:
    hours = unused_hours(2)
    expected = {}
    for hour in hours:
        events = some_events(uuid.uuid4().hex)
        publish_in(hour, events)
        expected[hour] = counted([e.name for e in events]), counted([e.uri for e in events])
    run_indexer()
    ends = [(hour + HOUR).isoformat() for hour in hours]
    for attempt in range(3):
        run = subprocess.Popen(
            [sys.executable, "-c", RANK_REPEATEDLY, *ends],
            env=quiet_stack.variables,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert run.stdout is not None
        assert run.stdout.readline().strip() == ends[0]
        with run:
            try:
                run.wait(timeout=random.Random(attempt).uniform(0, 2))
            except subprocess.TimeoutExpired:
                run.kill()
        plain_redis.ping()  # Redis has executed what the run has sent
        left = popular(plain_redis, "ranking:names"), popular(plain_redis, "ranking:uris")
        assert left in expected.values()
        listed = popular(plain_redis, "ranking:entries")
        hashes: list[Any] = [plain_redis.hgetall(key) for key, _ in reversed(listed)]
        assert len({each["computed_at"] for each in hashes}) == 1
        for kind, scores in zip(("name", "uri"), left, strict=True):
            shown = [
                (each["key"], int(each["accesses"])) for each in hashes if each["kind"] == kind
            ]
            assert shown == scores
    ranking().compute(hours[1] + HOUR)
    names, uris = expected[hours[1]]
    assert popular(plain_redis, "ranking:names") == names
    assert popular(plain_redis, "ranking:uris") == uris
    assert [(each["key"], each["accesses"]) for each in ranked_documents("name")] == names
    assert [(each["key"], each["accesses"]) for each in ranked_documents("uri")] == uris


def test_the_ranking_skips_a_message_that_trino_cannot_decode(quiet_stack: Stack) -> None:
    [hour] = unused_hours(1)
    name = f"nobody-{uuid.uuid4().hex}"
    before, after = Event(name=name), Event(name=name)
    publish(before.value, at=hour, partition=2)
    publish(b'{"name": ' + b"[" * 2_000 + b"]" * 2_000 + b"}", partition=2)
    publish(after.value, at=hour + MILLISECOND, partition=2)
    run_indexer()
    ranking().compute(hour + HOUR)
    [found] = ranked_documents("name")
    assert (found["accesses"], found["last_uuid"]) == (2, after.uuid)


def tick(instance: dg.DagsterInstance) -> dg.RunRequest | dg.SkipReason:
    """The result of a tick of the ranking's sensor."""
    sensor = build_definitions().resolve_sensor_def("access_ranking_refresh")
    resources = {
        "kafka": KafkaAdapter(Settings()),
        "trino": TrinoAdapter(Settings()),
        "elasticsearch": ElasticsearchAdapter(Settings()),
        "redis": RedisAdapter(Settings()),
    }
    with dg.build_sensor_context(instance=instance, resources=resources) as context:
        answer = sensor(context)
    assert isinstance(answer, dg.RunRequest | dg.SkipReason)
    return answer


def run_job(instance: dg.DagsterInstance) -> dict[str, Any]:
    """The metadata of the one materialization."""
    job = build_definitions().resolve_job_def("rank_accesses")
    result = job.execute_in_process(instance=instance)
    [materialization] = result.asset_materializations_for_node("access_ranking")
    return {key: value.value for key, value in materialization.metadata.items()}


def test_the_sensor_requests_a_run_only_when_accesses_changed(
    quiet_stack: Stack, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KP_RANKING_WINDOW_SECONDS", "1000000000")  # no event leaves the window
    monkeypatch.setenv("KP_RANKING_SECONDS", "0")
    publish(Event().value)
    run_indexer()
    requested = tick(instance)
    assert isinstance(requested, dg.RunRequest)
    metadata = run_job(instance)
    events = metadata["events"]
    assert metadata["names"] >= 1
    at_rest = tick(instance)
    assert isinstance(at_rest, dg.SkipReason)
    assert at_rest.skip_message == f"{events} events in the last 1000000000 s, ranked {events}"
    publish(Event().value)
    run_indexer()
    again = tick(instance)
    assert isinstance(again, dg.RunRequest)
    assert f"{events + 1} events" in again.tags["kp/reason"]
    monkeypatch.setenv("KP_RANKING_SECONDS", "600")
    paused = tick(instance)
    assert isinstance(paused, dg.SkipReason)
    assert f"ranked {events} events" in str(paused.skip_message)


def test_an_access_is_ranked_automatically(whole_stack: Stack) -> None:
    """Topic -> enriched log -> sensor tick of the daemon -> run -> ranking."""
    event = Event(name=f"nobody-{uuid.uuid4().hex}")
    publish(event.value)
    query = {"term": {"key": event.name}}

    def ranked() -> list[str]:
        return [each["last_uuid"] for each in search("access.ranking", query)]

    wait_for(lambda: ranked() == [event.uuid], "the access is ranked", seconds=400)
