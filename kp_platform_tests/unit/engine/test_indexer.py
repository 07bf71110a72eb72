"""The invariant on fakes: every offset below a position is indexed, dead, or in a recorded gap."""

import base64
import json
import math
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import pytest

from kp_platform.engine import sql
from kp_platform.engine import store as store_module
from kp_platform.engine.dead_letters import DEAD_INDEX, GAP_INDEX
from kp_platform.engine.errors import (
    BulkOverloaded,
    IndexBlocked,
    MessageSuspected,
    QueryFailed,
    QueryTooLarge,
    ShortAnswer,
    SliceError,
    SliceTaken,
)
from kp_platform.engine.indexer import MOST_FAILURES
from kp_platform.engine.loader import SliceReport
from kp_platform.engine.offsets import OffsetRange
from kp_platform.engine.store import ItemResult, Stored, create, send
from kp_platform.flows.builtin import ACCESS_LOG
from kp_platform.operations.reference_data import REFERENCE_VALUES
from kp_platform_tests.fakes import FakeElasticsearch
from kp_platform_tests.unit.engine.harness import World

TOPIC = ACCESS_LOG.topic


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def small_slices() -> World:
    return World(slice_rows=10)


def test_every_event_is_indexed_under_its_uuid_with_its_own_uri(world: World) -> None:
    ids = world.access(40)
    [report] = world.drain()
    documents = world.stored("log.index")
    assert sorted(documents) == sorted(ids)
    assert {key: each.source["uri"] for key, each in documents.items()} == {
        identity: f"/{identity}" for identity in ids
    }
    assert (report.rows, report.outcome.indexed, report.lag_after) == (40, 40, 0)
    assert world.lag() == 0


def test_each_document_carries_the_row_and_value_of_its_own_name(world: World) -> None:
    for name in REFERENCE_VALUES:
        world.access(5, name=name)
    world.drain()
    for stored in world.stored("log.index").values():
        name = stored.source["name"]
        assert stored.source["test_name"] == stored.source["redis_key"] == name
        assert stored.source["redis_value"] == REFERENCE_VALUES[name]
        assert stored.source["test_id"] == world.mysql.rows[name]


def test_an_event_without_reference_rows_is_indexed_all_the_same(world: World) -> None:
    ids = world.access(1, name="nobody")
    [report] = world.drain()
    assert world.stored("log.index")[ids[0]].source["enrichment"]["state"] == "none"
    assert report.missing == {"mysql": 1, "redis": 1}


def test_a_long_topic_is_read_in_slices_of_the_limit(small_slices: World) -> None:
    small_slices.access(95)
    reports = small_slices.drain()
    assert [report.rows for report in reports] == [10] * 9 + [5]
    assert len(small_slices.stored("log.index")) == 95


def test_a_second_run_finds_nothing_to_do(world: World) -> None:
    world.access(5)
    world.drain()
    assert world.drain() == []


def test_a_replay_of_the_same_offsets_adds_nothing(world: World) -> None:
    world.access(40)
    world.drain()
    before = world.stored("log.index")
    for key in [key for key in world.store.documents if key[0] == "kp.positions"]:
        del world.store.documents[key]
    [report] = world.drain()
    assert (report.outcome.indexed, report.outcome.already_there) == (0, 40)
    assert world.stored("log.index") == before


def test_a_run_killed_before_the_position_moved_is_redone_without_a_trace(world: World) -> None:
    world.access(20)
    state, held = world.pipeline.look()
    part = world.pipeline.plan(state, held).slice
    assert part is not None
    world.pipeline.index(state, part)
    assert world.lag() == 20
    world.drain()
    assert len(world.stored("log.index")) == 20
    assert world.lag() == 0


def test_of_two_runs_on_the_same_slice_one_wins(world: World) -> None:
    world.access(20)
    state, held = world.pipeline.look()
    todo = world.pipeline.plan(state, held)
    world.pipeline.step(state, held, todo)
    with pytest.raises(SliceTaken):
        world.pipeline.step(state, held, todo)
    assert len(world.stored("log.index")) == 20
    assert world.lag() == 0


def test_a_run_that_is_overtaken_during_its_query_ends_without_an_error(world: World) -> None:
    world.access(20)
    world.trino.before_answer = world.drain  # another run, on the same slice
    assert world.drain() == []
    assert len(world.stored("log.index")) == 20
    assert world.lag() == 0


def test_a_run_that_is_overtaken_never_moves_a_position_back(world: World) -> None:
    world.access(20)

    def overtake() -> None:
        world.drain()
        world.access(20)
        world.drain()

    world.trino.before_answer = overtake
    assert world.drain() == []
    assert world.lag() == 0


def test_a_position_that_moved_between_two_reads_is_no_truncated_log(world: World) -> None:
    """Watermarks are read first, positions second; another run may commit in between."""
    world.access(9)
    world.drain()
    get = world.store.get

    def slow_get(keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Stored]:
        world.store.get = get  # type: ignore[method-assign]  # once
        world.access(9)
        world.drain()
        return get(keys)

    world.store.get = slow_get  # type: ignore[method-assign]  # see above
    state, held = world.pipeline.look()
    assert world.pipeline.plan(state, held).truncated == ()
    assert world.drain() == []


def test_a_message_that_trino_cannot_decode_is_found_and_buried(world: World) -> None:
    world.access(30)
    world.trino.poison = {(1, 4), (2, 7)}
    [report] = world.drain()
    assert len(world.stored("log.index")) == 28
    letters = {
        (each.source["partition"], each.source["offset"], each.source["reason"])
        for each in world.stored(DEAD_INDEX).values()
    }
    assert letters == {(1, 4, "unreadable"), (2, 7, "unreadable")}
    assert (report.rows, report.slices, report.outcome.buried) == (30, 1, {"unreadable": 2})
    assert sum(len(part) for part in report.asked) == 30
    assert world.lag() == 0


def test_a_message_that_trino_fails_at_for_no_known_cause_is_found_when_others_can_be_read(
    world: World,
) -> None:
    world.access(30)
    world.trino.suspects = {(1, 4), (1, 5)}
    world.drain()
    assert len(world.stored("log.index")) == 28
    assert {each.source["offset"] for each in world.stored(DEAD_INDEX).values()} == {4, 5}
    assert world.lag() == 0


@pytest.mark.parametrize("events", [1, 6, 300])
def test_trino_failing_at_everything_is_no_fault_of_the_messages(world: World, events: int) -> None:
    world.access(events)
    world.trino.suspects = {(partition, at) for partition in range(3) for at in range(100)}
    with pytest.raises(MessageSuspected, match="no one knows"):
        world.drain()
    assert len(world.trino.queries) <= MOST_FAILURES
    assert world.stored(DEAD_INDEX) == {}
    assert world.lag() == events


def test_a_slice_that_is_too_large_for_trino_is_halved(world: World) -> None:
    world.access(30)
    world.trino.most_rows = 4
    [report] = world.drain()
    assert (report.rows, report.slices) == (30, 1)
    assert len(world.stored("log.index")) == 30
    assert world.lag() == 0


def test_one_event_that_is_too_large_for_trino_is_no_dead_letter(world: World) -> None:
    world.access(3)
    world.trino.most_rows = 0
    with pytest.raises(QueryTooLarge):
        world.drain()
    assert world.stored(DEAD_INDEX) == {}
    assert world.lag() == 3


def test_the_markers_of_transactions_are_passed_over_and_counted(world: World) -> None:
    world.access(3, partition=1)
    world.kafka.end_transaction(TOPIC, 1)
    world.access(2, partition=1)
    world.kafka.end_transaction(TOPIC, 1)
    [report] = world.drain()
    assert (report.rows, report.empty, report.outcome.settled) == (5, 2, 5)
    assert world.lag() == 0


def test_a_deleted_index_is_filled_again_from_what_the_topic_holds(world: World) -> None:
    world.access(20)
    world.drain()
    [day] = world.store.index_ids("log.index")
    before = world.stored("log.index")
    world.store.delete_index(day)
    loss, indexed = world.drain()
    assert loss.losses == (
        f"{day} was deleted; analyze.action is read again from 2026-03-01, as far as retention has "
        "kept it",
    )
    assert indexed.outcome.indexed == 20
    assert world.stored("log.index").keys() == before.keys()
    assert world.lag() == 0
    assert world.drain() == []


def test_of_two_runs_that_find_a_deleted_index_one_moves_the_positions_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    offsets_at = world.kafka.offsets_at

    def overtaken(topic: str, moment: datetime) -> dict[int, int]:
        monkeypatch.undo()
        world.drain()  # another run, between the look and the move
        return offsets_at(topic, moment)

    world.access(20)
    world.drain()
    [day] = world.store.index_ids("log.index")
    world.store.delete_index(day)
    monkeypatch.setattr(world.kafka, "offsets_at", overtaken)
    assert world.drain() == []
    assert len(world.stored("log.index")) == 20
    assert world.lag() == 0


def test_an_index_that_is_deleted_and_made_again_by_a_live_run_fails_it(world: World) -> None:
    world.access(20)
    world.drain()
    [day] = world.store.index_ids("log.index")
    more = world.access(9)
    world.trino.before_answer = lambda: world.store.delete_index(day)
    with pytest.raises(SliceError, match=f"index {day} was deleted while it was written to"):
        world.drain()
    world.drain()
    assert len(world.stored("log.index")) == 29
    assert set(more) <= world.stored("log.index").keys()


def test_a_request_that_is_too_large_is_sent_in_parts(world: World) -> None:
    ids = world.access(9)
    world.store.largest_request = 1_500
    world.drain()
    assert sorted(world.stored("log.index")) == sorted(ids)


def test_a_dead_letter_that_the_index_refuses_fails_the_slice(world: World) -> None:
    """A letter in no place would be a lost event."""
    world.access(9)
    event = {"uuid": str(uuid.uuid4()), "uri": "/" + "x" * 7_500, "name": "kafka"}
    world.kafka.produce(TOPIC, json.dumps(event).encode())
    world.store.largest_request = 7_500  # less than its document, and than its raw bytes
    with pytest.raises(SliceError, match="kp.dead refuses a letter: request_too_large"):
        world.drain()
    assert world.lag() == 10


def test_a_short_answer_fails_the_slice_and_moves_no_position(world: World) -> None:
    world.access(20)
    world.trino.drop = {(1, 3)}
    with pytest.raises(ShortAnswer, match="1 of 7 offsets of partition 1 did not come"):
        world.drain()
    assert world.lag() == 20


def test_a_failed_query_moves_no_position(world: World) -> None:
    world.access(20)
    world.trino.failure = "MySQL is down"
    with pytest.raises(QueryFailed, match="MySQL is down"):
        world.drain()
    assert world.lag() == 20
    assert world.stored("log.index") == {}


def test_a_malformed_message_becomes_a_dead_letter_with_its_bytes(world: World) -> None:
    ids = world.access(3, partition=1)
    world.kafka.produce(TOPIC, b"\xff not json", 1, key=b"k")
    ids += world.access(3, partition=1)
    [report] = world.drain()
    assert sorted(world.stored("log.index")) == sorted(ids)
    [letter] = world.stored(DEAD_INDEX).values()
    assert letter.source["reason"] == "not_json"
    assert (letter.source["partition"], letter.source["offset"]) == (1, 3)
    assert base64.b64decode(letter.source["value"]) == b"\xff not json"
    assert base64.b64decode(letter.source["key"]) == b"k"
    assert (report.outcome.dead, report.outcome.buried) == ([], {"not_json": 1})
    assert world.lag() == 0


@pytest.mark.parametrize(
    "error",
    [
        "document_parsing_exception",  # a value that its field cannot hold
        "illegal_argument_exception",  # a keyword of more than 32,766 bytes
        "mapper_parsing_exception",
        "strict_dynamic_mapping_exception",  # a field that the mapping has not
    ],
)
def test_a_document_that_is_at_fault_becomes_a_dead_letter(world: World, error: str) -> None:
    ids = world.access(9)
    world.store.refuse[ids[4]] = [ItemResult(400, error, "no")]
    world.drain()
    assert sorted(world.stored("log.index")) == sorted(set(ids) - {ids[4]})
    [letter] = world.stored(DEAD_INDEX).values()
    assert letter.source["reason"] == error
    assert world.lag() == 0


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, "validation_exception"),  # the cluster has as many shards as it may
        (404, "index_not_found_exception"),  # indices may not be made by writing
        (401, "security_exception"),
    ],
)
def test_a_cluster_in_trouble_makes_no_dead_letters(world: World, status: int, error: str) -> None:
    ids = world.access(9)
    world.store.refuse[ids[4]] = [ItemResult(status, error, "trouble")]
    with pytest.raises(SliceError, match="trouble"):
        world.drain()
    assert world.stored(DEAD_INDEX) == {}
    assert world.lag() == 9


def test_a_position_that_the_index_refuses_is_an_error_and_not_another_run(world: World) -> None:
    world.access(3, partition=0)
    state, _ = world.pipeline.look()
    identity = f"access_log:{state.topic_id}:0"
    world.store.refuse[identity] = [ItemResult(400, "strict_dynamic_mapping_exception", "no")]
    with pytest.raises(SliceError, match="refuses a position"):
        world.drain()
    assert world.lag() == 3


def test_the_same_event_sent_twice_is_one_document_and_is_counted(world: World) -> None:
    event = json.dumps({"uuid": str(uuid.uuid4()), "uri": "/", "name": "kafka"}).encode()
    for _ in range(3):
        world.kafka.produce(TOPIC, event)
    [report] = world.drain()
    assert (report.outcome.indexed, report.outcome.duplicates) == (1, 2)
    assert world.stored(DEAD_INDEX) == {}


def test_another_event_with_a_taken_uuid_is_a_dead_letter(world: World) -> None:
    identity = str(uuid.uuid4())
    for uri in ("/first", "/second"):
        event = {"uuid": identity, "uri": uri, "name": "kafka"}
        world.kafka.produce(TOPIC, json.dumps(event).encode())
    world.drain()
    assert world.stored("log.index")[identity].source["uri"] == "/first"
    [letter] = world.stored(DEAD_INDEX).values()
    assert (letter.source["reason"], letter.source["offset"]) == ("conflict", 1)


def test_a_busy_server_is_asked_again_for_the_rejected_items_only(world: World) -> None:
    ids = world.access(7, partition=0)
    world.store.refuse[ids[2]] = [ItemResult(429, "es_rejected_execution_exception", "busy")] * 2
    [report] = world.drain()
    assert (report.outcome.indexed, report.outcome.already_there) == (7, 0)


def test_a_server_that_stays_busy_fails_the_operation() -> None:
    store = FakeElasticsearch()
    store.refuse["a"] = [ItemResult(503, "unavailable", "down")] * 1000
    with pytest.raises(BulkOverloaded, match="1 of 1 operations refused: down"):
        send(store, [create("log.index-x", "a", b"{}")], retry_seconds=0.3)


def test_a_write_block_that_passes_is_waited_for(world: World) -> None:
    ids = world.access(7)
    world.store.refuse[ids[2]] = [ItemResult(403, "cluster_block_exception", "a replay")]
    [report] = world.drain()
    assert report.outcome.indexed == 7


def test_a_write_block_that_stays_fails_the_slice_and_makes_no_dead_letters(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "BLOCKED_SECONDS", 0)
    ids = world.access(7)
    world.store.refuse[ids[2]] = [ItemResult(403, "cluster_block_exception", "read-only")]
    with pytest.raises(IndexBlocked, match="read-only"):
        world.drain()
    assert world.lag() == 7
    assert world.stored(DEAD_INDEX) == {}


def test_offsets_deleted_before_they_were_read_are_a_recorded_gap(world: World) -> None:
    world.access(10, partition=2)
    world.drain()
    world.access(10, partition=2)
    world.kafka.delete_records(TOPIC, 2, before=15)
    loss, indexed = world.drain()
    [gap] = world.stored(GAP_INDEX).values()
    assert (gap.source["partition"], gap.source["start"], gap.source["end"]) == (2, 10, 15)
    assert loss.losses == ("retention deleted analyze.action 2:[10,15) before it was read",)
    assert (indexed.rows, indexed.losses) == (5, ())
    assert len(world.stored("log.index")) == 15
    assert world.lag() == 0


def test_a_gap_up_to_the_end_moves_the_position_and_its_mirror(world: World) -> None:
    world.access(10, partition=2)
    world.kafka.delete_records(TOPIC, 2, before=4)
    world.drain()
    world.access(5, partition=2)
    world.kafka.delete_records(TOPIC, 2, before=15)
    world.drain()
    assert world.lag() == 0
    assert world.kafka.committed(ACCESS_LOG.consumer_group, TOPIC)[2] == 15


def test_a_log_that_lost_its_end_is_read_again_and_says_so(world: World) -> None:
    world.access(10, partition=0)
    world.drain()
    del world.kafka.topics[TOPIC].messages[0][6:]
    world.access(1, partition=0)
    loss, _ = world.drain()
    assert loss.losses == (
        "analyze.action has lost 0:[7,10) from its end; it is read from its start",
    )
    assert len(world.stored("log.index")) == 11
    assert world.lag() == 0


def test_a_topic_made_again_is_read_from_its_start_and_says_so(world: World) -> None:
    world.access(10)
    world.drain()
    world.kafka.delete_topic(TOPIC)
    world.kafka.create_topics({TOPIC: 3})
    world.access(4)
    loss, _ = world.drain()
    assert "was deleted and made again" in loss.losses[0]
    assert len(world.stored("log.index")) == 14
    assert world.lag() == 0


def test_a_topic_made_again_under_a_following_run_is_said_too(world: World) -> None:
    world.access(10)
    following = replace(
        world.pipeline, limits=replace(world.pipeline.limits, follow_idle_seconds=9)
    )
    reports = (report for report in following.drain() if report is not None)
    assert next(reports).rows == 10
    world.kafka.delete_topic(TOPIC)
    world.kafka.create_topics({TOPIC: 3})
    world.access(4)
    assert "was deleted and made again" in next(reports).losses[0]
    assert next(reports).rows == 4


def test_partitions_added_to_a_topic_that_was_made_again_are_no_loss(world: World) -> None:
    world.access(3)
    world.drain()
    world.kafka.delete_topic(TOPIC)
    world.kafka.create_topics({TOPIC: 3})
    world.access(3)
    first, second = (replace(world.pipeline, assignment=part) for part in (range(2), range(2, 3)))
    reports = [*first.drain(), *second.drain()]
    assert [bool(report.losses) for report in reports if report] == [True, False, False]


def test_runs_that_take_partitions_each_take_all_of_them_once(world: World) -> None:
    ids = world.access(30)
    first, second = (replace(world.pipeline, assignment=part) for part in (range(2), range(2, 4)))
    taken = [
        {part.partition: len(part) for report in run.drain() if report for part in report.asked}
        for run in (first, second)
    ]
    assert taken == [{0: 10, 1: 10}, {2: 10}]
    assert world.stored("log.index").keys() == set(ids)
    assert world.lag() == 0


def test_a_run_of_some_partitions_reads_a_deleted_index_again_for_all(world: World) -> None:
    world.access(30)
    following = replace(
        world.pipeline,
        assignment=range(2),
        limits=replace(world.pipeline.limits, follow_idle_seconds=9),
    )
    reports = (report for report in following.drain() if report is not None)
    assert next(reports).rows == 20
    other = replace(world.pipeline, assignment=range(2, 3))
    assert [report.rows for report in other.drain() if report] == [10]
    [day] = world.store.index_ids("log.index")
    world.store.delete_index(day)
    loss, again = (report for report in other.drain() if report)
    assert (bool(loss.losses), again.rows) == (True, 10)
    assert world.lag() == 20
    world.access(3)
    assert list(reports) == []  # its positions were moved, so it ends
    assert sum(report.rows for report in world.drain()) == 23
    assert len(world.stored("log.index")) == 33


def test_positions_are_mirrored_to_the_consumer_group(world: World) -> None:
    world.access(9)
    world.drain()
    assert world.kafka.committed(ACCESS_LOG.consumer_group, TOPIC) == {0: 3, 1: 3, 2: 3}


def test_a_run_renews_the_mirror_though_it_has_nothing_to_do(world: World) -> None:
    world.access(9)
    world.drain()
    world.kafka.groups.clear()
    assert world.drain() == []
    assert world.kafka.committed(ACCESS_LOG.consumer_group, TOPIC) == {0: 3, 1: 3, 2: 3}


def test_a_mirror_that_failed_is_made_good_before_a_run_ends(world: World) -> None:
    world.access(9)
    reports = world.pipeline.drain()
    next(report for report in reports if report is not None)
    world.kafka.groups.clear()
    assert list(reports) == []
    assert world.kafka.committed(ACCESS_LOG.consumer_group, TOPIC) == {0: 3, 1: 3, 2: 3}


def test_reports_add_up() -> None:
    world = World(slice_rows=10)
    world.access(25)
    first, second, third = world.drain()
    total = first.followed_by(second).followed_by(third)
    assert (total.slices, total.rows, total.outcome.indexed) == (3, 25, 25)
    assert [str(part) for part in total.asked] == ["0:[0,9)", "1:[0,8)", "2:[0,8)"]


def test_reports_of_a_partition_read_anew_keep_its_ranges_apart() -> None:
    before = SliceReport(asked=(OffsetRange(0, 90, 100),))
    after = SliceReport(asked=(OffsetRange(0, 0, 5),))
    assert before.followed_by(after).asked == before.asked + after.asked


def test_a_slice_is_indexed_by_as_few_requests_as_its_rows_need(world: World) -> None:
    world.access(40)
    world.pipeline.prepare()
    before = world.store.requests
    world.drain()
    documents, note, position = math.ceil(40 / world.limits.bulk_rows), 1, 1
    assert world.store.requests - before == documents + note + position


@pytest.mark.parametrize("count", [9, 10, 11, 30])
def test_operations_are_sent_by_as_few_requests_as_their_bytes_need(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    operations = [create("log.index-x", f"{number:04}", b"{}") for number in range(count)]
    size = len(operations[0])
    monkeypatch.setattr(store_module, "MAX_REQUEST_BYTES", 10 * size + 1)
    store = FakeElasticsearch()
    send(store, operations)
    assert store.requests == math.ceil(count * size / (10 * size))


def large(world: World) -> None:
    """More reference data than is read for each slice."""
    world.mysql.rows.update({f"unused-{number}": 1_000 + number for number in range(60_000)})


def test_small_reference_data_are_read_whole_by_one_query_a_slice(small_slices: World) -> None:
    small_slices.access(40)
    assert len(small_slices.drain()) == len(small_slices.trino.queries) == 4


def test_of_large_reference_data_only_the_keys_of_a_slice_are_read(small_slices: World) -> None:
    large(small_slices)
    for name in (*REFERENCE_VALUES, "nobody", "it's"):
        small_slices.access(4, name=name)
    reports = small_slices.drain()
    first, *others = [report.query.processed_rows for report in reports]
    assert first > 60_000
    assert max(others) < 30
    assert len(small_slices.trino.queries) == 2 * len(reports) - 1
    for document in small_slices.stored("log.index").values():
        known = document.source["name"] in REFERENCE_VALUES
        assert (document.source["test_id"] is not None) is known
        assert document.source["enrichment"]["state"] == ("complete" if known else "none")


def test_the_next_run_knows_that_reference_data_are_large(world: World) -> None:
    large(world)
    world.access(5)
    world.drain()
    world.access(5)
    world.pipeline = world.pipeline_of(ACCESS_LOG)
    [report] = world.drain()
    assert (report.outcome.indexed, report.query.processed_rows) == (5, 7)


def test_more_keys_than_can_be_listed_are_not(
    small_slices: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "_MOST_KEYS", 1)
    large(small_slices)
    small_slices.access(20, name="kafka")
    small_slices.access(20, name="presto")
    small_slices.drain()
    states = [each.source["enrichment"]["state"] for each in small_slices.stored("log.").values()]
    assert states == ["complete"] * 40


def test_reference_data_that_have_no_room_are_not_read_whole_again(world: World) -> None:
    large(world)
    world.trino.most_other_rows = 1_000
    world.access(40)
    [report] = world.drain()
    assert report.outcome.indexed == 40
