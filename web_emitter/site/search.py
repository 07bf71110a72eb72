"""How Elasticsearch is asked: the one connection, and what every question has in common.

Belongs here: the client, its errors, the order "newest first" and cursors in it. Does not belong
here: a question and its answer as values (`logs.py`, `notes.py`, `insights.py`) and how they look
(`pages.py`). Pages never query Trino: it is a back-end tool.
"""

import ssl
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import orjson

if TYPE_CHECKING:
    from elasticsearch import AsyncElasticsearch

Sort = list[Mapping[str, Any]]
# Characters of the words of a search; more is cut. 20,000 words joined by `|` end Elasticsearch
# with a StackOverflowError of the whole server [ran].
MAX_WORDS_LENGTH = 300
# FUZZY, NEAR and SLOP are left out: what they cost depends on what somebody types.
_OPERATORS = "AND|ESCAPE|NOT|OR|PHRASE|PRECEDENCE|PREFIX|WHITESPACE"
_LONGEST_TOKEN = 200
_LONGEST_REACH = 30 * 86_400_000  # milliseconds
# What is said of a shard that went away during a search.
_GONE = (404, 503)
_LONG = range(-(2**63), 2**63)
LATEST = _LONG[-1]  # milliseconds

# Before the first document the fields are mapped nowhere, and sorting by them would be an error.
# A place in the topic tells events of one millisecond apart. The uuid would as well, but events lie
# in the order they came in, so each of a large segment is the newest for a moment, and its text
# would be looked up: 0.2 s for a million events, a fifth of that with numbers.
NEWEST_FIRST: Sort = [
    {"@timestamp": {"order": "desc", "unmapped_type": "date"}},
    {"partition": {"order": "asc", "unmapped_type": "integer"}},
    {"offset": {"order": "desc", "unmapped_type": "long"}},
]


OLDEST_FIRST: Sort = [
    {
        field: options | {"order": "asc" if options["order"] == "desc" else "desc"}
        for field, options in each.items()
    }
    for each in NEWEST_FIRST
]


def with_all_words(words: str, fields: Sequence[str]) -> dict[str, Any]:
    """The query for documents with all of these words in one of the fields, in the syntax of
    simple_query_string."""
    return {
        "simple_query_string": {
            "query": words[:MAX_WORDS_LENGTH],
            "fields": list(fields),
            "default_operator": "and",
            "flags": _OPERATORS,
            "lenient": True,
        }
    }


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a document stands in the order NEWEST_FIRST, its time in milliseconds since the epoch.
    The page next to it is likely to lie within `reach` milliseconds of it."""

    milliseconds: int
    partition: int
    offset: int
    reach: int

    @classmethod
    def at_the_ends(cls, hits: Sequence[Mapping[str, Any]]) -> tuple[Self, Self]:
        """The places of the first and the last hit of a page. A page next to it may span ten times
        as much."""
        (newest, *first), (oldest, *last) = hits[0]["sort"], hits[-1]["sort"]
        reach = min(10 * (newest - oldest) + 50, _LONGEST_REACH)
        return cls(newest, first[0], first[1], reach), cls(oldest, last[0], last[1], reach)

    @property
    def place(self) -> list[int]:
        """What `search_after` takes."""
        return [self.milliseconds, self.partition, self.offset]

    @classmethod
    def from_token(cls, token: str) -> Self:
        """Raises ValueError for a text that is no `token`."""
        if len(token) > _LONGEST_TOKEN:
            raise ValueError("no token is as long")
        value = orjson.loads(urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        if (
            not isinstance(value, list)
            or len(value) != 4
            or any(type(each) is not int or each not in _LONG for each in value)
            or value[-1] < 0
        ):
            raise ValueError("not a cursor")
        return cls(*value)

    @property
    def token(self) -> str:
        """The place as it stands in a link; what is in it is nobody's business."""
        return urlsafe_b64encode(orjson.dumps([*self.place, self.reach])).rstrip(b"=").decode()


class SearchUnavailable(Exception):
    """Elasticsearch did not give a whole answer; the message says why."""


@asynccontextmanager
async def connection(
    url: str, timeout_seconds: float, ca_file: str = "", api_key: str = ""
) -> AsyncIterator["AsyncElasticsearch"]:
    """A client that is closed at the end. It connects on its first question, not here. Without
    a `ca_file` https trusts the system's authorities."""
    # One CPU-second: only where it is needed.
    from elasticsearch import AsyncElasticsearch, OrjsonSerializer

    options: dict[str, Any] = {"api_key": api_key} if api_key else {}
    if url.startswith("https:"):
        options["ssl_context"] = ssl.create_default_context(cafile=ca_file or None)
    client = AsyncElasticsearch(
        url,
        request_timeout=timeout_seconds,
        max_retries=0,
        serializer=OrjsonSerializer(),
        **options,
    )
    try:
        yield client
    finally:
        await client.close()


async def ask(client: "AsyncElasticsearch", index: str, **question: Any) -> Mapping[str, Any]:
    """The answer to one search. Raises SearchUnavailable.

    An index that does not exist has no hits; half an answer is an error, not few hits. What an
    index that went away was asked is asked once more: a replay may have put another in its place.
    """
    from elasticsearch import ApiError

    asked: dict[str, Any] = {"index": index, "ignore_unavailable": True, **question}
    with _as_unavailable():
        try:
            answer = await client.search(allow_partial_search_results=False, **asked)
        except ApiError as error:
            if error.meta.status not in _GONE:
                raise
            answer = await client.search(allow_partial_search_results=False, **asked)
    body: Mapping[str, Any] = answer.body
    return body


@contextmanager
def _as_unavailable() -> Iterator[None]:
    from elasticsearch import ApiError, TransportError

    try:
        yield
    except ApiError as error:
        raise SearchUnavailable(f"HTTP {error.meta.status} {error.message}") from error
    except TransportError as error:
        raise SearchUnavailable(type(error).__name__) from error
