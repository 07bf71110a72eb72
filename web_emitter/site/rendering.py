"""Formatting values for display: the environment of the templates, its filters and tests.

Belongs here: text, times, durations and numbers. Does not belong here: what a page shows (the
`pages.py` of each topic), and markup (`templates/`).
"""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_FOLDER = Path(__file__).parent
STATIC_FOLDER = _FOLDER / "static"

# Characters that HTML cannot represent or that are invisible: control characters other than tab and
# line break, and lone surrogates, which have no UTF-8.
_INVISIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def visible(text: str) -> str:
    """A text with a visible symbol for each character that HTML would drop or change.

    C0 and DEL have control pictures in Unicode, NUL being U+2400; C1 have none: `\\x85`.
    """
    return _INVISIBLE.sub(_symbol, text.replace("\r\n", "\n"))


def _symbol(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    return f"\\x{code:02x}" if code < 0x100 else "\ufffd"


def utc_time(text: str) -> str:
    """An ISO 8601 time in UTC with milliseconds, for display; other text is returned unchanged."""
    try:
        moment = datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        return text
    return f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1_000:03d}"


def duration(length: timedelta) -> str:
    """A duration in one unit, the largest of which there are at least two."""
    seconds = max(0, round(length.total_seconds()))
    for unit, name in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds // unit} {name}"
    return f"{seconds} s"


def bar_name(step: timedelta) -> str:
    """The time step of a bar: minute, 5 minutes, 3 hours."""
    seconds = round(step.total_seconds())
    for unit, name in ((604_800, "week"), (86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds % unit == 0:
            return name if seconds == unit else f"{seconds // unit} {name}s"
    return "second" if seconds == 1 else f"{seconds} seconds"


def bar_time(start: datetime, step: timedelta) -> str:
    """The start of a bar with the precision of its time step."""
    if step >= timedelta(days=1):
        return f"{start:%b %d}"
    return f"{start:%b %d, %H:%M:%S}" if step < timedelta(minutes=1) else f"{start:%b %d, %H:%M}"


def number(value: int) -> str:
    return f"{value:,}"


def is_web_address(text: str | None) -> bool:
    """Whether a stored value may become a link; `javascript:` and other schemes may not."""
    return text is not None and text.startswith(("https://", "http://"))


def environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        auto_reload=False,  # otherwise each page checks the files of its templates
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for each in (bar_name, bar_time, duration, number, utc_time, visible):
        environment.filters[each.__name__] = each
    environment.tests["web_address"] = is_web_address
    return environment
