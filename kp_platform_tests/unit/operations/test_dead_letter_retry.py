"""Dead letters read again, on fakes: at every moment each offset is a document or a letter."""

import json
import uuid
from dataclasses import replace

import pytest

from kp_platform.engine import dead_letters
from kp_platform.engine.dead_letters import DEAD_INDEX, Letter, Selection
from kp_platform.engine.documents import DeadLetter
from kp_platform.engine.errors import QueryFailed, SliceError
from kp_platform.engine.offsets import OffsetRange, Slice
from kp_platform.engine.store import ItemResult
from kp_platform.flows.builtin import ACCESS_LOG, FULL_TEXT, REFERENCE_CHANGES
from kp_platform.operations.dead_letter_retry import MOST_OFFSETS, DeadReplayReport, replay, slices
from kp_platform_tests.unit.engine.harness import World

TOPIC = ACCESS_LOG.topic
REJECTED = "document_parsing_exception"
OPEN = Selection()


@pytest.fixture
def world() -> World:
    return World()


def rejected(world: World, count: int, partition: int = 0) -> list[str]:
    """Events that the index refuses once, between others: their mapping is mended later."""
    ids = world.access(3 * count, partition=partition)
    for identity in ids[1::3]:
        world.store.refuse[identity] = [ItemResult(400, REJECTED, "no")]
    world.drain()
    return ids[1::3]


def letters(world: World, selection: Selection = OPEN) -> list[Letter]:
    world.store.refresh(DEAD_INDEX)
    return dead_letters.read(world.store, selection)


def replayed(world: World, chosen: list[Letter] | None = None) -> DeadReplayReport:
    pipelines = {flow.name: world.pipeline_of(flow) for flow in (ACCESS_LOG, REFERENCE_CHANGES)}
    return replay(pipelines, letters(world) if chosen is None else chosen)


def offsets(world: World) -> list[tuple[int, int]]:
    """The offset of each document, and of each letter: twice when both are there."""
    stored = [*world.stored("log.index").values(), *world.stored(DEAD_INDEX).values()]
    return sorted((each.source["partition"], each.source["offset"]) for each in stored)


def test_a_letter_whose_message_has_become_good_is_a_document_with_its_enrichment(
    world: World,
) -> None:
    ids = rejected(world, 4)
    report = replayed(world)
    assert (len(report.removed), report.still_dead, report.unreadable) == (4, [], [])
    assert world.stored(DEAD_INDEX) == {}
    documents = world.stored("log.index")
    assert {documents[identity].source["test_name"] for identity in ids} == {"presto"}
    assert offsets(world) == [(0, offset) for offset in range(12)]
    assert str(report) == (
        "4 became good and are removed, 0 are still dead, 0 cannot be read again"
    )


def test_a_letter_that_is_still_bad_stays_with_the_reason_and_the_bytes_of_now(
    world: World,
) -> None:
    [identity] = rejected(world, 1)
    [before] = letters(world)
    world.store.refuse[identity] = [ItemResult(400, "illegal_argument_exception", "too long")]
    report = replayed(world)
    assert [found.reason for _, found in report.still_dead] == ["illegal_argument_exception"]
    [after] = letters(world)
    source = dead_letters.by_id(world.store, after.id).source
    assert (source["reason"], source["detail"]) == ("illegal_argument_exception", "too long")
    assert source["@timestamp"] == before.source["@timestamp"] <= source["replayed_at"]
    assert (
        json.loads(dead_letters.raw_bytes(Letter(after.id, source, after.version), "value") or b"")[
            "uuid"
        ]
        == identity
    )


def test_a_script_is_told_of_each_letter_by_its_id(world: World) -> None:
    _, second, _ = rejected(world, 3)
    at = {letter.place: letter for letter in letters(world)}
    good, bad, dropped = at[0, 1], at[0, 4], at[0, 7]
    world.store.refuse[second] = [ItemResult(400, REJECTED, "still")]
    dead_letters.drop(world.store, [dropped], "2026-03-02T00:00:00.000Z")
    report = replayed(world, letters(world, Selection(with_dropped=True)))
    assert report.as_json() == {
        "removed": [good.id],
        "still_dead": [{"id": bad.id, "reason": REJECTED, "detail": "still"}],
        "unreadable": [{"id": dropped.id, "cause": "it was dropped at 2026-03-02T00:00:00.000Z"}],
    }


def test_only_the_letters_that_were_asked_for_are_read(world: World) -> None:
    rejected(world, 3)
    [chosen, *others] = letters(world)
    world.trino.queries.clear()
    replayed(world, [chosen])
    assert world.trino.queries == [[*chosen.place, chosen.place[1] + 1]]
    assert {each.id for each in letters(world)} == {each.id for each in others}


@pytest.mark.parametrize("kept", range(4))
def test_a_replay_killed_anywhere_leaves_each_offset_a_document_or_a_letter(
    world: World, kept: int
) -> None:
    """Killed before the documents, or between these and the removal of the letters."""
    rejected(world, 2)
    chosen = letters(world)
    world.store.dies_after = world.store.requests + kept
    with pytest.raises(ConnectionError):
        replayed(world, chosen)
    world.store.dies_after = None
    assert sorted(set(offsets(world))) == [(0, offset) for offset in range(6)]
    replayed(world)
    assert offsets(world) == [(0, offset) for offset in range(6)]
    assert world.stored(DEAD_INDEX) == {}


def test_a_query_that_fails_leaves_all_letters(world: World) -> None:
    rejected(world, 2)
    world.trino.failure = "MySQL is down"
    with pytest.raises(QueryFailed, match="MySQL is down"):
        replayed(world)
    assert len(letters(world)) == 2


def test_a_dropped_letter_is_not_read_again_nor_is_it_as_a_neighbour(world: World) -> None:
    ids = world.access(4, partition=0)
    for identity in ids[:3]:
        world.store.refuse[identity] = [ItemResult(400, REJECTED, "no")]
    world.drain()
    middle = next(letter for letter in letters(world) if letter.place == (0, 1))
    dead_letters.drop(world.store, [middle], "2026-03-02T00:00:00.000Z")
    report = replayed(world, letters(world, Selection(with_dropped=True)))
    assert len(report.removed) == 2
    [(letter, cause)] = report.unreadable
    assert (letter.id, cause) == (middle.id, "it was dropped at 2026-03-02T00:00:00.000Z")
    assert sorted(world.stored("log.index")) == sorted([ids[0], ids[2], ids[3]])


def test_what_retention_deleted_is_said_exactly_and_its_letter_stays(world: World) -> None:
    rejected(world, 2)
    world.kafka.delete_records(TOPIC, 0, before=3)
    report = replayed(world)
    assert [letter.place for letter in report.removed] == [(0, 4)]
    [(letter, cause)] = report.unreadable
    assert letter.place == (0, 1)
    assert cause == "retention deleted analyze.action partition 0 below offset 3"
    assert [each.id for each in letters(world)] == [letter.id]


def test_a_topic_made_again_is_said_and_its_new_messages_are_not_taken_for_old(
    world: World,
) -> None:
    rejected(world, 1)
    old = world.kafka.topic_state(TOPIC).topic_id
    world.kafka.delete_topic(TOPIC)
    world.kafka.create_topics({TOPIC: 3})
    world.access(5, partition=0)
    [(_, cause)] = replayed(world).unreadable
    new = world.kafka.topic_state(TOPIC).topic_id
    assert cause == f"topic analyze.action was made again: its id is {new}, not {old}"
    assert len(letters(world)) == 1


def test_a_topic_made_again_during_the_read_takes_no_letter_away(world: World) -> None:
    rejected(world, 1)
    chosen = letters(world)

    def make_again() -> None:
        world.kafka.delete_topic(TOPIC)
        world.kafka.create_topics({TOPIC: 3})

    world.trino.after_answer = make_again
    with pytest.raises(SliceError, match="made again during the read"):
        replayed(world, chosen)
    assert len(letters(world)) == 1


def test_an_offset_that_the_log_lost_from_its_end_and_a_flow_that_is_gone_are_said(
    world: World,
) -> None:
    rejected(world, 1)
    [letter] = letters(world)
    beyond = replace(letter, source=letter.source | {"offset": 99})
    foreign = replace(letter, source=letter.source | {"flow": FULL_TEXT.name})
    causes = [cause for _, cause in replayed(world, [beyond, foreign]).unreadable]
    assert causes == [
        "analyze.action has no partition 0 with that offset any more",
        "flow full_text is not declared",
    ]


def test_a_duplicate_of_an_event_that_was_indexed_since_is_no_letter_any_more(
    world: World,
) -> None:
    [identity] = rejected(world, 1)
    event = {"uuid": identity, "uri": f"/{identity}", "name": "presto"}
    world.kafka.produce(TOPIC, json.dumps(event).encode(), 1)
    world.drain()
    assert len(replayed(world).removed) == 1
    assert world.stored("log.index")[identity].source["partition"] == 1


def test_a_conflict_stays_a_conflict_and_a_message_that_spoils_a_query_stays_unreadable(
    world: World,
) -> None:
    identity = str(uuid.uuid4())
    for uri in ("/first", "/second"):
        event = {"uuid": identity, "uri": uri, "name": "kafka"}
        world.kafka.produce(TOPIC, json.dumps(event).encode(), 0)
    world.kafka.produce(TOPIC, b"[[[", 0)
    world.trino.poison = {(0, 2)}
    world.drain()
    report = replayed(world)
    assert sorted(found.reason for _, found in report.still_dead) == ["conflict", "unreadable"]
    assert "2 are still dead (1 conflict, 1 unreadable)" in str(report)
    assert len(letters(world)) == 2


def test_a_message_that_trino_may_fail_at_keeps_no_other_letter_from_its_replay(
    world: World,
) -> None:
    rejected(world, 2)
    world.trino.suspects = {(0, 1)}
    report = replayed(world)
    assert [letter.place for letter in report.removed] == [(0, 4)]
    [(letter, cause)] = report.unreadable
    assert (letter.place, cause) == ((0, 1), "GENERIC_INTERNAL_ERROR: no one knows")
    assert [each.id for each in letters(world)] == [letter.id]


def test_a_change_that_was_dead_is_applied(world: World) -> None:
    [identity] = world.access(1, name="nobody")
    world.drain()
    world.mysql.add_names(["nobody"])
    change = json.dumps({"source": "mysql", "key": "nobody"}).encode()
    offset = world.kafka.produce(REFERENCE_CHANGES.topic, change, 0)
    state = world.kafka.topic_state(REFERENCE_CHANGES.topic)
    raw = world.kafka.raw_messages(REFERENCE_CHANGES.topic, [(0, offset)])
    dead_letters.bury(
        world.store,
        REFERENCE_CHANGES,
        state,
        [DeadLetter(0, offset, "", REJECTED, "no")],
        raw,
        "2026-03-02T00:00:00.000Z",
    )
    assert len(replayed(world).removed) == 1
    assert world.stored("log.index")[identity].source["test_name"] == "nobody"
    assert letters(world) == []


def test_slices_hold_exactly_the_places_and_one_run_of_each_partition() -> None:
    places = [(0, 1), (0, 2), (0, 5), (2, 7), *((3, offset) for offset in range(MOST_OFFSETS + 1))]
    first, second = slices(places)
    assert first == Slice(
        (OffsetRange(0, 1, 3), OffsetRange(2, 7, 8), OffsetRange(3, 0, MOST_OFFSETS))
    )
    assert second == Slice((OffsetRange(0, 5, 6), OffsetRange(3, MOST_OFFSETS, MOST_OFFSETS + 1)))
    assert list(slices([])) == []
