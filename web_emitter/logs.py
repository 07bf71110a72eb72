"""Reading the enriched logs.

Belongs here: which logs are asked for, and documents as values. Does not belong here: the
connection (`search.py`), how logs look (`pages.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self
from urllib.parse import urlencode

from web_emitter.events import MAX_URI_LENGTH
from web_emitter.search import NEWEST_FIRST, Cursor, ask
from web_emitter.settings import ACCESS_LOG_INDEX

if TYPE_CHECKING:
    from elasticsearch import AsyncElasticsearch

PAGE_SIZE = 50

# index.max_regex_length, in UTF-16 units; never more than UTF-8 bytes. A range has it too [ran].
_MAX_PREFIX = 1_000
_MAX_KEYWORD_BYTES = 32_766


@dataclass(frozen=True, slots=True, kw_only=True)
class LogQuery:
    """Which logs: those of exactly this name, whose URI starts like this, that stand behind a
    place. Empty: all.

    A URI is cut as the stored ones are, so that a whole long one finds its event.
    """

    name: str = ""
    uri: str = ""
    after: Cursor | None = None

    @property
    def is_filtered(self) -> bool:
        return bool(self.name or self.uri)

    @property
    def is_overview(self) -> bool:
        """Everything, from the newest on."""
        return not self.is_filtered and self.after is None

    def link(self, after: Cursor | None = None) -> str:
        """The path of the page with the same filters, behind another place."""
        fields = {"name": self.name, "uri": self.uri, "after": after.token if after else ""}
        given = urlencode({name: value for name, value in fields.items() if value})
        return f"/analysis?{given}" if given else "/analysis"

    def as_elasticsearch(self, *more: dict[str, Any]) -> dict[str, Any]:
        """The query of Elasticsearch, with more filters."""
        filters = list(more)
        if self.name:
            filters.append(_equal("name", self.name))
        if self.uri:
            filters.append(_starting_with("uri", self.uri[:MAX_URI_LENGTH]))
        return {"bool": {"filter": filters}} if filters else {"match_all": {}}


def _starting_with(field: str, start: str) -> dict[str, Any]:
    """A start that is too long for a prefix query must be the whole text."""
    if len(start.encode()) > _MAX_PREFIX:
        return _equal(field, start)
    return {"prefix": {field: start}}


def _equal(field: str, text: str) -> dict[str, Any]:
    """What is longer than any keyword is found nowhere; Elasticsearch would call it an error."""
    if len(text.encode()) > _MAX_KEYWORD_BYTES:
        return {"match_none": {}}
    return {"term": {field: text}}


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrichedLog:
    """One document as the page shows it. What a document lacks is None, or empty text."""

    accessed_at: str
    uuid: str
    uri: str
    name: str
    redis_key: str | None
    redis_value: str | None
    test_id: int | None
    test_name: str | None
    state: str
    missing: tuple[str, ...]

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        enrichment = document.get("enrichment") or {}
        return cls(
            accessed_at=str(document.get("@timestamp", "")),
            uuid=document.get("uuid", ""),
            uri=document.get("uri", ""),
            name=document.get("name", ""),
            redis_key=document.get("redis_key"),
            redis_value=document.get("redis_value"),
            test_id=document.get("test_id"),
            test_name=document.get("test_name"),
            state=enrichment.get("state", ""),
            missing=tuple(enrichment.get("missing") or ()),
        )


@dataclass(frozen=True, slots=True)
class Found:
    """Logs of a query, how many it has ("at least", when not exact; None: not counted, which would
    take longer than to find them), and the cursor behind which there are more."""

    logs: tuple[EnrichedLog, ...] = ()
    total: int | None = 0
    total_is_exact: bool = True
    anything_indexed: bool = False
    more_after: Cursor | None = None


class LogSearch(Protocol):
    """Both verbs raise SearchUnavailable."""

    async def newest(self, query: LogQuery) -> Found: ...

    async def ping(self) -> None: ...


class ElasticsearchLogs:
    """LogSearch on an Elasticsearch client."""

    def __init__(self, client: "AsyncElasticsearch", index: str = ACCESS_LOG_INDEX) -> None:
        self._client = client
        self._index = index

    async def newest(self, query: LogQuery) -> Found:
        hits = await self._page(query)
        shown = hits["hits"][:PAGE_SIZE]
        anything = bool(shown) or (not query.is_overview and await self._has_any())
        total = hits.get("total", {"value": None, "relation": "gte"})
        return Found(
            logs=tuple(EnrichedLog.from_document(hit["_source"]) for hit in shown),
            total=total["value"],
            total_is_exact=total["relation"] == "eq",
            anything_indexed=anything,
            more_after=Cursor.behind(shown) if len(hits["hits"]) > len(shown) else None,
        )

    async def _page(self, query: LogQuery) -> Mapping[str, Any]:
        """The hits of a page, and one more if there is one. An older page is first looked for near
        its cursor: else all events of its day would be sorted for it."""
        if query.after is not None:
            first = max(0, query.after.milliseconds - query.after.reach)
            near = {"range": {"@timestamp": {"gte": first, "format": "epoch_millis"}}}
            hits = await self._search(query, PAGE_SIZE + 1, near)
            if len(hits["hits"]) > PAGE_SIZE:
                return hits
        return await self._search(query, PAGE_SIZE + 1)

    async def ping(self) -> None:
        # Not es.info(): a minimal build does not answer it.
        await self._search(LogQuery(), 0)

    async def _has_any(self) -> bool:
        return bool((await self._search(LogQuery(), 1))["hits"])

    async def _search(self, query: LogQuery, size: int, *filters: Any) -> Mapping[str, Any]:
        behind: dict[str, Any] = {}
        if query.after is not None:
            behind = {"search_after": query.after.place, "track_total_hits": False}
        answer = await ask(
            self._client,
            self._index,
            query=query.as_elasticsearch(*filters),
            sort=NEWEST_FIRST,
            size=size,
            **behind,
        )
        hits: Mapping[str, Any] = answer["hits"]
        return hits
