"""A visit in a browser appears on the analysis page, which filters, updates and exports logs.

Hostile text is shown as text.
"""

import csv
import functools
import re
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from kp_platform_tests.bad_input.cases import markup
from kp_platform_tests.browser.conftest import reload_until_shown
from kp_platform_tests.conftest import wait_for
from kp_platform_tests.integration.events import Event, documents, publish
from kp_platform_tests.stack import Stack


def test_a_visit_appears_on_the_analysis_page_with_its_enrichment(
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


def test_markup_in_an_event_is_shown_as_text(
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


def test_hostile_strings_are_shown_unchanged(
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


@functools.cache
def marker() -> str:
    """The URI prefix of 120 logs with four names in turn: 60 in the last half hour, 60 two hours
    earlier, so that a slow test finds the same in the last hour."""
    marker, now = f"/m{uuid.uuid4().hex}", datetime.now(UTC)
    for number in range(120):
        event = Event(uri=f"{marker}/{number}", name=("kafka", "presto", "a b", "<i>")[number % 4])
        age = timedelta(hours=2 * (number // 60), seconds=30 * (number % 60))
        publish(event.value, at=now - age)
    return marker


@pytest.fixture
def logs(whole_stack: Stack, page: Page) -> str:
    """The page of these logs."""
    url = f"{whole_stack.settings.emitter_url}/analysis?uri={marker()}"
    page.goto(url)
    reload_until_shown(page, "The newest 50 of 120 logs")
    return url


def expect_logs(page: Page, numbers: range) -> None:
    """Wait until the table has exactly the logs of these numbers, in this order.

    A click returns before the page that it leads to is complete, so nothing is read once only.
    """
    expect(page.locator("td[data-label=URI]")).to_have_text([f"{marker()}/{n}" for n in numbers])


def test_pages_lead_to_older_logs_and_back(page: Page, logs: str) -> None:
    expect_logs(page, range(50))
    page.get_by_role("link", name="Older").click()
    expect_logs(page, range(50, 100))
    page.get_by_role("link", name="Older").click()
    expect(page.get_by_role("table")).to_contain_text("20 older logs")
    page.get_by_role("link", name="Newer").click()
    expect_logs(page, range(50, 100))
    page.get_by_role("link", name="Newest").click()
    expect(page.get_by_role("table")).to_contain_text("The newest 50 of 120 logs")
    page.go_back()
    expect_logs(page, range(50, 100))


def test_filters_can_be_removed(page: Page, logs: str) -> None:
    page.get_by_label("Words in URI or name").fill("presto")
    page.get_by_role("button", name="Filter").click()
    expect(page.get_by_role("table").last).to_contain_text("The newest 30 of 30 logs")
    page.get_by_role("link", name="1 hour").click()
    expect(page.get_by_role("table").last).to_contain_text("The newest 15 of 15 logs")
    page.get_by_role("link", name="Remove Words").click()
    expect(page.get_by_role("table").last).to_contain_text("of 60 logs")
    page.get_by_role("link", name="Remove Time").click()
    expect(page.get_by_role("table").last).to_contain_text("of 120 logs")
    expect(page).to_have_url(re.compile(re.escape(marker().replace("/", "%2F"))))


def test_a_bar_zooms_in_and_a_name_filters(page: Page, logs: str) -> None:
    bars = page.locator("svg a:not([tabindex])")
    before = int(str(bars.last.locator("title").text_content()).split(": ")[1].split(" ")[0])
    bars.last.click()
    expect(page.get_by_role("list", name="Filters")).to_contain_text("Time: from")
    expect(page.get_by_role("table").last).to_contain_text(f"of {before} logs")
    page.goto(logs)
    page.locator(".ranking").get_by_role("link", name="<i>").click()
    expect(page.get_by_role("table").last).to_contain_text("of 30 logs")


def test_a_log_has_its_own_page(page: Page, logs: str) -> None:
    page.locator("td[data-label=UUID] a").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Access")
    row = page.get_by_role("row").filter(has_text="test_id")
    expect(row).to_contain_text("MySQL, my_tests.testing.tests")
    expect(page.get_by_role("link", name="Dagster run")).to_have_count(1)


def test_new_logs_are_added_until_paused(whole_stack: Stack, page: Page) -> None:
    start = f"/l{uuid.uuid4().hex}"
    publish(Event(uri=f"{start}/1").value)
    page.goto(f"{whole_stack.settings.emitter_url}/analysis?uri={start}")
    reload_until_shown(page, f"{start}/1")
    page.evaluate("window.still = true")  # lost if the page is reloaded
    page.get_by_role("button", name="View live").click()
    expect(page.get_by_text("new logs appear automatically")).to_be_visible()
    publish(Event(uri=f"{start}/2").value)
    row = page.get_by_role("row")
    expect(row.filter(has_text=f"{start}/2")).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="View live")).to_be_visible()
    event = Event(uri=f"{start}/3")
    publish(event.value)
    wait_for(lambda: len(documents(event.uuid)) == 1, "the log is searchable")
    page.wait_for_timeout(2_500)  # an update takes a second
    expect(row.filter(has_text=f"{start}/3")).to_have_count(0)
    page.get_by_role("button", name="View live").click()
    expect(row.filter(has_text=f"{start}/3")).to_be_visible()
    assert page.evaluate("window.still")


def test_logs_can_be_exported(page: Page, logs: str, tmp_path: Path) -> None:
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV", exact=True).click()
    file = tmp_path / "logs.csv"
    download.value.save_as(file)
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) >= 120
    assert {row["name"] for row in rows} >= {"kafka", "presto", "a b", "<i>"}


def test_pages_are_complete_without_javascript(page: Page, logs: str) -> None:
    browser = page.context.browser
    assert browser is not None
    context = browser.new_context(java_script_enabled=False)
    plain = context.new_page()
    plain.goto(logs)
    plain.get_by_label("Words in URI or name").fill("kafka")
    plain.get_by_role("button", name="Filter").click()
    expect(plain.get_by_role("table").last).to_contain_text("of 30 logs")
    plain.get_by_role("link", name="Remove Words").click()
    plain.get_by_role("link", name="Older").click()
    expect_logs(plain, range(50, 100))
    context.close()


AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_are_accessible(whole_stack: Stack, page: Page, logs: str, scheme: Any) -> None:
    """By the rules of axe-core, WCAG 2 AA included."""
    page.emulate_media(color_scheme=scheme)
    one = page.locator("td[data-label=UUID] a").first.get_attribute("href")
    base = whole_stack.settings.emitter_url
    for path in (
        "/",
        "/analysis",
        logs.removeprefix(base),
        f"{logs.removeprefix(base)}&live=on",
        "/analysis?name=nobody",
        str(one),
        "/fulltext",
        "/fulltext/form",
        "/nothing-here",
    ):
        page.goto(f"{base}{path}")
        page.evaluate(AXE)
        found = page.evaluate("axe.run().then(found => found.violations)")
        assert [(each["id"], each["nodes"][0]["html"]) for each in found] == [], path
    page.emulate_media(color_scheme="light")


def test_an_empty_search_offers_to_clear_the_filter(whole_stack: Stack, page: Page) -> None:
    publish(Event().value)
    page.goto(f"{whole_stack.settings.emitter_url}/analysis")
    reload_until_shown(page, "complete")
    page.goto(f"{whole_stack.settings.emitter_url}/analysis?name={uuid.uuid4()}")
    expect(page.get_by_role("table")).to_have_count(0)
    page.get_by_role("main").get_by_role("link", name="Clear the filter").click()
    expect(page.get_by_role("table")).to_have_count(1)
