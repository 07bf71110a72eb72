"""Key figures of an hour: accesses, distinct names and uris, share complete, dead letters, delay.

Belongs here: counting an hour, its documents in index `access.kpi`, and which hours are stale. Does
not belong here: partitions, runs and sensors (`orchestration/kpi.py`).

Each figure is exact: groups of a snapshot of the access log, never an estimate. An hour has one
document of scope `all`, and one of scope `name` for each name in it. They are overwritten, `all` as
the last: as long as its numbers differ from those of the log, the hour is stale, also after a run
was killed. Late events and refreshed documents change these numbers.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import orjson

from kp_platform.engine.bulk import delete, put, send
from kp_platform.engine.counting import HOUR, Group, Where, Window, iso
from kp_platform.engine.dead_letters import DEAD_INDEX
from kp_platform.engine.errors import SliceError
from kp_platform.engine.ports import DocumentStore
from kp_platform.flows.model import Flow
from web_emitter import contract

INDEX = contract.KPI_INDEX
MAPPING = Path(__file__).with_name("access.kpi.json")
# An hour is checked as long as one of its documents was indexed within this time.
LOOK_BACK = timedelta(days=7)
COMPLETE = ("enrichment.state", "complete")
MILLISECONDS = 1000


@dataclass(frozen=True, slots=True)
class Numbers:
    """The numbers whose change makes an hour stale."""

    accesses: int = 0
    complete: int = 0
    dead_letters: int = 0


@dataclass(frozen=True, slots=True)
class Counted:
    """The numbers in an hour's document, and when they were counted."""

    numbers: Numbers
    computed_at: datetime


@dataclass(frozen=True, slots=True)
class StaleHour:
    """An hour to count, with its current and its stored numbers."""

    hour: datetime
    now: Numbers
    before: Numbers | None


@dataclass(slots=True)
class Figures:
    """The figures of one name, or of all names, while they are added up."""

    accesses: int = 0
    complete: int = 0
    uris: int = 0
    delays: "Percentile | None" = None


@dataclass(slots=True)
class Percentile:
    """The nearest-rank percentile of `count` values given in ascending order: the smallest value
    with at least `percent` percent of all values at or below it."""

    count: int
    percent: int = 95
    value: int | None = None
    seen: int = field(default=0)

    def add(self, value: int, times: int) -> None:
        self.seen += times
        if self.value is None and self.seen * 100 >= self.count * self.percent:
            self.value = value


@dataclass(frozen=True, slots=True)
class HourReport:
    """The documents of an hour, of scope `all` and of each name, and how many documents of names
    were removed."""

    hour: datetime
    total: dict[str, Any]
    names: Sequence[dict[str, Any]]
    removed: int


def compute_hour(store: DocumentStore, flow: Flow, hour: datetime, now: datetime) -> HourReport:
    """Count an hour and write its documents. Raises the errors of reads and bulk.

    Memory is O(distinct names), however many events and uris the hour has.
    """
    store.ensure_index(INDEX, MAPPING)
    for index in (flow.index, DEAD_INDEX, INDEX):
        store.refresh(index)
    within = Where("@timestamp", Window(hour, hour + HOUR))
    with store.snapshot(flow.index) as snapshot:
        total, names = add_up(snapshot.groups(["uri", "name", "enrichment.state"], within))
        measure(snapshot.groups(["delay_ms", "name"], within), total, names)
    [dead] = dead_letters(store, flow, [hour])
    common = {"hour": iso(hour), "computed_at": iso(now)}
    all_names = {
        "scope": "all",
        **common,
        "distinct_names": len(names),
        "dead_letters": dead,
        **_document_fields(total),
    }
    each = [
        {"scope": "name", "name": name, **common, "distinct_names": 1, **_document_fields(figures)}
        for name, figures in sorted(names.items())
    ]
    removed = _write(store, hour, all_names, each)
    return HourReport(hour, all_names, each, removed)


def add_up(groups: Iterable[Group]) -> tuple[Figures, dict[str, Figures]]:
    """Figures of all names and of each name, from groups by (uri, name, state) in order."""
    total, names = Figures(), defaultdict[str, Figures](Figures)
    last: tuple[Any, Any] = (None, None)
    for (uri, name, state), count in groups:
        figures = names[name]
        total.uris += uri != last[0]
        figures.uris += (uri, name) != last
        last = (uri, name)
        for each in (total, figures):
            each.accesses += count
            each.complete += count if state == COMPLETE[1] else 0
    return total, dict(names)


def measure(groups: Iterable[Group], total: Figures, names: Mapping[str, Figures]) -> None:
    """Set the delays, from groups by (delay, name) in order; documents without a delay come
    first."""
    without: dict[str, int] = defaultdict(int)
    for (delay, name), count in groups:
        if delay is None:
            without[name] += count
            continue
        if total.delays is None:
            total.delays = Percentile(total.accesses - sum(without.values()))
        figures = names[name]
        if figures.delays is None:
            figures.delays = Percentile(figures.accesses - without[name])
        total.delays.add(delay, count)
        figures.delays.add(delay, count)


def dead_letters(store: DocumentStore, flow: Flow, hours: Sequence[datetime]) -> list[int]:
    """Dead letters of each hour, by the message's timestamp, else by the dead letter's own."""
    conditions = []
    for hour in hours:
        window, of_flow = Window(hour, hour + HOUR), ("flow", flow.name)
        conditions.append(Where("event_timestamp", window, (of_flow,)))
        conditions.append(Where("@timestamp", window, (of_flow, ("event_timestamp", ""))))
    found = store.counts(DEAD_INDEX, conditions)
    return [known + unknown for known, unknown in zip(found[::2], found[1::2], strict=True)]


def hours_to_check(store: DocumentStore, flow: Flow, now: datetime) -> list[datetime]:
    """The hours of documents indexed within `LOOK_BACK`, ascending."""
    # A bound that moves once an hour lets Elasticsearch answer from its cache.
    until = now.replace(minute=0, second=0, microsecond=0) + HOUR
    indexed = Where("indexed_at", Window(until - LOOK_BACK, until))
    return store.hours(flow.index, "@timestamp", indexed)


def stale_hours(
    store: DocumentStore,
    flow: Flow,
    hours: Sequence[datetime],
    now: datetime,
    pause_seconds: float,
) -> list[StaleHour]:
    """The hours whose numbers differ from the stored ones, unless these were stored within
    `pause_seconds`; ascending."""
    observed, stored = _observed(store, flow, hours), _stored(store, hours)
    stale = []
    for hour, numbers in zip(hours, observed, strict=True):
        counted = stored.get(hour)
        if counted is None:
            stale.append(StaleHour(hour, numbers, None))
        elif counted.numbers != numbers:
            if now - counted.computed_at >= timedelta(seconds=pause_seconds):
                stale.append(StaleHour(hour, numbers, counted.numbers))
    return stale


def consecutive_hours(
    hours: Iterable[datetime], most_hours: int
) -> list[tuple[datetime, datetime]]:
    """First and last hour of each series without a gap, of at most `most_hours` hours."""
    found: list[list[datetime]] = []
    for hour in sorted(hours):
        if found and found[-1][-1] + HOUR == hour and len(found[-1]) < most_hours:
            found[-1].append(hour)
        else:
            found.append([hour])
    return [(series[0], series[-1]) for series in found]


def _observed(store: DocumentStore, flow: Flow, hours: Sequence[datetime]) -> list[Numbers]:
    conditions = []
    for hour in hours:
        window = Window(hour, hour + HOUR)
        conditions.append(Where("@timestamp", window))
        conditions.append(Where("@timestamp", window, (COMPLETE,)))
    found = store.counts(flow.index, conditions)
    dead = dead_letters(store, flow, hours)
    return [Numbers(*each) for each in zip(found[::2], found[1::2], dead, strict=True)]


def _stored(store: DocumentStore, hours: Sequence[datetime]) -> dict[datetime, Counted]:
    keys = {hour: (INDEX, _identity(hour)) for hour in hours}
    found = store.get(list(keys.values()))
    return {
        hour: Counted(
            Numbers(source["accesses"], source["complete"], source["dead_letters"]),
            datetime.fromisoformat(source["computed_at"]),
        )
        for hour, key in keys.items()
        if key in found and (source := found[key].source)
    }


def _write(
    store: DocumentStore,
    hour: datetime,
    total: Mapping[str, Any],
    names: Sequence[Mapping[str, Any]],
) -> int:
    """Put the hour's documents and delete those of names that are no longer in it."""
    here = Where("hour", Window(hour, hour + HOUR), (("scope", "name"),))
    with store.snapshot(INDEX) as snapshot:
        before = {name for (name,), _ in snapshot.groups(["name"], here)}
    removed = before - {each["name"] for each in names}
    operations = [delete(INDEX, _identity(hour, name)) for name in sorted(removed)]
    operations += [put(INDEX, _identity(hour, each["name"]), orjson.dumps(each)) for each in names]
    operations.append(put(INDEX, _identity(hour), orjson.dumps(total)))
    for result in send(store, operations):
        if result.rejected:
            raise SliceError(f"{INDEX} rejects a document: {result.error}: {result.reason}")
    store.refresh(INDEX)
    return len(removed)


def _document_fields(figures: Figures) -> dict[str, Any]:
    delay = figures.delays.value if figures.delays else None
    return {
        "accesses": figures.accesses,
        "distinct_uris": figures.uris,
        "complete": figures.complete,
        "share_complete": figures.complete / figures.accesses if figures.accesses else 0.0,
        "p95_delay_seconds": None if delay is None else delay / MILLISECONDS,
    }


def _identity(hour: datetime, name: str | None = None) -> str:
    """An id has at most 512 bytes, a name may have more."""
    scope = "all" if name is None else f"name|{hashlib.sha256(name.encode()).hexdigest()}"
    return f"{hour:%Y-%m-%dT%H}|{scope}"
