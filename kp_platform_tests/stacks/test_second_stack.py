"""A second stack on the servers of the shared one: KP_EXTERNAL, Dagster's history in PostgreSQL.

Only Dagster and the emitter are its own; the daemon of the shared stack is stopped.
"""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import sqlalchemy

from kp_platform.local import supervisor
from kp_platform.local.settings import EXTERNAL_SERVICES
from kp_platform_tests.benchmarks import dagster_run
from kp_platform_tests.conftest import OFFSETS, remove_settings, stop_dagster
from kp_platform_tests.integration.test_stack import command_line
from kp_platform_tests.stack import TEMPO, Stack, on_free_ports
from kp_platform_tests.stacks.postgres import postgres

ADDRESSES = ("kafka_bootstrap_servers", "trino_url", "elasticsearch_url", "mysql_port", "redis_url")
RUNS = "{runsOrError {... on Runs {results {runId}}}}"
REQUESTS = 20


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with postgres() as url:
        yield url


@pytest.fixture(scope="module")
def second_stack(
    stack: Stack, url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    stop_dagster(stack)
    with pytest.MonkeyPatch.context() as monkeypatch:
        remove_settings(monkeypatch)
        settings = on_free_ports(
            OFFSETS,
            tmp_path_factory.mktemp("second-stack") / "home",
            dagster_postgres_url=url,
            external=",".join(EXTERNAL_SERVICES),
            **TEMPO
            | {"follow_idle_seconds": 5},  # the run exists after its last event, for a while
            **{name: getattr(stack.settings, name) for name in ADDRESSES},
        )
        second = Stack.of(settings)
    try:
        second.kp("up")
        yield second
    finally:
        second.end()


def select(url: str, sql: str, **values: str) -> list[Any]:
    """Execute a statement; returns the first column of the rows, if it has any."""
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            answer = connection.execute(sqlalchemy.text(sql), values)
            return [row[0] for row in answer] if answer.returns_rows else []
    finally:
        engine.dispose()


def test_external_servers_are_only_probed(second_stack: Stack) -> None:
    found = json.loads(second_stack.kp("status", "--json").stdout)
    assert [each["state"] == "external" for each in found] == [True] * 5 + [False] * 4
    assert [each["pid"] is None for each in found] == [True] * 5 + [False] * 4
    assert all(each["ready"] for each in found)


def test_the_history_is_stored_in_postgresql_and_deleted_there(
    second_stack: Stack, url: str
) -> None:
    home, password = second_stack.settings.home, urlsplit(url).password
    demo = json.loads(second_stack.kp("demo", "--requests", str(REQUESTS), "--json").stdout)
    assert (demo["documents"], demo["lag"]) == (REQUESTS, 0)
    commands = [command_line(each) for each in supervisor.processes(home)]
    assert any("spawn_main" in each for each in commands)  # a run
    assert not any(str(password) in each for each in commands)

    dagster_run.step_seconds(second_stack, "retention", {})
    of_job = "SELECT run_id FROM runs WHERE pipeline_name = :job"
    [old] = select(url, of_job, job="retention")
    [young] = select(url, of_job, job="index_access_log")
    shown = second_stack.graphql(RUNS)["runsOrError"]["results"]
    assert {old, young} <= {each["runId"] for each in shown}
    of_run = "SELECT event FROM event_logs WHERE run_id = :run"
    assert select(url, of_run, run=old)
    files = [path for path in home.rglob("*") if path.is_file()]
    assert [path for path in files if ".db" in path.suffixes] == []
    assert [path for path in files if str(password).encode() in path.read_bytes()] == []

    aged = "UPDATE runs SET create_timestamp = create_timestamp - interval '1 month'"
    select(url, f"{aged} WHERE run_id IN (:old, :young)", old=old, young=young)
    expired = json.loads(second_stack.kp("retention", "--json").stdout)
    [runs] = [each for each in expired if each["what"] == "runs of Dagster"]
    assert runs["names"] == [old]  # an asset shows the other one
    assert select(url, of_run, run=old) == []
    assert select(url, of_run, run=young)
    assert select(url, of_job, job="retention") == []


def test_down_stops_what_the_second_stack_started_and_nothing_else(
    stack: Stack, second_stack: Stack
) -> None:
    second_stack.kp("down", "--purge")
    assert supervisor.processes(second_stack.settings.home) == []
    assert not second_stack.settings.home.exists()
    assert len(supervisor.processes(stack.settings.home)) > 5
