"""The reference pages equal what the code renders, on any machine."""

import pytest
from prometheus_client.core import GaugeMetricFamily
from pydantic import Field
from pydantic_settings import BaseSettings

from kp_platform.local.settings import LocalSettings
from kp_platform.settings import environment
from kp_platform_tests.stack import ROOT
from kp_platform_tests.tools.reference_docs import PAGES, Setting, metric_row, settings_of
from web_emitter.site.settings import SiteSettings


class Odd(BaseSettings):
    """Kinds of settings that the platform does not use yet."""

    rate: float = Field(0.5, gt=0, le=1, description="A share.")
    double: float = Field(default_factory=lambda data: 2 * data["rate"], description="Of another.")


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_what_the_code_renders(path: str) -> None:
    assert (ROOT / path).read_text(encoding="utf-8") == PAGES[path](), "run `make docs`"


@pytest.mark.parametrize("path", PAGES)
def test_neither_the_environment_nor_the_terminal_changes_a_page(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = PAGES[path]()
    monkeypatch.setenv("KP_PORT_OFFSET", "300")
    monkeypatch.setenv("KP_MYSQL_PASSWORD", "hunter2")
    monkeypatch.setenv("COLUMNS", "40")
    assert PAGES[path]() == before


def test_the_lines_of_env_example_set_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = environment(LocalSettings(), secrets=True), SiteSettings()
    lines = PAGES[".env.example"]().splitlines()
    for name, value in (line[1:].split("=", 1) for line in lines if line.startswith("#KP_")):
        monkeypatch.setenv(name, value)
    assert (environment(LocalSettings(), secrets=True), SiteSettings()) == defaults


def test_a_setting_is_shown_with_bounds_and_a_default_computed_from_another_setting() -> None:
    assert settings_of(Odd) == [
        Setting("KP_RATE", "0.5", "number, > 0, <= 1", "A share."),
        Setting("KP_DOUBLE", "1", "number", "Of another."),
    ]


def test_a_metric_without_a_sample_is_rejected() -> None:
    family = GaugeMetricFamily("kp_age_seconds", "How old.", None, ["topic"])
    with pytest.raises(ValueError, match="kp_age_seconds has no sample"):
        metric_row(family)
    family.add_metric(["analyze.action"], 1)
    assert metric_row(family) == ("`kp_age_seconds`", "gauge", "`topic`", "How old.")
