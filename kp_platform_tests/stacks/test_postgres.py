"""Dagster on a real PostgreSQL: its history lies there only, is deleted there, and no secret shows.

The second stack has a Dagster and an emitter of its own, and the servers of the first one.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import sqlalchemy

from kp_platform.local import supervisor
from kp_platform.local.settings import EXTERNAL_SERVICES
from kp_platform.settings import environment
from kp_platform_tests.benchmarks import dagster_run
from kp_platform_tests.conftest import OFFSETS
from kp_platform_tests.integration.test_stack import command_line
from kp_platform_tests.stack import Stack, on_free_ports
from kp_platform_tests.stacks.postgres import postgres

ADDRESSES = ("kafka_bootstrap_servers", "trino_url", "elasticsearch_url", "mysql_port", "redis_url")
RUNS = "{runsOrError {... on Runs {results {runId}}}}"


@pytest.fixture
def url() -> Iterator[str]:
    with postgres() as url:
        yield url


@pytest.fixture
def on_postgres(
    quiet_stack: Stack, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stack]:
    for name in environment(quiet_stack.settings, secrets=False):
        monkeypatch.delenv(name)
    settings = on_free_ports(
        OFFSETS,
        tmp_path / "second",
        dagster_postgres_url=url,
        external=",".join(EXTERNAL_SERVICES),
        follow_idle_seconds=5,  # a run is there to be looked at after it has done its work
        sensor_wait_seconds=2,
        **{name: getattr(quiet_stack.settings, name) for name in ADDRESSES},
    )
    stack = Stack.of(settings)
    try:
        stack.kp("up")
        yield stack
    finally:
        stack.end()


def select(url: str, sql: str, **values: str) -> list[Any]:
    """The first column of what the database answers, after it did what it was told."""
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            answer = connection.execute(sqlalchemy.text(sql), values)
            return [row[0] for row in answer] if answer.returns_rows else []
    finally:
        engine.dispose()


def test_the_history_lies_in_postgresql_and_is_deleted_there(on_postgres: Stack, url: str) -> None:
    home, password = on_postgres.settings.home, urlsplit(url).password
    told = json.loads(on_postgres.kp("demo", "--requests", "50", "--json").stdout)
    assert (told["documents"], told["lag"]) == (50, 0)
    commands = [command_line(each) for each in supervisor.processes(home)]
    assert any("spawn_main" in each for each in commands)  # a run
    assert not any(str(password) in each for each in commands)

    dagster_run.step_seconds(on_postgres, "housekeeping", {})
    of_job = "SELECT run_id FROM runs WHERE pipeline_name = :job"
    [old] = select(url, of_job, job="housekeeping")
    [young] = select(url, of_job, job="index_access_log")
    shown = on_postgres.graphql(RUNS)["runsOrError"]["results"]
    assert {old, young} <= {each["runId"] for each in shown}
    of_run = "SELECT event FROM event_logs WHERE run_id = :run"
    assert select(url, of_run, run=old)
    files = [path for path in home.rglob("*") if path.is_file()]
    assert [path for path in files if ".db" in path.suffixes] == []
    assert [path for path in files if str(password).encode() in path.read_bytes()] == []

    aged = "UPDATE runs SET create_timestamp = create_timestamp - interval '1 month'"
    select(url, f"{aged} WHERE run_id IN (:old, :young)", old=old, young=young)
    retained = json.loads(on_postgres.kp("retention", "--json").stdout)
    [runs] = [each for each in retained if each["what"] == "runs of Dagster"]
    assert runs["names"] == [old]  # the other is what an asset shows
    assert select(url, of_run, run=old) == []
    assert select(url, of_run, run=young)
    assert select(url, of_job, job="housekeeping") == []
