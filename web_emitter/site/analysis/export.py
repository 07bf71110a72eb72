"""The logs of a query as a file: CSV, JSON or NDJSON, streamed.

Belongs here: the three formats, and escaping of cells that a spreadsheet would execute. Does not
belong here: reading documents (`logs.py`), selecting them (`log_query.py`).
"""

import csv
import io
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from web_emitter.site.analysis.log_query import BadQuery, LogQuery
from web_emitter.site.analysis.logs import ORIGINS, flat
from web_emitter.site.responses import log_unavailable
from web_emitter.site.search import SearchUnavailable

EXPORT_CAP = 100_000
COLUMNS = tuple(ORIGINS)
# A spreadsheet treats a cell that begins with one of these as a formula
# (https://owasp.org/www-community/attacks/CSV_Injection).
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

Documents = Sequence[Mapping[str, Any]]
Batches = AsyncIterator[Documents]


async def export(request: Request) -> Response:
    """At most EXPORT_CAP logs, newest first; the header `X-Max-Logs` has that limit."""
    write, media_type = FORMATS[request.url.path.rpartition(".")[2]]
    try:
        query = replace(LogQuery.of(request.query_params), after=None, before=None)
        batches = request.state.logs.all(query, EXPORT_CAP)
        first = await anext(batches, None) or ()  # a default of () breaks Python 3.11's anext
    except BadQuery as error:
        return PlainTextResponse(f"{error}\n", 400)
    except SearchUnavailable as error:
        address = log_unavailable(request, error)
        return PlainTextResponse(f"Elasticsearch at {address} is unavailable: {error}\n", 503)
    headers = {
        "Content-Disposition": f'attachment; filename="{request.url.path.rpartition("/")[2]}"',
        "X-Max-Logs": str(EXPORT_CAP),
    }
    return StreamingResponse(write(first, batches), media_type=media_type, headers=headers)


async def _json(first: Documents, batches: Batches) -> AsyncIterator[bytes]:
    yield orjson.dumps({"max_logs": EXPORT_CAP})[:-1] + b',"logs":['
    separator = b""
    async for documents in _all(first, batches):
        yield separator + b",".join(map(orjson.dumps, documents))
        separator = b","
    yield b"]}\n"


async def _ndjson(first: Documents, batches: Batches) -> AsyncIterator[bytes]:
    async for documents in _all(first, batches):
        yield b"".join(orjson.dumps(each) + b"\n" for each in documents)


async def _csv(first: Documents, batches: Batches) -> AsyncIterator[bytes]:
    yield _lines([COLUMNS])
    async for documents in _all(first, batches):
        rows = map(flat, documents)
        yield _lines([[_cell(row.get(name)) for name in COLUMNS] for row in rows])


async def _all(first: Documents, batches: Batches) -> Batches:
    if first:
        yield first
    async for each in batches:
        yield each


def _lines(rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


FORMATS: Mapping[str, tuple[Callable[[Documents, Batches], AsyncIterator[bytes]], str]] = {
    "csv": (_csv, "text/csv; charset=utf-8"),
    "json": (_json, "application/json"),
    "ndjson": (_ndjson, "application/x-ndjson"),
}
