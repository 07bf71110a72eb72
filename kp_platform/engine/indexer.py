"""The indexer: the loop that plans, processes and commits.

Belongs here: the order of the steps, and nothing that can be decided without it.

The invariant: for every partition, each offset below its position has its event in the index, in
the dead-letter queue, or in a recorded gap. A position moves only by compare-and-set, from a
slice's own start to its own end, after every document of that slice was acknowledged. So a run may
be killed, doubled, retried or late: no event is lost or indexed twice.
"""

import logging
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

from kp_platform.engine import bisection, dead_letters, index_registry, positions, recovery
from kp_platform.engine.bisection import SliceLoader
from kp_platform.engine.clock import SYSTEM_CLOCK, Clock, utc_now
from kp_platform.engine.errors import PositionConflict, SliceError
from kp_platform.engine.loader import DocumentLoader, Write
from kp_platform.engine.lookup_pushdown import LookupPushdown
from kp_platform.engine.offsets import ALL_PARTITIONS, Plan, Slice, TopicState
from kp_platform.engine.ports import Servers
from kp_platform.engine.positions import Commit, Position
from kp_platform.engine.reference_refresh import Refresher
from kp_platform.engine.reports import SliceReport
from kp_platform.engine.writer import index_documents
from kp_platform.flows.model import AnyFlow, Flow

# Raw messages may have a megabyte each.
STORE_AT_ONCE = 100

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a run reads at once, and when it ends."""

    slice_rows: int
    bulk_rows: int
    follow_idle_seconds: float
    max_run_seconds: float
    poll_seconds: float = 0.05  # reading the watermarks takes some milliseconds


@dataclass(frozen=True, slots=True)
class Indexer:
    """A flow with the servers that its slices pass through.

    `run_id` is the Dagster run that processes the slices; its documents carry it. `assignment` are
    the partitions that it consumes.
    """

    flow: AnyFlow
    servers: Servers
    limits: Limits
    run_id: str = ""
    assignment: range = ALL_PARTITIONS
    clock: Clock = SYSTEM_CLOCK
    pushdown: LookupPushdown = field(default_factory=LookupPushdown, init=False)

    def run(self) -> Iterator[SliceReport | None]:
        """Process slices until caught up, then poll the topic until idle or out of time.

        Yields a report after each slice and each recovery, and None after each poll without new
        offsets. Ends early, without an error, when another run has moved a position of this one.
        Raises SliceError or ServerDown when a slice fails; its positions have not moved then.
        """
        started = last_work = self.clock.monotonic()
        try:
            recovered, state, stored = self._begin()
            yield recovered
            topic_id = ""
            while self.clock.monotonic() - started < self.limits.max_run_seconds:
                if state.topic_id != topic_id:
                    topic_id = state.topic_id
                    yield recovery.recreated_topic(self.servers.store, self.flow, state, stored)
                plan = self.plan(state, stored)
                if plan.needs_recovery:  # not by positions that another run has moved since
                    state, stored = self.read_positions()
                    plan = self.plan(state, stored)
                if plan.has_work:
                    began = time.monotonic()
                    if plan.slice is None or plan.needs_recovery:
                        report = self._recover(state, stored, plan)
                    else:
                        report = self.process(state, plan.slice)
                        report.outcome.count_dead_letters()
                        self.commit(state, stored, plan.slice.ends())
                    report.total_seconds = time.monotonic() - began
                    last_work = self.clock.monotonic()
                    state, stored = self.read_positions()
                    report.lag_after = self.plan(state, stored).lag
                    yield report
                elif self.clock.monotonic() - last_work >= self.limits.follow_idle_seconds:
                    self._mirror(positions.offsets(stored))  # the last mirror may have failed
                    return
                else:
                    yield None
                    self.clock.sleep(self.limits.poll_seconds)
                    state, stored = self._poll(state, stored)
        except PositionConflict as conflict:
            logger.warning("%s; this run ends", conflict)

    def prepare(self) -> None:
        """Create the indices that the flow writes to, if they do not exist."""
        for name in (
            positions.INDEX, index_registry.INDEX, dead_letters.DEAD_INDEX, dead_letters.GAP_INDEX,
        ):  # fmt: skip
            self.servers.store.ensure_index(name)
        self.servers.store.ensure_index(self.flow.index, self.flow.mapping)

    def read_positions(self) -> tuple[TopicState, dict[int, Position]]:
        """The current topic and its positions, of the assigned partitions."""
        log, store = self.servers.log, self.servers.store
        return positions.read_consistent(log, store, self.flow, self.assignment)

    def plan(self, state: TopicState, stored: Mapping[int, Position]) -> Plan:
        """What to do next, given the topic and the positions."""
        return positions.plan_from(state, stored, self.slice_rows)

    def process(self, state: TopicState, slice_: Slice, write: Write | None = None) -> SliceReport:
        """Every event of the slice in the index or in the dead-letter queue, acknowledged.

        `write` replaces the writer that indexes new documents. Then no index is registered, nor
        refreshed: that is left to the caller.
        """
        report = bisection.load(self.loader(write), slice_)
        self._check_same_topic(state, slice_)
        self._store_rejected(state, report)
        if write is None:
            index_registry.register(self.servers.store, self.flow, report.indices, utc_now())
            if len(slice_) < self.slice_rows:
                # Caught up: its events become searchable now. In a backlog the refresh interval of
                # the index is cheaper.
                self.servers.store.refresh(self.flow.index)
        return report

    def loader(self, write: Write | None = None) -> SliceLoader:
        """How slices of the flow are loaded; nothing else depends on its kind."""
        if isinstance(self.flow, Flow):
            return DocumentLoader(
                self.flow,
                self.servers,
                self.pushdown,
                write or partial(index_documents, self.servers.store, self.flow),
                self.limits.bulk_rows,
                self.run_id,
            )
        return Refresher(
            self.flow,
            self.servers,
            self.pushdown,
            self.limits.bulk_rows,
            self.limits.max_run_seconds,
            self.clock,
        )

    def commit(
        self, state: TopicState, stored: Mapping[int, Position], moves: Mapping[int, int]
    ) -> None:
        """Move positions from where they were read. Raises PositionConflict."""
        commit = Commit(uuid.uuid4().hex, utc_now(), self.pushdown.reference_rows)
        positions.move(self.servers.store, self.flow, state, stored, moves, commit)
        self._mirror(moves)

    @property
    def slice_rows(self) -> int:
        """The most offsets of one slice."""
        return min(self.limits.slice_rows, self.flow.slice_rows or self.limits.slice_rows)

    def _begin(self) -> tuple[SliceReport | None, TopicState, dict[int, Position]]:
        """Prepare a run: a report when indices were missing, then the topic and its positions."""
        self.prepare()
        state, stored = self.read_positions()
        self._mirror(positions.offsets(stored))
        rows = (position.reference_rows for position in stored.values())
        self.pushdown.reference_rows = max(rows, default=0)
        names = index_registry.missing(self.servers.store, self.flow)
        if not names:
            return None, state, stored
        report = self._recover_indices(names)
        return report, *self.read_positions()

    def _poll(
        self, state: TopicState, stored: dict[int, Position]
    ) -> tuple[TopicState, dict[int, Position]]:
        """The current topic; positions are reread only if its topic id has changed."""
        now = self.servers.log.topic_state(self.flow.topic).of(self.assignment)
        return (now, stored) if now.topic_id == state.topic_id else self.read_positions()

    def _mirror(self, offsets: Mapping[int, int]) -> None:
        """Commits of an idle group expire after a week, so each run begins with one."""
        if offsets:
            self.servers.log.commit(self.flow.consumer_group, self.flow.topic, offsets)

    def _recover(
        self, state: TopicState, stored: Mapping[int, Position], plan: Plan
    ) -> SliceReport:
        recovered = recovery.missing_offsets(self.servers.store, self.flow, state, plan)
        self.commit(state, stored, recovered.moves)
        return recovered.report

    def _recover_indices(self, names: list[str]) -> SliceReport:
        """Move the positions of all partitions back. Other runs of the flow end by a conflict."""
        log, store = self.servers.log, self.servers.store
        state, stored = positions.read_consistent(log, store, self.flow)
        recovered = recovery.missing_indices(log, self.flow, stored, names)
        self.commit(state, stored, recovered.moves)
        index_registry.unregister(store, self.flow, names)
        return recovered.report

    def _store_rejected(self, state: TopicState, report: SliceReport) -> None:
        """Store the rejected messages of a slice as dead letters, with their bytes."""
        log, store, flow = self.servers.log, self.servers.store, self.flow
        for start in range(0, len(report.outcome.rejected), STORE_AT_ONCE):
            rejected = report.outcome.rejected[start : start + STORE_AT_ONCE]
            raw = log.raw_messages(flow.topic, [(each.partition, each.offset) for each in rejected])
            dead_letters.store(store, flow, state, rejected, raw, utc_now())

    def _check_same_topic(self, state: TopicState, slice_: Slice) -> None:
        """The topic that was read is the one that was planned for, and still holds the slice."""
        topic = self.flow.topic
        now = self.servers.log.topic_state(topic)
        if now.topic_id != state.topic_id:
            raise SliceError(f"topic {topic} was deleted and recreated during the read")
        for each in slice_.ranges:
            if now.partitions[each.partition].low > each.start:
                raise SliceError(f"retention passed the start of {each} during the read")
