"""Retention: what is older than the settings keep it is found, counted and deleted.

Belongs here: which indices and documents may be deleted. Does not belong here: Dagster's own
history (`kp_platform/orchestration/retention.py`).

Nothing is deleted that a position still covers: an index, a dead letter or a gap stays as long as
the topic holds one of its messages, however old it is. So each offset that the topic holds below
its position stays accounted for.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from kp_platform.analytics.kpi import INDEX as KPI_INDEX
from kp_platform.analytics.kpi import LOOK_BACK
from kp_platform.engine import index_registry
from kp_platform.engine.bulk import delete, send
from kp_platform.engine.counting import EVER, Where, Window
from kp_platform.engine.dead_letters import DEAD_INDEX, GAP_INDEX
from kp_platform.engine.offsets import TopicState
from kp_platform.engine.ports import DocumentStore, Log
from kp_platform.flows.model import AnyFlow, Flow, document_flows

# Longer than any replay takes: an index without an alias is not being filled any more then.
UNFINISHED = timedelta(days=7)
_PAGE = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPolicy:
    """The number of days that things are kept; 0: for ever."""

    log_days: int = 0
    dead_letter_days: int = 0
    kpi_days: int = 0


@dataclass(slots=True)
class Expired:
    """Things of one kind that have expired: whole indices (`names`), or `documents` of an index,
    with their `bytes` as far as known. `kept` has a sentence for each that stays, with the
    reason."""

    what: str
    names: list[str] = field(default_factory=list)
    documents: int = 0
    bytes: int = 0
    kept: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Retention:
    """One application of the policy."""

    store: DocumentStore
    now: datetime
    dry_run: bool

    def unfinished_replays(self, flows: Sequence[Flow]) -> Expired:
        """Indices of replays that were killed."""
        expired = Expired("unfinished replays")
        for flow in flows:
            for name, created_at in self.store.behind_no_alias(f"{flow.index}.").items():
                if index_registry.is_replayed(flow, name) and created_at < self.now - UNFINISHED:
                    expired.names.append(name)
        for name in [] if self.dry_run else expired.names:
            self.store.delete_index(name)
        return expired

    def daily_indices(self, flow: Flow, state: TopicState, days: int) -> Expired:
        """The indices of whole days that are older than `days`."""
        expired = Expired(flow.index)
        before = self.now - timedelta(days=days)
        for name, (documents, size) in sorted(self.store.sizes(flow.index).items()):
            try:
                day = index_registry.first_moment(flow, name)
            except ValueError:
                expired.kept.append(f"{name}: not a daily index")
                continue
            if day + timedelta(days=1) > before:
                continue
            deletable = (
                self._may_delete(state, name) if self.dry_run else self._delete(flow, state, name)
            )
            if not deletable:
                expired.kept.append(f"{name}: {flow.topic} still holds messages of it")
                continue
            expired.names.append(name)
            expired.documents += documents
            expired.bytes += size
        return expired

    def documents(
        self, index: str, where: Where, is_needed: Callable[[dict[str, Any]], bool]
    ) -> Expired:
        """Documents of an index that is not daily."""
        expired, needed = Expired(index), 0
        self.store.refresh(index)
        with self.store.snapshot(index) as snapshot:
            for hits in snapshot.latest(where, _PAGE, without=("key", "value")):
                old = [hit for hit in hits if not is_needed(hit.stored.source)]
                needed += len(hits) - len(old)
                expired.documents += len(old)
                if old and not self.dry_run:
                    send(self.store, [delete(hit.index, hit.id) for hit in old])
        if needed:
            expired.kept.append(f"{needed} whose messages the topic still holds")
        return expired

    def _may_delete(self, state: TopicState, name: str) -> bool:
        """Whether the topic holds none of an index's messages."""
        low = {partition: watermarks.low for partition, watermarks in state.partitions.items()}
        self.store.refresh(name)
        with self.store.snapshot(name) as snapshot:
            reach = snapshot.reach(Where("@timestamp", EVER), low)
        return all(each.last < low[partition] for partition, each in reach.items())

    def _delete(self, flow: Flow, state: TopicState, name: str) -> bool:
        """Delete an index if allowed. Late events are blocked until then; they recreate it."""
        may_delete = False
        self.store.block_writes(name, True)
        try:
            may_delete = self._may_delete(state, name)
        finally:
            if not may_delete:
                self.store.block_writes(name, False)
        if may_delete:
            index_registry.unregister(
                self.store, flow, [name]
            )  # otherwise its events are reprocessed
            self.store.delete_index(name)
        return may_delete


def apply_retention(
    store: DocumentStore,
    log: Log,
    flows: Sequence[AnyFlow],
    policy: RetentionPolicy,
    now: datetime,
    *,
    dry_run: bool,
) -> list[Expired]:
    """Delete what is older than the policy keeps it, or only count it. Can be repeated at any time,
    also after an interruption. Raises what log and store raise."""
    states = {flow.name: log.topic_state(flow.topic) for flow in flows}
    retention = _Retention(store, now, dry_run)
    indexed = document_flows(flows)
    found = [retention.unfinished_replays(indexed)]
    if policy.log_days:
        found += [
            retention.daily_indices(flow, states[flow.name], policy.log_days) for flow in indexed
        ]
    if policy.dead_letter_days:
        before = now - timedelta(days=policy.dead_letter_days)
        where = Where("@timestamp", Window(EVER.start, before))
        for index in (DEAD_INDEX, GAP_INDEX):
            found.append(retention.documents(index, where, _needed_by(states)))
    if policy.kpi_days:
        # Hours of the last week are counted again when they are missing.
        age = max(timedelta(days=policy.kpi_days), LOOK_BACK + timedelta(days=1))
        where = Where("hour", Window(EVER.start, now - age))
        found.append(retention.documents(KPI_INDEX, where, lambda _: False))
    return found


def _needed_by(states: Mapping[str, TopicState]) -> Callable[[dict[str, Any]], bool]:
    """A function that checks whether the topic still holds an offset of a dead letter or a gap."""

    def is_needed(source: dict[str, Any]) -> bool:
        state = states.get(source["flow"])
        if state is None:
            return True  # the flow may be declared again
        watermarks = state.partitions.get(source["partition"])
        end: int = source["end"] if "end" in source else source["offset"] + 1
        return (
            state.topic_id == source["topic_id"] and watermarks is not None and end > watermarks.low
        )

    return is_needed
