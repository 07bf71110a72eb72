"""How Elasticsearch is asked: the one connection, and what every question has in common.

Belongs here: the client, its errors, the order "newest first" and cursors in it. Does not belong
here: a question and its answer as values (`logs.py`, `notes.py`, `insights.py`) and how they look
(`pages.py`). Pages never query Trino: it is a back-end tool.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import orjson

if TYPE_CHECKING:
    from elasticsearch import AsyncElasticsearch

Sort = list[Mapping[str, Any]]
_LONGEST_TOKEN = 200

# Before the first document the fields are mapped nowhere, and sorting by them would be an error.
NEWEST_FIRST: Sort = [
    {"@timestamp": {"order": "desc", "unmapped_type": "date"}},
    {"uuid": {"order": "asc", "unmapped_type": "keyword"}},
]


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a document stands in the order NEWEST_FIRST: milliseconds since the epoch, and uuid."""

    milliseconds: int
    uuid: str

    @classmethod
    def of(cls, hit: Mapping[str, Any]) -> Self:
        return cls(*hit["sort"])

    @classmethod
    def from_token(cls, token: str) -> Self:
        """Raises ValueError for a text that is no `token`."""
        if len(token) > _LONGEST_TOKEN:
            raise ValueError("no token is as long")
        value = orjson.loads(urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        match value:
            case [int(milliseconds), str(uuid)] if abs(milliseconds) < 2**63:
                return cls(milliseconds, uuid)
        raise ValueError("not a cursor")

    @property
    def token(self) -> str:
        """The place as it stands in a link; what is in it is nobody's business."""
        return urlsafe_b64encode(orjson.dumps([self.milliseconds, self.uuid])).rstrip(b"=").decode()


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
