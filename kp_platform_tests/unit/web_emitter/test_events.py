"""The events: body, headers, validation, and the URI as received."""

import json
from pathlib import Path
from uuid import UUID, uuid1

import pytest
from hypothesis import given
from hypothesis import strategies as st

from web_emitter.emitter.events import (
    MAX_NAME_LENGTH,
    MAX_TEXT_LENGTH,
    MAX_URI_LENGTH,
    AccessEvent,
    FullTextEvent,
    name_defect,
    text_defect,
    uri_as_received,
)

UUID_4 = UUID("0b1c6b1e-6f0f-4d3b-9a57-0d6f4d1f2a01")
TABLE_FILES = Path(__file__).parents[3] / "presto_etc" / "kafka"

uris = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=300)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
    lambda text: not text.isspace()
)
names = texts.filter(lambda name: len(name) <= MAX_NAME_LENGTH)


def test_the_body_is_exactly_the_contract() -> None:
    event = AccessEvent(uri="/a?b=%20", name="kafka", uuid=UUID_4)
    assert event.body() == (
        b'{"uuid":"0b1c6b1e-6f0f-4d3b-9a57-0d6f4d1f2a01","uri":"/a?b=%20","name":"kafka"}'
    )
    note = FullTextEvent(text="a\r\n\x00", uuid=UUID_4)
    assert note.body() == (
        b'{"uuid":"0b1c6b1e-6f0f-4d3b-9a57-0d6f4d1f2a01","text":"a\\r\\n\\u0000"}'
    )


@pytest.mark.parametrize(
    ("event", "table_file"),
    [
        (AccessEvent(uri="/", name="kafka"), "action.json"),
        (FullTextEvent(text="a note"), "register.json"),
    ],
)
def test_the_body_has_the_fields_of_the_table_file_of_trino(
    event: AccessEvent | FullTextEvent, table_file: str
) -> None:
    columns = json.loads((TABLE_FILES / table_file).read_bytes())["message"]["fields"]
    assert [column["mapping"] for column in columns] == list(json.loads(event.body()))


@given(uri=uris, name=names)
def test_any_valid_uri_and_name_are_unchanged_in_the_body(uri: str, name: str) -> None:
    event = AccessEvent(uri=uri, name=name)
    assert json.loads(event.body()) == {"uuid": str(event.uuid), "uri": uri, "name": name}
    assert event.uuid.version == 4


@given(text=texts)
def test_any_valid_text_is_unchanged_in_the_body(text: str) -> None:
    event = FullTextEvent(text=text)
    assert json.loads(event.body()) == {"uuid": str(event.uuid), "text": text}


def test_the_headers_are_cloudevents_attributes() -> None:
    known = {"source": "/shop", "uuid": UUID_4, "timestamp_ms": 1_772_360_430_006}
    access = AccessEvent(uri="/", name="kafka", **known)  # type: ignore[arg-type]  # of three types
    note = FullTextEvent(text="a note", **known)  # type: ignore[arg-type]
    for event, type_of_event in ((access, b"kp.access.v1"), (note, b"kp.fulltext.v1")):
        assert event.headers() == [
            ("ce_specversion", b"1.0"),
            ("ce_id", b"0b1c6b1e-6f0f-4d3b-9a57-0d6f4d1f2a01"),
            ("ce_source", b"/shop"),
            ("ce_type", type_of_event),
            ("ce_time", b"2026-03-01T10:20:30.006Z"),
        ]


def test_each_event_has_its_own_uuid() -> None:
    assert AccessEvent.of("/", name="kafka").uuid != AccessEvent.of("/", name="kafka").uuid
    assert FullTextEvent(text="a").uuid != FullTextEvent(text="a").uuid


def test_a_uri_over_the_limit_is_truncated_and_has_a_header() -> None:
    event = AccessEvent.of("/" + "a" * MAX_URI_LENGTH, name="kafka")
    assert len(event.uri) == MAX_URI_LENGTH
    assert ("ce_kptruncated", b"true") in event.headers()
    assert list(json.loads(event.body())) == ["uuid", "uri", "name"]


def test_a_uri_at_the_limit_is_not_truncated() -> None:
    event = AccessEvent.of("/" + "a" * (MAX_URI_LENGTH - 1), name="kafka")
    assert not event.truncated
    assert [name for name, _ in event.headers() if name == "ce_kptruncated"] == []


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "/a b",  # a request line contains no space
        "/a\r\nb",  # decoded: would split a log line
        "/\x00",
        "/☃",  # decoded
        "/" + "a" * MAX_URI_LENGTH,  # only `of` truncates
    ],
)
def test_a_uri_that_is_not_percent_encoded_is_rejected(uri: str) -> None:
    with pytest.raises(ValueError, match="uri is"):
        AccessEvent(uri=uri, name="kafka")


def test_a_uuid_of_another_version_is_rejected() -> None:
    with pytest.raises(ValueError, match="version 4"):
        AccessEvent(uri="/", name="kafka", uuid=uuid1())
    with pytest.raises(ValueError, match="version 4"):
        FullTextEvent(text="a note", uuid=uuid1())


@pytest.mark.parametrize(
    ("name", "defect"),
    [
        ("x' OR 1=1 --", None),  # any text is valid
        ("<script>", None),
        ("a" * MAX_NAME_LENGTH, None),
        ("a" * (MAX_NAME_LENGTH + 1), "too_long"),  # longer than varchar(85)
        ("", "empty"),
        (" \t", "empty"),
        ("\ud800", "not_unicode"),  # a lone surrogate has no UTF-8
        (None, "not_text"),
        (b"kafka", "not_text"),
    ],
)
def test_the_defect_of_a_name(name: object, defect: str | None) -> None:
    assert name_defect(name) == defect


@pytest.mark.parametrize(
    ("text", "defect"),
    [
        ("<script>\x00\u202e", None),  # any text is valid
        ("x" * MAX_TEXT_LENGTH, None),
        ("🎉" * MAX_TEXT_LENGTH, None),  # characters, not bytes
        ("x" * (MAX_TEXT_LENGTH + 1), "too_long"),
        ("", "empty"),
        (" \r\n\u3000", "empty"),
        ("a\udc00", "not_unicode"),
        (None, "not_text"),
    ],
)
def test_the_defect_of_a_text(text: object, defect: str | None) -> None:
    assert text_defect(text) == defect


def test_an_invalid_name_or_text_is_rejected() -> None:
    with pytest.raises(ValueError, match="name is empty"):
        AccessEvent(uri="/", name="")
    with pytest.raises(ValueError, match="text is empty"):
        FullTextEvent(text=" ")


@pytest.mark.parametrize(
    ("raw_path", "query_string", "uri"),
    [
        (b"/a", b"", "/a"),
        (b"/a", b"b=c&b=c?d", "/a?b=c&b=c?d"),
        (b"/%ff%fe%00%0d%0a", b"", "/%ff%fe%00%0d%0a"),  # raw, never decoded
        (b"/a/../../etc", b"", "/a/../../etc"),  # not normalised
        (b"/%2f..%2f", b"", "/%2f..%2f"),
        (b"*", b"", "*"),  # OPTIONS *
        (b"http://u:p@host/x", b"y=1", "/x?y=1"),  # absolute form, which h11 passes on
        (b"http://u:p@host", b"", "/"),
        (b"http://u:p@host", b"y=http://other/", "/?y=http://other/"),
        (b"HTTPS://u:p@host/x", b"", "/x"),
        (b"//u/x", b"", "//u/x"),  # a path that looks like a host
    ],
)
def test_the_uri_is_the_request_target_as_received(
    raw_path: bytes, query_string: bytes, uri: str
) -> None:
    assert uri_as_received(raw_path, query_string) == uri


@pytest.mark.parametrize(
    ("raw_path", "query_string"),
    [
        (b"/caf\xe9", b""),  # a byte that must be encoded
        (b"/", b"q=\xff"),
        (b"/a\nb", b""),
        (b"/a\x7f", b""),
        (b"user:secret@host:443", b""),  # the authority form belongs to CONNECT
        (b"relative", b""),
        (b"", b""),
    ],
)
def test_a_malformed_request_target_has_no_uri(raw_path: bytes, query_string: bytes) -> None:
    with pytest.raises(ValueError, match="target|ascii"):
        uri_as_received(raw_path, query_string)
