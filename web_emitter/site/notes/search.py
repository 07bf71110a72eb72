"""Searching the notes that were registered as full text.

Belongs here: the query, highlighting, documents as values. Does not belong here: the connection
(`site/search.py`), presentation (`pages.py`).
"""

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

from web_emitter.contract import FULL_TEXT_INDEX
from web_emitter.emitter.events import MAX_TEXT_LENGTH
from web_emitter.site.search import NEWEST_FIRST, Sort, run_search, with_all_words

if TYPE_CHECKING:
    from elasticsearch import AsyncElasticsearch

PAGE_SIZE = 50
# Number of characters in an excerpt without hits.
EXCERPT_LENGTH = 500

_FRAGMENTS = 3
_FRAGMENT_LENGTH = 300
_FRAGMENT_PIECES = 20
# Number of characters that are highlighted, the maximum that a page shows. Without this limit
# Elasticsearch reports an error for a text over index.highlight.max_analyzed_offset.
_MAX_ANALYZED_OFFSET = MAX_TEXT_LENGTH
_MOST_RELEVANT_FIRST: Sort = [{"_score": {"order": "desc"}}, *NEWEST_FIRST]
# An empty note is stored, but not shown.
_NOT_EMPTY = {"range": {"length": {"gt": 0}}}


@dataclass(frozen=True, slots=True)
class NoteQuery:
    """Selects notes with all the words, in simple_query_string syntax. Blank: all notes."""

    words: str = ""

    @property
    def is_search(self) -> bool:
        return bool(self.words) and not self.words.isspace()

    def as_elasticsearch(self) -> dict[str, Any]:
        query: dict[str, Any] = {"bool": {"filter": [_NOT_EMPTY]}}
        if self.is_search:
            query["bool"]["must"] = [with_all_words(self.words, ["text"])]
        return query


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a stored text; `is_hit` when it matches the search."""

    text: str
    is_hit: bool = False


def _near_hits(pieces: Sequence[Piece]) -> Iterator[Piece]:
    """Fragments end at word boundaries; very long words are cut to the text next to a hit."""
    for index, piece in enumerate(pieces[:_FRAGMENT_PIECES]):
        text = piece.text[-_FRAGMENT_LENGTH:] if index == 0 else piece.text[:_FRAGMENT_LENGTH]
        yield Piece(text, piece.is_hit)


class Highlighter:
    """Delimits the hits in one response by random tags that no stored text can contain."""

    def __init__(self) -> None:
        token = secrets.token_hex(16)
        self.start, self.end = f"[{token}", f"{token}]"
        self._hit = re.compile(f"{re.escape(self.start)}(.*?){re.escape(self.end)}", re.DOTALL)

    def pieces(self, fragment: str) -> tuple[Piece, ...]:
        """The pieces in order: every second one was between two tags."""
        texts = enumerate(self._hit.split(fragment))
        return tuple(Piece(text, is_hit=index % 2 == 1) for index, text in texts if text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One document. `fragments` are the pieces of its text around hits, best first."""

    registered_at: str
    uuid: str
    text: str
    fragments: tuple[tuple[Piece, ...], ...] = ()

    @classmethod
    def from_hit(cls, hit: Mapping[str, Any], highlighter: Highlighter) -> Self:
        document = hit["_source"]
        fragments = hit.get("highlight", {}).get("text", [])
        return cls(
            registered_at=str(document.get("@timestamp", "")),
            uuid=document.get("uuid", ""),
            text=document.get("text", ""),
            fragments=tuple(tuple(_near_hits(highlighter.pieces(each))) for each in fragments),
        )

    @property
    def excerpt(self) -> tuple[tuple[Piece, ...], ...]:
        """The text around hits, or the beginning of the note when it has no highlighted hit."""
        return self.fragments or ((Piece(self.text[:EXCERPT_LENGTH]),),)

    @property
    def excerpt_is_complete(self) -> bool:
        return "".join(piece.text for piece in self.excerpt[0]).strip() == self.text.strip()


@dataclass(frozen=True, slots=True)
class NotePage:
    """The first notes of a query and their total number, a lower bound when it is not exact."""

    notes: tuple[Note, ...] = ()
    total: int = 0
    total_is_exact: bool = True
    anything_registered: bool = False


class NoteSearch(Protocol):
    """Raises SearchUnavailable."""

    async def search(self, query: NoteQuery) -> NotePage: ...


class ElasticsearchNotes:
    """NoteSearch on an Elasticsearch client."""

    def __init__(self, client: "AsyncElasticsearch", index: str = FULL_TEXT_INDEX) -> None:
        self._client = client
        self._index = index

    async def search(self, query: NoteQuery) -> NotePage:
        highlighter = Highlighter()
        hits = (await self._hits(query, highlighter))["hits"]
        anything = bool(hits["hits"]) or (query.is_search and await self._has_any())
        return NotePage(
            notes=tuple(Note.from_hit(hit, highlighter) for hit in hits["hits"]),
            total=hits["total"]["value"],
            total_is_exact=hits["total"]["relation"] == "eq",
            anything_registered=anything,
        )

    async def _hits(self, query: NoteQuery, highlighter: Highlighter) -> Mapping[str, Any]:
        return await run_search(
            self._client,
            self._index,
            query=query.as_elasticsearch(),
            sort=_MOST_RELEVANT_FIRST if query.is_search else NEWEST_FIRST,
            size=PAGE_SIZE,
            source={"includes": ["@timestamp", "uuid", "text"]},
            highlight={
                "fields": {"text": {}},
                "pre_tags": [highlighter.start],
                "post_tags": [highlighter.end],
                "number_of_fragments": _FRAGMENTS,
                "fragment_size": _FRAGMENT_LENGTH,
                "order": "score",
                "max_analyzed_offset": _MAX_ANALYZED_OFFSET,
            },
        )

    async def _has_any(self) -> bool:
        query = NoteQuery().as_elasticsearch()
        result = await run_search(self._client, self._index, query=query, size=0)
        return bool(result["hits"]["total"]["value"])
