"""The reference refresh: all documents of a key, only them, and never back to older data."""

import threading
from typing import Any

import pytest

from kp_platform.engine.dead_letters import DEAD_INDEX
from kp_platform.engine.errors import QueryFailed, SliceError
from kp_platform.engine.ports import ItemResult
from kp_platform.engine.reference_change import ReferenceChange
from kp_platform.flows.builtin import REFERENCE_CHANGES
from kp_platform.operations.reference_data import set_reference
from kp_platform_tests.conftest import wait_for
from kp_platform_tests.fakes import FakeClock
from kp_platform_tests.unit.engine.harness import Harness


@pytest.fixture
def harness() -> Harness:
    """A harness whose first changes, those of the seed, are applied."""
    harness = Harness()
    harness.refresh_references()
    return harness


def values(harness: Harness, ids: list[str]) -> set[Any]:
    stored = harness.stored("log.index")
    return {stored[identity].source["redis_value"] for identity in ids}


def test_documents_of_a_changed_name_are_refreshed_and_others_are_untouched(
    harness: Harness,
) -> None:
    mine, unrelated = harness.access(20, "presto"), harness.access(20, "kafka")
    harness.run()
    before = harness.stored("log.index")
    set_reference(
        harness.mysql, harness.redis, harness.publish_changes, "presto", "https://trino.io/"
    )
    [report] = harness.refresh_references()
    after = harness.stored("log.index")
    assert values(harness, mine) == {"https://trino.io/"}
    assert {key: after[key] for key in unrelated} == {key: before[key] for key in unrelated}
    assert (report.rows, report.outcome.applied, report.outcome.refreshed) == (2, 2, 20)
    assert harness.lag(REFERENCE_CHANGES) == 0


def test_a_refreshed_document_keeps_all_other_members(harness: Harness) -> None:
    [identity] = harness.access(1, "presto")
    harness.run()
    before = harness.stored("log.index")[identity].source
    set_reference(
        harness.mysql, harness.redis, harness.publish_changes, "presto", "https://trino.io/"
    )
    harness.refresh_references()
    after = harness.stored("log.index")[identity].source
    assert after == {**before, "redis_value": "https://trino.io/"}


def test_an_event_indexed_without_its_row_is_completed_when_the_row_comes(harness: Harness) -> None:
    ids = harness.access(3, "newcomer")
    harness.run()
    set_reference(
        harness.mysql, harness.redis, harness.publish_changes, "newcomer", "https://new.example/"
    )
    harness.refresh_references()
    for identity in ids:
        source = harness.stored("log.index")[identity].source
        assert source["test_id"] == harness.mysql.rows["newcomer"]
        assert source["redis_value"] == "https://new.example/"
        assert source["enrichment"] == {"state": "complete", "missing": []}


def test_a_deleted_row_is_removed_from_the_documents_and_listed_as_missing(
    harness: Harness,
) -> None:
    [identity] = harness.access(1, "kafka")
    harness.run()
    del harness.redis.stored["kafka"]
    harness.publish_changes([ReferenceChange("redis", "kafka")])
    harness.refresh_references()
    source = harness.stored("log.index")[identity].source
    assert (source["redis_key"], source["redis_value"]) == (None, None)
    assert source["enrichment"] == {"state": "partial", "missing": ["redis"]}


def test_a_repeated_change_refreshes_no_document(harness: Harness) -> None:
    harness.access(5, "presto")
    harness.run()
    for refreshed in (5, 0):
        set_reference(
            harness.mysql, harness.redis, harness.publish_changes, "presto", "https://trino.io/"
        )
        [report] = harness.refresh_references()
        assert report.outcome.refreshed == refreshed


def test_a_change_of_a_name_without_documents_is_applied(harness: Harness) -> None:
    set_reference(
        harness.mysql, harness.redis, harness.publish_changes, "unheard of", "https://x.example/"
    )
    [report] = harness.refresh_references()
    assert (report.outcome.applied, report.outcome.refreshed) == (2, 0)


def test_a_killed_refresh_continues_with_the_documents_that_differ(harness: Harness) -> None:
    harness.access(20, "presto")
    harness.run()
    set_reference(
        harness.mysql, harness.redis, harness.publish_changes, "presto", "https://trino.io/"
    )
    harness.store.dies_after = harness.store.requests + 1
    with pytest.raises(ConnectionError):
        harness.refresh_references()
    harness.store.dies_after = None
    assert harness.lag(REFERENCE_CHANGES) == 2
    done = sum(
        each.source["redis_value"] == "https://trino.io/"
        for each in harness.stored("log.index").values()
    )
    assert 0 < done < 20
    [report] = harness.refresh_references()
    assert report.outcome.refreshed == 20 - done


def test_newer_data_of_another_run_are_not_overwritten(harness: Harness) -> None:
    """Another run reads and writes newer data after this one has read older ones."""
    ids = harness.access(10, "presto")
    harness.run()
    set_reference(
        harness.mysql, harness.redis, harness.publish_changes, "presto", "https://older.example/"
    )

    def newer_run() -> None:
        set_reference(
            harness.mysql,
            harness.redis,
            harness.publish_changes,
            "presto",
            "https://newer.example/",
        )
        harness.refresh_references()

    harness.trino.after_answer = newer_run
    assert harness.refresh_references() == []  # the newer run has applied its changes too
    assert values(harness, ids) == {"https://newer.example/"}
    assert harness.lag(REFERENCE_CHANGES) == 0


def test_a_document_in_flight_with_older_data_is_refreshed(harness: Harness) -> None:
    """The access log has read its reference data, but indexed no event, before the change."""
    ids = harness.access(10, "presto")
    refresher = threading.Thread(target=harness.refresh_references)

    def change_and_refresh() -> None:
        set_reference(
            harness.mysql, harness.redis, harness.publish_changes, "presto", "https://trino.io/"
        )
        asked = len(harness.trino.queries)
        refresher.start()
        wait_for(lambda: len(harness.trino.queries) > asked, "the first round")

    harness.trino.after_answer = change_and_refresh
    harness.run()
    refresher.join(timeout=30)
    assert not refresher.is_alive()
    assert values(harness, ids) == {"https://trino.io/"}
    assert harness.lag(REFERENCE_CHANGES) == 0


def test_a_change_fails_and_is_not_committed_when_the_target_flow_does_not_move(
    harness: Harness,
) -> None:
    harness.access(1, "presto")
    harness.clock = FakeClock()
    harness.publish_changes([ReferenceChange("redis", "presto")])
    with pytest.raises(SliceError, match="analyze.action is not indexed up to its end at the time"):
        harness.refresh_references()
    assert harness.lag(REFERENCE_CHANGES) == 1


def test_a_failed_query_refreshes_no_document(harness: Harness) -> None:
    ids = harness.access(3, "presto")
    harness.run()
    before = values(harness, ids)
    set_reference(
        harness.mysql, harness.redis, harness.publish_changes, "presto", "https://trino.io/"
    )
    harness.trino.failure = "Redis is down"
    with pytest.raises(QueryFailed, match="Redis is down"):
        harness.refresh_references()
    assert values(harness, ids) == before
    assert harness.lag(REFERENCE_CHANGES) == 2


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
    harness: Harness, value: bytes, reason: str
) -> None:
    harness.access(2, "presto")
    harness.run()
    harness.kafka.produce(REFERENCE_CHANGES.topic, value)
    set_reference(
        harness.mysql, harness.redis, harness.publish_changes, "presto", "https://trino.io/"
    )
    [report] = harness.refresh_references()
    assert (report.outcome.applied, report.outcome.refreshed) == (2, 2)
    [dead_letter] = harness.stored(DEAD_INDEX).values()
    assert dead_letter.source["reason"] == reason


def test_reference_data_that_the_index_refuses_make_only_their_change_a_dead_letter(
    harness: Harness,
) -> None:
    [bad], [good] = harness.access(1, "presto"), harness.access(1, "kafka")
    harness.run()
    for name in ("presto", "kafka"):
        set_reference(
            harness.mysql, harness.redis, harness.publish_changes, name, "https://new.example/"
        )
    harness.store.refuse[bad] = [ItemResult(400, "document_parsing_exception", "no")]
    [report] = harness.refresh_references()
    assert values(harness, [good]) == {"https://new.example/"}
    assert (report.outcome.applied, report.outcome.dead_lettered.total()) == (2, 2)
    reasons = {each.source["reason"] for each in harness.stored(DEAD_INDEX).values()}
    assert reasons == {"document_parsing_exception"}
    assert harness.lag(REFERENCE_CHANGES) == 0
