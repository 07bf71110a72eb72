"""Dagster of the local stack: code server, webserver, daemon, and where its history is.

Belongs here: all that is particular to the processes of the local Dagster. Does not belong here:
its definitions and its Python API (`kp_platform/orchestration/`).
"""

import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from kp_platform.adapters.errors import ServerDown
from kp_platform.local import state
from kp_platform.local.errors import StackError
from kp_platform.local.http import http_client
from kp_platform.local.service import CODE, CONSUMERS, LOOPBACK, Finding, Port, Service, url_port
from kp_platform.local.settings import LocalSettings
from kp_platform.settings import without_password

CODE_LOCATION = "kp_platform"
POSTGRES = "KP_DAGSTER_POSTGRES_URL"
_CONNECT_SECONDS = 5
_LOCATIONS = """{ workspaceOrError { ... on Workspace { locationEntries {
  name loadStatus locationOrLoadError { __typename ... on PythonError { message } } } } } }"""
_DAEMONS = """{ instance { daemonHealth { allDaemonStatuses {
  daemonType required healthy lastHeartbeatTime } } } }"""
_HEARTBEAT_SECONDS = 90.0
"""Daemons send a heartbeat every 30 s; Dagster reports one as healthy for half an hour after its
death."""


def services(settings: LocalSettings) -> tuple[Service, ...]:
    """Code server, webserver and daemon. Raises StackError for a URL of another host."""
    return (_code_server(settings), _webserver(settings), _daemon(settings))


def _code_server(settings: LocalSettings) -> Service:
    port = settings.dagster_code_server_port
    return Service(
        name="dagster-code-server",
        stage=CODE,
        address=f"{LOOPBACK}:{port}",
        ready=partial(_code_server_ready, settings),
        ports=(Port(setting="KP_DAGSTER_CODE_SERVER_PORT", number=port),),
        command=(
            sys.executable, "-m", "dagster", "api", "grpc",
            "--module-name", "kp_platform.definitions",
            "--location-name", CODE_LOCATION,
            "--host", LOOPBACK, "--port", str(port),
            "--max-workers", "16",  # a sensor holds one while it watches a topic
            "--use-python-environment-entry-point",
        ),
        environment=_environment(settings),
        prepare=partial(prepare, settings),
        prerequisites=partial(_prerequisites, settings),
    )  # fmt: skip


def _webserver(settings: LocalSettings) -> Service:
    port = url_port("KP_DAGSTER_URL", settings.dagster_url)
    return Service(
        name="dagster-webserver",
        stage=CONSUMERS,
        address=settings.dagster_url,
        ready=partial(_webserver_ready, settings),
        ports=(port,),
        command=(
            sys.executable, "-m", "dagster_webserver",
            "--host", LOOPBACK, "--port", str(port.number),
            "--workspace", str(_workspace(settings)),
            *(("--read-only",) if settings.dagster_read_only else ()),
        ),
        environment=_environment(settings),
    )  # fmt: skip


def _daemon(settings: LocalSettings) -> Service:
    return Service(
        name="dagster-daemon",
        stage=CONSUMERS,
        address="",
        ready=partial(_daemon_ready, settings),
        command=(
            sys.executable, "-m", "dagster._daemon", "run",
            "--workspace", str(_workspace(settings)),
        ),
        environment=_environment(settings),
    )  # fmt: skip


def _folder(settings: LocalSettings) -> Path:
    return settings.home / "dagster"


def _workspace(settings: LocalSettings) -> Path:
    return _folder(settings) / "workspace.yaml"


def _environment(settings: LocalSettings) -> dict[str, str]:
    return {"DAGSTER_HOME": str(_folder(settings)), "PYTHONUNBUFFERED": "1"}


def prepare(settings: LocalSettings) -> None:
    """Write dagster.yaml, with PostgreSQL as its storage if the settings have one, and
    workspace.yaml."""
    instance = _folder(settings) / "dagster.yaml"
    state.render("dagster.yaml", instance)
    if settings.dagster_postgres_url.get_secret_value():
        with instance.open("a", encoding="utf-8") as file:
            file.write(state.filled("postgres.yaml"))
    state.render(
        "workspace.yaml",
        _workspace(settings),
        code_server_port=settings.dagster_code_server_port,
    )


def _prerequisites(settings: LocalSettings) -> Iterator[Finding]:
    if url := settings.dagster_postgres_url.get_secret_value():
        problem = postgres_problem(url)
        remedy = f"start it, or correct {POSTGRES}" if problem else ""
        yield Finding("history of dagster", not problem, problem or without_password(url), remedy)


def postgres_problem(url: str) -> str:
    """Why this database cannot be used, with its address and without its password; empty when it
    can. Takes a few seconds at most, also when the server does not answer."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(url, connect_args={"connect_timeout": _CONNECT_SECONDS})
    try:
        engine.connect().close()
    except sqlalchemy.exc.SQLAlchemyError as error:
        cause, *_ = str(getattr(error, "orig", error)).splitlines()
        return f"PostgreSQL refuses the connection to {without_password(url)}: {cause}"
    finally:
        engine.dispose()
    return ""


def history_folder(settings: LocalSettings, configured: str = "") -> Path:
    """The folder of Dagster's instance: `configured` (DAGSTER_HOME), else the one in KP_HOME.

    Raises StackError when there is no instance, or when its database cannot be used.
    """
    url = settings.dagster_postgres_url.get_secret_value()
    if url and (problem := postgres_problem(url)):
        raise StackError(f"{problem}: start it, or correct {POSTGRES}")
    folder = Path(configured or _folder(settings))
    if not folder.is_dir():
        raise StackError(f"there is no Dagster instance in {folder}: start it with `kp up`")
    config = folder / "dagster.yaml"
    if not url and config.exists() and POSTGRES in config.read_text(encoding="utf-8"):
        raise StackError(f"the history of {folder} is in PostgreSQL: set {POSTGRES}")
    return folder


def _code_server_ready(settings: LocalSettings) -> None:
    """The gRPC server reports SERVING, which it does once the definitions are loaded."""
    import grpc  # type: ignore[import-untyped]  # has no stubs
    from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

    address = f"{LOOPBACK}:{settings.dagster_code_server_port}"
    down = partial(ServerDown, "Dagster code server", address, "KP_DAGSTER_CODE_SERVER_PORT")
    try:
        with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
            request = health_pb2.HealthCheckRequest(service="DagsterApi")
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=5)
    except grpc.RpcError as error:
        raise down(error) from error
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise down("not serving yet")


def _webserver_ready(settings: LocalSettings) -> None:
    """The webserver has loaded the code location."""
    entries = _graphql(settings, _LOCATIONS)["workspaceOrError"].get("locationEntries", [])
    for entry in entries:
        loaded = entry["locationOrLoadError"] or {"__typename": entry["loadStatus"]}
        if entry["name"] == CODE_LOCATION and loaded["__typename"] == "RepositoryLocation":
            return
        if "message" in loaded:
            raise _down(settings, loaded["message"])
    raise _down(settings, f"code location {CODE_LOCATION} is not loaded")


def _daemon_ready(settings: LocalSettings) -> None:
    """Every required daemon has sent a recent heartbeat, and one since this stack was started."""
    started = (settings.home / "supervisord.pid").stat().st_mtime
    since = max(started, time.time() - _HEARTBEAT_SECONDS)
    statuses = _graphql(settings, _DAEMONS)["instance"]["daemonHealth"]["allDaemonStatuses"]
    stalled = [
        status["daemonType"]
        for status in statuses
        if status["required"]
        and not (status["healthy"] and (status["lastHeartbeatTime"] or 0) >= since)
    ]
    if stalled:
        raise _down(settings, f"no heartbeat of {', '.join(stalled)}")


def _graphql(settings: LocalSettings, query: str) -> dict[str, Any]:
    import httpx

    try:
        with http_client(settings.dagster_url, 15) as client:
            answer = client.post("/graphql", json={"query": query})
        data: dict[str, Any] = answer.raise_for_status().json()["data"]
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise _down(settings, error) from error
    return data


def _down(settings: LocalSettings, cause: object) -> ServerDown:
    return ServerDown("Dagster webserver", settings.dagster_url, "KP_DAGSTER_URL", cause)
