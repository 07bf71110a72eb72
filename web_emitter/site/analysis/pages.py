"""The pages of the enriched logs, rendered on the server and usable without JavaScript.

Belongs here: requests to templates. Does not belong here: requests to Elasticsearch (`logs.py`),
rankings and charts above the table (`overview.py`), files (`export.py`).
"""

import asyncio
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import orjson
from sse_starlette import EventSourceResponse
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from web_emitter.site.analysis.export import EXPORT_CAP
from web_emitter.site.analysis.live import PING_SECONDS
from web_emitter.site.analysis.log_query import PRESETS_IN_WORDS, BadQuery, LogQuery
from web_emitter.site.analysis.logs import LogPage, fields_of
from web_emitter.site.analysis.overview import filtered_overview, optional
from web_emitter.site.responses import message, page, settings_of, templates, unavailable
from web_emitter.site.search import MAX_WORDS_LENGTH, SearchUnavailable


async def analysis(request: Request) -> Response:
    """The newest enriched logs of a query, or instructions when there are none."""
    try:
        query = LogQuery.of(request.query_params)
    except BadQuery as error:
        return message(request, 400, "Invalid address", str(error))
    try:
        logs, overview, freshness = await asyncio.gather(
            request.state.logs.newest(query),
            _overview(request, query),
            optional(request.state.freshness()),
        )
    except SearchUnavailable as error:
        return unavailable(request, "analysis_unavailable.html", _filters(query), error)
    context = _filters(query) | {
        "logs": logs,
        "overview": overview,
        "freshness": freshness,
        "is_live": bool(request.query_params.get("live"))
        and query.is_first_page
        and not request.state.live_viewers.is_full,
        "export_cap": EXPORT_CAP,
    }
    return page(request, "analysis.html", context)


def _filters(query: LogQuery) -> dict[str, Any]:
    return {
        "query": query,
        "presets": PRESETS_IN_WORDS,
        "max_words_length": MAX_WORDS_LENGTH,
    }


async def _overview(request: Request, query: LogQuery) -> str:
    """The HTML above the first page: cached for all logs, computed for a filter."""
    if not query.is_first_page:
        return ""
    if query.is_filtered:
        return await filtered_overview(request.state.logs, query, datetime.now(UTC))
    html: str = await request.state.overview()
    return html


async def live(request: Request) -> Response:
    """The newest logs of a query as server-sent events; each event is the whole table."""
    if request.state.live_viewers.is_full:
        return PlainTextResponse("Too many live viewers; try again later.\n", 503)
    try:
        query = LogQuery.of(request.query_params)
    except BadQuery as error:
        return PlainTextResponse(f"{error}\n", 400)

    def table(logs: LogPage) -> str:
        return templates.get_template("logs.html").render(query=query, logs=logs)

    def failure(error: SearchUnavailable) -> str:
        template = templates.get_template("elasticsearch_down.html")
        address = settings_of(request).elasticsearch_address
        return template.render(address=address, reason=str(error))

    events = request.state.live_viewers.stream(request.state.logs, query, table, failure)
    return EventSourceResponse(events, ping=PING_SECONDS)


async def document(request: Request) -> Response:
    """One document: its fields and the origin of each."""
    uuid = request.path_params["uuid"]
    try:
        found = await request.state.logs.one(uuid)
    except SearchUnavailable as error:
        return unavailable(request, "analysis_unavailable.html", _filters(LogQuery()), error)
    if found is None:
        text = "No log has this UUID. A new access takes a few seconds to be indexed."
        return message(request, 404, "Log not found", text)
    run_id = found.source.get("run_id")
    dagster_url = settings_of(request).dagster_url
    context = {
        "uuid": uuid,
        "document": found,
        "fields": fields_of(found.source),
        "run_url": f"{dagster_url}/runs/{quote(run_id)}" if run_id else None,
        "json": orjson.dumps(found.source, option=orjson.OPT_INDENT_2).decode(),
    }
    return page(request, "document.html", context)
