"""Replay: no document is lost or doubled, and only the retention of the topic limits it."""

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kp_platform.engine import dead_letters, index_registry, positions
from kp_platform.engine.bulk import create, send
from kp_platform.engine.counting import Window
from kp_platform.engine.dead_letters import Selection
from kp_platform.engine.errors import QueryFailed, SliceError
from kp_platform.engine.indexer import Indexer
from kp_platform.engine.offsets import OffsetRange, Slice
from kp_platform.engine.ports import ItemResult
from kp_platform.engine.reference_change import ReferenceChange
from kp_platform.flows.builtin import ACCESS_LOG, REFERENCE_CHANGES
from kp_platform.operations.index_swap import SwapUnknown
from kp_platform.operations.replay import (
    ReplayReport,
    refreshes_of,
    replay_in_place,
    replay_into_new_indices,
)
from kp_platform.operations.replay_range import (
    InvalidReplay,
    ReplayRange,
    parse_offsets,
    parse_window,
    range_of_offsets,
    range_of_time,
)
from kp_platform_tests.fakes import FakeClock
from kp_platform_tests.unit.engine.harness import Harness

TOPIC = ACCESS_LOG.topic
MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC)
DAY = Window(MIDNIGHT, MIDNIGHT + timedelta(days=1))
INDEX = "log.index-2026.03.01"
Way = Callable[[Indexer, ReplayRange, Sequence[Indexer]], Iterator[ReplayReport]]


@pytest.fixture
def harness() -> Harness:
    return Harness(slice_rows=10)


@pytest.fixture(params=[replay_in_place, replay_into_new_indices], ids=["in place", "new indices"])
def way(request: pytest.FixtureRequest) -> Way:
    found: Way = request.param
    return found


def replayed(harness: Harness, way: Way, window: Window = DAY) -> ReplayReport:
    changes = refreshes_of([harness.indexer_of(REFERENCE_CHANGES)], ACCESS_LOG)
    assert len(changes) == 1
    return [*way(harness.indexer, range_of_time(harness.indexer, window), changes)][-1]


def documents(harness: Harness) -> dict[str, dict[str, Any]]:
    """The documents behind the alias by id; none is there twice."""
    harness.store.refresh("log.index")
    with harness.store.snapshot("log.index") as snapshot:
        found = {hit.id: hit.stored.source for hit in snapshot.hits}
        assert len(found) == len(snapshot.hits)
    return found


def stored_positions(harness: Harness) -> dict[int, int]:
    state = harness.kafka.topic_state(TOPIC)
    return positions.offsets(positions.read(harness.store, ACCESS_LOG, state))


def change(harness: Harness) -> None:
    """Publish another value of presto, and refresh its documents."""
    harness.redis.set_values({"presto": "changed"})
    harness.publish_changes([ReferenceChange("redis", "presto")])
    harness.refresh_references()


def without(document: dict[str, Any], *fields: str) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in fields}


def test_documents_get_current_reference_data_and_keep_their_first_index_time(
    harness: Harness, way: Way
) -> None:
    ids = harness.access(30)
    harness.run()
    before, positions_before = documents(harness), stored_positions(harness)
    harness.redis.set_values({"presto": "https://trino.io/"})
    report = replayed(harness, way)
    after = documents(harness)
    assert sorted(after) == sorted(ids)
    assert {each["redis_value"] for each in after.values()} == {"https://trino.io/"}
    for identity, document in after.items():
        assert without(document, "redis_value") == without(before[identity], "redis_value")
    assert (report.rows, report.reprocessed, report.kept) == (30, 30, 0)
    assert stored_positions(harness) == positions_before
    assert harness.run() == []


def test_unchanged_documents_are_not_written(harness: Harness) -> None:
    harness.access(25)
    harness.run()
    requests = harness.store.requests
    report = replayed(harness, replay_in_place)
    assert (report.unchanged, report.reprocessed) == (25, 0)
    assert harness.store.requests == requests


def test_a_deleted_document_is_restored(harness: Harness, way: Way) -> None:
    ids = harness.access(20)
    harness.run()
    del harness.store.documents[INDEX, ids[7]]
    report = replayed(harness, way)
    assert sorted(documents(harness)) == sorted(ids)
    assert (report.restored, report.reprocessed + report.unchanged) == (1, 19)


def test_a_day_that_was_deleted_for_good_is_restored_under_its_name(
    harness: Harness, way: Way
) -> None:
    ids = harness.access(1010, partition=0)  # the last ones come late
    harness.run()
    harness.store.delete_index(INDEX)
    with pytest.raises(InvalidReplay, match="the next run reads its events again"):
        range_of_time(harness.indexer, DAY)
    index_registry.unregister(harness.store, ACCESS_LOG, [INDEX])
    assert replayed(harness, way).restored == 1010
    assert sorted(documents(harness)) == sorted(ids)
    assert [*harness.store.index_ids("log.index")] == [INDEX]
    assert harness.run() == []  # it is registered, and exists
    [index] = {index for index, _ in harness.stored_keys("log.index")}
    harness.store.delete_index(index)
    assert index_registry.missing(harness.store, ACCESS_LOG) == [INDEX]


def test_only_events_of_the_window_are_reprocessed(harness: Harness) -> None:
    harness.access(60, partition=0)
    harness.run()
    harness.redis.set_values({"presto": "new"})
    some = Window(MIDNIGHT + timedelta(milliseconds=20), MIDNIGHT + timedelta(milliseconds=30))
    replay_range = range_of_time(harness.indexer, some)
    assert replay_range.ranges == (OffsetRange(0, 20, 30),)
    report = replayed(harness, replay_in_place, some)
    assert report.reprocessed == 10
    changed = [
        each["offset"] for each in documents(harness).values() if each["redis_value"] == "new"
    ]
    assert sorted(changed) == [*range(20, 30)]


def test_a_late_event_of_the_window_is_found_by_its_document(harness: Harness) -> None:
    """Timestamps are the producers'; those of FakeTrino start over after a thousand offsets."""
    for _ in range(1010):
        harness.access(1, partition=0)
    harness.run()
    some = Window(MIDNIGHT + timedelta(milliseconds=3), MIDNIGHT + timedelta(milliseconds=5))
    replay_range = range_of_time(harness.indexer, some)
    assert (replay_range.documents, replay_range.ranges) == (4, (OffsetRange(0, 3, 1005),))
    harness.redis.set_values({"presto": "new"})
    report = replayed(harness, replay_in_place, some)
    assert (report.reprocessed, report.outside) == (4, 998)


def test_a_duplicate_stays_at_its_first_offset(harness: Harness, way: Way) -> None:
    [identity] = harness.access(1, partition=0)
    first = harness.kafka.raw_messages(TOPIC, [(0, 0)])[0, 0].value
    harness.kafka.produce(TOPIC, first, 2)
    harness.run()
    harness.redis.set_values({"presto": "new"})
    report = replayed(harness, way)
    assert report.duplicates == 1
    document = documents(harness)[identity]
    assert (document["partition"], document["offset"]) == (0, 0)
    assert document["redis_value"] == "new"


def test_documents_without_a_message_stay_as_they_are_and_are_counted(
    harness: Harness, way: Way
) -> None:
    ids = harness.access(30)
    harness.run()
    before = documents(harness)
    for partition, low in ((0, 4), (1, 10)):
        harness.kafka.delete_records(TOPIC, partition, low)
    replay_range = range_of_time(harness.indexer, DAY)
    assert (replay_range.documents, replay_range.lost) == (30, {0: 4, 1: 10})
    assert replay_range.describe_lost() == (
        "14 documents stay as they are: retention has deleted messages of analyze.action "
        "below 0:4 1:10"
    )
    harness.redis.set_values({"presto": "new"})
    report = replayed(harness, way)
    assert (report.rows, report.reprocessed, report.kept) == (16, 16, 14)
    after = documents(harness)
    assert sorted(after) == sorted(ids)
    kept = [identity for identity, each in after.items() if each["redis_value"] != "new"]
    assert len(kept) == 14
    assert all(after[identity] == before[identity] for identity in kept)


def test_a_rejected_message_stays_a_dead_letter(harness: Harness, way: Way) -> None:
    harness.access(6)
    harness.kafka.produce(TOPIC, b"not json", 1)
    harness.run()
    before = harness.stored("kp.dead")
    report = replayed(harness, way)
    assert report.dead_letters == 1
    assert harness.stored("kp.dead") == before
    assert len(documents(harness)) == 6


@pytest.mark.parametrize("moment", ["before_answer", "after_answer"])
def test_events_indexed_during_a_replay_are_kept(harness: Harness, way: Way, moment: str) -> None:
    ids = harness.access(20)
    harness.run()

    def index_more() -> None:
        ids.extend(harness.access(15))
        harness.run()

    setattr(harness.trino, moment, index_more)
    report = replayed(harness, way)
    assert sorted(documents(harness)) == sorted(ids)
    assert (report.rows, report.kept) == (20, 0)
    assert harness.lag() == 0


@pytest.mark.parametrize("moment", ["before_answer", "after_answer"])
def test_reference_data_that_change_during_a_replay_are_current_at_its_end(
    harness: Harness, way: Way, moment: str
) -> None:
    harness.access(20)
    harness.run()
    harness.redis.set_values({"presto": "old"})

    setattr(harness.trino, moment, lambda: change(harness))
    replayed(harness, way)
    assert {each["redis_value"] for each in documents(harness).values()} == {"changed"}


def test_new_indices_replace_the_old_ones_repeatedly(harness: Harness) -> None:
    ids = harness.access(20)
    harness.run()
    seen = set()
    for value in ("first", "second"):
        harness.redis.set_values({"presto": value})
        report = replayed(harness, replay_into_new_indices)
        assert report.swapped == [INDEX]
        assert {each["redis_value"] for each in documents(harness).values()} == {value}
        assert [*harness.store.index_ids("log.index")] == [INDEX]
        seen.add(harness.store.index_ids("log.index")[INDEX])
        assert len({index for index, _ in harness.stored_keys("log.index")}) == 1
        ids += harness.access(5)
        harness.run()  # by the name of the day, which is now that of the new index
        assert sorted(documents(harness)) == sorted(ids)
    assert len(seen) == 2
    assert harness.run() == []  # no index counts as deleted


def test_a_failed_replay_keeps_the_old_index_and_deletes_the_new_one(harness: Harness) -> None:
    harness.access(30)
    harness.run()
    before = documents(harness)
    harness.redis.set_values({"presto": "new"})
    reports = replay_into_new_indices(harness.indexer, range_of_time(harness.indexer, DAY), [])
    next(reports)
    harness.trino.failure = "INSUFFICIENT_RESOURCES"
    with pytest.raises(QueryFailed):
        list(reports)
    assert documents(harness) == before
    assert harness.store.created == {}
    assert {index for index, _ in harness.stored_keys("log.index")} == {INDEX}


def test_of_two_concurrent_replays_the_later_swap_fails(harness: Harness) -> None:
    ids = harness.access(30)
    harness.run()
    first = replay_into_new_indices(harness.indexer, range_of_time(harness.indexer, DAY), [])
    next(first)
    harness.redis.set_values({"presto": "second"})
    replayed(harness, replay_into_new_indices)
    with pytest.raises(SliceError, match="swapped by another"):
        list(first)
    after = documents(harness)
    assert sorted(after) == sorted(ids)
    assert {each["redis_value"] for each in after.values()} == {"second"}
    assert harness.store.created == {}


@pytest.mark.parametrize("happened", [False, True], ids=["refused", "answer lost"])
def test_a_swap_without_an_answer_leaves_one_complete_index(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, happened: bool
) -> None:
    ids = harness.access(30)
    harness.run()
    swap_alias = harness.store.swap_alias

    def fail(name: str, new: str, alias: str, index_id: str | None) -> None:
        if happened:
            swap_alias(name, new, alias, index_id)
        raise ConnectionError

    monkeypatch.setattr(harness.store, "swap_alias", fail)
    with pytest.raises(SwapUnknown, match="retention"):
        replayed(harness, replay_into_new_indices)
    assert sorted(documents(harness)) == sorted(ids)
    assert harness.store.blocked == set()
    assert len(harness.store.created) == (0 if happened else 1)  # it is not deleted at once
    ids += harness.access(5)
    harness.run()
    assert sorted(documents(harness)) == sorted(ids)
    assert index_registry.missing(harness.store, ACCESS_LOG) == []


def test_an_index_deleted_during_the_copy_is_not_swapped(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.access(30)
    harness.run()
    written_since = harness.store.written_since
    late: list[str] = []

    def delete_and_index_more(index: str, checkpoints: Any, size: int) -> Any:
        yield from written_since(index, checkpoints, size)
        if not late:
            harness.store.delete_index(INDEX)
            late.extend(harness.access(3))
            send(harness.store, [create(INDEX, each, b'{"uuid": "late"}') for each in late])

    monkeypatch.setattr(harness.store, "written_since", delete_and_index_more)
    with pytest.raises(SliceError, match="deleted or swapped by another"):
        replayed(harness, replay_into_new_indices)
    assert sorted(documents(harness)) == sorted(late)
    assert (harness.store.blocked, harness.store.created) == (set(), {})
    assert index_registry.missing(harness.store, ACCESS_LOG) == [INDEX]


def test_a_stored_document_that_the_mapping_refuses_is_an_error_and_not_a_dead_letter(
    harness: Harness, way: Way
) -> None:
    ids = harness.access(9)
    harness.run()
    before = documents(harness)
    harness.redis.set_values({"presto": "new"})
    harness.store.refuse[ids[4]] = [ItemResult(400, "document_parsing_exception", "no date")]
    with pytest.raises(
        SliceError, match="refuses document .*: document_parsing_exception: no date"
    ):
        replayed(harness, way)
    assert documents(harness)[ids[4]] == before[ids[4]]
    assert (harness.stored("kp.dead"), harness.store.created) == ({}, {})


def test_a_dead_letter_whose_message_is_accepted_now_is_removed_and_a_discarded_one_stays(
    harness: Harness, way: Way
) -> None:
    ids = harness.access(6, partition=0)
    for identity in ids[2:4]:
        harness.store.refuse[identity] = [ItemResult(400, "document_parsing_exception", "no")]
    harness.run()
    harness.store.refresh("kp.dead")
    found = {each.partition_offset: each for each in dead_letters.read(harness.store, Selection())}
    assert sorted(found) == [(0, 2), (0, 3)]
    dead_letters.discard(harness.store, [found[0, 3]], "2026-03-02T00:00:00.000Z")
    report = replayed(harness, way)
    assert (report.restored, report.dead_letters) == (1, 1)
    assert sorted(documents(harness)) == sorted(each for each in ids if each != ids[3])
    [left] = harness.stored("kp.dead").values()
    assert (left.source["offset"], left.source["value"]) == (3, None)


def test_a_failed_replay_leaves_no_older_reference_data(harness: Harness, way: Way) -> None:
    harness.access(30)
    harness.run()
    harness.redis.set_values({"presto": "old"})

    harness.trino.after_answer = lambda: change(harness)
    harness.clock = FakeClock()
    changes = refreshes_of([harness.indexer_of(REFERENCE_CHANGES)], ACCESS_LOG)
    reports = way(harness.indexer, range_of_time(harness.indexer, DAY), changes)
    next(reports)
    harness.kafka.topics[TOPIC].topic_id = "recreated"
    with pytest.raises(SliceError):
        list(reports)
    assert {each["redis_value"] for each in documents(harness).values()} == {"changed"}


def test_new_indices_need_whole_days(harness: Harness) -> None:
    harness.access(3)
    harness.run()
    half = Window(MIDNIGHT, MIDNIGHT + timedelta(hours=36))
    with pytest.raises(InvalidReplay, match="whole days"):
        list(replay_into_new_indices(harness.indexer, range_of_time(harness.indexer, half), []))
    replay_range = range_of_offsets(harness.indexer, parse_offsets("0:[0,1)"))
    with pytest.raises(InvalidReplay, match="whole days"):
        list(replay_into_new_indices(harness.indexer, replay_range, []))


def test_offsets_are_read_as_far_as_the_topic_holds_them(harness: Harness) -> None:
    harness.access(30)
    harness.run()
    harness.kafka.delete_records(TOPIC, 0, 4)
    harness.redis.set_values({"presto": "new"})
    replay_range = range_of_offsets(harness.indexer, parse_offsets("2:[1,2) 0:[2,7)"))
    assert (replay_range.ranges, replay_range.lost) == (
        (OffsetRange(0, 4, 7), OffsetRange(2, 1, 2)),
        {0: 2},
    )
    assert "2 offsets cannot be read" in replay_range.describe_lost()
    report = [*replay_in_place(harness.indexer, replay_range, [])][-1]
    assert report.reprocessed == 4
    with pytest.raises(InvalidReplay, match="1:\\[5,11\\) is indexed only up to 10"):
        range_of_offsets(harness.indexer, parse_offsets("1:[5,11)"))


def test_a_range_before_the_first_event_is_empty(harness: Harness) -> None:
    assert len(range_of_time(harness.indexer, DAY)) == 0
    assert replayed(harness, replay_in_place).rows == 0


def test_a_reference_refresh_cannot_be_replayed(harness: Harness) -> None:
    with pytest.raises(InvalidReplay, match="reference_changes"):
        range_of_time(harness.indexer_of(REFERENCE_CHANGES), DAY)


@pytest.mark.parametrize("text", ["", "0", "0:[5,5)", "0:[1,2) 0:[2,3)", "0:[1,2),1:[1,2)", "x"])
def test_invalid_offsets_are_an_error(text: str) -> None:
    with pytest.raises(InvalidReplay, match="is not of the form"):
        parse_offsets(text)


def test_offsets_have_the_form_of_the_run_tags() -> None:
    slice_ = Slice((OffsetRange(0, 120, 131), OffsetRange(3, 7, 9)))
    assert parse_offsets(str(slice_)) == slice_


@pytest.mark.parametrize(
    ("start", "end"), [("yesterday", ""), ("2026-03-02", "2026-03-01"), ("2026-03-01", "x")]
)
def test_invalid_times_are_an_error(start: str, end: str) -> None:
    with pytest.raises(InvalidReplay, match="not a time"):
        parse_window(start, end)


def test_times_are_utc_unless_they_have_an_offset() -> None:
    window = parse_window("2026-03-01T02:00+02:00", "2026-03-02")
    assert window == DAY
    today = datetime.now(UTC).date() + timedelta(days=1)
    assert parse_window("2026-03-01").end.date() == today


def test_a_report_lists_only_counts_above_zero() -> None:
    report = ReplayReport(rows=5, reprocessed=3, dead_letters=2, seconds=1.25)
    assert str(report) == "5 messages read: 3 reprocessed, 2 dead letters, 1.2 s"
    assert json.dumps(report.swapped) == "[]"
