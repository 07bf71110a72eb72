"""Dead-letter retry: at every moment each offset has a document or a dead letter."""

import json
import uuid
from dataclasses import replace

import pytest

from kp_platform.engine import dead_letters
from kp_platform.engine.dead_letters import DEAD_INDEX, DeadLetter, Selection
from kp_platform.engine.documents import RejectedMessage
from kp_platform.engine.errors import QueryFailed, SliceError
from kp_platform.engine.offsets import OffsetRange, Slice
from kp_platform.engine.ports import ItemResult
from kp_platform.flows.builtin import ACCESS_LOG, FULL_TEXT, REFERENCE_CHANGES
from kp_platform.operations.dead_letter_retry import MOST_OFFSETS, RetryReport, retry, slices
from kp_platform_tests.unit.engine.harness import Harness

TOPIC = ACCESS_LOG.topic
REJECTED = "document_parsing_exception"
OPEN = Selection()


@pytest.fixture
def harness() -> Harness:
    return Harness()


def rejected(harness: Harness, count: int, partition: int = 0) -> list[str]:
    """Events that the index rejects once, between others: their mapping is fixed later."""
    ids = harness.access(3 * count, partition=partition)
    for identity in ids[1::3]:
        harness.store.refuse[identity] = [ItemResult(400, REJECTED, "no")]
    harness.run()
    return ids[1::3]


def stored_dead_letters(harness: Harness, selection: Selection = OPEN) -> list[DeadLetter]:
    harness.store.refresh(DEAD_INDEX)
    return dead_letters.read(harness.store, selection)


def retried(harness: Harness, chosen: list[DeadLetter] | None = None) -> RetryReport:
    indexers = {flow.name: harness.indexer_of(flow) for flow in (ACCESS_LOG, REFERENCE_CHANGES)}
    return retry(indexers, stored_dead_letters(harness) if chosen is None else chosen)


def offsets(harness: Harness) -> list[tuple[int, int]]:
    """The offset of each document and of each dead letter: twice when both exist."""
    stored = [*harness.stored("log.index").values(), *harness.stored(DEAD_INDEX).values()]
    return sorted((each.source["partition"], each.source["offset"]) for each in stored)


def test_a_message_that_is_accepted_now_becomes_a_document_with_its_enrichment(
    harness: Harness,
) -> None:
    ids = rejected(harness, 4)
    report = retried(harness)
    assert (len(report.removed), report.still_dead, report.unreadable) == (4, [], [])
    assert harness.stored(DEAD_INDEX) == {}
    documents = harness.stored("log.index")
    assert {documents[identity].source["test_name"] for identity in ids} == {"presto"}
    assert offsets(harness) == [(0, offset) for offset in range(12)]
    assert str(report) == ("4 indexed and removed, 0 still dead, 0 cannot be read")


def test_a_message_that_is_still_rejected_keeps_its_dead_letter_with_the_current_reason(
    harness: Harness,
) -> None:
    [identity] = rejected(harness, 1)
    [before] = stored_dead_letters(harness)
    harness.store.refuse[identity] = [ItemResult(400, "illegal_argument_exception", "too long")]
    report = retried(harness)
    assert [found.reason for _, found in report.still_dead] == ["illegal_argument_exception"]
    [after] = stored_dead_letters(harness)
    source = dead_letters.by_id(harness.store, after.id).source
    assert (source["reason"], source["detail"]) == ("illegal_argument_exception", "too long")
    assert source["@timestamp"] == before.source["@timestamp"] <= source["retried_at"]
    assert (
        json.loads(
            dead_letters.raw_bytes(DeadLetter(after.id, source, after.version), "value") or b""
        )["uuid"]
        == identity
    )


def test_the_json_report_lists_dead_letters_by_id(harness: Harness) -> None:
    _, second, _ = rejected(harness, 3)
    at = {dead_letter.partition_offset: dead_letter for dead_letter in stored_dead_letters(harness)}
    good, bad, discarded = at[0, 1], at[0, 4], at[0, 7]
    harness.store.refuse[second] = [ItemResult(400, REJECTED, "still")]
    dead_letters.discard(harness.store, [discarded], "2026-03-02T00:00:00.000Z")
    report = retried(harness, stored_dead_letters(harness, Selection(with_discarded=True)))
    assert report.as_json() == {
        "removed": [good.id],
        "still_dead": [{"id": bad.id, "reason": REJECTED, "detail": "still"}],
        "unreadable": [
            {"id": discarded.id, "cause": "it was discarded at 2026-03-02T00:00:00.000Z"}
        ],
    }


def test_only_the_selected_dead_letters_are_read(harness: Harness) -> None:
    rejected(harness, 3)
    [chosen, *remaining] = stored_dead_letters(harness)
    harness.trino.queries.clear()
    retried(harness, [chosen])
    assert harness.trino.queries == [[*chosen.partition_offset, chosen.partition_offset[1] + 1]]
    assert {each.id for each in stored_dead_letters(harness)} == {each.id for each in remaining}


@pytest.mark.parametrize("kept", range(4))
def test_after_a_killed_retry_each_offset_has_a_document_or_a_dead_letter(
    harness: Harness, kept: int
) -> None:
    """Killed before the documents, or between these and the removal of the dead letters."""
    rejected(harness, 2)
    chosen = stored_dead_letters(harness)
    harness.store.dies_after = harness.store.requests + kept
    with pytest.raises(ConnectionError):
        retried(harness, chosen)
    harness.store.dies_after = None
    assert sorted(set(offsets(harness))) == [(0, offset) for offset in range(6)]
    retried(harness)
    assert offsets(harness) == [(0, offset) for offset in range(6)]
    assert harness.stored(DEAD_INDEX) == {}


def test_a_failed_query_removes_no_dead_letter(harness: Harness) -> None:
    rejected(harness, 2)
    harness.trino.failure = "MySQL is down"
    with pytest.raises(QueryFailed, match="MySQL is down"):
        retried(harness)
    assert len(stored_dead_letters(harness)) == 2


def test_a_discarded_dead_letter_is_not_retried_not_even_between_others(harness: Harness) -> None:
    ids = harness.access(4, partition=0)
    for identity in ids[:3]:
        harness.store.refuse[identity] = [ItemResult(400, REJECTED, "no")]
    harness.run()
    middle = next(
        dead_letter
        for dead_letter in stored_dead_letters(harness)
        if dead_letter.partition_offset == (0, 1)
    )
    dead_letters.discard(harness.store, [middle], "2026-03-02T00:00:00.000Z")
    report = retried(harness, stored_dead_letters(harness, Selection(with_discarded=True)))
    assert len(report.removed) == 2
    [(dead_letter, cause)] = report.unreadable
    assert (dead_letter.id, cause) == (middle.id, "it was discarded at 2026-03-02T00:00:00.000Z")
    assert sorted(harness.stored("log.index")) == sorted([ids[0], ids[2], ids[3]])


def test_a_message_that_retention_deleted_keeps_its_dead_letter_with_the_cause(
    harness: Harness,
) -> None:
    rejected(harness, 2)
    harness.kafka.delete_records(TOPIC, 0, before=3)
    report = retried(harness)
    assert [dead_letter.partition_offset for dead_letter in report.removed] == [(0, 4)]
    [(dead_letter, cause)] = report.unreadable
    assert dead_letter.partition_offset == (0, 1)
    assert cause == "retention deleted analyze.action partition 0 below 3"
    assert [each.id for each in stored_dead_letters(harness)] == [dead_letter.id]


def test_messages_of_a_recreated_topic_are_not_taken_for_those_of_dead_letters(
    harness: Harness,
) -> None:
    rejected(harness, 1)
    old = harness.kafka.topic_state(TOPIC).topic_id
    harness.kafka.delete_topic(TOPIC)
    harness.kafka.create_topics({TOPIC: 3})
    harness.access(5, partition=0)
    [(_, cause)] = retried(harness).unreadable
    new = harness.kafka.topic_state(TOPIC).topic_id
    assert cause == f"topic analyze.action was recreated: its id is {new}, not {old}"
    assert len(stored_dead_letters(harness)) == 1


def test_a_topic_recreated_during_the_retry_removes_no_dead_letter(harness: Harness) -> None:
    rejected(harness, 1)
    chosen = stored_dead_letters(harness)

    def recreate() -> None:
        harness.kafka.delete_topic(TOPIC)
        harness.kafka.create_topics({TOPIC: 3})

    harness.trino.after_answer = recreate
    with pytest.raises(SliceError, match="recreated during the read"):
        retried(harness, chosen)
    assert len(stored_dead_letters(harness)) == 1


def test_a_missing_offset_and_an_unknown_flow_are_reported_as_causes(
    harness: Harness,
) -> None:
    rejected(harness, 1)
    [dead_letter] = stored_dead_letters(harness)
    beyond = replace(dead_letter, source=dead_letter.source | {"offset": 99})
    foreign = replace(dead_letter, source=dead_letter.source | {"flow": FULL_TEXT.name})
    causes = [cause for _, cause in retried(harness, [beyond, foreign]).unreadable]
    assert causes == [
        "analyze.action partition 0 no longer has that offset",
        "flow full_text is not declared",
    ]


def test_a_duplicate_of_an_event_indexed_since_is_removed(
    harness: Harness,
) -> None:
    [identity] = rejected(harness, 1)
    event = {"uuid": identity, "uri": f"/{identity}", "name": "presto"}
    harness.kafka.produce(TOPIC, json.dumps(event).encode(), 1)
    harness.run()
    assert len(retried(harness).removed) == 1
    assert harness.stored("log.index")[identity].source["partition"] == 1


def test_a_conflict_and_an_undecodable_message_stay_dead_letters(
    harness: Harness,
) -> None:
    identity = str(uuid.uuid4())
    for uri in ("/first", "/second"):
        event = {"uuid": identity, "uri": uri, "name": "kafka"}
        harness.kafka.produce(TOPIC, json.dumps(event).encode(), 0)
    harness.kafka.produce(TOPIC, b"[[[", 0)
    harness.trino.poison = {(0, 2)}
    harness.run()
    report = retried(harness)
    assert sorted(found.reason for _, found in report.still_dead) == ["conflict", "unreadable"]
    assert "2 still dead (1 conflict, 1 unreadable)" in str(report)
    assert len(stored_dead_letters(harness)) == 2


def test_a_suspect_message_does_not_block_the_retry_of_others(
    harness: Harness,
) -> None:
    rejected(harness, 2)
    harness.trino.suspect = {(0, 1)}
    report = retried(harness)
    assert [dead_letter.partition_offset for dead_letter in report.removed] == [(0, 4)]
    [(dead_letter, cause)] = report.unreadable
    assert (dead_letter.partition_offset, cause) == (
        (0, 1),
        "GENERIC_INTERNAL_ERROR: cause unknown",
    )
    assert [each.id for each in stored_dead_letters(harness)] == [dead_letter.id]


def test_a_dead_letter_of_a_reference_refresh_is_applied(harness: Harness) -> None:
    [identity] = harness.access(1, name="nobody")
    harness.run()
    harness.mysql.add_names(["nobody"])
    change = json.dumps({"source": "mysql", "key": "nobody"}).encode()
    offset = harness.kafka.produce(REFERENCE_CHANGES.topic, change, 0)
    state = harness.kafka.topic_state(REFERENCE_CHANGES.topic)
    raw = harness.kafka.raw_messages(REFERENCE_CHANGES.topic, [(0, offset)])
    dead_letters.store(
        harness.store,
        REFERENCE_CHANGES,
        state,
        [RejectedMessage(0, offset, "", REJECTED, "no")],
        raw,
        "2026-03-02T00:00:00.000Z",
    )
    assert len(retried(harness).removed) == 1
    assert harness.stored("log.index")[identity].source["test_name"] == "nobody"
    assert stored_dead_letters(harness) == []


def test_slices_hold_exactly_the_given_offsets_in_one_range_per_partition() -> None:
    offsets = [(0, 1), (0, 2), (0, 5), (2, 7), *((3, offset) for offset in range(MOST_OFFSETS + 1))]
    first, second = slices(offsets)
    assert first == Slice(
        (OffsetRange(0, 1, 3), OffsetRange(2, 7, 8), OffsetRange(3, 0, MOST_OFFSETS))
    )
    assert second == Slice((OffsetRange(0, 5, 6), OffsetRange(3, MOST_OFFSETS, MOST_OFFSETS + 1)))
    assert list(slices([])) == []
