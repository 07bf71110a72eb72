"""The newest logs of a query, sent again whenever they are others: server-sent events.

Belongs here: how often they are looked for, how many may follow, and how it ends. Does not belong
here: the table (`templates/logs.html`), asking Elasticsearch (`logs.py`).
"""

import asyncio
from collections.abc import AsyncIterator, Callable

from sse_starlette import ServerSentEvent

from web_emitter.site.log_query import LogQuery
from web_emitter.site.logs import Found, LogSearch
from web_emitter.site.search import SearchUnavailable

LOOK_SECONDS = 1.0
# Each of them asks Elasticsearch once a look.
MOST_FOLLOWERS = 50
PING_SECONDS = 15


class LiveViewers:
    """How many follow at a worker, and their streams."""

    def __init__(self) -> None:
        self._count = 0

    @property
    def is_full(self) -> bool:
        return self._count >= MOST_FOLLOWERS

    async def stream(
        self,
        search: LogSearch,
        query: LogQuery,
        render: Callable[[Found], str],
        render_failure: Callable[[SearchUnavailable], str],
    ) -> AsyncIterator[ServerSentEvent]:
        """An event with the table of the newest logs, now and whenever they are others."""
        self._count += 1
        sent: str | None = None
        try:
            while True:
                try:
                    text = render(await search.newest(query))
                except SearchUnavailable as error:
                    text = render_failure(error)
                if text != sent:
                    yield ServerSentEvent(data=text)
                    sent = text
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            self._count -= 1
