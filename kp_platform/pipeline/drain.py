"""The one place that orders the steps: plan, query, documents, bulk, position, and again.

Belongs here: the order, and nothing that could be decided without it.

The invariant: for every partition, each offset below its position has its event in the index, in
the dead letters, or in a recorded gap; and a position moves only by compare-and-set, from a
slice's own start to its own end, after every document of that slice was acknowledged. So a run may
be killed, doubled, retried or late: nothing is lost and nothing is indexed twice.
"""

import logging
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from kp_platform.flows import Flow
from kp_platform.pipeline import dead_letters, positions
from kp_platform.pipeline.dead_letters import RawMessage
from kp_platform.pipeline.errors import SliceError, SliceTaken
from kp_platform.pipeline.offsets import Plan, Slice, TopicState, plan
from kp_platform.pipeline.positions import Position
from kp_platform.pipeline.query import QueryEngine
from kp_platform.pipeline.store import DocumentStore
from kp_platform.pipeline.stream import SliceReport, stream, utc_now

logger = logging.getLogger(__name__)


class Log(Protocol):
    """Kafka, as far as the pipeline knows it."""

    def topic_state(self, topic: str) -> TopicState: ...

    def raw_messages(
        self, topic: str, offsets: Sequence[tuple[int, int]]
    ) -> dict[tuple[int, int], RawMessage]: ...

    def commit(self, group: str, topic: str, offsets: Mapping[int, int]) -> None:
        """Mirror positions to a consumer group, best effort: a failure is logged, not raised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a run takes at once, and when it ends."""

    slice_rows: int
    bulk_rows: int
    follow_idle_seconds: float
    max_run_seconds: float
    poll_seconds: float = 0.05  # looking at a topic costs about a millisecond


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A flow with the three servers that its slices pass through."""

    flow: Flow
    log: Log
    engine: QueryEngine
    store: DocumentStore
    limits: Limits

    def drain(self) -> Iterator[SliceReport | None]:
        """Take slices until caught up, then follow the topic until idle or out of time.

        Yields a report after each step, and None after each look that found nothing to do.
        Ends early, without an error, when another run turns out to hold the flow. Raises
        SliceError and its kin when a slice fails; its positions have then not moved.
        """
        started = last_work = time.monotonic()
        self.prepare()
        state, held = self.look()
        if not held and positions.other_topic_ids(self.store, self.flow, state):
            logger.error("topic %s was deleted and made again: starting anew", self.flow.topic)
        while time.monotonic() - started < self.limits.max_run_seconds:
            todo = self.plan(state, held)
            if todo.slice or todo.gaps or todo.restarts:
                try:
                    yield self.step(state, held, todo)
                except SliceTaken as taken:
                    logger.warning("%s; this run ends", taken)
                    return
                last_work = time.monotonic()
                state, held = self.look()
            elif time.monotonic() - last_work >= self.limits.follow_idle_seconds:
                return
            else:
                yield None
                time.sleep(self.limits.poll_seconds)
                state, held = self._look_again(state, held)

    def prepare(self) -> None:
        """Create what the flow writes to, if it is not there."""
        for name in (positions.INDEX, dead_letters.DEAD_INDEX, dead_letters.GAP_INDEX):
            self.store.ensure_index(name)
        self.store.ensure_index(self.flow.index)

    def look(self) -> tuple[TopicState, dict[int, Position]]:
        """The topic and the positions as they are now."""
        state = self.log.topic_state(self.flow.topic)
        return state, positions.read(self.store, self.flow, state)

    def plan(self, state: TopicState, held: Mapping[int, Position]) -> Plan:
        """What to do next, given the topic and the positions."""
        offsets = {partition: position.offset for partition, position in held.items()}
        return plan(state, offsets, self.limits.slice_rows)

    def step(self, state: TopicState, held: Mapping[int, Position], todo: Plan) -> SliceReport:
        """Record what is lost, then index the slice, then move its positions."""
        began = time.monotonic()
        report = SliceReport(slice=todo.slice, gaps=todo.gaps, restarts=todo.restarts)
        if todo.gaps or todo.restarts:
            self._pass_over(state, held, todo)
            held = positions.read(self.store, self.flow, state)
        if todo.slice is not None:
            self._index(state, todo.slice, report)
            ends = {part.partition: part.end for part in todo.slice.ranges}
            self._move(state, held, ends)
            self.log.commit(self.flow.consumer_group, self.flow.topic, ends)
        report.lag_after = self.plan(*self.look()).lag
        report.total_seconds = time.monotonic() - began
        return report

    def _look_again(
        self, state: TopicState, held: dict[int, Position]
    ) -> tuple[TopicState, dict[int, Position]]:
        """The topic as it is now; the positions are read again only for another topic id."""
        now = self.log.topic_state(self.flow.topic)
        same = now.topic_id == state.topic_id
        return now, held if same else positions.read(self.store, self.flow, now)

    def _pass_over(self, state: TopicState, held: Mapping[int, Position], todo: Plan) -> None:
        for gap in todo.gaps:
            logger.error("retention deleted %s %s before it was read", self.flow.topic, gap)
        for restart in todo.restarts:
            logger.error("%s has lost offsets %s, it starts anew", self.flow.topic, restart)
        dead_letters.record_gaps(self.store, self.flow, state, todo.gaps, "retention", utc_now())
        moves = {gap.partition: gap.end for gap in todo.gaps}
        moves |= {restart.partition: restart.start for restart in todo.restarts}
        self._move(state, held, moves)

    def _index(self, state: TopicState, part: Slice, report: SliceReport) -> None:
        """Every event of the slice into the index or the dead letters, acknowledged."""
        stream(self.flow, self.engine, self.store, part, self.limits.bulk_rows, report)
        self._check_same_topic(state, part)
        if dead := report.outcome.dead:
            raw = self.log.raw_messages(self.flow.topic, [(d.partition, d.offset) for d in dead])
            dead_letters.bury(self.store, self.flow, state, dead, raw, utc_now())
        if len(part) < self.limits.slice_rows:
            # Caught up, so people wait for these events. In a backlog the refresh interval of
            # the index is cheaper.
            self.store.refresh(self.flow.index)

    def _check_same_topic(self, state: TopicState, part: Slice) -> None:
        """What was read must be of the topic that was planned for, and not half deleted."""
        now = self.log.topic_state(self.flow.topic)
        if now.topic_id != state.topic_id:
            raise SliceError(f"topic {self.flow.topic} was deleted and made again during the read")
        for each in part.ranges:
            if now.partitions[each.partition].low > each.start:
                raise SliceError(f"retention passed the start of {each} during the read")

    def _move(
        self, state: TopicState, held: Mapping[int, Position], after: Mapping[int, int]
    ) -> None:
        writer = uuid.uuid4().hex
        positions.move(self.store, self.flow, state, held, after, writer=writer, now=utc_now())
