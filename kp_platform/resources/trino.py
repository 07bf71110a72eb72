"""Trino as a Dagster resource: one query at a time, streamed.

Belongs here: the connection, its session, and errors put into words. Does not belong here: SQL,
which lives in `kp_platform/sql/`.
"""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
import requests
import trino
from pydantic import Field

from kp_platform.pipeline.documents import Row
from kp_platform.pipeline.errors import MessageUnreadable, QueryFailed
from kp_platform.pipeline.query import QueryStats
from kp_platform.resources.errors import ServerDown
from kp_platform.settings import LOOPBACK_HOSTS, Settings

# Together they take 15-25 % off a small warm query (measured, shared/engines.md).
_SMALL_QUERY = {
    "join_distribution_type": "BROADCAST",
    "task_concurrency": "1",
    "enable_dynamic_filtering": "false",
}
_CONNECTION_ERRORS = (
    requests.RequestException,
    trino.exceptions.Error,
    trino.exceptions.HttpError,
)
# Its error type is shared with servers that are down, so the text has to tell (Trino 476).
_UNREADABLE = "Document nesting depth"
_PROBES = {
    "kafka_tests": "SHOW TABLES FROM kafka_tests.analyze",
    "my_tests": "SHOW TABLES FROM my_tests.testing",
    "red_tests": "SELECT redis_key FROM red_tests.test.string WHERE redis_key IN ('kp-probe')",
}


@dataclass(slots=True)
class TrinoAnswer:
    """A running query; see `kp_platform.pipeline.query.Answer`."""

    cursor: Any
    columns: Sequence[str]
    stats: QueryStats

    def batches(self, rows: int) -> Iterator[Sequence[Row]]:
        while batch := self.cursor.fetchmany(rows):
            yield batch
        self.stats.processed_rows = self.cursor.stats.get("processedRows", 0)


class TrinoResource(dg.ConfigurableResource[None]):
    """The Trino coordinator that joins Kafka, MySQL and Redis."""

    url: str = Field(default="", description="URL of the coordinator. Empty: KP_TRINO_URL.")
    user: str = Field(default="", description="User that queries run as. Empty: KP_TRINO_USER.")
    max_run_seconds: float = Field(
        default=0.0,
        ge=0,
        description="Trino ends a query after this time. 0: KP_QUERY_MAX_RUN_SECONDS.",
    )
    timeout_seconds: float = Field(
        default=30.0, gt=0, description="Longest wait for one HTTP answer."
    )

    @functools.cached_property
    def address(self) -> str:
        return self.url or Settings().trino_url

    def probe(self) -> None:
        """Raises ServerDown unless a query on each of the three catalogs succeeds."""
        for catalog, sql in _PROBES.items():
            try:
                with self.query(sql, []) as answer:
                    list(answer.batches(100))
            except QueryFailed as error:
                raise self._down(f"catalog {catalog}: {error}") from error

    @contextlib.contextmanager
    def query(self, sql: str, parameters: Sequence[object]) -> Iterator[TrinoAnswer]:
        """Run a query with its `?` bound; left early, the query is cancelled.

        Timestamps and decimals come as text (the client's legacy types decode 3-5 times faster).
        Raises ServerDown, QueryFailed.
        """
        with contextlib.closing(self._connect()) as connection:
            cursor = connection.cursor(legacy_primitive_types=True)
            try:
                cursor.execute(sql, list(parameters) or None)
                columns = [column.name for column in cursor.description]
                stats = QueryStats(
                    cursor.query_id, f"{self.address}/ui/query.html?{cursor.query_id}"
                )
                yield TrinoAnswer(cursor, columns, stats)
            except trino.exceptions.TrinoQueryError as error:
                unreadable = _UNREADABLE in error.message
                raise (MessageUnreadable if unreadable else QueryFailed)(
                    f"Trino query {error.query_id} failed: {error.error_name}: {error.message}"
                ) from error
            except _CONNECTION_ERRORS as error:
                raise self._down(error) from error
            finally:
                with contextlib.suppress(*_CONNECTION_ERRORS):
                    cursor.close()

    def _connect(self) -> Any:
        session = requests.Session()
        # No proxy on the way to ourselves.
        session.trust_env = self._options["host"] not in LOOPBACK_HOSTS
        return trino.dbapi.connect(**self._options, http_session=session)

    @functools.cached_property
    def _options(self) -> dict[str, Any]:
        """Of every connection; reading the settings takes 2 ms, which a query need not pay."""
        parts = urlsplit(self.address)
        settings = Settings()
        seconds = self.max_run_seconds or settings.query_max_run_seconds
        return {
            "host": parts.hostname,
            "port": parts.port or (443 if parts.scheme == "https" else 80),
            "http_scheme": parts.scheme,
            "user": self.user or settings.trino_user,
            "source": "kp_platform",
            "timezone": "UTC",
            "request_timeout": self.timeout_seconds,
            "session_properties": _SMALL_QUERY | {"query_max_run_time": f"{seconds:.0f}s"},
        }

    def _down(self, cause: object) -> ServerDown:
        return ServerDown("Trino", self.address, "KP_TRINO_URL", cause)
