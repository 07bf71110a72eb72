"""The query for logs: the state of the analysis page, all of which is in its URL.

Belongs here: parsing a URL, building links, the corresponding Elasticsearch query. Does not belong
here: running it (`logs.py`), presentation (`pages.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from urllib.parse import urlencode

from web_emitter.emitter.events import MAX_URI_LENGTH
from web_emitter.site.analysis.chart import EPOCH
from web_emitter.site.search import Cursor, with_all_words

# The names are valid in Elasticsearch's date math.
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
DEFAULT_LENGTH = PRESETS["24h"]

# index.max_regex_length, in UTF-16 units, of which a text has at most as many as UTF-8 bytes. It
# limits range queries on keywords too (verified with Elasticsearch 8).
_MAX_PREFIX = 1_000
_MAX_KEYWORD_BYTES = 32_766
_YEARS = range(1970, 9_000)


class BadQuery(ValueError):
    """A URL with invalid parameters; the message is shown to the visitor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """A period: a preset that ends now, or a start, an end, both or neither."""

    last: str = ""
    start: datetime | None = None
    end: datetime | None = None

    @classmethod
    def of(cls, last: str, start: str, end: str) -> Self:
        """Times are ISO 8601, in UTC by default, and override a preset. Raises BadQuery."""
        if last and not (start or end):
            if last not in PRESETS:
                raise BadQuery(f"The period {last!r} is not one of {', '.join(PRESETS)}.")
            return cls(last=last)
        period = cls(start=_moment("From", start), end=_moment("To", end))
        if period.start and period.end and period.start >= period.end:
            raise BadQuery("From must be before To.")
        return period

    def __bool__(self) -> bool:
        return bool(self.last or self.start or self.end)

    def __str__(self) -> str:
        if self.last:
            return f"last {PRESETS_IN_WORDS[self.last]}"
        sides = (("from", self.start), ("until", self.end))
        return ", ".join(f"{word} {each:%Y-%m-%d %H:%M:%S}" for word, each in sides if each)

    def bounds(self, now: datetime) -> tuple[datetime, datetime]:
        """Start and end of a chart; a missing one is DEFAULT_LENGTH from the other, or now."""
        if self.last:
            return now - PRESETS[self.last], now
        end = self.end or (max(now, self.start + timedelta(minutes=1)) if self.start else now)
        return self.start or end - DEFAULT_LENGTH, end

    def as_elasticsearch(self) -> dict[str, Any]:
        if self.last:
            bounds: dict[str, Any] = {"gte": f"now-{self.last}"}
        else:
            bounds = {"format": "epoch_millis"}
            if self.start:
                bounds["gte"] = milliseconds(self.start)
            if self.end:
                bounds["lt"] = milliseconds(self.end)
        return {"range": {"@timestamp": bounds}}


@dataclass(frozen=True, slots=True)
class Chip:
    """One active filter as it is displayed."""

    field: str
    label: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogQuery:
    """Selects logs by words in URI or name, exact name, prefix of the URI, Dagster run and period;
    `after` and `before` are the cursor of a page. An empty query selects the newest of all logs.

    The URI is truncated like the stored ones, so that a complete long URI matches its event.
    """

    words: str = ""
    name: str = ""
    uri: str = ""
    run: str = ""
    period: Period = Period()
    after: Cursor | None = None
    before: Cursor | None = None

    @classmethod
    def of(cls, parameters: Mapping[str, str]) -> Self:
        """From the parameters of a URL. Raises BadQuery."""
        period = Period.of(*(parameters.get(name, "").strip() for name in ("last", "from", "to")))
        return cls(
            words=parameters.get("q", ""),
            name=parameters.get("name", ""),
            uri=parameters.get("uri", ""),
            run=parameters.get("run", ""),
            period=period,
            after=_cursor(parameters.get("after")),
            before=_cursor(parameters.get("before")),
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
        """Whether this is the first page of all logs."""
        return not self.is_filtered and self.is_first_page

    def parameters(self) -> dict[str, str]:
        """The parameters of a URL; the reverse of `of`."""
        values = {
            "q": self.words,
            "name": self.name,
            "uri": self.uri,
            "run": self.run,
            "last": self.period.last,
            "from": _input_value(self.period.start),
            "to": _input_value(self.period.end),
            "after": self.after.token if self.after else "",
            "before": self.before.token if self.before else "",
        }
        return {name: value for name, value in values.items() if value}

    def link(self, path: str = "/analysis", **changes: Any) -> str:
        """The path of the first page with these changes, or of the page of a cursor in them."""
        query = replace(self, **{"after": None, "before": None} | changes)
        parameters = urlencode(query.parameters())
        return f"{path}?{parameters}" if parameters else path

    def live_link(self) -> str:
        """The path of the first page with live updates."""
        return self.link() + ("&" if self.is_filtered else "?") + "live=on"

    def link_to_period(self, start: datetime, end: datetime) -> str:
        return self.link(period=Period(start=start, end=end))

    def link_to_last(self, preset: str) -> str:
        return self.link(period=Period(last=preset))

    def link_without(self, name: str) -> str:
        """The path of the first page without one of the filters."""
        removed: dict[str, Any] = {name: Period() if name == "period" else ""}
        return self.link(**removed)

    def chips(self) -> list[Chip]:
        chips = [
            Chip("words", "Words", self.words if self.has_words else ""),
            Chip("name", "Name", self.name),
            Chip("uri", "URI prefix", self.uri),
            Chip("run", "Run", self.run),
            Chip("period", "Time", str(self.period)),
        ]
        return [chip for chip in chips if chip.value]

    def as_elasticsearch(self, *additional: dict[str, Any]) -> dict[str, Any]:
        """The Elasticsearch query, with additional filters."""
        filters = list(additional)
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
    """Milliseconds since the epoch."""
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
    raise BadQuery(f"{label}: {text[:50]!r} is not a time such as 2026-01-31T12:00.")


def _input_value(moment: datetime | None) -> str:
    """The value of a datetime-local field, in UTC."""
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
        raise BadQuery("The link to this page is incomplete or was changed.") from None


def _starting_with(field: str, start: str) -> dict[str, Any]:
    """A prefix that is too long for a prefix query must equal the whole text."""
    if len(start.encode()) > _MAX_PREFIX:
        return equal(field, start)
    return {"prefix": {field: start}}


def equal(field: str, text: str) -> dict[str, Any]:
    """A text longer than any keyword matches nothing; Elasticsearch would report an error."""
    if len(text.encode()) > _MAX_KEYWORD_BYTES:
        return {"match_none": {}}
    return {"term": {field: text}}
