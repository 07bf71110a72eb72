"""The invariant: every offset below a position is indexed, a dead letter, or in a recorded gap."""

import base64
import json
import math
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime

import pytest
import stamina

from kp_platform.engine import bulk, lookup_pushdown
from kp_platform.engine.bisection import MOST_FAILURES
from kp_platform.engine.bulk import create, send
from kp_platform.engine.dead_letters import DEAD_INDEX, GAP_INDEX
from kp_platform.engine.errors import (
    BulkOverloaded,
    IncompleteAnswer,
    IndexBlocked,
    PositionConflict,
    QueryFailed,
    QueryTooLarge,
    SliceError,
    SuspectMessage,
)
from kp_platform.engine.offsets import OffsetRange
from kp_platform.engine.ports import ItemResult, Stored
from kp_platform.engine.reports import SliceReport
from kp_platform.flows.builtin import ACCESS_LOG
from kp_platform.operations.reference_data import REFERENCE_VALUES
from kp_platform_tests.fakes import FakeElasticsearch
from kp_platform_tests.unit.engine.harness import Harness

TOPIC = ACCESS_LOG.topic


@pytest.fixture
def harness() -> Harness:
    return Harness()


@pytest.fixture
def retries_without_waiting() -> Iterator[None]:
    with stamina.set_testing(True, attempts=5):
        yield


@pytest.fixture
def small_slices() -> Harness:
    return Harness(slice_rows=10)


def test_every_event_is_indexed_under_its_uuid_with_its_own_uri(harness: Harness) -> None:
    ids = harness.access(40)
    [report] = harness.run()
    documents = harness.stored("log.index")
    assert sorted(documents) == sorted(ids)
    assert {key: each.source["uri"] for key, each in documents.items()} == {
        identity: f"/{identity}" for identity in ids
    }
    assert (report.rows, report.outcome.indexed, report.lag_after) == (40, 40, 0)
    assert harness.lag() == 0


def test_each_document_carries_the_row_and_value_of_its_own_name(harness: Harness) -> None:
    for name in REFERENCE_VALUES:
        harness.access(5, name=name)
    harness.run()
    for stored in harness.stored("log.index").values():
        name = stored.source["name"]
        assert stored.source["test_name"] == stored.source["redis_key"] == name
        assert stored.source["redis_value"] == REFERENCE_VALUES[name]
        assert stored.source["test_id"] == harness.mysql.rows[name]


def test_an_event_without_reference_rows_is_indexed(harness: Harness) -> None:
    ids = harness.access(1, name="nobody")
    [report] = harness.run()
    assert harness.stored("log.index")[ids[0]].source["enrichment"]["state"] == "none"
    assert report.missing == {"mysql": 1, "redis": 1}


def test_a_long_topic_is_read_in_slices_of_the_limit(small_slices: Harness) -> None:
    small_slices.access(95)
    reports = small_slices.run()
    assert [report.rows for report in reports] == [10] * 9 + [5]
    assert len(small_slices.stored("log.index")) == 95


def test_a_second_run_finds_nothing_to_do(harness: Harness) -> None:
    harness.access(5)
    harness.run()
    assert harness.run() == []


def test_a_replay_of_the_same_offsets_adds_nothing(harness: Harness) -> None:
    harness.access(40)
    harness.run()
    before = harness.stored("log.index")
    for key in [key for key in harness.store.documents if key[0] == "kp.positions"]:
        del harness.store.documents[key]
    [report] = harness.run()
    assert (report.outcome.indexed, report.outcome.already_indexed) == (0, 40)
    assert harness.stored("log.index") == before


def test_a_run_killed_before_its_commit_is_repeated_without_duplicates(harness: Harness) -> None:
    harness.access(20)
    state, stored = harness.indexer.read_positions()
    slice_ = harness.indexer.plan(state, stored).slice
    assert slice_ is not None
    harness.indexer.process(state, slice_)
    assert harness.lag() == 20
    harness.run()
    assert len(harness.stored("log.index")) == 20
    assert harness.lag() == 0


def test_of_two_runs_on_the_same_slice_one_wins(harness: Harness) -> None:
    harness.access(20)
    state, stored = harness.indexer.read_positions()
    slice_ = harness.indexer.plan(state, stored).slice
    assert slice_ is not None
    harness.indexer.process(state, slice_)
    harness.indexer.commit(state, stored, slice_.ends())
    harness.indexer.process(state, slice_)
    with pytest.raises(PositionConflict):
        harness.indexer.commit(state, stored, slice_.ends())
    assert len(harness.stored("log.index")) == 20
    assert harness.lag() == 0


def test_a_run_whose_slice_another_run_commits_ends_without_an_error(harness: Harness) -> None:
    harness.access(20)
    harness.trino.before_answer = harness.run  # another run, on the same slice
    assert harness.run() == []
    assert len(harness.stored("log.index")) == 20
    assert harness.lag() == 0


def test_a_position_conflict_never_moves_a_position_back(harness: Harness) -> None:
    harness.access(20)

    def overtake() -> None:
        harness.run()
        harness.access(20)
        harness.run()

    harness.trino.before_answer = overtake
    assert harness.run() == []
    assert harness.lag() == 0


def test_a_position_that_moved_between_two_reads_is_not_a_truncated_log(harness: Harness) -> None:
    """Watermarks are read first, positions second; another run may commit in between."""
    harness.access(9)
    harness.run()
    get = harness.store.get

    def slow_get(keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Stored]:
        harness.store.get = get  # type: ignore[method-assign]  # once
        harness.access(9)
        harness.run()
        return get(keys)

    harness.store.get = slow_get  # type: ignore[method-assign]  # see above
    state, stored = harness.indexer.read_positions()
    assert harness.indexer.plan(state, stored).truncated == ()
    assert harness.run() == []


def test_an_undecodable_message_is_found_and_becomes_a_dead_letter(harness: Harness) -> None:
    harness.access(30)
    harness.trino.poison = {(1, 4), (2, 7)}
    [report] = harness.run()
    assert len(harness.stored("log.index")) == 28
    stored = {
        (each.source["partition"], each.source["offset"], each.source["reason"])
        for each in harness.stored(DEAD_INDEX).values()
    }
    assert stored == {(1, 4, "unreadable"), (2, 7, "unreadable")}
    assert (report.rows, report.slices, report.outcome.dead_lettered) == (30, 1, {"unreadable": 2})
    assert sum(len(each) for each in report.asked) == 30
    assert harness.lag() == 0


def test_a_suspect_message_is_found_when_others_can_be_read(
    harness: Harness,
) -> None:
    harness.access(30)
    harness.trino.suspect = {(1, 4), (1, 5)}
    harness.run()
    assert len(harness.stored("log.index")) == 28
    assert {each.source["offset"] for each in harness.stored(DEAD_INDEX).values()} == {4, 5}
    assert harness.lag() == 0


@pytest.mark.parametrize("events", [1, 6, 300])
def test_when_trino_fails_for_every_message_none_is_a_dead_letter(
    harness: Harness, events: int
) -> None:
    harness.access(events)
    harness.trino.suspect = {(partition, at) for partition in range(3) for at in range(100)}
    with pytest.raises(SuspectMessage, match="cause unknown"):
        harness.run()
    assert len(harness.trino.queries) <= MOST_FAILURES
    assert harness.stored(DEAD_INDEX) == {}
    assert harness.lag() == events


def test_a_slice_that_exceeds_trinos_memory_is_split(harness: Harness) -> None:
    harness.access(30)
    harness.trino.most_rows = 4
    [report] = harness.run()
    assert (report.rows, report.slices) == (30, 1)
    assert len(harness.stored("log.index")) == 30
    assert harness.lag() == 0


def test_one_event_that_exceeds_trinos_memory_is_not_a_dead_letter(harness: Harness) -> None:
    harness.access(3)
    harness.trino.most_rows = 0
    with pytest.raises(QueryTooLarge):
        harness.run()
    assert harness.stored(DEAD_INDEX) == {}
    assert harness.lag() == 3


def test_markers_of_transactions_are_counted_as_empty_offsets(harness: Harness) -> None:
    harness.access(3, partition=1)
    harness.kafka.end_transaction(TOPIC, 1)
    harness.access(2, partition=1)
    harness.kafka.end_transaction(TOPIC, 1)
    [report] = harness.run()
    assert (report.rows, report.empty, report.outcome.settled) == (5, 2, 5)
    assert harness.lag() == 0


def test_a_deleted_index_is_restored_from_the_topic(harness: Harness) -> None:
    harness.access(20)
    harness.run()
    [day] = harness.store.index_ids("log.index")
    before = harness.stored("log.index")
    harness.store.delete_index(day)
    recovered, indexed = harness.run()
    assert recovered.gaps == (
        f"{day} was deleted; analyze.action is reprocessed from 2026-03-01, as far as retention "
        "has kept it",
    )
    assert indexed.outcome.indexed == 20
    assert harness.stored("log.index").keys() == before.keys()
    assert harness.lag() == 0
    assert harness.run() == []


def test_of_two_runs_that_detect_a_deleted_index_one_moves_the_positions_back(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    offsets_at = harness.kafka.offsets_at

    def overtaken(topic: str, moment: datetime) -> dict[int, int]:
        monkeypatch.undo()
        harness.run()  # another run, between the read and the move
        return offsets_at(topic, moment)

    harness.access(20)
    harness.run()
    [day] = harness.store.index_ids("log.index")
    harness.store.delete_index(day)
    monkeypatch.setattr(harness.kafka, "offsets_at", overtaken)
    assert harness.run() == []
    assert len(harness.stored("log.index")) == 20
    assert harness.lag() == 0


def test_an_index_that_is_deleted_and_recreated_during_a_run_fails_it(harness: Harness) -> None:
    harness.access(20)
    harness.run()
    [day] = harness.store.index_ids("log.index")
    more = harness.access(9)
    harness.trino.before_answer = lambda: harness.store.delete_index(day)
    with pytest.raises(SliceError, match=f"index {day} was deleted while it was written to"):
        harness.run()
    harness.run()
    assert len(harness.stored("log.index")) == 29
    assert set(more) <= harness.stored("log.index").keys()


def test_a_request_that_is_too_large_is_sent_in_parts(harness: Harness) -> None:
    ids = harness.access(9)
    harness.store.largest_request = 1_500
    harness.run()
    assert sorted(harness.stored("log.index")) == sorted(ids)


def test_a_dead_letter_that_is_refused_fails_the_slice(harness: Harness) -> None:
    """Without its dead letter the event would be lost."""
    harness.access(9)
    event = {"uuid": str(uuid.uuid4()), "uri": "/" + "x" * 7_500, "name": "kafka"}
    harness.kafka.produce(TOPIC, json.dumps(event).encode())
    harness.store.largest_request = 7_500  # less than its document, and than its raw bytes
    with pytest.raises(SliceError, match="kp.dead refuses a dead letter: request_too_large"):
        harness.run()
    assert harness.lag() == 10


def test_an_incomplete_answer_fails_the_slice_and_moves_no_position(harness: Harness) -> None:
    harness.access(20)
    harness.trino.drop = {(1, 3)}
    with pytest.raises(IncompleteAnswer, match="1 of 7 offsets of partition 1 did not come"):
        harness.run()
    assert harness.lag() == 20


def test_a_failed_query_moves_no_position(harness: Harness) -> None:
    harness.access(20)
    harness.trino.failure = "MySQL is down"
    with pytest.raises(QueryFailed, match="MySQL is down"):
        harness.run()
    assert harness.lag() == 20
    assert harness.stored("log.index") == {}


def test_a_malformed_message_becomes_a_dead_letter_with_its_bytes(harness: Harness) -> None:
    ids = harness.access(3, partition=1)
    harness.kafka.produce(TOPIC, b"\xff not json", 1, key=b"k")
    ids += harness.access(3, partition=1)
    [report] = harness.run()
    assert sorted(harness.stored("log.index")) == sorted(ids)
    [dead_letter] = harness.stored(DEAD_INDEX).values()
    assert dead_letter.source["reason"] == "not_json"
    assert (dead_letter.source["partition"], dead_letter.source["offset"]) == (1, 3)
    assert base64.b64decode(dead_letter.source["value"]) == b"\xff not json"
    assert base64.b64decode(dead_letter.source["key"]) == b"k"
    assert (report.outcome.rejected, report.outcome.dead_lettered) == ([], {"not_json": 1})
    assert harness.lag() == 0


@pytest.mark.parametrize(
    "error",
    [
        "document_parsing_exception",  # a value that its field cannot hold
        "illegal_argument_exception",  # a keyword of more than 32,766 bytes
        "mapper_parsing_exception",
        "strict_dynamic_mapping_exception",  # a field that the mapping has not
    ],
)
def test_a_document_that_the_index_rejects_becomes_a_dead_letter(
    harness: Harness, error: str
) -> None:
    ids = harness.access(9)
    harness.store.refuse[ids[4]] = [ItemResult(400, error, "no")]
    harness.run()
    assert sorted(harness.stored("log.index")) == sorted(set(ids) - {ids[4]})
    [dead_letter] = harness.stored(DEAD_INDEX).values()
    assert dead_letter.source["reason"] == error
    assert harness.lag() == 0


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, "validation_exception"),  # the cluster has as many shards as it may
        (404, "index_not_found_exception"),  # indices may not be made by writing
        (401, "security_exception"),
    ],
)
def test_an_error_of_the_cluster_creates_no_dead_letters(
    harness: Harness, status: int, error: str
) -> None:
    ids = harness.access(9)
    harness.store.refuse[ids[4]] = [ItemResult(status, error, "trouble")]
    with pytest.raises(SliceError, match="trouble"):
        harness.run()
    assert harness.stored(DEAD_INDEX) == {}
    assert harness.lag() == 9


def test_a_position_that_the_index_refuses_is_not_a_position_conflict(
    harness: Harness,
) -> None:
    harness.access(3, partition=0)
    state, _ = harness.indexer.read_positions()
    identity = f"access_log:{state.topic_id}:0"
    harness.store.refuse[identity] = [ItemResult(400, "strict_dynamic_mapping_exception", "no")]
    with pytest.raises(SliceError, match="refuses a position"):
        harness.run()
    assert harness.lag() == 3


def test_the_same_event_sent_twice_is_one_document_and_is_counted(harness: Harness) -> None:
    event = json.dumps({"uuid": str(uuid.uuid4()), "uri": "/", "name": "kafka"}).encode()
    for _ in range(3):
        harness.kafka.produce(TOPIC, event)
    [report] = harness.run()
    assert (report.outcome.indexed, report.outcome.duplicates) == (1, 2)
    assert harness.stored(DEAD_INDEX) == {}


def test_another_event_with_a_taken_uuid_is_a_dead_letter(harness: Harness) -> None:
    identity = str(uuid.uuid4())
    for uri in ("/first", "/second"):
        event = {"uuid": identity, "uri": uri, "name": "kafka"}
        harness.kafka.produce(TOPIC, json.dumps(event).encode())
    harness.run()
    assert harness.stored("log.index")[identity].source["uri"] == "/first"
    [dead_letter] = harness.stored(DEAD_INDEX).values()
    assert (dead_letter.source["reason"], dead_letter.source["offset"]) == ("conflict", 1)


@pytest.mark.usefixtures("retries_without_waiting")
def test_a_busy_server_gets_only_the_rejected_operations_again(harness: Harness) -> None:
    ids = harness.access(7, partition=0)
    harness.store.refuse[ids[2]] = [ItemResult(429, "es_rejected_execution_exception", "busy")] * 2
    [report] = harness.run()
    assert (report.outcome.indexed, report.outcome.already_indexed) == (7, 0)


def test_a_server_that_stays_busy_fails_the_operation() -> None:
    store = FakeElasticsearch()
    store.refuse["a"] = [ItemResult(503, "unavailable", "down")] * 1000
    with pytest.raises(BulkOverloaded, match="1 of 1 operations refused: down"):
        send(store, [create("log.index-x", "a", b"{}")], retry_seconds=0.3)


@pytest.mark.usefixtures("retries_without_waiting")
def test_a_write_is_retried_until_a_short_block_is_lifted(harness: Harness) -> None:
    ids = harness.access(7)
    harness.store.refuse[ids[2]] = [ItemResult(403, "cluster_block_exception", "a replay")]
    [report] = harness.run()
    assert report.outcome.indexed == 7


def test_a_lasting_write_block_fails_the_slice_and_creates_no_dead_letters(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "BLOCKED_SECONDS", 0)
    ids = harness.access(7)
    harness.store.refuse[ids[2]] = [ItemResult(403, "cluster_block_exception", "read-only")]
    with pytest.raises(IndexBlocked, match="read-only"):
        harness.run()
    assert harness.lag() == 7
    assert harness.stored(DEAD_INDEX) == {}


def test_offsets_deleted_before_they_were_read_are_a_recorded_gap(harness: Harness) -> None:
    harness.access(10, partition=2)
    harness.run()
    harness.access(10, partition=2)
    harness.kafka.delete_records(TOPIC, 2, before=15)
    recovered, indexed = harness.run()
    [gap] = harness.stored(GAP_INDEX).values()
    assert (gap.source["partition"], gap.source["start"], gap.source["end"]) == (2, 10, 15)
    assert recovered.gaps == ("retention deleted analyze.action 2:[10,15) before it was read",)
    assert (indexed.rows, indexed.gaps) == (5, ())
    assert len(harness.stored("log.index")) == 15
    assert harness.lag() == 0


def test_a_gap_up_to_the_end_moves_the_position_and_its_mirror(harness: Harness) -> None:
    harness.access(10, partition=2)
    harness.kafka.delete_records(TOPIC, 2, before=4)
    harness.run()
    harness.access(5, partition=2)
    harness.kafka.delete_records(TOPIC, 2, before=15)
    harness.run()
    assert harness.lag() == 0
    assert harness.kafka.committed(ACCESS_LOG.consumer_group, TOPIC)[2] == 15


def test_a_truncated_partition_is_read_from_its_start_and_reported(harness: Harness) -> None:
    harness.access(10, partition=0)
    harness.run()
    del harness.kafka.topics[TOPIC].messages[0][6:]
    harness.access(1, partition=0)
    recovered, _ = harness.run()
    assert recovered.gaps == (
        "analyze.action has lost 0:[7,10) from its end; it is read from its start",
    )
    assert len(harness.stored("log.index")) == 11
    assert harness.lag() == 0


def test_a_recreated_topic_is_read_from_its_start_and_reported(harness: Harness) -> None:
    harness.access(10)
    harness.run()
    harness.kafka.delete_topic(TOPIC)
    harness.kafka.create_topics({TOPIC: 3})
    harness.access(4)
    recovered, _ = harness.run()
    assert "was deleted and recreated" in recovered.gaps[0]
    assert len(harness.stored("log.index")) == 14
    assert harness.lag() == 0


def test_a_topic_recreated_during_a_run_is_reported(harness: Harness) -> None:
    harness.access(10)
    polling = replace(
        harness.indexer, limits=replace(harness.indexer.limits, follow_idle_seconds=9)
    )
    reports = (report for report in polling.run() if report is not None)
    assert next(reports).rows == 10
    harness.kafka.delete_topic(TOPIC)
    harness.kafka.create_topics({TOPIC: 3})
    harness.access(4)
    assert "was deleted and recreated" in next(reports).gaps[0]
    assert next(reports).rows == 4


def test_partitions_added_to_a_recreated_topic_are_not_reported(harness: Harness) -> None:
    harness.access(3)
    harness.run()
    harness.kafka.delete_topic(TOPIC)
    harness.kafka.create_topics({TOPIC: 3})
    harness.access(3)
    first, second = (replace(harness.indexer, assignment=each) for each in (range(2), range(2, 3)))
    reports = [*first.run(), *second.run()]
    assert [bool(report.gaps) for report in reports if report] == [True, False, False]


def test_runs_with_assignments_consume_each_partition_once(harness: Harness) -> None:
    ids = harness.access(30)
    first, second = (replace(harness.indexer, assignment=each) for each in (range(2), range(2, 4)))
    taken = [
        {each.partition: len(each) for report in run.run() if report for each in report.asked}
        for run in (first, second)
    ]
    assert taken == [{0: 10, 1: 10}, {2: 10}]
    assert harness.stored("log.index").keys() == set(ids)
    assert harness.lag() == 0


def test_a_run_with_an_assignment_restores_a_deleted_index_for_all_partitions(
    harness: Harness,
) -> None:
    harness.access(30)
    polling = replace(
        harness.indexer,
        assignment=range(2),
        limits=replace(harness.indexer.limits, follow_idle_seconds=9),
    )
    reports = (report for report in polling.run() if report is not None)
    assert next(reports).rows == 20
    other = replace(harness.indexer, assignment=range(2, 3))
    assert [report.rows for report in other.run() if report] == [10]
    [day] = harness.store.index_ids("log.index")
    harness.store.delete_index(day)
    recovered, again = (report for report in other.run() if report)
    assert (bool(recovered.gaps), again.rows) == (True, 10)
    assert harness.lag() == 20
    harness.access(3)
    assert list(reports) == []  # its positions were moved, so it ends
    assert sum(report.rows for report in harness.run()) == 23
    assert len(harness.stored("log.index")) == 33


def test_positions_are_mirrored_to_the_consumer_group(harness: Harness) -> None:
    harness.access(9)
    harness.run()
    assert harness.kafka.committed(ACCESS_LOG.consumer_group, TOPIC) == {0: 3, 1: 3, 2: 3}


def test_a_run_without_new_offsets_renews_the_mirror(harness: Harness) -> None:
    harness.access(9)
    harness.run()
    harness.kafka.groups.clear()
    assert harness.run() == []
    assert harness.kafka.committed(ACCESS_LOG.consumer_group, TOPIC) == {0: 3, 1: 3, 2: 3}


def test_a_failed_mirror_is_repeated_before_a_run_ends(harness: Harness) -> None:
    harness.access(9)
    reports = harness.indexer.run()
    next(report for report in reports if report is not None)
    harness.kafka.groups.clear()
    assert list(reports) == []
    assert harness.kafka.committed(ACCESS_LOG.consumer_group, TOPIC) == {0: 3, 1: 3, 2: 3}


def test_reports_add_up() -> None:
    harness = Harness(slice_rows=10)
    harness.access(25)
    first, second, third = harness.run()
    total = first.followed_by(second).followed_by(third)
    assert (total.slices, total.rows, total.outcome.indexed) == (3, 25, 25)
    assert [str(each) for each in total.asked] == ["0:[0,9)", "1:[0,8)", "2:[0,8)"]


def test_reports_of_a_partition_read_from_its_start_keep_its_ranges_apart() -> None:
    before = SliceReport(asked=(OffsetRange(0, 90, 100),))
    after = SliceReport(asked=(OffsetRange(0, 0, 5),))
    assert before.followed_by(after).asked == before.asked + after.asked


def test_a_slice_is_indexed_by_as_few_requests_as_its_rows_need(harness: Harness) -> None:
    harness.access(40)
    harness.indexer.prepare()
    before = harness.store.requests
    harness.run()
    documents, registration, position = math.ceil(40 / harness.limits.bulk_rows), 1, 1
    assert harness.store.requests - before == documents + registration + position


@pytest.mark.parametrize("count", [9, 10, 11, 30])
def test_operations_are_sent_by_as_few_requests_as_their_bytes_need(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    operations = [create("log.index-x", f"{number:04}", b"{}") for number in range(count)]
    size = len(operations[0])
    monkeypatch.setattr(bulk, "MAX_REQUEST_BYTES", 10 * size + 1)
    store = FakeElasticsearch()
    send(store, operations)
    assert store.requests == math.ceil(count * size / (10 * size))


def large(harness: Harness) -> None:
    """More reference data than is read for each slice."""
    harness.mysql.rows.update({f"unused-{number}": 1_000 + number for number in range(60_000)})


def test_small_reference_data_are_read_in_full_by_one_query_per_slice(
    small_slices: Harness,
) -> None:
    small_slices.access(40)
    assert len(small_slices.run()) == len(small_slices.trino.queries) == 4


def test_of_large_reference_data_only_the_keys_of_a_slice_are_read(small_slices: Harness) -> None:
    large(small_slices)
    for name in (*REFERENCE_VALUES, "nobody", "it's"):
        small_slices.access(4, name=name)
    reports = small_slices.run()
    first, *later = [report.query.processed_rows for report in reports]
    assert first > 60_000
    assert max(later) < 30
    assert len(small_slices.trino.queries) == 2 * len(reports) - 1
    for document in small_slices.stored("log.index").values():
        known = document.source["name"] in REFERENCE_VALUES
        assert (document.source["test_id"] is not None) is known
        assert document.source["enrichment"]["state"] == ("complete" if known else "none")


def test_the_size_of_reference_data_is_stored_for_the_next_run(harness: Harness) -> None:
    large(harness)
    harness.access(5)
    harness.run()
    harness.access(5)
    harness.indexer = harness.indexer_of(ACCESS_LOG)
    [report] = harness.run()
    assert (report.outcome.indexed, report.query.processed_rows) == (5, 7)


def test_too_many_keys_are_not_listed(
    small_slices: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup_pushdown, "_MOST_KEYS", 1)
    large(small_slices)
    small_slices.access(20, name="kafka")
    small_slices.access(20, name="presto")
    small_slices.run()
    states = [each.source["enrichment"]["state"] for each in small_slices.stored("log.").values()]
    assert states == ["complete"] * 40


def test_reference_data_that_exceed_the_memory_are_not_read_in_full_again(harness: Harness) -> None:
    large(harness)
    harness.trino.most_reference_rows = 1_000
    harness.access(40)
    [report] = harness.run()
    assert report.outcome.indexed == 40
