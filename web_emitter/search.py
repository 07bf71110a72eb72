"""How Elasticsearch is asked: the one connection, and what every question has in common.

Belongs here: the client, its errors, the order "newest first". Does not belong here: a question and
its answer as values (`logs.py`, `notes.py`, `insights.py`) and how they look (`pages.py`). Pages
never query Trino: it is a back-end tool.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elasticsearch import AsyncElasticsearch

Sort = list[Mapping[str, Any]]

# Before the first document the fields are mapped nowhere, and sorting by them would be an error.
NEWEST_FIRST: Sort = [
    {"@timestamp": {"order": "desc", "unmapped_type": "date"}},
    {"uuid": {"order": "asc", "unmapped_type": "keyword"}},
]


class SearchUnavailable(Exception):
    """Elasticsearch did not give a whole answer; the message says why."""


@asynccontextmanager
async def connection(url: str, timeout_seconds: float) -> AsyncIterator["AsyncElasticsearch"]:
    """A client that is closed at the end. It connects on its first question, not here."""
    from elasticsearch import AsyncElasticsearch  # one CPU-second: only where it is needed

    client = AsyncElasticsearch(url, request_timeout=timeout_seconds, max_retries=0)
    try:
        yield client
    finally:
        await client.close()


async def ask(client: "AsyncElasticsearch", index: str, **question: Any) -> Mapping[str, Any]:
    """The answer to one search. Raises SearchUnavailable.

    An index that does not exist has no hits; half an answer is an error, not few hits.
    """
    with _as_unavailable():
        answer = await client.search(
            index=index, ignore_unavailable=True, allow_partial_search_results=False, **question
        )
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
