"""The upgrade of what an earlier version has stored."""

import json

import pytest

from kp_platform.engine import dead_letters
from kp_platform.engine.bulk import put, send
from kp_platform.engine.dead_letters import DEAD_INDEX, Selection
from kp_platform.engine.upgrade import upgrade
from kp_platform_tests.fakes import FakeElasticsearch

MOMENT = "2026-03-02T00:00:00.000Z"
DEAD_LETTER = {
    "@timestamp": "2026-03-01T00:00:00.000Z",
    "flow": "access_log",
    "topic": "analyze.action",
    "reason": "not_json",
    "key": "a2V5",
    "value": "dmFsdWU=",
}


@pytest.fixture
def store() -> FakeElasticsearch:
    """Dead letters as an earlier version stored them: open, retried, discarded, and both."""
    store = FakeElasticsearch()
    old: dict[str, dict[str, str | None]] = {
        "open": {},
        "retried": {"replayed_at": MOMENT},
        "discarded": {"dropped_at": MOMENT, "key": None, "value": None},
        "both": {"replayed_at": MOMENT, "dropped_at": MOMENT, "key": None, "value": None},
    }
    for identity, members in old.items():
        body = json.dumps({**DEAD_LETTER, **members}).encode()
        send(store, [put(DEAD_INDEX, identity, body), put("kp.leases", identity, b"{}")])
    return store


def test_dead_letters_get_the_new_names_of_their_fields_and_keep_all_else(
    store: FakeElasticsearch,
) -> None:
    assert upgrade(store) == 3
    found = {
        identity: each.source
        for (index, identity), each in store.documents.items()
        if index == DEAD_INDEX
    }
    without_bytes = {**DEAD_LETTER, "key": None, "value": None}
    assert found == {
        "open": DEAD_LETTER,
        "retried": {**DEAD_LETTER, "retried_at": MOMENT},
        "discarded": {**without_bytes, "discarded_at": MOMENT},
        "both": {**without_bytes, "retried_at": MOMENT, "discarded_at": MOMENT},
    }
    store.refresh(DEAD_INDEX)
    tally = dead_letters.tally(store, Selection())
    assert (tally.open, tally.discarded) == ({("access_log", "not_json"): 2}, 2)


def test_the_unused_index_is_deleted(store: FakeElasticsearch) -> None:
    upgrade(store)
    assert {index for index, _ in store.documents} == {DEAD_INDEX}


def test_a_second_upgrade_writes_nothing(store: FakeElasticsearch) -> None:
    upgrade(store)
    requests = store.requests
    assert upgrade(store) == 0
    assert upgrade(FakeElasticsearch()) == 0  # a store without anything
    assert store.requests == requests


def test_a_killed_upgrade_is_completed_by_the_next(store: FakeElasticsearch) -> None:
    store.dies_after = store.requests + 1
    with pytest.raises(ConnectionError):
        upgrade(store)
    store.dies_after = None
    assert upgrade(store) > 0
    fields = {name for each in store.documents.values() for name in each.source}
    assert not fields & {"replayed_at", "dropped_at"}
