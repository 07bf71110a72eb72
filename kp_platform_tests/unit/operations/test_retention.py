"""Retention: nothing is deleted of which the topic still holds a message."""

from datetime import UTC, datetime, timedelta

import orjson
import pytest

from kp_platform.engine import index_registry
from kp_platform.engine.bulk import put, send
from kp_platform.flows.builtin import ACCESS_LOG, FLOWS, FULL_TEXT
from kp_platform.operations.replay import replay_into_new_indices
from kp_platform.operations.replay_range import parse_window, range_of_time
from kp_platform.operations.retention import Expired, RetentionPolicy, apply_retention
from kp_platform_tests.unit.engine.harness import Harness

TOPIC = ACCESS_LOG.topic
INDEX = "log.index-2026.03.01"
LATER = datetime(2026, 4, 1, tzinfo=UTC)


@pytest.fixture
def harness() -> Harness:
    harness = Harness()
    harness.kafka.create_topics({FULL_TEXT.topic: 1})
    return harness


def retained(
    harness: Harness, policy: RetentionPolicy, now: datetime = LATER, *, dry_run: bool = False
) -> dict[str, Expired]:
    found = apply_retention(harness.store, harness.kafka, FLOWS, policy, now, dry_run=dry_run)
    return {each.what: each for each in found}


def retention_deletes_all(harness: Harness) -> None:
    for partition, messages in harness.kafka.topics[TOPIC].messages.items():
        harness.kafka.delete_records(TOPIC, partition, len(messages))


def test_a_day_is_deleted_and_unregistered_when_the_topic_holds_none_of_its_messages(
    harness: Harness,
) -> None:
    harness.access(12)
    harness.run()
    retention_deletes_all(harness)
    expired = retained(harness, RetentionPolicy(log_days=30), dry_run=True)["log.index"]
    assert (expired.names, expired.documents, expired.bytes, expired.kept) == (
        [INDEX],
        12,
        1_200,
        [],
    )
    assert len(harness.stored("log.index")) == 12
    assert retained(harness, RetentionPolicy(log_days=30))["log.index"] == expired
    assert harness.stored("log.index") == {}
    assert index_registry.missing(harness.store, ACCESS_LOG) == []
    assert harness.run() == []


def test_a_day_is_kept_while_the_topic_holds_one_of_its_messages(harness: Harness) -> None:
    harness.access(12)
    harness.run()
    retention_deletes_all(harness)
    harness.kafka.delete_records(TOPIC, 1, before=3)
    expired = retained(harness, RetentionPolicy(log_days=30))["log.index"]
    assert (expired.names, expired.documents) == ([], 0)
    assert expired.kept == [f"{INDEX}: {TOPIC} still holds messages of it"]
    assert harness.store.blocked == set()
    assert len(harness.stored("log.index")) == 12


@pytest.mark.parametrize(("days", "is_old"), [(29, True), (30, True), (31, False), (0, False)])
def test_a_day_expires_with_its_last_moment(harness: Harness, days: int, is_old: bool) -> None:
    harness.access(1)
    harness.run()
    retention_deletes_all(harness)
    retained(harness, RetentionPolicy(log_days=days))
    assert bool(harness.stored("log.index")) is not is_old


def test_a_day_that_was_replayed_into_a_new_index_is_deleted_too(harness: Harness) -> None:
    harness.access(5)
    harness.run()
    replay_range = range_of_time(harness.indexer, parse_window("2026-03-01", "2026-03-02"))
    list(replay_into_new_indices(harness.indexer, replay_range, []))
    retention_deletes_all(harness)
    assert retained(harness, RetentionPolicy(log_days=30))["log.index"].names == [INDEX]
    assert harness.stored_keys("log.index") == []
    assert harness.run() == []


def test_an_index_that_is_not_daily_is_kept_and_reported(harness: Harness) -> None:
    send(harness.store, [put("log.index-restored", "a", b"{}")])
    expired = retained(harness, RetentionPolicy(log_days=30))["log.index"]
    assert expired.kept == ["log.index-restored: not a daily index"]


def test_dead_letters_are_deleted_when_the_topic_holds_none_of_their_messages(
    harness: Harness,
) -> None:
    for partition in (0, 1):
        harness.kafka.produce(TOPIC, b"not json", partition)
    harness.access(4, partition=2)
    harness.kafka.delete_records(TOPIC, 2, before=1)
    harness.kafka.produce(TOPIC, b"not json", 2)
    harness.run()
    harness.kafka.delete_records(TOPIC, 2, before=3)
    harness.run()
    harness.kafka.delete_records(TOPIC, 0, before=1)
    in_a_year = datetime.now(UTC) + timedelta(days=365)
    assert len(harness.stored("kp.dead")) == 3
    expired = retained(harness, RetentionPolicy(dead_letter_days=90), in_a_year)
    assert (expired["kp.dead"].documents, expired["kp.dead"].kept) == (
        1,
        ["2 whose messages the topic still holds"],
    )
    left = [each.source["partition"] for each in harness.stored("kp.dead").values()]
    assert sorted(left) == [1, 2]
    harness.kafka.delete_topic(TOPIC)
    harness.kafka.create_topics({TOPIC: 3})
    assert (
        retained(harness, RetentionPolicy(dead_letter_days=90), in_a_year)["kp.dead"].documents == 2
    )
    assert harness.stored("kp.dead") == {}


def test_a_gap_is_kept_while_its_end_is_in_the_topic(harness: Harness) -> None:
    gap = {"flow": "access_log", "partition": 0, "start": 0, "end": 5}
    state = harness.kafka.topic_state(TOPIC)
    gap |= {"topic_id": state.topic_id, "@timestamp": "2026-03-01T00:00:00.000Z"}
    send(harness.store, [put("kp.gaps", "gap", orjson.dumps(gap))])
    harness.access(9, partition=0)
    for low, count in ((4, 1), (5, 0)):
        harness.kafka.delete_records(TOPIC, 0, before=low)
        retained(harness, RetentionPolicy(dead_letter_days=7))
        assert len(harness.stored("kp.gaps")) == count


def test_dead_letters_of_an_undeclared_flow_are_kept(harness: Harness) -> None:
    dead_letter = {"flow": "gone", "topic_id": "x", "partition": 0, "offset": 0}
    body = orjson.dumps(dead_letter | {"@timestamp": "2026-03-01T00:00:00.000Z"})
    send(harness.store, [put("kp.dead", "letter", body)])
    retained(harness, RetentionPolicy(dead_letter_days=7))
    assert len(harness.stored("kp.dead")) == 1


@pytest.mark.parametrize(("days", "left"), [(3, 8), (7, 8), (8, 8), (9, 9), (0, 31)])
def test_kpis_are_deleted_but_never_those_of_the_last_week(
    harness: Harness, days: int, left: int
) -> None:
    for day in range(31):
        hour = LATER - timedelta(days=day, hours=1)
        body = orjson.dumps({"hour": f"{hour:%Y-%m-%dT%H}:00:00.000Z"})
        send(harness.store, [put("access.kpi", str(day), body)])
    retained(harness, RetentionPolicy(kpi_days=days))
    assert len(harness.stored("access.kpi")) == left


def test_the_index_of_a_killed_replay_is_deleted_after_a_week(harness: Harness) -> None:
    unfinished = "log.index.20260331120000abcd-2026.03.01"
    kept = ("log.index.of-another-program", "log.index.20260331120000abcd-x")
    for name in (unfinished, *kept):
        harness.store.make_index(name, ACCESS_LOG.mapping)
    harness.store.created = dict.fromkeys(harness.store.created, LATER - timedelta(days=6))
    assert retained(harness, RetentionPolicy())["unfinished replays"].names == []
    harness.store.created = dict.fromkeys(harness.store.created, LATER - timedelta(days=8))
    assert retained(harness, RetentionPolicy())["unfinished replays"].names == [unfinished]
    assert sorted(harness.store.created) == sorted(kept)
