"""What is deleted for its age, on fakes: nothing of which the topic still holds a message."""

from datetime import UTC, datetime, timedelta

import orjson
import pytest

from kp_platform.engine import index_registry
from kp_platform.engine.store import put, send
from kp_platform.flows.builtin import ACCESS_LOG, FLOWS, FULL_TEXT
from kp_platform.operations.replay import into_new_indices
from kp_platform.operations.replay_range import parse_window, span_of_time
from kp_platform.operations.retention import Keep, Old, housekeep
from kp_platform_tests.unit.engine.harness import World

TOPIC = ACCESS_LOG.topic
INDEX = "log.index-2026.03.01"
LATER = datetime(2026, 4, 1, tzinfo=UTC)


@pytest.fixture
def world() -> World:
    world = World()
    world.kafka.create_topics({FULL_TEXT.topic: 1})
    return world


def kept_house(
    world: World, keep: Keep, now: datetime = LATER, *, dry_run: bool = False
) -> dict[str, Old]:
    found = housekeep(world.store, world.kafka, FLOWS, keep, now, dry_run=dry_run)
    return {each.what: each for each in found}


def retention_deletes_all(world: World) -> None:
    for partition, messages in world.kafka.topics[TOPIC].messages.items():
        world.kafka.delete_records(TOPIC, partition, len(messages))


def test_a_day_goes_with_its_note_when_the_topic_holds_none_of_it(world: World) -> None:
    world.access(12)
    world.drain()
    retention_deletes_all(world)
    told = kept_house(world, Keep(log_days=30), dry_run=True)["log.index"]
    assert (told.names, told.documents, told.bytes, told.kept) == ([INDEX], 12, 1_200, [])
    assert len(world.stored("log.index")) == 12
    assert kept_house(world, Keep(log_days=30))["log.index"] == told
    assert world.stored("log.index") == {}
    assert index_registry.deleted(world.store, ACCESS_LOG) == []
    assert world.drain() == []


def test_a_day_stays_while_the_topic_holds_a_message_of_it(world: World) -> None:
    world.access(12)
    world.drain()
    retention_deletes_all(world)
    world.kafka.delete_records(TOPIC, 1, before=3)
    told = kept_house(world, Keep(log_days=30))["log.index"]
    assert (told.names, told.documents) == ([], 0)
    assert told.kept == [f"{INDEX}: {TOPIC} still holds messages of it"]
    assert world.store.blocked == set()
    assert len(world.stored("log.index")) == 12


@pytest.mark.parametrize(("days", "is_old"), [(29, True), (30, True), (31, False), (0, False)])
def test_a_day_is_old_when_its_last_moment_is(world: World, days: int, is_old: bool) -> None:
    world.access(1)
    world.drain()
    retention_deletes_all(world)
    kept_house(world, Keep(log_days=days))
    assert bool(world.stored("log.index")) is not is_old


def test_a_day_that_was_replayed_into_a_new_index_goes_too(world: World) -> None:
    world.access(5)
    world.drain()
    span = span_of_time(world.pipeline, parse_window("2026-03-01", "2026-03-02"))
    list(into_new_indices(world.pipeline, span, []))
    retention_deletes_all(world)
    assert kept_house(world, Keep(log_days=30))["log.index"].names == [INDEX]
    assert world.stored_places("log.index") == []
    assert world.drain() == []


def test_an_index_of_no_day_stays_and_is_told(world: World) -> None:
    send(world.store, [put("log.index-restored", "a", b"{}")])
    told = kept_house(world, Keep(log_days=30))["log.index"]
    assert told.kept == ["log.index-restored: it is not of a day"]


def test_letters_and_gaps_go_when_the_topic_holds_none_of_their_messages(world: World) -> None:
    for partition in (0, 1):
        world.kafka.produce(TOPIC, b"not json", partition)
    world.access(4, partition=2)
    world.kafka.delete_records(TOPIC, 2, before=1)
    world.kafka.produce(TOPIC, b"not json", 2)
    world.drain()
    world.kafka.delete_records(TOPIC, 2, before=3)
    world.drain()
    world.kafka.delete_records(TOPIC, 0, before=1)
    in_a_year = datetime.now(UTC) + timedelta(days=365)
    assert len(world.stored("kp.dead")) == 3
    told = kept_house(world, Keep(dead_letter_days=90), in_a_year)
    assert (told["kp.dead"].documents, told["kp.dead"].kept) == (
        1,
        ["2 whose messages the topic still holds"],
    )
    left = [each.source["partition"] for each in world.stored("kp.dead").values()]
    assert sorted(left) == [1, 2]
    world.kafka.delete_topic(TOPIC)
    world.kafka.create_topics({TOPIC: 3})
    assert kept_house(world, Keep(dead_letter_days=90), in_a_year)["kp.dead"].documents == 2
    assert world.stored("kp.dead") == {}


def test_a_gap_stays_while_its_end_is_in_the_topic(world: World) -> None:
    gap = {"flow": "access_log", "partition": 0, "start": 0, "end": 5}
    state = world.kafka.topic_state(TOPIC)
    gap |= {"topic_id": state.topic_id, "@timestamp": "2026-03-01T00:00:00.000Z"}
    send(world.store, [put("kp.gaps", "gap", orjson.dumps(gap))])
    world.access(9, partition=0)
    for low, count in ((4, 1), (5, 0)):
        world.kafka.delete_records(TOPIC, 0, before=low)
        kept_house(world, Keep(dead_letter_days=7))
        assert len(world.stored("kp.gaps")) == count


def test_letters_of_a_flow_that_is_not_declared_stay(world: World) -> None:
    letter = {"flow": "gone", "topic_id": "x", "partition": 0, "offset": 0}
    body = orjson.dumps(letter | {"@timestamp": "2026-03-01T00:00:00.000Z"})
    send(world.store, [put("kp.dead", "letter", body)])
    kept_house(world, Keep(dead_letter_days=7))
    assert len(world.stored("kp.dead")) == 1


@pytest.mark.parametrize(("days", "left"), [(3, 8), (7, 8), (8, 8), (9, 9), (0, 31)])
def test_kpis_go_but_never_those_of_the_last_week(world: World, days: int, left: int) -> None:
    for day in range(31):
        hour = LATER - timedelta(days=day, hours=1)
        body = orjson.dumps({"hour": f"{hour:%Y-%m-%dT%H}:00:00.000Z"})
        send(world.store, [put("access.kpi", str(day), body)])
    kept_house(world, Keep(kpi_days=days))
    assert len(world.stored("access.kpi")) == left


def test_what_a_killed_replay_left_goes_after_a_week(world: World) -> None:
    unfinished = "log.index.20260331120000abcd-2026.03.01"
    others = ("log.index.of-somebody-else", "log.index.20260331120000abcd-x")
    for name in (unfinished, *others):
        world.store.make_index(name, ACCESS_LOG.mapping)
    world.store.made = dict.fromkeys(world.store.made, LATER - timedelta(days=6))
    assert kept_house(world, Keep())["unfinished replays"].names == []
    world.store.made = dict.fromkeys(world.store.made, LATER - timedelta(days=8))
    assert kept_house(world, Keep())["unfinished replays"].names == [unfinished]
    assert sorted(world.store.made) == sorted(others)
