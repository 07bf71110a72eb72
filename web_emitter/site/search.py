"""Searching Elasticsearch: the connection, and what all requests have in common.

Belongs here: the client, its errors, the order "newest first" and its cursors. Does not belong
here: requests and results as values (`analysis/logs.py`, `analysis/insights.py`,
`notes/search.py`), presentation. Pages never query Trino: it is a back-end tool.
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
# Maximum length of a search in characters; the rest is ignored. 20,000 words joined by `|` crash
# Elasticsearch with a StackOverflowError (verified with 8.19).
MAX_WORDS_LENGTH = 300
# FUZZY, NEAR and SLOP are left out: their cost depends on the input.
_OPERATORS = "AND|ESCAPE|NOT|OR|PHRASE|PRECEDENCE|PREFIX|WHITESPACE"
_MAX_TOKEN_LENGTH = 200
_MAX_REACH = 30 * 86_400_000  # milliseconds
# HTTP statuses when an index or shard disappears during a search.
_GONE = (404, 503)
_LONG = range(-(2**63), 2**63)
LATEST = _LONG[-1]  # milliseconds

# Without any document the fields have no mapping, and sorting by them would be an error. Partition
# and offset order events of one millisecond. The uuid would too, but segments hold events in order
# of arrival, so each in turn is the newest and its text is loaded: 0.2 s for a million events, five
# times as long as with numbers.
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
    """The query for all words in one of the fields, in simple_query_string syntax."""
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
    """The sort key of a document in the order NEWEST_FIRST; its time is in milliseconds since the
    epoch. The neighbouring page is likely to lie within `reach` milliseconds of it."""

    milliseconds: int
    partition: int
    offset: int
    reach: int

    @classmethod
    def of_page(cls, hits: Sequence[Mapping[str, Any]]) -> tuple[Self, Self]:
        """The cursors of the first and the last hit of a page. A neighbouring page may cover ten
        times the range of this one."""
        (newest, *first), (oldest, *last) = hits[0]["sort"], hits[-1]["sort"]
        reach = min(10 * (newest - oldest) + 50, _MAX_REACH)
        return cls(newest, first[0], first[1], reach), cls(oldest, last[0], last[1], reach)

    @property
    def search_after(self) -> list[int]:
        """The value of Elasticsearch's `search_after`."""
        return [self.milliseconds, self.partition, self.offset]

    @classmethod
    def from_token(cls, token: str) -> Self:
        """Raises ValueError for a text that is not a `token`."""
        if len(token) > _MAX_TOKEN_LENGTH:
            raise ValueError("too long for a cursor")
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
        """The cursor as an opaque text for a link."""
        return (
            urlsafe_b64encode(orjson.dumps([*self.search_after, self.reach])).rstrip(b"=").decode()
        )


class SearchUnavailable(Exception):
    """Elasticsearch returned no complete result; the message is the reason."""


@asynccontextmanager
async def connection(
    url: str, timeout_seconds: float, ca_file: str = "", api_key: str = ""
) -> AsyncIterator["AsyncElasticsearch"]:
    """A client that is closed at the end. It connects on its first request. Without a `ca_file`
    https trusts the system's certificate authorities."""
    # The import takes one CPU-second.
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


async def run_search(client: "AsyncElasticsearch", index: str, **request: Any) -> Mapping[str, Any]:
    """The result of one search. Raises SearchUnavailable.

    A missing index has no hits; partial results are an error. When an index disappears during the
    search it is repeated once, because an index swap may have replaced it.
    """
    from elasticsearch import ApiError

    arguments: dict[str, Any] = {"index": index, "ignore_unavailable": True, **request}
    with _as_unavailable():
        try:
            response = await client.search(allow_partial_search_results=False, **arguments)
        except ApiError as error:
            if error.meta.status not in _GONE:
                raise
            response = await client.search(allow_partial_search_results=False, **arguments)
    body: Mapping[str, Any] = response.body
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
