"""Values as a person reads them: the templates' environment, its filters and tests.

Belongs here: text, times and spans for the eye. Does not belong here: what a page shows
(`pages.py`), and markup (`templates/`).
"""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_FOLDER = Path(__file__).parent
STATIC_FOLDER = _FOLDER / "static"

# What HTML cannot carry, or nobody can see: control characters other than tab and line break, and
# lone surrogates, which have no UTF-8.
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def visible(text: str) -> str:
    """A text with a sign for each character that HTML would swallow or change.

    C0 and DEL have control pictures in Unicode, NUL being U+2400; C1 have none: `\\x85`.
    """
    return _UNSEEN.sub(_sign, text.replace("\r\n", "\n"))


def _sign(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    return f"\\x{code:02x}" if code < 0x100 else "\ufffd"


def utc_time(text: str) -> str:
    """An ISO 8601 time as a person reads it, in UTC, to the millisecond; other text as it is."""
    try:
        moment = datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        return text
    return f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1_000:03d}"


def span(length: timedelta) -> str:
    """A length of time in one unit, the largest of which there are two."""
    seconds = max(0, round(length.total_seconds()))
    for unit, name in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds // unit} {name}"
    return f"{seconds} s"


def bar_name(step: timedelta) -> str:
    """What a bar of a chart stands for: a minute, 5 minutes, 3 hours."""
    seconds = round(step.total_seconds())
    for unit, name in ((604_800, "week"), (86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds % unit == 0:
            return name if seconds == unit else f"{seconds // unit} {name}s"
    return "second" if seconds == 1 else f"{seconds} seconds"


def bar_time(start: datetime, step: timedelta) -> str:
    """When a bar of this length starts, no more exactly than it needs."""
    if step >= timedelta(days=1):
        return f"{start:%b %d}"
    return f"{start:%b %d, %H:%M:%S}" if step < timedelta(minutes=1) else f"{start:%b %d, %H:%M}"


def number(value: int) -> str:
    return f"{value:,}"


def is_web_address(text: str | None) -> bool:
    """Whether a stored value may become a link: `javascript:` and its like may not."""
    return text is not None and text.startswith(("https://", "http://"))


def environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        auto_reload=False,  # else each page looks at the files of its templates
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for each in (bar_name, bar_time, number, span, utc_time, visible):
        environment.filters[each.__name__] = each
    environment.tests["web_address"] = is_web_address
    return environment
