"""Which logs somebody asks for: the state of the analysis page, all of it in the URL.

Belongs here: reading it from a URL, writing it into links, and what it means to Elasticsearch. Does
not belong here: asking (`logs.py`), and how it looks (`pages.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from urllib.parse import urlencode

from web_emitter.emitter.events import MAX_URI_LENGTH
from web_emitter.site.chart import EPOCH
from web_emitter.site.search import Cursor, with_all_words

# By the name that Elasticsearch's date math has for them too.
PRESETS: Mapping[str, timedelta] = {
    "15m": timedelta(minutes=15),
    "1h": timedelta(hours=1),
    "24h": timedelta(hours=24),
    "7d": timedelta(days=7),
}
PRESETS_IN_WORDS: Mapping[str, str] = {
    "15m": "15 minutes",
    "1h": "1 hour",
    "24h": "24 hours",
    "7d": "7 days",
}
DEFAULT_SPAN = PRESETS["24h"]

# index.max_regex_length, in UTF-16 units; never more than UTF-8 bytes. A range has it too [ran].
_MAX_PREFIX = 1_000
_MAX_KEYWORD_BYTES = 32_766
_YEARS = range(1970, 9_000)


class BadQuery(ValueError):
    """A URL that no link of ours has; the message is for the person who made it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """A span of time: a preset that ends now, or from a moment, to another one, both or neither."""

    last: str = ""
    start: datetime | None = None
    end: datetime | None = None

    @classmethod
    def of(cls, last: str, start: str, end: str) -> Self:
        """Times are ISO 8601, UTC unless they say else, and win over a preset. Raises BadQuery."""
        if last and not (start or end):
            if last not in PRESETS:
                raise BadQuery(f"The last {last!r}: known are {', '.join(PRESETS)}.")
            return cls(last=last)
        period = cls(start=_moment("From", start), end=_moment("To", end))
        if period.start and period.end and period.start >= period.end:
            raise BadQuery("From must lie before To.")
        return period

    def __bool__(self) -> bool:
        return bool(self.last or self.start or self.end)

    def __str__(self) -> str:
        if self.last:
            return f"last {PRESETS_IN_WORDS[self.last]}"
        sides = (("from", self.start), ("until", self.end))
        return ", ".join(f"{word} {each:%Y-%m-%d %H:%M:%S}" for word, each in sides if each)

    def bounds(self, now: datetime) -> tuple[datetime, datetime]:
        """Start and end of what a chart shows: where one is not given, DEFAULT_SPAN from the other
        one, or from now."""
        if self.last:
            return now - PRESETS[self.last], now
        end = self.end or (max(now, self.start + timedelta(minutes=1)) if self.start else now)
        return self.start or end - DEFAULT_SPAN, end

    def as_elasticsearch(self) -> dict[str, Any]:
        if self.last:
            span: dict[str, Any] = {"gte": f"now-{self.last}"}
        else:
            span = {"format": "epoch_millis"}
            if self.start:
                span["gte"] = milliseconds(self.start)
            if self.end:
                span["lt"] = milliseconds(self.end)
        return {"range": {"@timestamp": span}}


@dataclass(frozen=True, slots=True)
class Chip:
    """One filter that is set, as a person reads it."""

    field: str
    label: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogQuery:
    """Which logs: those with all the words in URI or name, of exactly this name, whose URI starts
    like this, that this Dagster run indexed, of this period; the page behind one place, or before
    another. Empty: all, the newest.

    A URI is cut as the stored ones are, so that a whole long one finds its event.
    """

    words: str = ""
    name: str = ""
    uri: str = ""
    run: str = ""
    period: Period = Period()
    after: Cursor | None = None
    before: Cursor | None = None

    @classmethod
    def of(cls, asked: Mapping[str, str]) -> Self:
        """From the parameters of a URL. Raises BadQuery."""
        period = Period.of(*(asked.get(name, "").strip() for name in ("last", "from", "to")))
        return cls(
            words=asked.get("q", ""),
            name=asked.get("name", ""),
            uri=asked.get("uri", ""),
            run=asked.get("run", ""),
            period=period,
            after=_cursor(asked.get("after")),
            before=_cursor(asked.get("before")),
        )

    @property
    def is_filtered(self) -> bool:
        return bool(self.has_words or self.name or self.uri or self.run or self.period)

    @property
    def has_words(self) -> bool:
        return bool(self.words) and not self.words.isspace()

    @property
    def is_first_page(self) -> bool:
        return self.after is None and self.before is None

    @property
    def is_overview(self) -> bool:
        """Everything, from the newest on."""
        return not self.is_filtered and self.is_first_page

    def parameters(self) -> dict[str, str]:
        """What stands in a URL; the reverse of `of`."""
        given = {
            "q": self.words,
            "name": self.name,
            "uri": self.uri,
            "run": self.run,
            "last": self.period.last,
            "from": _written(self.period.start),
            "to": _written(self.period.end),
            "after": self.after.token if self.after else "",
            "before": self.before.token if self.before else "",
        }
        return {name: value for name, value in given.items() if value}

    def link(self, path: str = "/analysis", **changes: Any) -> str:
        """The path of the first page with these changes, or of the page that they name."""
        query = replace(self, **{"after": None, "before": None} | changes)
        given = urlencode(query.parameters())
        return f"{path}?{given}" if given else path

    def live_link(self) -> str:
        """The path of the first page, which then follows the newest logs."""
        return self.link() + ("&" if self.is_filtered else "?") + "live=on"

    def link_to_period(self, start: datetime, end: datetime) -> str:
        return self.link(period=Period(start=start, end=end))

    def link_to_last(self, preset: str) -> str:
        return self.link(period=Period(last=preset))

    def link_without(self, name: str) -> str:
        """The path of the first page without one of the filters."""
        nothing: dict[str, Any] = {name: Period() if name == "period" else ""}
        return self.link(**nothing)

    def chips(self) -> list[Chip]:
        chips = [
            Chip("words", "Words", self.words if self.has_words else ""),
            Chip("name", "Name", self.name),
            Chip("uri", "URI starting with", self.uri),
            Chip("run", "Run", self.run),
            Chip("period", "Time", str(self.period)),
        ]
        return [chip for chip in chips if chip.value]

    def as_elasticsearch(self, *more: dict[str, Any]) -> dict[str, Any]:
        """The query of Elasticsearch, with more filters."""
        filters = list(more)
        if self.has_words:
            filters.append(with_all_words(self.words, ["uri.words", "name.words"]))
        if self.name:
            filters.append(equal("name", self.name))
        if self.uri:
            filters.append(_starting_with("uri", self.uri[:MAX_URI_LENGTH]))
        if self.run:
            filters.append(equal("run_id", self.run))
        if self.period:
            filters.append(self.period.as_elasticsearch())
        return {"bool": {"filter": filters}} if filters else {"match_all": {}}


def milliseconds(moment: datetime) -> int:
    """Since the epoch."""
    return (moment - EPOCH) // timedelta(milliseconds=1)


def _moment(label: str, text: str) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
        moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
        if moment.year in _YEARS:
            return moment
    except (ValueError, OverflowError):
        pass
    raise BadQuery(f"{label}: {text[:50]!r} is no time; write it like 2026-01-31T12:00.")


def _written(moment: datetime | None) -> str:
    """As a field for a date and a time has it; in UTC, as `of` reads it."""
    if moment is None:
        return ""
    precision = "milliseconds" if moment.microsecond else "seconds"
    return moment.replace(tzinfo=None).isoformat(timespec=precision)


def _cursor(token: str | None) -> Cursor | None:
    if not token:
        return None
    try:
        return Cursor.from_token(token)
    except ValueError:
        raise BadQuery("The link to this page was cut or changed.") from None


def _starting_with(field: str, start: str) -> dict[str, Any]:
    """A start that is too long for a prefix query must be the whole text."""
    if len(start.encode()) > _MAX_PREFIX:
        return equal(field, start)
    return {"prefix": {field: start}}


def equal(field: str, text: str) -> dict[str, Any]:
    """What is longer than any keyword is found nowhere; Elasticsearch would call it an error."""
    if len(text.encode()) > _MAX_KEYWORD_BYTES:
        return {"match_none": {}}
    return {"term": {field: text}}
