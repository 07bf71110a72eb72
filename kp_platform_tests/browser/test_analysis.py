"""A visit in a real browser is on the analysis page moments later, and hostile text is inert."""

import uuid

from playwright.sync_api import Page, expect

from kp_platform_tests.bad_input.cases import markup
from kp_platform_tests.browser.conftest import reload_until_shown
from kp_platform_tests.integration.events import Event, publish
from kp_platform_tests.stack import Stack


def test_a_visit_is_on_the_analysis_page_with_its_enrichment(
    whole_stack: Stack, page: Page
) -> None:
    visited = f"/a-page-that-does-not-exist/{uuid.uuid4()}"
    page.goto(f"{whole_stack.settings.emitter_url}{visited}")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    page.goto(f"{whole_stack.settings.emitter_url}/analysis?uri={visited}")
    reload_until_shown(page, "complete")
    row = page.get_by_role("row").filter(has_text=visited)
    expect(row).to_have_count(1)
    expect(row.get_by_role("link", name="https:")).to_have_count(1)


def test_markup_in_an_event_is_text_on_the_page(
    whole_stack: Stack, page: Page, dialogs: list[str]
) -> None:
    marker = uuid.uuid4().hex
    uri = f"/{marker}/<script>alert(1)</script><img src=x onerror=alert(2)>{{{{7*7}}}}"
    publish(Event(uri=uri, name="<b>bold</b>").value)
    page.goto(f"{whole_stack.settings.emitter_url}/analysis?uri=/{marker}")
    reload_until_shown(page, uri)
    expect(page.get_by_text("<b>bold</b>").first).to_be_visible()
    assert page.locator("td script, td img, td b").count() == 0
    assert dialogs == []


def test_nasty_strings_are_text_on_the_page_letter_by_letter(
    whole_stack: Stack, page: Page, dialogs: list[str]
) -> None:
    marker, texts = uuid.uuid4().hex, markup()
    assert "<script>alert(1)</script>" in texts
    publish(*(Event(uri=f"/{marker}{text}", name=text).value for text in texts))
    page.goto(f"{whole_stack.settings.emitter_url}/analysis?uri=/{marker}")
    reload_until_shown(page, f"The newest {len(texts)} of {len(texts)} logs")
    uris = page.locator("td[data-label=URI]").all_text_contents()
    names = page.locator("td[data-label=Name]").all_text_contents()
    assert sorted(uris) == sorted(f"/{marker}{text}" for text in texts)
    assert sorted(names) == sorted(texts)
    assert page.locator("td :is(script, img, svg, h1, style, iframe, [onmouseover])").count() == 0
    assert dialogs == []


def test_an_empty_search_says_how_to_go_on(whole_stack: Stack, page: Page) -> None:
    publish(Event().value)
    page.goto(f"{whole_stack.settings.emitter_url}/analysis")
    reload_until_shown(page, "complete")
    page.goto(f"{whole_stack.settings.emitter_url}/analysis?name={uuid.uuid4()}")
    expect(page.get_by_role("table")).to_have_count(0)
    page.get_by_role("main").get_by_role("link", name="Clear the filter").click()
    expect(page.get_by_role("table")).to_have_count(1)
