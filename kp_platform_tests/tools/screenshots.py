"""`python -m kp_platform_tests.tools.screenshots`: takes the pictures of docs/screenshots.

Belongs here: a day of generated accesses through the whole platform, and the list of pictures. Does
not belong here: testing the pages (`browser/`). `make screenshots` calls it.
"""

import argparse
import random
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import orjson
from confluent_kafka import Producer
from playwright.sync_api import Browser, Page, sync_playwright
from rich.console import Console

from kp_platform.flows.builtin import ACCESS_LOG
from kp_platform_tests.browser.conftest import chromium
from kp_platform_tests.conftest import wait_for
from kp_platform_tests.producing import produce
from kp_platform_tests.stack import ROOT, Stack, temporary_stack

FOLDER = ROOT / "docs" / "screenshots"
OFFSETS = range(2_000, 3_000, 100)
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
WALL = {"width": 1700, "height": 1500}
DAY_SECONDS = 86_400
# One of these names has no reference data.
NAMES = ("presto", "kafka", "laravel", "elasticsearch", "guest")
SHARES = (40, 25, 20, 12, 3)
PAGES = ("/", "/articles/{}", "/articles/{}?page=2", "/search?q=REDACTED", "/cart", "/login")
PAGE_SHARES = (20, 45, 10, 12, 8, 5)
ARTICLES = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=5_000_000)
    options = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    console = Console(stderr=True)
    with _browser() as browser, temporary_stack("screenshots", OFFSETS) as stack:
        album = Album(browser, stack, console)
        album.page("analysis-empty", "/analysis")
        stack.kp("demo")
        album.page("analysis", "/analysis")
        album.page("analysis-dark", "/analysis", dark=True)
        album.page("analysis-phone", "/analysis", size=PHONE)
        album.document("document")
        album.page("notes", "/fulltext/form")
        console.print(f"publishing {options.events:,} accesses of one day")
        publish_day(stack, options.events)
        wait_until_indexed(stack)
        album.page("analysis-5-million", "/analysis?last=24h", shows="text=Most frequent")
        asset = "/assets/enriched_access_log?view="
        album.dagster(
            "asset-graph",
            "/locations/kp_platform/asset-groups/enriched_logs/lineage",
            size=WALL,
            shows='text="Materialized"',
            click='[aria-label="zoom_out"]',
            times=5,
        )
        album.dagster("asset", f"{asset}overview", shows="text=Row count")
        album.dagster("asset-plots", f"{asset}overview", click="text=Plots", shows="canvas")
        album.dagster("materialization", f"{asset}events", shows="text=offsets without a message")
        sensor = "/locations/kp_platform/sensors/access_log_offsets"
        album.dagster("sensor-ticks", sensor, shows="text=Timestamp")


@contextmanager
def _browser() -> Iterator[Browser]:
    with sync_playwright() as playwright, chromium(playwright) as browser:
        yield browser


class Album:
    """Takes pictures of a stack."""

    def __init__(self, browser: Browser, stack: Stack, console: Console) -> None:
        self._browser, self._settings, self._console = browser, stack.settings, console

    def page(
        self,
        name: str,
        path: str,
        *,
        size: dict[str, int] = DESKTOP,
        dark: bool = False,
        shows: str = "h1",
    ) -> None:
        """A page of the emitter."""
        with self._open(f"{self._settings.emitter_url}{path}", size, dark) as page:
            self._shoot(page, name, shows)

    def document(self, name: str) -> None:
        """The page of the newest access."""
        with self._open(f"{self._settings.emitter_url}/analysis", DESKTOP) as page:
            page.locator("td.uuid a").first.click()
            page.wait_for_url("**/analysis/*")
            self._shoot(page, name, "h1")

    def dagster(
        self,
        name: str,
        path: str,
        *,
        size: dict[str, int] = DESKTOP,
        click: str = "",
        times: int = 1,
        shows: str,
    ) -> None:
        """A page of the Dagster UI, which never stops loading: `shows` selects what it needs."""
        with self._open(f"{self._settings.dagster_url}{path}", size) as page:
            for _ in range(times if click else 0):
                page.locator(click).first.click()
                page.wait_for_timeout(1_000)
            self._shoot(page, name, shows)

    @contextmanager
    def _open(self, url: str, size: dict[str, int], dark: bool = False) -> Iterator[Page]:
        context = self._browser.new_context(
            viewport={"width": size["width"], "height": size["height"]},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
        )
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.goto(url)
        page.wait_for_load_state("load")
        yield page
        context.close()

    def _shoot(self, page: Page, name: str, shows: str) -> None:
        page.locator(shows).first.scroll_into_view_if_needed()
        page.wait_for_timeout(3_000)  # the parts that the selector does not name
        path = FOLDER / f"{name}.png"
        page.screenshot(path=path)
        self._console.print(str(path.relative_to(ROOT)))


def publish_day(stack: Stack, count: int) -> None:
    """Publish accesses of the last 24 hours to the topic, more by day than by night."""
    chance, now = random.Random(1), time.time()
    producer = Producer(
        {
            "bootstrap.servers": stack.settings.kafka_bootstrap_servers,
            "acks": "all",
            "linger.ms": 50,
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    busiest = DAY_SECONDS * 0.7
    for second in sorted(chance.triangular(0, DAY_SECONDS, busiest) for _ in range(count)):
        event = {
            "uuid": str(uuid.UUID(int=chance.getrandbits(128), version=4)),
            "uri": _uri(chance),
            "name": chance.choices(NAMES, SHARES)[0],
        }
        moment = int((now - DAY_SECONDS + second) * 1_000)
        produce(producer, ACCESS_LOG.topic, orjson.dumps(event), timestamp=moment)
        producer.poll(0)
    left = producer.flush(120)
    assert not left, f"{left} events were not acknowledged"


def _uri(chance: random.Random) -> str:
    [page] = chance.choices(PAGES, PAGE_SHARES)
    return page.format(int(chance.paretovariate(1.1)) % ARTICLES)


def wait_until_indexed(stack: Stack) -> None:
    """Wait until the metrics of the emitter report no lag."""
    url = f"{stack.settings.emitter_url}/metrics/indexer"
    lag = f'kp_indexer_lag{{flow="{ACCESS_LOG.name}"'

    def is_indexed() -> bool:
        lines = httpx.get(url, trust_env=False).text.splitlines()
        lags = [float(line.split()[-1]) for line in lines if line.startswith(lag)]
        return bool(lags) and not any(lags)

    wait_for(is_indexed, "no lag", 1_200)


if __name__ == "__main__":
    main()
