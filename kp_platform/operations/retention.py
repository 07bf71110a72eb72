"""What has become old: found, counted, and deleted when the schedule or a person says so.

Belongs here: which indices and documents may go. Does not belong here: Dagster's own history
(`kp_platform/orchestration/retention.py`).

Nothing goes that a position still answers for: an index, a dead letter or a gap stays as long as
the topic holds one of its messages, however old it is. So each offset that the topic has below its
position stays accounted for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from kp_platform.analytics.kpi import INDEX as KPI_INDEX
from kp_platform.analytics.kpi import LOOK_BACK
from kp_platform.engine import index_registry
from kp_platform.engine.counting import EVER, Where, Window
from kp_platform.engine.dead_letters import DEAD_INDEX, GAP_INDEX
from kp_platform.engine.offsets import TopicState
from kp_platform.engine.ports import Log
from kp_platform.engine.store import DocumentStore, delete, send
from kp_platform.flows.model import Flow

# Longer than any replay takes: what is behind no alias then is not being made any more.
UNFINISHED = timedelta(days=7)
_PAGE = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPolicy:
    """For how many days things are kept; 0: for ever."""

    log_days: int = 0
    dead_letter_days: int = 0
    kpi_days: int = 0


@dataclass(slots=True)
class Expired:
    """Things of one kind that have become old: `names` go, or `documents` of an index, with so many
    `bytes` as far as these are known. `kept` says of others in words why they stay."""

    what: str
    names: list[str] = field(default_factory=list)
    documents: int = 0
    bytes: int = 0
    kept: list[str] = field(default_factory=list)


def apply_retention(
    store: DocumentStore,
    log: Log,
    flows: Sequence[Flow],
    keep: RetentionPolicy,
    now: datetime,
    *,
    dry_run: bool,
) -> list[Expired]:
    """Delete what is older than it is to be kept, or only tell what would be. It can be done again
    at any time, also after it was interrupted. Raises what log and store raise."""
    own = [flow for flow in flows if flow.rewrites is None]
    states = {flow.name: log.topic_state(flow.topic) for flow in flows}
    found = [_unfinished(store, own, now, dry_run)]
    if keep.log_days:
        before = now - timedelta(days=keep.log_days)
        found += [_daily(store, flow, states[flow.name], before, dry_run) for flow in own]
    if keep.dead_letter_days:
        before = now - timedelta(days=keep.dead_letter_days)
        for index in (DEAD_INDEX, GAP_INDEX):
            where = Where("@timestamp", Window(EVER.start, before))
            found.append(_documents(store, index, where, _held_by(states), dry_run))
    if keep.kpi_days:
        # Hours of the last week are counted anew when they are missing.
        age = max(timedelta(days=keep.kpi_days), LOOK_BACK + timedelta(days=1))
        where = Where("hour", Window(EVER.start, now - age))
        found.append(_documents(store, KPI_INDEX, where, lambda _: False, dry_run))
    return found


def _unfinished(
    store: DocumentStore, flows: Sequence[Flow], now: datetime, dry_run: bool
) -> Expired:
    """Indices of replays that were killed."""
    old = Expired("unfinished replays")
    for flow in flows:
        for name, made_at in store.behind_no_alias(f"{flow.index}.").items():
            if index_registry.is_replayed(flow, name) and made_at < now - UNFINISHED:
                old.names.append(name)
    for name in [] if dry_run else old.names:
        store.delete_index(name)
    return old


def _daily(
    store: DocumentStore, flow: Flow, state: TopicState, before: datetime, dry_run: bool
) -> Expired:
    """The indices of whole days before a moment."""
    old = Expired(flow.index)
    for name, (documents, size) in sorted(store.sizes(flow.index).items()):
        try:
            day = index_registry.first_moment(flow, name)
        except ValueError:
            old.kept.append(f"{name}: it is not of a day")
            continue
        if day + timedelta(days=1) > before:
            continue
        if not (_may_go if dry_run else _delete)(store, flow, state, name):
            old.kept.append(f"{name}: {flow.topic} still holds messages of it")
            continue
        old.names.append(name)
        old.documents += documents
        old.bytes += size
    return old


def _may_go(store: DocumentStore, flow: Flow, state: TopicState, name: str) -> bool:
    """Whether the topic holds none of an index's messages."""
    low = {part: marks.low for part, marks in state.partitions.items()}
    store.refresh(name)
    with store.snapshot(name) as snapshot:
        reach = snapshot.reach(Where("@timestamp", EVER), low)
    return all(each.last < low[part] for part, each in reach.items())


def _delete(store: DocumentStore, flow: Flow, state: TopicState, name: str) -> bool:
    """Delete an index that may go. Late events wait meanwhile, and then make it anew."""
    may_go = False
    store.block_writes(name, True)
    try:
        may_go = _may_go(store, flow, state, name)
    finally:
        if not may_go:
            store.block_writes(name, False)
    if may_go:
        index_registry.unregister(store, flow, [name])  # else its events would be read again
        store.delete_index(name)
    return may_go


def _documents(
    store: DocumentStore,
    index: str,
    where: Where,
    is_held: Callable[[dict[str, Any]], bool],
    dry_run: bool,
) -> Expired:
    """Documents of an index that is not of days."""
    old, held = Expired(index), 0
    store.refresh(index)
    with store.snapshot(index) as snapshot:
        for hits in snapshot.latest(where, _PAGE, without=("key", "value")):
            gone = [hit for hit in hits if not is_held(hit.stored.source)]
            held += len(hits) - len(gone)
            old.documents += len(gone)
            if gone and not dry_run:
                send(store, [delete(hit.index, hit.id) for hit in gone])
    if held:
        old.kept.append(f"{held} whose messages the topic still holds")
    return old


def _held_by(states: dict[str, TopicState]) -> Callable[[dict[str, Any]], bool]:
    """Tells of a dead letter or a gap whether its topic still holds one of its offsets."""

    def is_held(source: dict[str, Any]) -> bool:
        state = states.get(source["flow"])
        if state is None:
            return True  # perhaps of a flow that will be declared again
        marks = state.partitions.get(source["partition"])
        end: int = source["end"] if "end" in source else source["offset"] + 1
        return state.topic_id == source["topic_id"] and marks is not None and end > marks.low

    return is_held
