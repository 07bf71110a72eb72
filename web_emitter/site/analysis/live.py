"""The newest logs of a query as server-sent events, sent when they change.

Belongs here: the polling interval, the maximum number of viewers, the end of a stream. Does not
belong here: the table (`templates/logs.html`), reading from Elasticsearch (`logs.py`).
"""

import asyncio
from collections.abc import AsyncIterator, Callable

from sse_starlette import ServerSentEvent

from web_emitter.site.analysis.log_query import LogQuery
from web_emitter.site.analysis.logs import LogPage, LogSearch
from web_emitter.site.search import SearchUnavailable

POLL_SECONDS = 1.0
# Each viewer sends one request to Elasticsearch per poll.
MAX_VIEWERS = 50
PING_SECONDS = 15


class LiveViewers:
    """The live viewers of a worker and their streams."""

    def __init__(self) -> None:
        self._count = 0

    @property
    def is_full(self) -> bool:
        return self._count >= MAX_VIEWERS

    async def stream(
        self,
        search: LogSearch,
        query: LogQuery,
        render: Callable[[LogPage], str],
        render_failure: Callable[[SearchUnavailable], str],
    ) -> AsyncIterator[ServerSentEvent]:
        """An event with the table of the newest logs, at once and whenever they change."""
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
                await asyncio.sleep(POLL_SECONDS)
        finally:
            self._count -= 1
