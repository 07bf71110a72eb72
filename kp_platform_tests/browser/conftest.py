"""The browser, and steps that several tests share."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Dialog, Page, Playwright, expect, sync_playwright

# The names that packages.sh accepts; the last is Ubuntu's.
BROWSERS = ("chromium", "google-chrome", "chromium-browser")
# Another name of the stack: without TLS a browser trusts an origin only on loopback.
NAME_WITHOUT_TRUST = "kp.test"
# The last four keep Chromium from contacting its vendor at every start.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    f"--host-resolver-rules=MAP {NAME_WITHOUT_TRUST} 127.0.0.1",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    expect.set_options(
        timeout=30_000
    )  # the timeout of actions; the default of 5 s is short on a busy machine
    # Not for the session: while Playwright runs, no other test can run an event loop.
    with sync_playwright() as playwright, chromium(playwright) as browser:
        yield browser.new_page()


@contextmanager
def chromium(playwright: Playwright) -> Iterator[Browser]:
    """The Chromium of this machine."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
    yield browser
    browser.close()


@pytest.fixture
def dialogs(page: Page) -> Iterator[list[str]]:
    """The messages of all dialogs that a page has opened."""
    messages: list[str] = []

    def shown(dialog: Dialog) -> None:
        messages.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", shown)
    yield messages
    page.remove_listener("dialog", shown)


def reload_until_shown(page: Page, text: str) -> None:
    """Reload until the text is shown: the page is complete without JavaScript."""
    for _ in range(90):
        if page.get_by_text(text).count():
            return
        page.wait_for_timeout(1_000)
        page.reload()
    pytest.fail(f"{text} is not on {page.url} after one and a half minutes")
