"""Trino: one query at a time, streamed.

Belongs here: the connection, its session, and the classification of errors. Does not belong here:
SQL (`flows/*/query.sql`, `analytics/`).
"""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
import trino

from kp_platform.adapters.errors import Refusal, ServerDown, server_error
from kp_platform.engine.errors import (
    QueryFailed,
    QueryTooLarge,
    SuspectMessage,
    UndecodableMessage,
)
from kp_platform.engine.ports import QueryStats, Row
from kp_platform.settings import LOOPBACK_HOSTS, Settings

# Together they save a quarter of a small warm query (measured on Trino 476).
_SMALL_QUERY = {
    "join_distribution_type": "BROADCAST",
    "task_concurrency": "1",
    "enable_dynamic_filtering": "false",
    "prefer_partial_aggregation": "false",
}
_CONNECTION_ERRORS = (
    requests.RequestException,
    trino.exceptions.Error,
    trino.exceptions.HttpError,
)
# Bounds the memory of a run, which holds six batches, when messages have a megabyte each.
_BATCH_CHARACTERS = 8_000_000
# A message that cannot be decoded, a Redis that is down and an internal error of Trino share the
# name GENERIC_INTERNAL_ERROR (Trino 476): this text identifies the first, a probe the second.
_UNDECODABLE = "Document nesting depth"
# Errors while nodes start, and when one is killed during a query: new queries then fail for some
# seconds too, until the coordinator removes the node (verified with Trino 476). No message is the
# cause.
_NODES_AWAY = {
    "ABANDONED_TASK",
    "NO_NODES_AVAILABLE",
    "PAGE_TRANSPORT_ERROR",
    "PAGE_TRANSPORT_TIMEOUT",
    "REMOTE_BUFFER_CLOSE_FAILED",
    "REMOTE_HOST_GONE",
    "REMOTE_TASK_ERROR",
    "REMOTE_TASK_FAILED",
    "REMOTE_TASK_MISMATCH",
    "SERVER_SHUTTING_DOWN",
    "SERVER_STARTING_UP",
    "TOO_MANY_REQUESTS_FAILED",
}
_REFUSALS = (
    Refusal("error 401", "KP_TRINO_USER, KP_TRINO_PASSWORD or KP_TRINO_TOKEN", "refuses the user"),
)
_TOO_LARGE = {
    "CLUSTER_OUT_OF_MEMORY",
    "EXCEEDED_GLOBAL_MEMORY_LIMIT",
    "EXCEEDED_LOCAL_MEMORY_LIMIT",
}


@dataclass(frozen=True, slots=True)
class _Catalog:
    """A server behind Trino: its setting, and a query that probes it."""

    name: str
    server: str
    setting: str
    probe: str


_CATALOGS = (
    _Catalog(
        "kafka_tests",
        "Kafka",
        "KP_KAFKA_BOOTSTRAP_SERVERS",
        "SHOW TABLES FROM kafka_tests.analyze",
    ),
    _Catalog("my_tests", "MySQL", "KP_MYSQL_HOST", "SHOW TABLES FROM my_tests.testing"),
    _Catalog(
        "red_tests",
        "Redis",
        "KP_REDIS_URL",
        "SELECT redis_key FROM red_tests.test.string WHERE redis_key IN ('kp-probe')",
    ),
)
# Ends the query of a server that hangs; a MySQL that refuses connections is reported after 8 s.
_PROBE_SECONDS = 15.0


@dataclass(slots=True)
class TrinoAnswer:
    """A running query; see `kp_platform.engine.ports.Answer`."""

    cursor: Any
    columns: Sequence[str]
    stats: QueryStats

    def batches(self, rows: int) -> Iterator[Sequence[Row]]:
        """Batches of at most `rows` rows; fewer when their messages are large."""
        message = self.columns.index("message") if "message" in self.columns else None
        batch: list[Row] = []
        size = 0
        for row in self.cursor:
            batch.append(row)
            size += 0 if message is None else len(row[message] or "")
            if len(batch) == rows or size >= _BATCH_CHARACTERS:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch
        self.stats.processed_rows = self.cursor.stats.get("processedRows", 0)


@dataclass(frozen=True)
class TrinoAdapter:
    """The Trino coordinator that joins Kafka, MySQL and Redis. Waits at most `timeout_seconds` for
    an HTTP answer."""

    settings: Settings
    timeout_seconds: float = 30.0

    @property
    def address(self) -> str:
        return self.settings.trino_url

    def probe(self) -> None:
        """Raises ServerDown unless a query on each of the three catalogs succeeds."""
        for catalog in _CATALOGS:
            self._probe(catalog)

    def _probe(self, catalog: _Catalog) -> None:
        try:
            with self._run(catalog.probe, [], _PROBE_SECONDS) as answer:
                list(answer.batches(100))
        except trino.exceptions.TrinoQueryError as error:
            if error.error_name in _NODES_AWAY:
                raise self._down(error.message, "is not ready") from error
            behind = f"catalog {catalog.name} of Trino {self.address}"
            raise ServerDown(catalog.server, behind, catalog.setting, error.message) from error

    def probe_worker(self, url: str) -> None:
        """Raises ServerDown unless the worker at this URL is active in the cluster."""
        sql = "SELECT http_uri, state FROM system.runtime.nodes"
        try:
            with self._run(sql, [], _PROBE_SECONDS) as answer:
                nodes = [node for batch in answer.batches(100) for node in batch]
        except trino.exceptions.TrinoQueryError as error:
            raise self._down(error.message, "is not ready") from error
        if (url, "active") not in map(tuple, nodes):
            cause = "it is not an active node of the coordinator"
            raise ServerDown("Trino worker", url, "KP_TRINO_WORKERS", cause, "is not ready")

    @contextlib.contextmanager
    def query(self, sql: str, parameters: Sequence[object]) -> Iterator[TrinoAnswer]:
        """Run a query with its `?` bound; leaving the context early cancels it.

        Timestamps and decimals are text (the client's legacy types decode 3-5 times faster).
        Raises ServerDown, QueryFailed.
        """
        try:
            with self._run(sql, parameters, self.settings.query_max_run_seconds) as answer:
                yield answer
        except trino.exceptions.TrinoQueryError as error:
            raise self._failure(error) from error

    def _failure(self, error: Any) -> Exception:
        """The error by its cause; Trino does not name the server behind a catalog."""
        text = f"Trino query {error.query_id} failed: {error.error_name}: {error.message}"
        if _UNDECODABLE in error.message:
            return UndecodableMessage(text)
        if error.error_name in _TOO_LARGE:
            return QueryTooLarge(text)
        if error.error_type == "USER_ERROR":
            return QueryFailed(text)
        if error.error_name in _NODES_AWAY:
            return self._down(text, "has lost a node")
        try:
            self.probe()
        except ServerDown as down:
            return down
        return (SuspectMessage if error.error_type == "INTERNAL_ERROR" else QueryFailed)(text)

    @contextlib.contextmanager
    def _run(self, sql: str, parameters: Sequence[object], seconds: float) -> Iterator[TrinoAnswer]:
        with contextlib.closing(self._connect(seconds)) as connection:
            cursor = connection.cursor(legacy_primitive_types=True)
            try:
                cursor.execute(sql, list(parameters) or None)
                columns = [column.name for column in cursor.description]
                stats = QueryStats(
                    cursor.query_id, f"{self.address}/ui/query.html?{cursor.query_id}"
                )
                yield TrinoAnswer(cursor, columns, stats)
            except trino.exceptions.TrinoQueryError:
                raise
            except _CONNECTION_ERRORS as error:
                raise self._down(error) from error
            finally:
                with contextlib.suppress(*_CONNECTION_ERRORS):
                    cursor.close()

    def _connect(self, seconds: float) -> Any:
        session = requests.Session()
        # No proxy for the local machine.
        session.trust_env = self._options["host"] not in LOOPBACK_HOSTS
        # Compressing the answer costs Trino as much CPU as the query of a slice.
        session.headers["Accept-Encoding"] = "identity"
        session.verify = self.settings.trusted_ca_file or True
        properties = _SMALL_QUERY | {"query_max_run_time": f"{seconds:.0f}s"}
        return trino.dbapi.connect(
            **self._options, session_properties=properties, http_session=session
        )

    @functools.cached_property
    def _options(self) -> dict[str, Any]:
        parts, settings = urlsplit(self.address), self.settings
        user = settings.trino_user
        return {
            "host": parts.hostname,
            "port": parts.port or (443 if parts.scheme == "https" else 80),
            "http_scheme": parts.scheme,
            "user": user,
            "auth": _login(settings, user),
            "source": "kp_platform",
            "timezone": "UTC",
            "request_timeout": self.timeout_seconds,
        }

    def _down(self, cause: object, problem: str = "does not answer") -> ServerDown:
        return server_error("Trino", self.address, "KP_TRINO_URL", cause, _REFUSALS, problem)


def _login(settings: Settings, user: str) -> trino.auth.Authentication | None:
    """The settings allow none, a password or a token; the last two over https only."""
    if token := settings.trino_token.get_secret_value():
        return trino.auth.JWTAuthentication(token)
    if password := settings.trino_password.get_secret_value():
        return trino.auth.BasicAuthentication(user, password)
    return None
