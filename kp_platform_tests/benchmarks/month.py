"""B13: 40 days of steady traffic with data retention, simulated in some minutes.

Belongs here: events, dead letters, KPIs and runs of each day with timestamps of that day, Kafka's
and the platform's retention at its end, the storage in use afterwards, and the figures. Does not
belong here: how a figure is shown (`report.py`).

Servers, run, KPIs and retention are real. Only the clock is not: records that carry the time of
writing get a timestamp of the simulated day afterwards.
"""

import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import Field, dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dagster as dg
import sqlalchemy
from confluent_kafka import TopicPartition

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.adapters.kafka import KafkaAdapter
from kp_platform.analytics.kpi import compute_hour
from kp_platform.definitions import build_definitions
from kp_platform.engine import positions
from kp_platform.engine.counting import HOUR
from kp_platform.flows.builtin import ACCESS_LOG, FLOWS
from kp_platform.local.dagster import history_folder
from kp_platform.orchestration.dead_letters import KEY as DEAD_LETTERS
from kp_platform.orchestration.instance import open_instance
from kp_platform.orchestration.retention import Retention
from kp_platform.settings import Settings
from kp_platform_tests.benchmarks import dagster_run
from kp_platform_tests.benchmarks.report import Figure, Result, Table
from kp_platform_tests.benchmarks.session import Session
from kp_platform_tests.benchmarks.throughput import stop_traffic
from kp_platform_tests.conftest import disable_retention
from kp_platform_tests.fault_injection.servers import Servers
from kp_platform_tests.integration.events import Event, publish
from kp_platform_tests.stack import Stack

DAYS = 40
KAFKA_RETENTION_DAYS = 7
RETENTION = {
    "log_retention_days": 14,
    "dead_letter_retention_days": 14,
    "kpi_retention_days": 20,
    "run_retention_days": 14,
}
FULL = max(RETENTION.values()) + 2  # the first day after the KPIs of a whole day expired
BAD_MESSAGES = 20
RUNS = 10
REPORTS = 24
STATE_INDICES = ("kp.positions", "kp.indices", "kp.heartbeats")
RETENTION_AT = timedelta(days=1, hours=3, minutes=20)
_TIMES = {
    "runs": "create_timestamp",
    "event_logs": "timestamp",
    "asset_check_executions": "evaluation_event_timestamp",
}


@dataclass(frozen=True, slots=True)
class State:
    """The storage in use in the night after a day. Documents, messages and files are counted.
    `state_documents` are positions, heartbeats and entries of the index registry."""

    messages: int
    indices: int
    documents: int
    elasticsearch_bytes: int
    dead_letters: int
    state_documents: int
    kpis: int
    dagster_runs: int
    dagster_rows: int
    dagster_files: int
    dagster_bytes: int

    def relative_to(self, other: "State") -> float:
        """The largest ratio of one of its numbers to the same number of another state."""
        return max(
            float(getattr(self, each.name) / max(1, getattr(other, each.name)))
            for each in fields(State)
        )


@dataclass(frozen=True, slots=True)
class Missing:
    """Deviations from the expected data: missing events and dead letters, duplicate events, and
    positions behind the end offset."""

    events: int
    duplicates: int
    dead_letters: int
    positions: int


class Month:
    """Simulated days on a stack, one after the other until today."""

    def __init__(self, stack: Stack, events: int) -> None:
        stop_traffic(stack)
        self._stack, self._events = stack, events
        self._servers = Servers.of(stack.settings)
        self._admin = self._servers.admin()
        self._kafka, self._store = KafkaAdapter(Settings()), ElasticsearchAdapter(Settings())
        self._job = build_definitions().resolve_job_def("index_access_log")
        self._bad: list[tuple[int, int]] = []
        self._published: dict[datetime, list[str]] = {}
        disable_retention(stack.settings, ACCESS_LOG.topic)  # retention is simulated

    def days(self) -> Iterator[State]:
        """The state after each day."""
        today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        with open_instance(history_folder(self._stack.settings), "") as instance:
            for number in range(DAYS, 0, -1):
                midnight = today - timedelta(days=number)
                self._traffic(midnight)
                self._run(instance, midnight)
                for hour in range(24):
                    now = midnight + timedelta(days=1)
                    compute_hour(self._store, ACCESS_LOG, midnight + hour * HOUR, now)
                self._kafka_retention(
                    midnight + RETENTION_AT - timedelta(days=KAFKA_RETENTION_DAYS)
                )
                now = midnight + RETENTION_AT
                Retention(self._store, self._kafka, instance, FLOWS, Settings()).apply(
                    now, dry_run=False
                )
                yield self._state(instance)

    def _traffic(self, midnight: datetime) -> None:
        """Publish a day's accesses, evenly over its hours, and its bad messages."""
        self._published[midnight] = []
        for hour in range(24):
            at = midnight + hour * HOUR
            events = [Event(uri=f"/articles/{n}") for n in range(self._events // 24)]
            publish(*(event.value for event in events), at=at)
            self._published[midnight] += [event.uuid for event in events]
        self._bad += publish(*(b"not json" for _ in range(BAD_MESSAGES)), at=midnight)

    def _run(self, instance: dg.DagsterInstance, midnight: datetime) -> None:
        """Index the day in one run. Dagster's storage then has RUNS copies of its record, REPORTS
        materializations without a run, and a tick's log, all with timestamps of that day."""
        began = datetime.now(UTC)
        config = {"ops": {ACCESS_LOG.asset: {"config": {"follow_idle_seconds": 0}}}}
        done = self._job.execute_in_process(instance=instance, run_config=config)
        assert done.success
        for _ in range(RUNS - 1):
            _copy(instance, done.run_id)
        for number in range(REPORTS):
            report = dg.AssetMaterialization(DEAD_LETTERS, metadata={"open": number})
            instance.report_runless_asset_event(report)
        logs = Path(instance.storage_directory())
        tick = logs / "__repository__" / "access_log_offsets" / f"{midnight:%Y%m%d}.err"
        tick.parent.mkdir(parents=True, exist_ok=True)
        tick.write_text("log of a tick\n")
        os.utime(tick, (midnight.timestamp(), midnight.timestamp()))
        _age(instance, began, midnight)
        self._age_dead_letters(began, midnight)

    def _age_dead_letters(self, began: datetime, midnight: datetime) -> None:
        self._store.refresh("kp.dead")
        with self._servers.search() as search:
            recent = {"range": {"@timestamp": {"gte": began.isoformat()}}}
            for hit in search.scan("kp.dead", recent, ["reason"]):
                change = {"doc": {"@timestamp": midnight.isoformat()}}
                path = f"/{hit['_index']}/_update/{quote(hit['_id'], safe='')}"
                search.request("POST", path, change)

    def _kafka_retention(self, before: datetime) -> None:
        """Delete older messages, as Kafka's retention does for whole segments."""
        first = self._kafka.offsets_at(ACCESS_LOG.topic, before)
        ends = [
            TopicPartition(ACCESS_LOG.topic, partition, offset)
            for partition, offset in first.items()
        ]
        for future in self._admin.delete_records(ends).values():
            future.result(30)

    def _state(self, instance: dg.DagsterInstance) -> State:
        with self._servers.search() as search:
            search.request("POST", "/_flush")
            found = search.request(
                "GET",
                "/_cat/indices?format=json&bytes=b&expand_wildcards=all&h=index,docs.count,store.size",
            )
        counts = {each["index"]: int(each["docs.count"]) for each in found}
        daily = [name for name in counts if name.startswith(f"{ACCESS_LOG.index}-")]
        files = dagster_run.database(self._stack)
        partitions = self._kafka.topic_state(ACCESS_LOG.topic).partitions.values()
        return State(
            messages=sum(each.high - each.low for each in partitions),
            indices=len(counts),
            documents=sum(counts[name] for name in daily),
            elasticsearch_bytes=sum(int(each["store.size"]) for each in found),
            dead_letters=_count(counts, "kp.dead"),
            state_documents=sum(_count(counts, name) for name in STATE_INDICES),
            kpis=_count(counts, "access.kpi"),
            dagster_runs=instance.get_runs_count(),
            dagster_rows=_rows(instance),
            dagster_files=len(files),
            dagster_bytes=sum(files.values()),
        )

    def missing(self) -> Missing:
        """Compare the index with the days within the log retention, and the dead letters with the
        retained messages."""
        kept = sorted(self._published)[-RETENTION["log_retention_days"] :]
        wanted = [each for day in kept for each in self._published[day]]
        with self._servers.search() as search:
            hits = search.scan(ACCESS_LOG.index, {"match_all": {}}, ["uuid"])
            found = [hit["_source"]["uuid"] for hit in hits]
            dead_letters = {
                (hit["_source"]["partition"], hit["_source"]["offset"])
                for hit in search.scan("kp.dead", {"match_all": {}}, ["partition", "offset"])
            }
        state, stored = positions.read_consistent(self._kafka, self._store, ACCESS_LOG)
        retained = {(each, n) for each, n in self._bad if n >= state.partitions[each].low}
        return Missing(
            events=len(set(wanted) - set(found)),
            duplicates=len(found) - len(set(found)),
            dead_letters=len(retained - dead_letters),
            positions=sum(
                stored[number].offset != watermarks.high
                for number, watermarks in state.partitions.items()
            ),
        )


def _copy(instance: dg.DagsterInstance, run_id: str) -> None:
    """Store a copy of a run with its events and logs under another id."""
    run, other = instance.get_run_by_id(run_id), str(uuid.uuid4())
    assert run is not None
    instance.add_run(run._replace(run_id=other))
    for event in instance.all_logs(run_id):
        instance.store_event(event._replace(run_id=other))
    logs = Path(instance.storage_directory())
    shutil.copytree(logs / run_id, logs / other)


def _age(instance: dg.DagsterInstance, began: datetime, to: datetime) -> None:
    """Set the time of every record written since `began` to `to`."""
    times = {"began": began.replace(tzinfo=None), "to": to.replace(tzinfo=None)}
    runs: Any = instance.run_storage
    events: Any = instance.event_log_storage
    for connect, tables in (
        (runs.connect, ("runs",)),
        (lambda: events.run_connection(""), ("event_logs",)),
        (events.index_connection, ("event_logs", "asset_check_executions")),
    ):
        with connect() as connection:
            for table in tables:
                column = _TIMES[table]
                sql = f"UPDATE {table} SET {column} = :to WHERE {column} >= :began"
                typed = [sqlalchemy.bindparam(name, type_=sqlalchemy.DateTime) for name in times]
                connection.execute(sqlalchemy.text(sql).bindparams(*typed), times)


def _rows(instance: dg.DagsterInstance) -> int:
    """The number of events of runs and assets, and of results of asset checks."""
    events: Any = instance.event_log_storage
    with events.index_connection() as connection:
        counts = (f"SELECT count(*) FROM {table}" for table in _TIMES if table != "runs")
        return sum(connection.execute(sqlalchemy.text(sql)).scalar_one() for sql in counts)


def _count(counts: dict[str, int], name: str) -> int:
    """The documents of an index, whose name may have a version suffix."""
    return sum(count for index, count in counts.items() if index.startswith(name))


def results(session: Session) -> Iterator[Result]:
    events = session.events // 100
    with session.stack(**RETENTION) as stack:
        session.log(f"{DAYS} days of {events:,} events")
        month = Month(stack, events)
        states: list[State] = []
        for state in month.days():
            states.append(state)
            session.log(f"day {len(states)}: {state.documents:,} documents")
        missing = month.missing()
    settings = ", ".join(f"KP_{name.upper()}={days}" for name, days in RETENTION.items())
    yield Result(
        "B13",
        "a month of steady traffic",
        f"Each day: {events:,} accesses, {BAD_MESSAGES} bad messages, {RUNS} runs in Dagster's "
        f"history (a real day has about 100) and {REPORTS} reports of a sensor, with timestamps "
        f"of that day; then Kafka's retention of {KAFKA_RETENTION_DAYS} days and the platform's "
        f"with {settings}. State documents: positions, heartbeats, index registry.",
        _figures(states, missing),
        Table(
            ("day", *map(_title, fields(State))), _table_rows(states, [1, 7, 14, FULL, 30, DAYS])
        ),
    )


def _figures(states: Sequence[State], missing: Missing) -> list[Figure]:
    ratio = states[-1].relative_to(states[FULL - 1])
    counts = {
        f"missing events of the last {RETENTION['log_retention_days']} days": missing.events,
        "duplicate events": missing.duplicates,
        "missing dead letters of retained messages": missing.dead_letters,
        "positions behind the end offset": missing.positions,
    }
    return [
        Figure(
            f"storage on day {DAYS} relative to day {FULL}, largest ratio",
            "<= 1.1",
            f"{ratio:.2f}",
            ratio <= 1.1,
        ),
        *(Figure(name, "0", str(count), count == 0) for name, count in counts.items()),
    ]


def _title(column: "Field[Any]") -> str:
    return column.name.replace("_bytes", " (MB)").replace("_", " ")


def _table_rows(states: Sequence[State], days: Sequence[int]) -> list[list[str]]:
    return [[str(day), *(_cell(states[day - 1], each) for each in fields(State))] for day in days]


def _cell(state: State, column: "Field[Any]") -> str:
    value = getattr(state, column.name)
    return f"{value / 1e6:.1f}" if column.name.endswith("_bytes") else f"{value:,}"
