"""Dead letters: selected, shown and discarded; bytes are returned only by id."""

import json
import uuid

import pytest

from kp_platform.engine import dead_letters
from kp_platform.engine.dead_letters import (
    DEAD_INDEX,
    LONGEST_DETAIL,
    DeadLetter,
    NoSuchDeadLetter,
    Selection,
    as_text,
    printable,
    raw_bytes,
)
from kp_platform.engine.documents import RejectedMessage
from kp_platform.engine.ports import RawMessage
from kp_platform.flows.builtin import ACCESS_LOG
from kp_platform_tests.unit.engine.harness import Harness

ALL = Selection(with_discarded=True)
BAD_UUID = json.dumps({"uuid": "no", "uri": "/", "name": "presto"}).encode()


@pytest.fixture
def harness() -> Harness:
    """Three dead letters, two of which have the same reason."""
    harness = Harness()
    for value in (b"not json", BAD_UUID, b"\x1b[2Jnor this"):
        harness.kafka.produce(ACCESS_LOG.topic, value, 1, key=b"k")
    harness.access(5, partition=1)
    harness.run()
    harness.store.refresh(DEAD_INDEX)
    return harness


def found(harness: Harness, selection: Selection = ALL) -> list[DeadLetter]:
    harness.store.refresh(DEAD_INDEX)
    return dead_letters.read(harness.store, selection)


def test_dead_letters_are_selected_by_flow_reason_and_id(harness: Harness) -> None:
    assert len(found(harness)) == 3
    [one] = found(harness, Selection(flow="access_log", reason="bad_uuid"))
    assert (one.partition_offset, str(one)) == ((1, 1), "analyze.action 1:1")
    assert found(harness, Selection(flow="full_text")) == []
    [same] = found(harness, Selection(ids=(one.id, one.id)))
    assert (same.id, same.version) == (one.id, one.version)


def test_bytes_are_returned_only_for_a_dead_letter_read_by_its_id(harness: Harness) -> None:
    assert [{"key", "value"} & dead_letter.source.keys() for dead_letter in found(harness)] == [
        set()
    ] * 3
    [one] = found(harness, Selection(reason="bad_uuid"))
    dead_letter = dead_letters.by_id(harness.store, one.id)
    assert (raw_bytes(dead_letter, "key"), raw_bytes(dead_letter, "value")) == (b"k", BAD_UUID)


def test_the_latest_dead_letters_come_first(harness: Harness) -> None:
    state = harness.kafka.topic_state(ACCESS_LOG.topic)
    late = RejectedMessage(2, 0, "", "unreadable", "")
    raw = {(2, 0): RawMessage(None, None)}
    dead_letters.store(harness.store, ACCESS_LOG, state, [late], raw, "2099-01-01T00:00:00.000Z")
    harness.store.refresh(DEAD_INDEX)
    [first, *_] = next(dead_letters.pages(harness.store, Selection(), 2))
    assert first.partition_offset == (2, 0)
    assert [len(page) for page in dead_letters.pages(harness.store, Selection(), 2)] == [2, 2]


def test_an_unknown_id_is_an_error_that_is_safe_to_print(harness: Harness) -> None:
    with pytest.raises(NoSuchDeadLetter, match=r"no dead letter \\x1b\[2J; see `kp dlq list`"):
        found(harness, Selection(ids=("\x1b[2J",)))


def test_a_discarded_dead_letter_keeps_offset_and_reason_and_loses_its_bytes(
    harness: Harness,
) -> None:
    [one] = found(harness, Selection(reason="bad_uuid"))
    assert dead_letters.discard(harness.store, [one], "2026-03-02T00:00:00.000Z") == 1
    assert len(found(harness, Selection())) == 2
    assert len(found(harness)) == 3
    [discarded] = found(harness, Selection(reason="bad_uuid", with_discarded=True))
    kept = dead_letters.by_id(harness.store, discarded.id)
    assert kept.source == one.source | {
        "key": None,
        "value": None,
        "discarded_at": "2026-03-02T00:00:00.000Z",
    }
    assert dead_letters.discard(harness.store, [discarded], "2026-03-03T00:00:00.000Z") == 0
    assert (
        dead_letters.discard(harness.store, [one], "2026-03-03T00:00:00.000Z") == 0
    )  # seen before it


def test_a_discarded_dead_letter_stays_discarded_when_its_slice_is_processed_again(
    harness: Harness,
) -> None:
    dead_letters.discard(harness.store, found(harness), "2026-03-02T00:00:00.000Z")
    for key in [key for key in harness.store.documents if key[0] == "kp.positions"]:
        del harness.store.documents[key]
    harness.run()
    assert [dead_letter.discarded_at for dead_letter in found(harness)] == [
        "2026-03-02T00:00:00.000Z"
    ] * 3
    assert dead_letters.discard(harness.store, [], "now") == 0


def test_the_tally_counts_open_and_discarded_dead_letters(
    harness: Harness,
) -> None:
    dead_letters.discard(harness.store, found(harness, Selection(reason="bad_uuid")), "2026-03-02")
    harness.store.refresh(DEAD_INDEX)
    counted = dead_letters.tally(harness.store, ALL)
    assert counted.open == {("access_log", "not_json"): 2}
    assert (counted.by_flow(), counted.by_reason()) == ({"access_log": 2}, {"not_json": 2})
    assert str(counted) == "2 open dead letters (2 not_json), 1 discarded"
    assert str(dead_letters.tally(harness.store, Selection(flow="full_text"))) == (
        "0 open dead letters, 0 discarded"
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, ÄÖÜ, 日本, 😀", "plain text, ÄÖÜ, 日本, 😀"),
        ("\x1b]0;title\x07\x1b[2J", r"\x1b]0;title\x07\x1b[2J"),  # terminal controls
        ("\x9b2J", r"\x9b2J"),  # the same in one character
        ("a\r\nb\tc", r"a\r\nb\tc"),  # a forged line
        ("\u202egnp.exe", r"\u202egnp.exe"),  # read from right to left
        ("a\u200bb\ufeff", r"a\u200bb\ufeff"),  # no width
        ("\x00\x7f", r"\x00\x7f"),
        ("\ud800", r"\ud800"),  # half a character, which no terminal's encoding has
    ],
)
def test_printed_text_contains_no_terminal_controls(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        (b"", ""),
        ("Ä\x1b".encode(), "Ä\x1b"),  # escaped by `printable`
        (b"\xff\x00a", "hex ff 00 61"),
        ("ÄÖÜ".encode(), "ÄÖ ... 6 bytes in all"),
        (b"\xff" * 6, "hex ff ff ff ff ff ... 6 bytes in all"),
    ],
)
def test_bytes_are_shown_as_text_or_in_hex_up_to_a_limit(
    value: bytes | None, shown: str | None
) -> None:
    assert as_text(value, most=5) == shown


def test_a_detail_is_bounded_and_may_contain_a_lone_surrogate(
    harness: Harness,
) -> None:
    """The text of a server may quote what it could not decode."""
    state = harness.kafka.topic_state(ACCESS_LOG.topic)
    dead_letter = RejectedMessage(2, 7, "", "unreadable", f"{uuid.uuid4()} \ud83d " + "x" * 5_000)
    raw = {(2, 7): RawMessage(None, None)}
    dead_letters.store(
        harness.store, ACCESS_LOG, state, [dead_letter], raw, "2026-03-02T00:00:00.000Z"
    )
    [kept] = found(harness, Selection(reason="unreadable"))
    assert len(kept.source["detail"]) == LONGEST_DETAIL
    assert kept.source["detail"][36:41] == " ? xx"
