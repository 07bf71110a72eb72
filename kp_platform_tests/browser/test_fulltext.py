"""A note written in a browser becomes searchable; hostile notes are shown as text."""

import re
import uuid
from typing import Any
from urllib.parse import parse_qs

from playwright.sync_api import Page, Request, expect

from kp_platform_tests.browser.conftest import NAME_WITHOUT_TRUST, reload_until_shown
from kp_platform_tests.conftest import wait_for
from kp_platform_tests.integration.events import search
from kp_platform_tests.stack import Stack

# A unique word precedes and follows each, by which a search finds it.
HOSTILE = {
    "markup": "<script>alert(1)</script></textarea></p><img src=x onerror=alert(2)><b>bold</b>",
    "marks": "<mark>no hit</mark> &lt;b&gt; &#0; [0123456789abcdef0123456789abcdef]",
    "template": "{{7*7}} ${7*7} {% raw %}",
    "20 kB": "x" * 19_900,
    "emoji": "🎉👩‍👩‍👧‍👦 日本語 é",
    "right to left": "\u202eright to left\u2066 مرحبا",
    "controls": "\x00 \x01 \x0b \x0c \x1b[31m \x1f \x7f \x85",
    "line breaks": "\n\n  one\n\n\ttwo  \n",
}


def register(page: Page, url: str, text: str) -> Request:
    """Submit a note; returns the request of the form, which is answered."""
    page.goto(f"{url}/fulltext/form")
    page.get_by_label("Text").fill(text)
    with page.expect_response("**/fulltext/register") as answered:
        page.get_by_role("button", name="Register").click()
    return answered.value.request


def submitted(request: Request) -> str:
    """The text of a request, parsed without the emitter's code."""
    assert request.post_data is not None
    (text,) = parse_qs(request.post_data, keep_blank_values=True, errors="strict")["text"]
    return text


def indexed(*words: str) -> list[dict[str, Any]]:
    """The documents with at least one of these words."""
    return search("fulltext.register", {"match": {"text": " ".join(words)}})


def test_a_note_is_searchable_by_word_and_hits_are_highlighted(
    whole_stack: Stack, page: Page
) -> None:
    url, word = whole_stack.settings.emitter_url, f"w{uuid.uuid4().hex}"
    register(page, url, f"This note has the word {word.upper()} in it.")
    expect(page).to_have_url(f"{url}/fulltext/registered")
    page.get_by_role("link", name="Read the newest notes").click()
    expect(page).to_have_url(f"{url}/fulltext")
    reload_until_shown(page, word.upper())
    page.get_by_label("All words").fill(word)
    page.get_by_role("button", name="Search").click()
    expect(page).to_have_url(re.compile(f"q={word}"))
    reload_until_shown(page, "The best 1 of 1 notes")
    expect(page.locator("mark")).to_have_text([word.upper()])
    page.get_by_role("link", name="Clear").click()
    expect(page).to_have_url(f"{url}/fulltext")


def test_hostile_notes_are_stored_unchanged_and_shown_as_text(
    whole_stack: Stack, page: Page, dialogs: list[str]
) -> None:
    url = whole_stack.settings.emitter_url
    sent: dict[str, str] = {}
    for text in HOSTILE.values():
        word = f"w{uuid.uuid4().hex}"
        whole = f"{word} {text} {word}"
        sent[word] = submitted(register(page, url, whole))
        assert sent[word] == whole.replace("\n", "\r\n")
    wait_for(lambda: len(indexed(*sent)) == len(sent), "every note is indexed", 120)
    assert sorted(each["text"] for each in indexed(*sent)) == sorted(sent.values())
    for word in sent:
        page.goto(f"{url}/fulltext?q={word}")
        reload_until_shown(page, "The best 1 of 1 notes")
        note = page.get_by_role("article")
        assert set(note.locator("mark").all_inner_texts()) == {word}
        assert note.locator(".text *:not(mark)").count() == 0
        assert page.locator("main script, main img, main b, main textarea").count() == 0
    page.goto(f"{url}/fulltext")
    reload_until_shown(page, HOSTILE["markup"])
    reload_until_shown(page, "{{7*7}} ${7*7}")
    assert dialogs == []


def test_no_page_is_wider_than_a_phone(whole_stack: Stack, page: Page) -> None:
    """After the hostile notes, of which one is a word of 20 kB."""
    page.set_viewport_size({"width": 390, "height": 844})
    for path in ("/", "/analysis", "/fulltext", "/fulltext?q=zzz", "/fulltext/form"):
        page.goto(f"{whole_stack.settings.emitter_url}{path}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path


def test_a_blank_note_is_returned_with_an_error_beside_the_field(
    whole_stack: Stack, page: Page
) -> None:
    page.goto(f"{whole_stack.settings.emitter_url}/fulltext/form")
    page.get_by_role("button", name="Register").click()  # the browser refuses an empty field
    expect(page).to_have_url(f"{whole_stack.settings.emitter_url}/fulltext/form")
    register(page, whole_stack.settings.emitter_url, "\n\n ")
    field = page.get_by_label("Text")
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(field).to_have_accessible_description(
        "At most 20,000 characters; a line break counts as two. The note is empty: enter some text."
    )
    expect(field).to_have_value("\n\n ")
    expect(field).to_be_focused()


def test_a_site_without_tls_accepts_its_own_form(whole_stack: Stack, page: Page) -> None:
    """A browser then sends no Sec-Fetch-Site, so Origin must name the site."""
    url = whole_stack.settings.emitter_url.replace("127.0.0.1", NAME_WITHOUT_TRUST)
    request = register(page, url, f"w{uuid.uuid4().hex}")
    headers = request.all_headers()
    assert "sec-fetch-site" not in headers
    assert headers["origin"] == url
    expect(page).to_have_url(f"{url}/fulltext/registered")


def test_a_form_of_another_site_is_refused(whole_stack: Stack, page: Page) -> None:
    page.goto("about:blank")
    page.set_content(
        f'<form method="post" action="{whole_stack.settings.emitter_url}/fulltext/register">'
        '<textarea name="text">a foreign note</textarea><button>Win</button></form>'
    )
    page.get_by_role("button", name="Win").click()
    expect(page.get_by_role("heading", name="Request from another site")).to_be_visible()
