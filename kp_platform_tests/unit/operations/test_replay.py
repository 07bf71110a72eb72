"""Documents made again, on fakes: none is lost or doubled, and only the topic limits what comes."""

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kp_platform.adapters.reference_changes import ReferenceChange
from kp_platform.engine import dead_letters, index_registry, positions
from kp_platform.engine.counting import Window
from kp_platform.engine.dead_letters import Selection
from kp_platform.engine.errors import QueryFailed, SliceError
from kp_platform.engine.indexer import Pipeline
from kp_platform.engine.offsets import OffsetRange, Slice
from kp_platform.engine.store import ItemResult, create, send
from kp_platform.flows.builtin import ACCESS_LOG, REFERENCE_CHANGES
from kp_platform.operations.index_swap import NotKnown
from kp_platform.operations.replay import ReplayReport, followers, into_new_indices, into_place
from kp_platform.operations.replay_range import (
    NoSuchReplay,
    Span,
    parse_offsets,
    parse_window,
    span_of_offsets,
    span_of_time,
)
from kp_platform_tests.unit.engine.harness import World

TOPIC = ACCESS_LOG.topic
MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC)
DAY = Window(MIDNIGHT, MIDNIGHT + timedelta(days=1))
INDEX = "log.index-2026.03.01"
Way = Callable[[Pipeline, Span, Sequence[Pipeline]], Iterator[ReplayReport]]


@pytest.fixture
def world() -> World:
    return World(slice_rows=10)


@pytest.fixture(params=[into_place, into_new_indices], ids=["in place", "new indices"])
def way(request: pytest.FixtureRequest) -> Way:
    found: Way = request.param
    return found


def replayed(world: World, way: Way, window: Window = DAY) -> ReplayReport:
    changes = followers([world.pipeline_of(REFERENCE_CHANGES)], ACCESS_LOG)
    assert len(changes) == 1
    return [*way(world.pipeline, span_of_time(world.pipeline, window), changes)][-1]


def documents(world: World) -> dict[str, dict[str, Any]]:
    """What the alias shows, by id; none is there twice."""
    world.store.refresh("log.index")
    with world.store.snapshot("log.index") as snapshot:
        found = {hit.id: hit.stored.source for hit in snapshot.hits}
        assert len(found) == len(snapshot.hits)
    return found


def held(world: World) -> dict[int, int]:
    state = world.kafka.topic_state(TOPIC)
    return positions.offsets(positions.read(world.store, ACCESS_LOG, state))


def change(world: World) -> None:
    """Another value of presto, announced and followed."""
    world.redis.set_values({"presto": "changed"})
    world.announce([ReferenceChange("redis", "presto")])
    world.follow_changes()


def without(document: dict[str, Any], *fields: str) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in fields}


def test_documents_get_the_reference_data_of_now_and_keep_when_they_came(
    world: World, way: Way
) -> None:
    ids = world.access(30)
    world.drain()
    before, positions_before = documents(world), held(world)
    world.redis.set_values({"presto": "https://trino.io/"})
    report = replayed(world, way)
    after = documents(world)
    assert sorted(after) == sorted(ids)
    assert {each["redis_value"] for each in after.values()} == {"https://trino.io/"}
    for identity, document in after.items():
        assert without(document, "redis_value") == without(before[identity], "redis_value")
    assert (report.rows, report.remade, report.kept) == (30, 30, 0)
    assert held(world) == positions_before
    assert world.drain() == []


def test_what_is_as_it_should_be_is_not_written(world: World) -> None:
    world.access(25)
    world.drain()
    requests = world.store.requests
    report = replayed(world, into_place)
    assert (report.unchanged, report.remade) == (25, 0)
    assert world.store.requests == requests


def test_a_document_that_somebody_deleted_comes_back(world: World, way: Way) -> None:
    ids = world.access(20)
    world.drain()
    del world.store.documents[INDEX, ids[7]]
    report = replayed(world, way)
    assert sorted(documents(world)) == sorted(ids)
    assert (report.brought_back, report.remade + report.unchanged) == (1, 19)


def test_a_day_that_was_deleted_for_good_comes_back_under_its_name(world: World, way: Way) -> None:
    ids = world.access(1010, partition=0)  # the last ones come late
    world.drain()
    world.store.delete_index(INDEX)
    with pytest.raises(NoSuchReplay, match="reads it again by itself"):
        span_of_time(world.pipeline, DAY)
    index_registry.forget(world.store, ACCESS_LOG, [INDEX])
    assert replayed(world, way).brought_back == 1010
    assert sorted(documents(world)) == sorted(ids)
    assert [*world.store.index_ids("log.index")] == [INDEX]
    assert world.drain() == []  # it is noted, and there
    [index] = {index for index, _ in world.stored_places("log.index")}
    world.store.delete_index(index)
    assert index_registry.deleted(world.store, ACCESS_LOG) == [INDEX]


def test_only_events_of_the_time_are_made_again(world: World) -> None:
    world.access(60, partition=0)
    world.drain()
    world.redis.set_values({"presto": "new"})
    some = Window(MIDNIGHT + timedelta(milliseconds=20), MIDNIGHT + timedelta(milliseconds=30))
    span = span_of_time(world.pipeline, some)
    assert span.ranges == (OffsetRange(0, 20, 30),)
    report = replayed(world, into_place, some)
    assert report.remade == 10
    changed = [each["offset"] for each in documents(world).values() if each["redis_value"] == "new"]
    assert sorted(changed) == [*range(20, 30)]


def test_an_event_of_the_time_that_came_late_is_found_by_its_document(world: World) -> None:
    """Times are the senders'; those of FakeTrino begin anew after a thousand offsets."""
    for _ in range(1010):
        world.access(1, partition=0)
    world.drain()
    some = Window(MIDNIGHT + timedelta(milliseconds=3), MIDNIGHT + timedelta(milliseconds=5))
    span = span_of_time(world.pipeline, some)
    assert (span.documents, span.ranges) == (4, (OffsetRange(0, 3, 1005),))
    world.redis.set_values({"presto": "new"})
    report = replayed(world, into_place, some)
    assert (report.remade, report.outside) == (4, 998)


def test_a_duplicate_stays_at_its_first_offset(world: World, way: Way) -> None:
    [identity] = world.access(1, partition=0)
    first = world.kafka.raw_messages(TOPIC, [(0, 0)])[0, 0].value
    world.kafka.produce(TOPIC, first, 2)
    world.drain()
    world.redis.set_values({"presto": "new"})
    report = replayed(world, way)
    assert report.duplicates == 1
    document = documents(world)[identity]
    assert (document["partition"], document["offset"]) == (0, 0)
    assert document["redis_value"] == "new"


def test_what_retention_has_deleted_stays_as_it_is_and_is_told(world: World, way: Way) -> None:
    ids = world.access(30)
    world.drain()
    before = documents(world)
    for partition, low in ((0, 4), (1, 10)):
        world.kafka.delete_records(TOPIC, partition, low)
    span = span_of_time(world.pipeline, DAY)
    assert (span.documents, span.lost) == (30, {0: 4, 1: 10})
    assert span.said_lost() == (
        "14 documents stay as they are: retention has deleted messages of analyze.action "
        "below 0:4 1:10"
    )
    world.redis.set_values({"presto": "new"})
    report = replayed(world, way)
    assert (report.rows, report.remade, report.kept) == (16, 16, 14)
    after = documents(world)
    assert sorted(after) == sorted(ids)
    kept = [identity for identity, each in after.items() if each["redis_value"] != "new"]
    assert len(kept) == 14
    assert all(after[identity] == before[identity] for identity in kept)


def test_a_dead_letter_stays_one_and_is_no_document(world: World, way: Way) -> None:
    world.access(6)
    world.kafka.produce(TOPIC, b"not json", 1)
    world.drain()
    letters = world.stored("kp.dead")
    report = replayed(world, way)
    assert report.dead == 1
    assert world.stored("kp.dead") == letters
    assert len(documents(world)) == 6


@pytest.mark.parametrize("moment", ["before_answer", "after_answer"])
def test_what_is_indexed_meanwhile_is_there_too(world: World, way: Way, moment: str) -> None:
    ids = world.access(20)
    world.drain()

    def go_on() -> None:
        ids.extend(world.access(15))
        world.drain()

    setattr(world.trino, moment, go_on)
    report = replayed(world, way)
    assert sorted(documents(world)) == sorted(ids)
    assert (report.rows, report.kept) == (20, 0)
    assert world.lag() == 0


@pytest.mark.parametrize("moment", ["before_answer", "after_answer"])
def test_reference_data_that_change_meanwhile_are_those_of_the_change(
    world: World, way: Way, moment: str
) -> None:
    world.access(20)
    world.drain()
    world.redis.set_values({"presto": "old"})

    setattr(world.trino, moment, lambda: change(world))
    replayed(world, way)
    assert {each["redis_value"] for each in documents(world).values()} == {"changed"}


def test_new_indices_take_the_place_of_the_old_again_and_again(world: World) -> None:
    ids = world.access(20)
    world.drain()
    seen = set()
    for value in ("first", "second"):
        world.redis.set_values({"presto": value})
        report = replayed(world, into_new_indices)
        assert report.exchanged == [INDEX]
        assert {each["redis_value"] for each in documents(world).values()} == {value}
        assert [*world.store.index_ids("log.index")] == [INDEX]
        seen.add(world.store.index_ids("log.index")[INDEX])
        assert len({index for index, _ in world.stored_places("log.index")}) == 1
        ids += world.access(5)
        world.drain()  # by the name of the day, which is the new index's now
        assert sorted(documents(world)) == sorted(ids)
    assert len(seen) == 2
    assert world.drain() == []  # nothing was taken for deleted


def test_a_replay_that_fails_leaves_the_old_index_and_nothing_of_the_new(world: World) -> None:
    world.access(30)
    world.drain()
    before = documents(world)
    world.redis.set_values({"presto": "new"})
    reports = into_new_indices(world.pipeline, span_of_time(world.pipeline, DAY), [])
    next(reports)
    world.trino.failure = "INSUFFICIENT_RESOURCES"
    with pytest.raises(QueryFailed):
        list(reports)
    assert documents(world) == before
    assert world.store.made == {}
    assert {index for index, _ in world.stored_places("log.index")} == {INDEX}


def test_of_two_replays_at_once_the_later_gives_way(world: World) -> None:
    ids = world.access(30)
    world.drain()
    first = into_new_indices(world.pipeline, span_of_time(world.pipeline, DAY), [])
    next(first)
    world.redis.set_values({"presto": "second"})
    replayed(world, into_new_indices)
    with pytest.raises(SliceError, match="exchanged by another"):
        list(first)
    after = documents(world)
    assert sorted(after) == sorted(ids)
    assert {each["redis_value"] for each in after.values()} == {"second"}
    assert world.store.made == {}


@pytest.mark.parametrize("happened", [False, True], ids=["refused", "answer lost"])
def test_an_exchange_without_an_answer_leaves_one_whole_index(
    world: World, monkeypatch: pytest.MonkeyPatch, happened: bool
) -> None:
    ids = world.access(30)
    world.drain()
    take_place = world.store.take_place

    def fail(name: str, new: str, alias: str, index_id: str | None) -> None:
        if happened:
            take_place(name, new, alias, index_id)
        raise ConnectionError

    monkeypatch.setattr(world.store, "take_place", fail)
    with pytest.raises(NotKnown, match="housekeep"):
        replayed(world, into_new_indices)
    assert sorted(documents(world)) == sorted(ids)
    assert world.store.blocked == set()
    assert len(world.store.made) == (0 if happened else 1)  # it is not deleted at once
    ids += world.access(5)
    world.drain()
    assert sorted(documents(world)) == sorted(ids)
    assert index_registry.deleted(world.store, ACCESS_LOG) == []


def test_an_index_that_somebody_deletes_while_it_is_copied_is_not_replaced(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.access(30)
    world.drain()
    written_since = world.store.written_since
    late: list[str] = []

    def delete_and_go_on(index: str, marks: Any, size: int) -> Any:
        yield from written_since(index, marks, size)
        if not late:
            world.store.delete_index(INDEX)
            late.extend(world.access(3))
            send(world.store, [create(INDEX, each, b'{"uuid": "late"}') for each in late])

    monkeypatch.setattr(world.store, "written_since", delete_and_go_on)
    with pytest.raises(SliceError, match="deleted or exchanged by another"):
        replayed(world, into_new_indices)
    assert sorted(documents(world)) == sorted(late)
    assert (world.store.blocked, world.store.made) == (set(), {})
    assert index_registry.deleted(world.store, ACCESS_LOG) == [INDEX]


def test_a_mapping_that_refuses_a_document_is_an_error_and_no_dead_letter(
    world: World, way: Way
) -> None:
    ids = world.access(9)
    world.drain()
    before = documents(world)
    world.redis.set_values({"presto": "new"})
    world.store.refuse[ids[4]] = [ItemResult(400, "document_parsing_exception", "no date")]
    with pytest.raises(SliceError, match="is refused now: document_parsing_exception: no date"):
        replayed(world, way)
    assert documents(world)[ids[4]] == before[ids[4]]
    assert (world.stored("kp.dead"), world.store.made) == ({}, {})


def test_a_letter_whose_message_has_become_good_goes_and_a_dropped_one_stays(
    world: World, way: Way
) -> None:
    ids = world.access(6, partition=0)
    for identity in ids[2:4]:
        world.store.refuse[identity] = [ItemResult(400, "document_parsing_exception", "no")]
    world.drain()
    world.store.refresh("kp.dead")
    letters = {each.place: each for each in dead_letters.read(world.store, Selection())}
    assert sorted(letters) == [(0, 2), (0, 3)]
    dead_letters.drop(world.store, [letters[0, 3]], "2026-03-02T00:00:00.000Z")
    report = replayed(world, way)
    assert (report.brought_back, report.dead) == (1, 1)
    assert sorted(documents(world)) == sorted(each for each in ids if each != ids[3])
    [left] = world.stored("kp.dead").values()
    assert (left.source["offset"], left.source["value"]) == (3, None)


def test_a_replay_that_fails_leaves_no_older_reference_data(world: World, way: Way) -> None:
    world.access(30)
    world.drain()
    world.redis.set_values({"presto": "old"})

    world.trino.after_answer = lambda: change(world)
    changes = followers([world.pipeline_of(REFERENCE_CHANGES)], ACCESS_LOG)
    reports = way(world.pipeline, span_of_time(world.pipeline, DAY), changes)
    next(reports)
    world.kafka.topics[TOPIC].topic_id = "made again"
    with pytest.raises(SliceError):
        list(reports)
    assert {each["redis_value"] for each in documents(world).values()} == {"changed"}


def test_new_indices_need_whole_days(world: World) -> None:
    world.access(3)
    world.drain()
    half = Window(MIDNIGHT, MIDNIGHT + timedelta(hours=36))
    with pytest.raises(NoSuchReplay, match="whole days"):
        list(into_new_indices(world.pipeline, span_of_time(world.pipeline, half), []))
    span = span_of_offsets(world.pipeline, parse_offsets("0:[0,1)"))
    with pytest.raises(NoSuchReplay, match="whole days"):
        list(into_new_indices(world.pipeline, span, []))


def test_offsets_are_read_as_far_as_the_topic_holds_them(world: World) -> None:
    world.access(30)
    world.drain()
    world.kafka.delete_records(TOPIC, 0, 4)
    world.redis.set_values({"presto": "new"})
    span = span_of_offsets(world.pipeline, parse_offsets("2:[1,2) 0:[2,7)"))
    assert (span.ranges, span.lost) == ((OffsetRange(0, 4, 7), OffsetRange(2, 1, 2)), {0: 2})
    assert "2 offsets cannot be read" in span.said_lost()
    report = [*into_place(world.pipeline, span, [])][-1]
    assert report.remade == 4
    with pytest.raises(NoSuchReplay, match="1:\\[5,11\\) is indexed only up to 10"):
        span_of_offsets(world.pipeline, parse_offsets("1:[5,11)"))


def test_nothing_is_there_before_the_first_event(world: World) -> None:
    assert len(span_of_time(world.pipeline, DAY)) == 0
    assert replayed(world, into_place).rows == 0


def test_a_flow_of_changes_cannot_be_replayed(world: World) -> None:
    with pytest.raises(NoSuchReplay, match="reference_changes"):
        span_of_time(world.pipeline_of(REFERENCE_CHANGES), DAY)


@pytest.mark.parametrize("text", ["", "0", "0:[5,5)", "0:[1,2) 0:[2,3)", "0:[1,2),1:[1,2)", "x"])
def test_offsets_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(NoSuchReplay, match="is not of the form"):
        parse_offsets(text)


def test_offsets_are_written_as_the_tags_of_runs_are() -> None:
    part = Slice((OffsetRange(0, 120, 131), OffsetRange(3, 7, 9)))
    assert parse_offsets(str(part)) == part


@pytest.mark.parametrize(
    ("start", "end"), [("yesterday", ""), ("2026-03-02", "2026-03-01"), ("2026-03-01", "x")]
)
def test_times_that_are_none_are_refused(start: str, end: str) -> None:
    with pytest.raises(NoSuchReplay, match="not a time"):
        parse_window(start, end)


def test_times_are_utc_unless_they_say_otherwise() -> None:
    window = parse_window("2026-03-01T02:00+02:00", "2026-03-02")
    assert window == DAY
    today = datetime.now(UTC).date() + timedelta(days=1)
    assert parse_window("2026-03-01").end.date() == today


def test_a_report_says_only_what_there_was() -> None:
    report = ReplayReport(rows=5, remade=3, dead=2, seconds=1.25)
    assert str(report) == "5 messages read: 3 made again, 2 dead letters, 1.2 s"
    assert json.dumps(report.exchanged) == "[]"
