"""Messages and their rows become documents, or rejected messages."""

import json
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kp_platform.engine.documents import (
    BadMessage,
    Columns,
    Document,
    RejectedMessage,
    builder,
    parse_message,
)
from kp_platform.flows.builtin import ACCESS_LOG
from kp_platform_tests.fakes import FakeTrino

UUID = "0b8f7f0e-6f2c-4d6e-9a67-0f6d5a1c2b3d"
NOW = "2026-03-02T00:00:00.500Z"
GOOD = {"uuid": UUID, "uri": "/a?b=%20c", "name": "presto"}


def message(**changes: Any) -> str:
    return json.dumps({**GOOD, **changes})


def row(text: str | None, **changes: Any) -> list[Any]:
    values = {
        "@timestamp": "2026-03-01 23:59:59.999",
        **GOOD,
        "redis_key": "presto",
        "redis_value": "https://prestodb.io/",
        "test_id": 1,
        "test_name": "presto",
        "created_at": "2026-01-01T00:00:00Z",
        "partition": 2,
        "offset": 41,
        "message": text,
        **changes,
    }
    return [values[name] for name in FakeTrino.columns]


def build(text: str | None, **changes: Any) -> Document | RejectedMessage:
    columns = Columns(ACCESS_LOG, FakeTrino.columns)
    made = builder(ACCESS_LOG, columns, "a-run")([row(text, **changes)], NOW)
    documents = [Document(operation) for operation in made.operations]
    [one] = documents + made.rejected
    return one


def test_a_document_has_the_event_its_enrichment_and_its_offset() -> None:
    document = build(message())
    assert isinstance(document, Document)
    assert (document.index, document.id) == ("log.index-2026.03.01", UUID)
    assert document.body == {
        "@timestamp": "2026-03-01T23:59:59.999Z",
        "uuid": UUID,
        "uri": "/a?b=%20c",
        "name": "presto",
        "redis_key": "presto",
        "redis_value": "https://prestodb.io/",
        "test_id": 1,
        "test_name": "presto",
        "created_at": "2026-01-01T00:00:00Z",
        "partition": 2,
        "offset": 41,
        "topic": "analyze.action",
        "indexed_at": "2026-03-02T00:00:00.500Z",
        "run_id": "a-run",
        "delay_ms": 501,
        "enrichment": {"state": "complete", "missing": []},
    }


@pytest.mark.parametrize(
    ("absent", "state", "missing"),
    [
        ({"test_id": None}, "partial", ["mysql"]),  # no row in MySQL
        ({"redis_key": None}, "partial", ["redis"]),  # no key in Redis
        ({"test_id": None, "redis_key": None}, "none", ["mysql", "redis"]),  # an unknown name
        ({"redis_value": ""}, "complete", []),  # an empty text is a value
    ],
)
def test_an_event_without_reference_data_is_kept_with_the_missing_sources(
    absent: dict[str, Any], state: str, missing: list[str]
) -> None:
    document = build(message(), **absent)
    assert isinstance(document, Document)
    assert document.body["enrichment"] == {"state": state, "missing": missing}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "empty"),  # a tombstone
        ("", "empty"),  # an empty value
        ("not json", "not_json"),
        ('{"uuid": NaN}', "not_json"),  # Python's json would take it
        (message() + "x", "not_json"),  # Trino ignores trailing garbage
        (message() + message(), "not_json"),  # Trino reads the first of two documents
        ('{"uuid": "\\ud800"}', "not_json"),  # Trino turns a lone surrogate into ?
        ("[" * 100_000, "not_json"),  # deep nesting does not end the process
        ("[1]", "not_an_object"),
        ('"text"', "not_an_object"),
        ("null", "not_an_object"),
        ('{"uri": "/", "name": "x"}', "missing_field"),
        (message(uri=5), "wrong_type"),  # Trino would make it "5"
        (message(name=None), "wrong_type"),
        (message(name={"a": 1}), "wrong_type"),
        (message(uuid="x' OR 1=1 --"), "bad_uuid"),
        (message(uuid=UUID.upper()), "bad_uuid"),  # one spelling, or one event gets two ids
        (message(uuid="{" + UUID + "}"), "bad_uuid"),
        (message(uuid=UUID + "\n"), "bad_uuid"),  # a $ in the pattern would let it pass
        (message(uuid="00000000-0000-0000-0000-000000000000"), "bad_uuid"),  # nil
        (message(uuid="a" * 513), "bad_uuid"),  # such an _id fails a whole bulk request
    ],
)
def test_a_message_that_breaks_the_contract_becomes_a_dead_letter(
    text: str | None, reason: str
) -> None:
    rejected = build(text)
    assert isinstance(rejected, RejectedMessage)
    assert (rejected.partition, rejected.offset, rejected.reason) == (2, 41, reason)


@pytest.mark.parametrize("column", ["uuid", "uri", "name"])
def test_a_column_that_differs_from_the_message_is_never_indexed(column: str) -> None:
    rejected = build(message(), **{column: "other"})
    assert isinstance(rejected, RejectedMessage)
    assert rejected.reason == "altered"


@pytest.mark.parametrize(
    "timestamp",
    [
        "1969-12-31 23:59:59.999",  # -1: the producer gave none
        "+10000-01-01 00:00:00.000",
        "20000-01-01 00:00:00.000",  # sorts among those of our century
        "2100-01-01 00:00:00.000",  # would open an index for a day of another century
    ],
)
def test_a_timestamp_of_another_century_opens_no_index(timestamp: str) -> None:
    rejected = build(message(), **{"@timestamp": timestamp})
    assert isinstance(rejected, RejectedMessage)
    assert rejected.reason == "bad_timestamp"
    assert rejected.timestamp == f"{timestamp.replace(' ', 'T')}Z"


def test_unknown_members_are_ignored_and_the_last_of_a_repeated_one_wins() -> None:
    text = message(extra={"a": [1]})[:-1] + ', "name": "kafka"}'
    assert parse_message(text, ACCESS_LOG) == {**GOOD, "name": "kafka"}


def test_a_missing_column_of_the_sql_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"flow access_log does not return message, test_id"):
        Columns(ACCESS_LOG, [c for c in FakeTrino.columns if c not in ("message", "test_id")])


texts = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.mark.parametrize("write", [json.dumps, lambda event: orjson.dumps(event).decode()])
@given(uri=texts, name=texts)
def test_any_text_reaches_the_document_unchanged(
    write: Callable[[dict[str, str]], str], uri: str, name: str
) -> None:
    event = {**GOOD, "uri": uri, "name": name}
    document = build(write(event), uri=uri, name=name)
    assert isinstance(document, Document)
    body = document.body
    assert {name: body[name] for name in GOOD} == event


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(GOOD, separators=(",", ":")),  # as the emitter writes it
        json.dumps(GOOD),  # with blanks
        json.dumps({**dict(reversed(GOOD.items())), "more": [1]}),  # another order, and more
        json.dumps(GOOD).replace("/", "\\/"),  # escaped without need
    ],
)
def test_a_message_may_be_any_json_text_of_the_same_object(text: str) -> None:
    document, same = build(text), build(message())
    assert isinstance(document, Document)
    assert isinstance(same, Document)
    assert document.body == same.body


def test_a_column_may_be_an_array() -> None:
    document = build(message(), redis_value=["a", "b"])
    assert isinstance(document, Document)
    assert document.body["redis_value"] == ["a", "b"]


def test_reference_data_are_those_of_the_row_and_not_of_an_earlier_one() -> None:
    ids = [1, 2, None, 1]
    rows = [row(message(), test_id=test_id) for test_id in ids]
    made = builder(ACCESS_LOG, Columns(ACCESS_LOG, FakeTrino.columns))(rows, NOW)
    assert [Document(each).body["test_id"] for each in made.operations] == ids
    assert made.missing == {"mysql": 1}


@given(st.one_of(st.binary(), st.text(), st.none(), st.recursive(st.none(), st.lists).map(str)))
def test_no_input_raises_anything_but_bad_message(value: str | bytes | None) -> None:
    try:
        parse_message(value, ACCESS_LOG)
    except BadMessage:
        return
    pytest.fail("such an input is not a valid event")
