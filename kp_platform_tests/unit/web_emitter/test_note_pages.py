"""The form of a note with its validation, and the pages of the notes."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import pytest
from starlette.testclient import TestClient

from kp_platform_tests.unit.web_emitter.fakes import FakeNotes, FakeSink
from kp_platform_tests.unit.web_emitter.html import Tags
from web_emitter.emitter.events import MAX_TEXT_LENGTH
from web_emitter.site.notes.form import FORM_TYPE, MAX_BODY_BYTES
from web_emitter.site.notes.search import Note, Piece

HOSTILE_TEXTS = [
    "<script>alert(1)</script></textarea></p><img src=x onerror=alert(2)>\"'",
    "<mark>not a hit</mark> &lt;b&gt; &#0;",
    "x" * 20_000,  # 20 kB in one word
    "🎉👩‍👩‍👧‍👦 日本語",
    "\u202eright to left\u2066",
    "\r\n\r\n  first line break, blanks and tab\t",  # HTML drops one after <textarea>
    "[0123456789abcdef0123456789abcdef]",  # like a highlight tag
    "{{7*7}}{% raw %}${7*7}",
    "a=b&text=c+d%41;e",  # like a form body
]
# Characters that HTML cannot represent, so that no form can show them.
CONTROLS = "nul \x00 escape \x1b[31m delete \x7f vertical \x0b c1 \x85"


def post(client: TestClient, text: str, **headers: str) -> Any:
    return client.post(
        "/fulltext/register", data={"text": text}, headers=headers, follow_redirects=False
    )


def textarea(html: str) -> str:
    """The text of the field as a browser has it: without the line break after the tag."""
    (field,) = Tags(html).texts("textarea")
    return field.removeprefix("\n")


def note(text: str, *fragments: tuple[Piece, ...]) -> Note:
    return Note(
        registered_at="2026-03-01T10:20:30.456Z",
        uuid="0b1c6b1e-6f0f-4d3b-9a57-0d6f4d1f2a01",
        text=text,
        fragments=fragments,
    )


def test_the_form_shows_its_limit_and_sets_it_in_the_browser(client: TestClient) -> None:
    page = Tags(client.get("/fulltext/form").text)
    (field,) = page.named("textarea")
    assert (field["name"], field["maxlength"], field["aria-describedby"]) == (
        "text",
        "20000",
        "limit",
    )
    assert "required" in field
    assert "aria-invalid" not in field
    assert [label["for"] for label in page.named("label")] == [field["id"]]
    assert "At most 20,000 characters" in page.text
    (form,) = page.named("form")
    assert form == {
        "method": "post",
        "action": "/fulltext/register",
        "class": "writing",
        "hx-boost": "false",  # a browser sends line breaks as two characters, htmx as one
    }


def test_a_page_with_the_form_lets_the_browser_send_its_origin(client: TestClient) -> None:
    for answer in (client.get("/fulltext/form"), post(client, "")):
        assert answer.headers.get_list("referrer-policy") == ["same-origin"]


@pytest.mark.parametrize("text", [*HOSTILE_TEXTS, CONTROLS, "x", "x" * MAX_TEXT_LENGTH])
def test_a_note_is_published_unchanged_and_the_browser_redirected(
    client: TestClient, sink: FakeSink, note_sink: FakeSink, text: str
) -> None:
    answer = post(client, text)
    assert (answer.status_code, answer.headers["location"]) == (303, "/fulltext/registered")
    assert note_sink.texts == [text]
    assert sink.uris == ["/fulltext/register"]  # an access like any other


def test_a_note_has_the_headers_of_its_source(client: TestClient, note_sink: FakeSink) -> None:
    post(client, "a note")
    headers = dict(note_sink.events[0].headers())
    assert headers["ce_type"] == b"kp.fulltext.v1"
    assert headers["ce_source"] == b"/web_emitter"
    assert isinstance(identity := headers["ce_id"], bytes)
    assert UUID(identity.decode()).version == 4


def test_the_page_after_a_note_can_be_reloaded(client: TestClient, note_sink: FakeSink) -> None:
    answer = client.post("/fulltext/register", data={"text": "a note"})
    assert answer.url.path == "/fulltext/registered"
    assert "is registered" in answer.text
    assert "/fulltext" in [link["href"] for link in Tags(answer.text).named("a")]
    client.get("/fulltext/registered")
    assert note_sink.texts == ["a note"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "The note is empty"),
        (" \r\n\t\u3000", "The note is empty"),
        ("x" * (MAX_TEXT_LENGTH + 1), "The text has 20,001 characters"),
        ("\r\n" * 10_000 + "é", "The text has 20,001 characters"),
        (f"</textarea>{HOSTILE_TEXTS[0]}" + "x" * MAX_TEXT_LENGTH, "The maximum is 20,000"),
    ],
)
def test_an_invalid_note_is_returned_with_an_error_at_the_field(
    client: TestClient, note_sink: FakeSink, text: str, message: str
) -> None:
    answer = post(client, text)
    assert answer.status_code == 422
    page = Tags(answer.text)
    (field,) = page.named("textarea")
    assert (field["aria-invalid"], field["aria-describedby"]) == ("true", "limit error")
    assert [each["id"] for each in page.named("p") if "id" in each] == ["error"]
    assert message in page.text
    assert textarea(answer.text) == text
    assert page.named("script") == page.named("img") == []
    assert note_sink.events == []


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_a_dropped_note_stays_in_the_form(
    client: TestClient, note_sink: FakeSink, text: str
) -> None:
    note_sink.is_full = True
    answer = post(client, text)
    assert answer.status_code == 503
    assert "try again" in answer.text
    assert textarea(answer.text) == text


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"text=", 422),
        (b"other=x", 422),
        (b"text", 422),  # neither name nor value
        (b"text=a&text=b", 422),  # ambiguous
        (b"text=%FF", 422),  # not UTF-8
        (b"text=\xff", 422),
        (b"text=caf\xc3\xa9", 303),  # UTF-8 that is not percent-encoded
        (b"text=a%00b", 303),
        (b"text=%ED%A0%80", 422),  # a lone surrogate
        (b"text=" + b"%F0%9F%8E%89" * MAX_TEXT_LENGTH, 303),  # the longest valid note
        (b"text=" + b"x" * MAX_BODY_BYTES, 413),
    ],
)
def test_a_body_is_parsed_strictly(
    client: TestClient, note_sink: FakeSink, body: bytes, status: int
) -> None:
    answer = client.post(
        "/fulltext/register",
        content=body,
        headers={"content-type": FORM_TYPE},
        follow_redirects=False,
    )
    assert answer.status_code == status
    assert len(note_sink.events) == (status == 303)


def test_a_body_without_a_length_is_read_up_to_the_limit(client: TestClient) -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        yield b"text="
        for _ in range(10):
            taken += 1
            yield b"x" * MAX_BODY_BYTES

    answer = client.post(
        "/fulltext/register", content=endless(), headers={"content-type": FORM_TYPE}
    )
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/x-www-form-urlencoded", 303),
        ("Application/X-WWW-Form-Urlencoded; charset=UTF-8", 303),
        ("multipart/form-data; boundary=x", 415),
        ("text/plain", 415),  # a cross-site form may send it without a preflight
        ("application/json", 415),
        ("", 415),
    ],
)
def test_only_the_content_type_of_a_form_is_accepted(
    client: TestClient, content_type: str, status: int
) -> None:
    answer = client.post(
        "/fulltext/register",
        content=urlencode({"text": "a note"}),
        headers={"content-type": content_type},
        follow_redirects=False,
    )
    assert answer.status_code == status


def test_a_form_of_another_site_is_rejected(client: TestClient, note_sink: FakeSink) -> None:
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://evil.test"}):
        answer = post(client, "a note", **headers)
        assert answer.status_code == 403
        assert "another site" in answer.text
    assert note_sink.events == []


def test_notes_are_only_registered_by_post(client: TestClient, note_sink: FakeSink) -> None:
    assert client.get("/fulltext/register?text=x").status_code == 405
    assert note_sink.events == []


def test_notes_are_listed_newest_first(client: TestClient, notes: FakeNotes) -> None:
    notes.notes = (note("first\r\nline"),)
    answer = client.get("/fulltext")
    page = Tags(answer.text)
    assert answer.status_code == 200
    assert "The newest 1 of 1 notes" in page.text
    assert "2026-03-01 10:20:30.456" in page.text
    assert page.texts("p")[-1] == "first\nline"
    assert len(page.named("h1")) == 1
    assert page.named("details") == []


def test_a_search_highlights_its_words_and_stays_in_the_field(
    client: TestClient, notes: FakeNotes
) -> None:
    notes.notes = (note("Kafka <b>flows</b>, kafka"), note("nothing"))
    page = Tags(client.get("/fulltext?q=kafka").text)
    assert page.texts("mark") == ["Kafka", "kafka"]
    assert page.named("b") == []
    assert [field["value"] for field in page.named("input")] == ["kafka"]
    assert "The best 1 of 1 notes" in page.text


def test_a_long_note_shows_an_excerpt_and_the_complete_text_on_demand(
    client: TestClient, notes: FakeNotes
) -> None:
    notes.notes = (note("0123456789" * 100),)
    page = Tags(client.get("/fulltext").text)
    assert len(page.named("details")) == 1
    beginning, whole = (text for text in page.texts("p") if text.startswith("0123"))
    assert beginning == "0123456789" * 50 + " …"
    assert whole == "0123456789" * 100


def test_a_note_of_a_megabyte_is_truncated_on_the_page(
    client: TestClient, notes: FakeNotes
) -> None:
    notes.notes = (note("x" * 1_000_000),)
    html = client.get("/fulltext").text
    assert len(html) < 30_000
    assert "The first 20,000 of 1,000,000 characters." in html


@pytest.mark.parametrize("text", [*HOSTILE_TEXTS, CONTROLS])
def test_hostile_notes_are_escaped(client: TestClient, notes: FakeNotes, text: str) -> None:
    notes.notes = (note(text, (Piece(text, is_hit=True),)),)
    for path in ("/fulltext", f"/fulltext?{urlencode({'q': text[:300]})}"):
        page = Tags(client.get(path).text)
        for tag in ("script", "img", "b", "textarea"):
            assert page.named(tag) == []
        assert [name for _, fields in page.tags for name in fields if name[:2] == "on"] == []


def test_characters_that_html_cannot_represent_are_shown_as_symbols(
    client: TestClient, notes: FakeNotes
) -> None:
    notes.notes = (note(CONTROLS),)
    html = client.get("/fulltext").text
    assert "nul ␀ escape ␛[31m delete ␡ vertical ␋ c1 \\x85" in html
    assert "\x00" not in html


def test_each_text_has_its_own_direction(client: TestClient, notes: FakeNotes) -> None:
    notes.notes = (note("\u202eabc"),)
    page = Tags(client.get("/fulltext").text)
    directions = [each["dir"] for each in page.named("p") if each.get("class") == "text"]
    assert directions == ["auto"]


def test_a_page_without_notes_links_to_the_form(client: TestClient) -> None:
    answer = client.get("/fulltext")
    assert answer.status_code == 200
    assert "No notes yet" in answer.text
    assert "/fulltext/form" in [link["href"] for link in Tags(answer.text).named("a")]
    assert Tags(answer.text).named("input") == []


def test_a_search_without_results_links_to_all_notes(client: TestClient, notes: FakeNotes) -> None:
    notes.notes = (note("kafka"),)
    answer = client.get("/fulltext?q=redis")
    assert answer.status_code == 200
    assert "No matching notes" in answer.text
    assert '<a href="/fulltext">Clear the search</a>' in answer.text


def test_an_unavailable_elasticsearch_is_a_503_with_its_address(
    client: TestClient, notes: FakeNotes
) -> None:
    notes.go_down()
    answer = client.get("/fulltext?q=kafka")
    assert answer.status_code == 503
    assert "http://127.0.0.1:18020" in answer.text
    assert "kp status" in answer.text
    assert [field["value"] for field in Tags(answer.text).named("input")] == ["kafka"]
