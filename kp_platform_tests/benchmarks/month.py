"""Some weeks of steady traffic in some minutes: what each day leaves, and what housekeeping lets.

Belongs here: a day's events, dead letters, KPIs and runs with the times of that day, retention and
housekeeping at its end, and what there is then. Does not belong here: how a figure is shown
(`report.py`).

Servers, run, KPIs and housekeeping are real. Only their clock is not: what carries the time at
which it was written is given that of its day afterwards.
"""

import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
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
from kp_platform.local import history
from kp_platform.orchestration.dead_letters import KEY as DEAD_LETTERS
from kp_platform.orchestration.retention import expire
from kp_platform.settings import Settings
from kp_platform_tests.benchmarks import dagster_run
from kp_platform_tests.benchmarks.throughput import stand_still
from kp_platform_tests.conftest import disable_retention
from kp_platform_tests.fault_injection.servers import Servers
from kp_platform_tests.integration.events import Event, publish
from kp_platform_tests.stack import Stack

DAYS = 40
RETENTION_DAYS = 7
KEEP = {
    "log_retention_days": 14,
    "dead_letter_retention_days": 14,
    "kpi_retention_days": 20,
    "run_retention_days": 14,
}
FULL = max(KEEP.values()) + 2  # the day on which the first KPIs of a whole day have gone
BAD_MESSAGES = 20
RUNS = 10
REPORTS = 24
HOUSEKEEPING_AT = timedelta(days=1, hours=3, minutes=20)
_AGED = {
    "runs": "create_timestamp",
    "event_logs": "timestamp",
    "asset_check_executions": "evaluation_event_timestamp",
}


@dataclass(frozen=True, slots=True)
class State:
    """What there is in the night after a day. Documents, messages and files are counted."""

    messages: int
    indices: int
    documents: int
    elasticsearch_bytes: int
    dead_letters: int
    notes: int
    kpis: int
    dagster_runs: int
    dagster_rows: int
    dagster_files: int
    dagster_bytes: int

    def to(self, other: "State") -> float:
        """The largest ratio of one of its numbers to that of another state."""
        return max(
            float(getattr(self, each.name) / max(1, getattr(other, each.name)))
            for each in fields(State)
        )


@dataclass(frozen=True, slots=True)
class Missing:
    """What should be there and is not; `doubled` is there more than once."""

    events: int
    doubled: int
    dead_letters: int
    positions: int


class Month:
    """Days on a stack of its own, one after the other until today."""

    def __init__(self, stack: Stack, events: int) -> None:
        stand_still(stack)
        self._stack, self._events = stack, events
        self._servers = Servers.of(stack.settings)
        self._admin = self._servers.admin()
        self._kafka, self._store = KafkaAdapter(Settings()), ElasticsearchAdapter(Settings())
        self._job = build_definitions().resolve_job_def("index_access_log")
        self._bad: list[tuple[int, int]] = []
        self._published: dict[datetime, list[str]] = {}
        disable_retention(stack.settings, ACCESS_LOG.topic)  # retention is ours

    def days(self) -> Iterator[State]:
        """The state after each day."""
        today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        with history.opened(self._stack.settings) as instance:
            for number in range(DAYS, 0, -1):
                midnight = today - timedelta(days=number)
                self._traffic(midnight)
                self._run(instance, midnight)
                for hour in range(24):
                    now = midnight + timedelta(days=1)
                    compute_hour(self._store, ACCESS_LOG, midnight + hour * HOUR, now)
                self._retention(midnight + HOUSEKEEPING_AT - timedelta(days=RETENTION_DAYS))
                now = midnight + HOUSEKEEPING_AT
                expire(self._store, self._kafka, instance, FLOWS, now, dry_run=False)
                yield self._state(instance)

    def _traffic(self, midnight: datetime) -> None:
        """A day's accesses, an equal part in each hour, and its bad messages."""
        self._published[midnight] = []
        for hour in range(24):
            at = midnight + hour * HOUR
            events = [Event(uri=f"/articles/{n}") for n in range(self._events // 24)]
            publish(*(event.value for event in events), at=at)
            self._published[midnight] += [event.uuid for event in events]
        self._bad += publish(*(b"not json" for _ in range(BAD_MESSAGES)), at=midnight)

    def _run(self, instance: dg.DagsterInstance, midnight: datetime) -> None:
        """One run indexes the day. Its record is there RUNS times, as of so many runs, and reports
        without a run REPORTS times; all of it, and its dead letters, as of that day."""
        began = datetime.now(UTC)
        config = {"ops": {ACCESS_LOG.asset: {"config": {"follow_idle_seconds": 0}}}}
        done = self._job.execute_in_process(instance=instance, run_config=config)
        assert done.success
        for _ in range(RUNS - 1):
            _copy(instance, done.run_id)
        for number in range(REPORTS):
            told = dg.AssetMaterialization(DEAD_LETTERS, metadata={"open": number})
            instance.report_runless_asset_event(told)
        logs = Path(instance.storage_directory())
        tick = logs / "__repository__" / "access_log_offsets" / f"{midnight:%Y%m%d}.err"
        tick.parent.mkdir(parents=True, exist_ok=True)
        tick.write_text("what a tick says\n")
        os.utime(tick, (midnight.timestamp(), midnight.timestamp()))
        _age(instance, began, midnight)
        self._age_dead_letters(began, midnight)

    def _age_dead_letters(self, began: datetime, midnight: datetime) -> None:
        self._store.refresh("kp.dead")
        with self._servers.search() as search:
            young = {"range": {"@timestamp": {"gte": began.isoformat()}}}
            for hit in search.scan("kp.dead", young, ["reason"]):
                change = {"doc": {"@timestamp": midnight.isoformat()}}
                place = f"/{hit['_index']}/_update/{quote(hit['_id'], safe='')}"
                search.request("POST", place, change)

    def _retention(self, before: datetime) -> None:
        """Messages go as Kafka lets them go, which looks at whole segments only."""
        first = self._kafka.offsets_at(ACCESS_LOG.topic, before)
        ends = [TopicPartition(ACCESS_LOG.topic, part, offset) for part, offset in first.items()]
        for future in self._admin.delete_records(ends).values():
            future.result(30)

    def _state(self, instance: dg.DagsterInstance) -> State:
        with self._servers.search() as search:
            search.request("POST", "/_flush")
            found = search.request(
                "GET",
                "/_cat/indices?format=json&bytes=b&expand_wildcards=all&h=index,docs.count,store.size",
            )
        held = {each["index"]: int(each["docs.count"]) for each in found}
        daily = [name for name in held if name.startswith(f"{ACCESS_LOG.index}-")]
        files = dagster_run.database(self._stack)
        marks = self._kafka.topic_state(ACCESS_LOG.topic).partitions.values()
        return State(
            messages=sum(each.high - each.low for each in marks),
            indices=len(held),
            documents=sum(held[name] for name in daily),
            elasticsearch_bytes=sum(int(each["store.size"]) for each in found),
            dead_letters=_of(held, "kp.dead"),
            notes=sum(_of(held, f"kp.{name}") for name in ("positions", "indices", "leases")),
            kpis=_of(held, "access.kpi"),
            dagster_runs=instance.get_runs_count(),
            dagster_rows=_rows(instance),
            dagster_files=len(files),
            dagster_bytes=sum(files.values()),
        )

    def missing(self) -> Missing:
        """Of the days that are kept, and of what the topic still holds."""
        kept = sorted(self._published)[-KEEP["log_retention_days"] :]
        wanted = [each for day in kept for each in self._published[day]]
        with self._servers.search() as search:
            hits = search.scan(ACCESS_LOG.index, {"match_all": {}}, ["uuid"])
            found = [hit["_source"]["uuid"] for hit in hits]
            letters = {
                (hit["_source"]["partition"], hit["_source"]["offset"])
                for hit in search.scan("kp.dead", {"match_all": {}}, ["partition", "offset"])
            }
        state, held = positions.look(self._kafka, self._store, ACCESS_LOG)
        marks = state.partitions
        return Missing(
            events=len(set(wanted) - set(found)),
            doubled=len(found) - len(set(found)),
            dead_letters=len(
                {(part, n) for part, n in self._bad if n >= marks[part].low} - letters
            ),
            positions=sum(held[part].offset != each.high for part, each in marks.items()),
        )


def _copy(instance: dg.DagsterInstance, run_id: str) -> None:
    """The record of a run once more, its events and logs too, under another id."""
    run, other = instance.get_run_by_id(run_id), str(uuid.uuid4())
    assert run is not None
    instance.add_run(run._replace(run_id=other))
    for event in instance.all_logs(run_id):
        instance.store_event(event._replace(run_id=other))
    logs = Path(instance.storage_directory())
    shutil.copytree(logs / run_id, logs / other)


def _age(instance: dg.DagsterInstance, began: datetime, to: datetime) -> None:
    """What was written since a moment was written then."""
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
                column = _AGED[table]
                sql = f"UPDATE {table} SET {column} = :to WHERE {column} >= :began"
                typed = [sqlalchemy.bindparam(name, type_=sqlalchemy.DateTime) for name in times]
                connection.execute(sqlalchemy.text(sql).bindparams(*typed), times)


def _rows(instance: dg.DagsterInstance) -> int:
    """Of events that assets and runs are listed by, and of what checks have found."""
    events: Any = instance.event_log_storage
    with events.index_connection() as connection:
        counts = (f"SELECT count(*) FROM {table}" for table in _AGED if table != "runs")
        return sum(connection.execute(sqlalchemy.text(sql)).scalar_one() for sql in counts)


def _of(held: dict[str, int], name: str) -> int:
    """The documents of an index that may have a version in its name."""
    return sum(count for index, count in held.items() if index.startswith(name))


def rows(states: Sequence[State], days: Sequence[int]) -> list[list[str]]:
    """A table row for each of these days."""
    found = []
    for day in days:
        state = states[day - 1]
        found.append(
            [str(day)]
            + [
                f"{getattr(state, each.name) / 1e6:.1f}"
                if each.name.endswith("_bytes")
                else f"{getattr(state, each.name):,}"
                for each in fields(State)
            ]
        )
    return found
