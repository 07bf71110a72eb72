"""Formatting for display: links, times, durations, symbols for invisible characters."""

from datetime import timedelta

import pytest

from web_emitter.site.rendering import duration, is_web_address, utc_time, visible


@pytest.mark.parametrize(
    ("value", "is_link"),
    [
        ("https://kafka.apache.org/", True),
        ("http://kafka.apache.org/", True),
        ("javascript:alert(1)", False),
        (" https://kafka.apache.org/", False),
        ("data:text/html,x", False),
        (None, False),
    ],
)
def test_only_web_addresses_become_links(value: str | None, is_link: bool) -> None:
    assert is_web_address(value) == is_link


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2026-03-01T10:20:30.456Z", "2026-03-01 10:20:30.456"),
        ("2026-03-01T10:20:30+09:00", "2026-03-01 01:20:30.000"),
        ("not a time", "not a time"),
        ("", ""),
    ],
)
def test_times_are_shown_in_utc(text: str, shown: str) -> None:
    assert utc_time(text) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (119, "119 s"),  # below two minutes
        (120, "2 min"),
        (7_199, "119 min"),
        (7_200, "2 h"),
        (172_800, "2 days"),
        (-5, "0 s"),  # clock skew
    ],
)
def test_a_duration_is_shown_in_one_unit(seconds: float, shown: str) -> None:
    assert duration(timedelta(seconds=seconds)) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\nc", "a\tb\nc"),
        ("a\r\nb", "a\nb"),  # the line break of a browser
        ("a\rb", "a\u240db"),  # HTML would read a line break
        ("\x00", "\u2400"),  # HTML would read U+FFFD
        ("\x1b[31m", "\u241b[31m"),
        ("\x0b\x0c\x1f", "\u240b\u240c\u241f"),
        ("\x7f", "\u2421"),
        ("\x85", "\\x85"),  # has no control picture
        ("\ud800", "\ufffd"),  # has no UTF-8
        ("\u202eabc", "\u202eabc"),  # isolated by the markup
        ("<b>&amp;{{7*7}}", "<b>&amp;{{7*7}}"),  # escaped by the template
    ],
)
def test_characters_that_html_would_drop_are_shown_as_symbols(text: str, shown: str) -> None:
    assert visible(text) == shown
