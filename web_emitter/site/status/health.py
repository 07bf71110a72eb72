"""Liveness and readiness of this worker.

Belongs here: `/livez`, `/readyz`. Does not belong here: the health of the platform, which Dagster's
checks and `kp status` report.
"""

import asyncio
from dataclasses import dataclass
from time import monotonic
from typing import Any

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from web_emitter.emitter.producer import BrokersUnreachable, Sink
from web_emitter.site.analysis.logs import LogSearch
from web_emitter.site.search import SearchUnavailable

# By default, orchestrators time out a probe after one second.
_PROBE_SECONDS = 0.8


@dataclass(frozen=True, slots=True)
class Check:
    """The result of a request to one server."""

    ok: bool
    detail: str


class Readiness:
    """Checks the servers at most once a second and never concurrently, so that an unresponsive
    broker does not block one thread per probe."""

    def __init__(self, sink: Sink, search: LogSearch) -> None:
        self._sink = sink
        self._search = search
        self._lock = asyncio.Lock()
        self._fresh_until = float("-inf")
        self._checks: dict[str, Check] = {}

    async def checks(self) -> dict[str, Check]:
        async with self._lock:
            if monotonic() >= self._fresh_until:
                kafka, elasticsearch = await asyncio.gather(self._kafka(), self._elasticsearch())
                self._checks = {"kafka": kafka, "elasticsearch": elasticsearch}
                self._fresh_until = monotonic() + _PROBE_SECONDS
            return self._checks

    async def _kafka(self) -> Check:
        try:
            brokers = await run_in_threadpool(self._sink.brokers, _PROBE_SECONDS)
        except BrokersUnreachable as error:
            return Check(False, str(error))
        return Check(brokers > 0, f"{brokers} broker{'' if brokers == 1 else 's'}")

    async def _elasticsearch(self) -> Check:
        try:
            await asyncio.wait_for(self._search.ping(), _PROBE_SECONDS)
        except SearchUnavailable as error:
            return Check(False, str(error))
        except TimeoutError:
            return Check(False, f"no response within {_PROBE_SECONDS} s")
        return Check(True, "answers")


async def livez(request: Request) -> Response:
    return PlainTextResponse("ok")


async def readyz(request: Request) -> Response:
    """503 while no broker answers. Elasticsearch is reported but does not affect the status: events
    are published without it, and the pages show that it is unavailable."""
    checks = await request.state.readiness.checks()
    ready = checks["kafka"].ok
    return _json(
        {
            "ready": ready,
            "checks": checks,
            "events": request.state.sink.counts(),
            "notes": request.state.note_sink.counts(),
            "sink_failures": request.state.publisher.sink_failures,
            "rejected": request.state.publisher.rejected,
            "anonymous": request.state.publisher.identity.anonymous,
        },
        status_code=200 if ready else 503,
    )


def _json(value: dict[str, Any], status_code: int) -> Response:
    return Response(orjson.dumps(value), status_code, media_type="application/json")
