"""When a service is ready: it did what it is there for, once, just now.

Belongs here: one function for each service that returns, or raises ServerDown. Does not belong
here: waiting and its deadline (`stack.py`).
Imports are inside the functions: the clients take seconds of CPU, and few commands need them all.
"""

import time
from collections.abc import Mapping
from typing import Any

from kp_platform.adapters.errors import ServerDown
from kp_platform.settings import Settings

CODE_LOCATION = "kp_platform"
_LOCATIONS = """{ workspaceOrError { ... on Workspace { locationEntries {
  name loadStatus locationOrLoadError { __typename ... on PythonError { message } } } } } }"""
_DAEMONS = """{ instance { daemonHealth { allDaemonStatuses {
  daemonType required healthy lastHeartbeatTime } } } }"""
_HEARTBEAT_SECONDS = 90.0
"""Daemons beat every 30 s; Dagster itself still calls one healthy half an hour after its death."""


def kafka() -> None:
    from kp_platform.adapters.kafka import KafkaAdapter

    KafkaAdapter(Settings()).probe()


def broker(address: str) -> None:
    """This one answers, and the others count it in."""
    from kp_platform.adapters.kafka_admin import KafkaAdmin

    KafkaAdmin(Settings(kafka_bootstrap_servers=address)).probe_broker()


def mysql() -> None:
    from kp_platform.adapters.mysql import MySQLAdapter

    MySQLAdapter(Settings()).probe()


def redis() -> None:
    from kp_platform.adapters.redis import RedisAdapter

    RedisAdapter(Settings()).probe()


def redis_tunnel(trino: Mapping[str, str]) -> None:
    """Trino's user reaches Redis through the tunnel."""
    import redis

    address = trino["KP_REDIS_NODE"]
    host, _, port = address.rpartition(":")
    user, password = trino["KP_REDIS_USER"], trino["KP_REDIS_PASSWORD"]
    try:
        with redis.Redis(
            host, int(port), username=user, password=password, socket_timeout=5
        ) as client:
            client.ping()
    except redis.RedisError as error:
        setting = "KP_REDIS_TUNNEL_PORT, KP_REDIS_TRINO_USER, KP_REDIS_TRINO_PASSWORD"
        raise ServerDown("Redis behind its tunnel", address, setting, error) from error


def elasticsearch() -> None:
    from kp_platform.adapters.elasticsearch import ElasticsearchAdapter

    ElasticsearchAdapter(Settings()).probe()


def trino() -> None:
    from kp_platform.adapters.trino import TrinoAdapter

    TrinoAdapter(Settings()).probe()


def trino_worker(url: str) -> None:
    """The coordinator gives it work."""
    from kp_platform.adapters.trino import TrinoAdapter

    TrinoAdapter(Settings()).probe_worker(url)


def code_server(settings: Settings) -> None:
    """The gRPC server says that it serves, which it does once the definitions are loaded."""
    import grpc  # type: ignore[import-untyped]  # has no stubs
    from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

    address = f"127.0.0.1:{settings.dagster_code_server_port}"
    try:
        with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
            request = health_pb2.HealthCheckRequest(service="DagsterApi")
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=5)
    except grpc.RpcError as error:
        raise ServerDown(
            "Dagster code server", address, "KP_DAGSTER_CODE_SERVER_PORT", error
        ) from error
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise ServerDown(
            "Dagster code server", address, "KP_DAGSTER_CODE_SERVER_PORT", "not serving yet"
        )


def dagster_webserver(settings: Settings) -> None:
    """The webserver has loaded our code location."""
    entries = _graphql(settings, _LOCATIONS)["workspaceOrError"].get("locationEntries", [])
    for entry in entries:
        loaded = entry["locationOrLoadError"] or {"__typename": entry["loadStatus"]}
        if entry["name"] == CODE_LOCATION and loaded["__typename"] == "RepositoryLocation":
            return
        if "message" in loaded:
            raise _dagster_down(settings, loaded["message"])
    raise _dagster_down(settings, f"code location {CODE_LOCATION} is not loaded")


def dagster_daemon(settings: Settings) -> None:
    """Every daemon that is required has beaten since this stack was started, and lately."""
    started = (settings.home / "supervisord.pid").stat().st_mtime
    since = max(started, time.time() - _HEARTBEAT_SECONDS)
    statuses = _graphql(settings, _DAEMONS)["instance"]["daemonHealth"]["allDaemonStatuses"]
    silent = [
        status["daemonType"]
        for status in statuses
        if status["required"]
        and not (status["healthy"] and (status["lastHeartbeatTime"] or 0) >= since)
    ]
    if silent:
        raise _dagster_down(settings, f"no heartbeat of {', '.join(silent)}")


def emitter(settings: Settings) -> None:
    import httpx

    try:
        answer = httpx.get(f"{settings.emitter_url}/readyz", timeout=10, trust_env=False)
    except httpx.HTTPError as error:
        raise ServerDown("emitter", settings.emitter_url, "KP_EMITTER_URL", error) from error
    if answer.status_code != 200:
        reason = f"/readyz answers {answer.status_code}: {answer.text}"
        raise ServerDown("emitter", settings.emitter_url, "KP_EMITTER_URL", reason)


def _graphql(settings: Settings, query: str) -> dict[str, Any]:
    import httpx

    url = f"{settings.dagster_url}/graphql"
    try:
        answer = httpx.post(url, json={"query": query}, timeout=15, trust_env=False)
        data: dict[str, Any] = answer.raise_for_status().json()["data"]
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise _dagster_down(settings, error) from error
    return data


def _dagster_down(settings: Settings, cause: object) -> ServerDown:
    return ServerDown("Dagster webserver", settings.dagster_url, "KP_DAGSTER_URL", cause)
