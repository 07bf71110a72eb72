"""Documents follow changes, on fakes: all of them, only them, and never back to older data."""

import threading
from dataclasses import replace
from typing import Any

import pytest

from kp_platform.adapters.reference_changes import ReferenceChange
from kp_platform.engine.dead_letters import DEAD_INDEX
from kp_platform.engine.errors import QueryFailed, SliceError
from kp_platform.engine.store import ItemResult
from kp_platform.flows.builtin import REFERENCE_CHANGES
from kp_platform.operations.reference_data import set_reference
from kp_platform_tests.conftest import wait_for
from kp_platform_tests.unit.engine.harness import World


@pytest.fixture
def world() -> World:
    """A world whose first announcements, of the seed, are dealt with."""
    world = World()
    world.follow_changes()
    return world


def values(world: World, ids: list[str]) -> set[Any]:
    stored = world.stored("log.index")
    return {stored[identity].source["redis_value"] for identity in ids}


def test_documents_of_a_changed_name_follow_and_others_are_untouched(world: World) -> None:
    mine, others = world.access(20, "presto"), world.access(20, "kafka")
    world.drain()
    before = world.stored("log.index")
    set_reference(world.mysql, world.redis, world.announce, "presto", "https://trino.io/")
    [report] = world.follow_changes()
    after = world.stored("log.index")
    assert values(world, mine) == {"https://trino.io/"}
    assert {key: after[key] for key in others} == {key: before[key] for key in others}
    assert (report.rows, report.outcome.applied, report.outcome.rewritten) == (2, 2, 20)
    assert world.lag(REFERENCE_CHANGES) == 0


def test_a_rewritten_document_keeps_all_that_the_change_does_not_bring(world: World) -> None:
    [identity] = world.access(1, "presto")
    world.drain()
    before = world.stored("log.index")[identity].source
    set_reference(world.mysql, world.redis, world.announce, "presto", "https://trino.io/")
    world.follow_changes()
    after = world.stored("log.index")[identity].source
    assert after == {**before, "redis_value": "https://trino.io/"}


def test_an_event_indexed_without_its_row_is_completed_when_the_row_comes(world: World) -> None:
    ids = world.access(3, "newcomer")
    world.drain()
    set_reference(world.mysql, world.redis, world.announce, "newcomer", "https://new.example/")
    world.follow_changes()
    for identity in ids:
        source = world.stored("log.index")[identity].source
        assert source["test_id"] == world.mysql.rows["newcomer"]
        assert source["redis_value"] == "https://new.example/"
        assert source["enrichment"] == {"state": "complete", "missing": []}


def test_a_row_that_went_away_leaves_the_documents_and_is_named_as_missing(world: World) -> None:
    [identity] = world.access(1, "kafka")
    world.drain()
    del world.redis.held["kafka"]
    world.announce([ReferenceChange("redis", "kafka")])
    world.follow_changes()
    source = world.stored("log.index")[identity].source
    assert (source["redis_key"], source["redis_value"]) == (None, None)
    assert source["enrichment"] == {"state": "partial", "missing": ["redis"]}


def test_the_same_change_again_rewrites_nothing(world: World) -> None:
    world.access(5, "presto")
    world.drain()
    for rewritten in (5, 0):
        set_reference(world.mysql, world.redis, world.announce, "presto", "https://trino.io/")
        [report] = world.follow_changes()
        assert report.outcome.rewritten == rewritten


def test_a_change_of_a_name_that_nobody_used_settles_at_once(world: World) -> None:
    set_reference(world.mysql, world.redis, world.announce, "unheard of", "https://x.example/")
    [report] = world.follow_changes()
    assert (report.outcome.applied, report.outcome.rewritten) == (2, 0)


def test_a_killed_rewrite_goes_on_where_documents_still_differ(world: World) -> None:
    world.access(20, "presto")
    world.drain()
    set_reference(world.mysql, world.redis, world.announce, "presto", "https://trino.io/")
    world.store.dies_after = world.store.requests + 1
    with pytest.raises(ConnectionError):
        world.follow_changes()
    world.store.dies_after = None
    assert world.lag(REFERENCE_CHANGES) == 2
    done = sum(
        each.source["redis_value"] == "https://trino.io/"
        for each in world.stored("log.index").values()
    )
    assert 0 < done < 20
    [report] = world.follow_changes()
    assert report.outcome.rewritten == 20 - done


def test_newer_data_written_meanwhile_are_not_written_over(world: World) -> None:
    """Another run reads and writes newer data after this one has read older ones."""
    ids = world.access(10, "presto")
    world.drain()
    set_reference(world.mysql, world.redis, world.announce, "presto", "https://older.example/")

    def newer_run() -> None:
        set_reference(world.mysql, world.redis, world.announce, "presto", "https://newer.example/")
        world.follow_changes()

    world.trino.after_answer = newer_run
    assert world.follow_changes() == []  # the newer run has taken its changes too
    assert values(world, ids) == {"https://newer.example/"}
    assert world.lag(REFERENCE_CHANGES) == 0


def test_a_document_on_its_way_with_older_data_is_waited_for(world: World) -> None:
    """The access log has read its reference data, but not indexed yet, when the change comes."""
    ids = world.access(10, "presto")
    follower = threading.Thread(target=world.follow_changes)

    def change_and_follow() -> None:
        set_reference(world.mysql, world.redis, world.announce, "presto", "https://trino.io/")
        asked = len(world.trino.queries)
        follower.start()
        wait_for(lambda: len(world.trino.queries) > asked, "the follower's first round")

    world.trino.after_answer = change_and_follow
    world.drain()
    follower.join(timeout=30)
    assert not follower.is_alive()
    assert values(world, ids) == {"https://trino.io/"}
    assert world.lag(REFERENCE_CHANGES) == 0


def test_a_change_fails_and_is_kept_when_the_other_flow_does_not_move(world: World) -> None:
    world.access(1, "presto")
    world.limits = replace(world.limits, max_run_seconds=0.2)
    world.announce([ReferenceChange("redis", "presto")])
    with pytest.raises(SliceError, match="analyze.action is not indexed up to where it was"):
        world.follow_changes()
    assert world.lag(REFERENCE_CHANGES) == 1


def test_a_database_that_is_down_rewrites_nothing(world: World) -> None:
    ids = world.access(3, "presto")
    world.drain()
    before = values(world, ids)
    set_reference(world.mysql, world.redis, world.announce, "presto", "https://trino.io/")
    world.trino.failure = "Redis is down"
    with pytest.raises(QueryFailed, match="Redis is down"):
        world.follow_changes()
    assert values(world, ids) == before
    assert world.lag(REFERENCE_CHANGES) == 2


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b'{"source": "oracle", "key": "presto"}', "bad_value"),  # a source that is not joined
        (b'{"source": "mysql"}', "missing_field"),
        (b'{"source": "mysql", "key": 5}', "wrong_type"),
        (b"not json", "not_json"),
    ],
)
def test_a_malformed_change_is_a_dead_letter_and_its_neighbours_are_applied(
    world: World, value: bytes, reason: str
) -> None:
    world.access(2, "presto")
    world.drain()
    world.kafka.produce(REFERENCE_CHANGES.topic, value)
    set_reference(world.mysql, world.redis, world.announce, "presto", "https://trino.io/")
    [report] = world.follow_changes()
    assert (report.outcome.applied, report.outcome.rewritten) == (2, 2)
    [letter] = world.stored(DEAD_INDEX).values()
    assert letter.source["reason"] == reason


def test_facts_that_the_index_refuses_bury_their_change_and_hold_up_no_other(world: World) -> None:
    [bad], [good] = world.access(1, "presto"), world.access(1, "kafka")
    world.drain()
    for name in ("presto", "kafka"):
        set_reference(world.mysql, world.redis, world.announce, name, "https://new.example/")
    world.store.refuse[bad] = [ItemResult(400, "document_parsing_exception", "no")]
    [report] = world.follow_changes()
    assert values(world, [good]) == {"https://new.example/"}
    assert (report.outcome.applied, report.outcome.buried.total()) == (2, 2)
    reasons = {each.source["reason"] for each in world.stored(DEAD_INDEX).values()}
    assert reasons == {"document_parsing_exception"}
    assert world.lag(REFERENCE_CHANGES) == 0
