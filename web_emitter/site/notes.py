"""Reading the notes that were registered as full text.

Belongs here: what is asked for, how a hit is marked, documents as values. Does not belong here: the
connection (`search.py`), how notes look (`pages.py`).
"""

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

from web_emitter.emitter.events import MAX_TEXT_LENGTH
from web_emitter.emitter.settings import FULL_TEXT_INDEX
from web_emitter.site.search import NEWEST_FIRST, Sort, ask, with_all_words

if TYPE_CHECKING:
    from elasticsearch import AsyncElasticsearch

PAGE_SIZE = 50
# Characters that are shown of a note at once.
BEGINNING = 500

_FRAGMENTS = 3
_FRAGMENT_LENGTH = 300
_FRAGMENT_PARTS = 20
# Characters that are looked at for hits to mark, those that a page shows at most. Elasticsearch
# calls a text over index.highlight.max_analyzed_offset an error, unless told to look no further.
_MAX_ANALYZED_OFFSET = MAX_TEXT_LENGTH
_MOST_RELEVANT_FIRST: Sort = [{"_score": {"order": "desc"}}, *NEWEST_FIRST]
# A document without letters is empty; it is kept, but nobody wants to read it.
_NOT_EMPTY = {"range": {"length": {"gt": 0}}}


@dataclass(frozen=True, slots=True)
class NoteQuery:
    """Which notes: those with all the words, in the syntax of simple_query_string. Blank: all."""

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
class Part:
    """A piece of a text, as it is stored; `is_hit` says that it is what was searched for."""

    text: str
    is_hit: bool = False


def _near_hits(parts: Sequence[Part]) -> Iterator[Part]:
    """A fragment ends where a word does; of a word without an end, what is next to a hit."""
    for index, part in enumerate(parts[:_FRAGMENT_PARTS]):
        text = part.text[-_FRAGMENT_LENGTH:] if index == 0 else part.text[:_FRAGMENT_LENGTH]
        yield Part(text, part.is_hit)


class Marker:
    """Marks hits in the answer to one question by texts that nobody can have written before it."""

    def __init__(self) -> None:
        token = secrets.token_hex(16)
        self.start, self.end = f"[{token}", f"{token}]"
        self._hit = re.compile(f"{re.escape(self.start)}(.*?){re.escape(self.end)}", re.DOTALL)

    def parts(self, fragment: str) -> tuple[Part, ...]:
        """The pieces in their order: every second one was between two markers."""
        pieces = enumerate(self._hit.split(fragment))
        return tuple(Part(piece, is_hit=index % 2 == 1) for index, piece in pieces if piece)


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One document. `fragments` are the places of its text where the search hit, best first."""

    registered_at: str
    uuid: str
    text: str
    fragments: tuple[tuple[Part, ...], ...] = ()

    @classmethod
    def from_hit(cls, hit: Mapping[str, Any], marker: Marker) -> Self:
        document = hit["_source"]
        fragments = hit.get("highlight", {}).get("text", [])
        return cls(
            registered_at=str(document.get("@timestamp", "")),
            uuid=document.get("uuid", ""),
            text=document.get("text", ""),
            fragments=tuple(tuple(_near_hits(marker.parts(each))) for each in fragments),
        )

    @property
    def excerpt(self) -> tuple[tuple[Part, ...], ...]:
        """Where the search hit; without a search, or past what is looked at, the beginning."""
        return self.fragments or ((Part(self.text[:BEGINNING]),),)

    @property
    def excerpt_is_whole(self) -> bool:
        return "".join(part.text for part in self.excerpt[0]).strip() == self.text.strip()


@dataclass(frozen=True, slots=True)
class FoundNotes:
    """The notes of a query, and how many there are ("at least", when not exact)."""

    notes: tuple[Note, ...] = ()
    total: int = 0
    total_is_exact: bool = True
    anything_registered: bool = False


class NoteSearch(Protocol):
    """Raises SearchUnavailable."""

    async def find(self, query: NoteQuery) -> FoundNotes: ...


class ElasticsearchNotes:
    """NoteSearch on an Elasticsearch client."""

    def __init__(self, client: "AsyncElasticsearch", index: str = FULL_TEXT_INDEX) -> None:
        self._client = client
        self._index = index

    async def find(self, query: NoteQuery) -> FoundNotes:
        marker = Marker()
        hits = (await self._search(query, marker))["hits"]
        anything = bool(hits["hits"]) or (query.is_search and await self._has_any())
        return FoundNotes(
            notes=tuple(Note.from_hit(hit, marker) for hit in hits["hits"]),
            total=hits["total"]["value"],
            total_is_exact=hits["total"]["relation"] == "eq",
            anything_registered=anything,
        )

    async def _search(self, query: NoteQuery, marker: Marker) -> Mapping[str, Any]:
        return await ask(
            self._client,
            self._index,
            query=query.as_elasticsearch(),
            sort=_MOST_RELEVANT_FIRST if query.is_search else NEWEST_FIRST,
            size=PAGE_SIZE,
            source={"includes": ["@timestamp", "uuid", "text"]},
            highlight={
                "fields": {"text": {}},
                "pre_tags": [marker.start],
                "post_tags": [marker.end],
                "number_of_fragments": _FRAGMENTS,
                "fragment_size": _FRAGMENT_LENGTH,
                "order": "score",
                "max_analyzed_offset": _MAX_ANALYZED_OFFSET,
            },
        )

    async def _has_any(self) -> bool:
        answer = await ask(self._client, self._index, query=NoteQuery().as_elasticsearch(), size=0)
        return bool(answer["hits"]["total"]["value"])
