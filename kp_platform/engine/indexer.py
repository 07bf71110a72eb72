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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from kp_platform.engine import dead_letters, index_registry, positions
from kp_platform.engine.documents import DeadLetter
from kp_platform.engine.errors import (
    PositionConflict,
    QueryTooLarge,
    SliceError,
    SuspectMessage,
    UndecodableMessage,
)
from kp_platform.engine.loader import SliceReport, Write, stream, utc_now
from kp_platform.engine.offsets import ALL_PARTITIONS, Plan, Slice, TopicState
from kp_platform.engine.ports import Log
from kp_platform.engine.positions import Position
from kp_platform.engine.reference_refresh import Refresher
from kp_platform.engine.sql import LookupPushdown, QueryEngine
from kp_platform.engine.store import DocumentStore
from kp_platform.engine.writer import index_documents
from kp_platform.flows.model import Flow

# Raw messages may have a megabyte each.
STORE_AT_ONCE = 100
# Down to the one message that Trino fails at, a slice of a million is halved 20 times.
MOST_FAILURES = 40

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a run takes at once, and when it ends."""

    slice_rows: int
    bulk_rows: int
    follow_idle_seconds: float
    max_run_seconds: float
    poll_seconds: float = 0.05  # a look takes some milliseconds


@dataclass(frozen=True, slots=True)
class Indexer:
    """A flow with the three servers that its slices pass through. `run_id` is the Dagster run that
    takes them; its documents carry it. `assignment` are the partitions that it takes. `write` takes
    the place of indexing new documents."""

    flow: Flow
    log: Log
    engine: QueryEngine
    store: DocumentStore
    limits: Limits
    run_id: str = ""
    assignment: range = ALL_PARTITIONS
    write: Write | None = None
    keys: LookupPushdown = field(default_factory=LookupPushdown, init=False)

    def run(self) -> Iterator[SliceReport | None]:
        """Take slices until caught up, then follow the topic until idle or out of time.

        Yields a report after each step, and None after each look that found nothing to do.
        Ends early, without an error, when another run turns out to hold the flow. Raises
        SliceError and its kin when a slice fails; its positions have then not moved.
        """
        try:
            yield from self._steps()
        except PositionConflict as taken:
            logger.warning("%s; this run ends", taken)

    def _steps(self) -> Iterator[SliceReport | None]:
        started = last_work = time.monotonic()
        self.prepare()
        state, held = self.look()
        self._mirror(positions.offsets(held))
        self.keys.reference_rows = max((each.reference_rows for each in held.values()), default=0)
        if deleted := index_registry.missing(self.store, self.flow):
            yield self._read_again(deleted)
            state, held = self.look()
        topic_id = ""
        while time.monotonic() - started < self.limits.max_run_seconds:
            if state.topic_id != topic_id:
                topic_id = state.topic_id
                yield self._recreated(state, held)
            todo = self.plan(state, held)
            if todo.losses:  # not by positions that another run may have moved since
                state, held = self.look()
                todo = self.plan(state, held)
            if todo.work:
                report = self.step(state, held, todo)
                last_work = time.monotonic()
                state, held = self.look()
                report.lag_after = self.plan(state, held).lag
                yield report
            elif time.monotonic() - last_work >= self.limits.follow_idle_seconds:
                self._mirror(positions.offsets(held))  # the last commit may have failed
                return
            else:
                yield None
                time.sleep(self.limits.poll_seconds)
                state, held = self._look_again(state, held)

    def prepare(self) -> None:
        """Create what the flow writes to, if it is not there."""
        for name in (
            positions.INDEX, index_registry.INDEX, dead_letters.DEAD_INDEX, dead_letters.GAP_INDEX,
        ):  # fmt: skip
            self.store.ensure_index(name)
        self.store.ensure_index(self.flow.index, self.flow.mapping)

    def look(self) -> tuple[TopicState, dict[int, Position]]:
        """The topic and the positions as they are now, of the assigned partitions."""
        return positions.look(self.log, self.store, self.flow, self.assignment)

    def plan(self, state: TopicState, held: Mapping[int, Position]) -> Plan:
        """What to do next, given the topic and the positions."""
        return positions.plan_from(state, held, self._slice_rows)

    def step(self, state: TopicState, held: Mapping[int, Position], todo: Plan) -> SliceReport:
        """Pass over what is lost, or else index the slice; then move the positions.

        One or the other, so that positions always move from where the plan saw them.
        """
        began = time.monotonic()
        if todo.losses:
            report, moves = self._pass_over(state, todo)
        elif todo.slice is not None:
            report = self.index(state, todo.slice)
            report.outcome.store_dead_letters()
            moves = {part.partition: part.end for part in todo.slice.ranges}
        else:
            raise ValueError("a plan without work has no step")
        self._move(state, held, moves)
        report.total_seconds = time.monotonic() - began
        return report

    def _move(
        self, state: TopicState, held: Mapping[int, Position], moves: Mapping[int, int]
    ) -> None:
        positions.move(
            self.store,
            self.flow,
            state,
            held,
            moves,
            reference_rows=self.keys.reference_rows,
            writer=uuid.uuid4().hex,
            now=utc_now(),
        )
        self._mirror(moves)

    @property
    def _slice_rows(self) -> int:
        return min(self.limits.slice_rows, self.flow.slice_rows or self.limits.slice_rows)

    def _look_again(
        self, state: TopicState, held: dict[int, Position]
    ) -> tuple[TopicState, dict[int, Position]]:
        """The topic as it is now; the positions are read again only for another topic id."""
        now = self.log.topic_state(self.flow.topic).of(self.assignment)
        return (now, held) if now.topic_id == state.topic_id else self.look()

    def _mirror(self, offsets: Mapping[int, int]) -> None:
        """Commits of a group that is idle expire after a week, so each run begins with one."""
        if offsets:
            self.log.commit(self.flow.consumer_group, self.flow.topic, offsets)

    def _recreated(self, state: TopicState, held: Mapping[int, Position]) -> SliceReport | None:
        """A loss when the topic was read before under another id, and never under this one."""
        if held or not positions.is_recreated(self.store, self.flow, state):
            return None
        return _losses(
            f"topic {self.flow.topic} was deleted and made again; it is read from its start"
        )

    def _read_again(self, names: list[str]) -> SliceReport:
        """Positions of all partitions back to the first event of the days whose indices were
        deleted; what is indexed already stays as it is. Who else follows the topic ends."""
        state, held = positions.look(self.log, self.store, self.flow)
        day = min(index_registry.first_moment(self.flow, name) for name in names)
        first = self.log.offsets_at(self.flow.topic, day)
        back = {part: first[part] for part in held if first[part] < held[part].offset}
        self._move(state, held, back)
        index_registry.unregister(self.store, self.flow, names)
        return _losses(
            f"{', '.join(names)} was deleted; {self.flow.topic} is read again from {day:%Y-%m-%d}, "
            "as far as retention has kept it"
        )

    def _pass_over(self, state: TopicState, todo: Plan) -> tuple[SliceReport, dict[int, int]]:
        dead_letters.record_gaps(self.store, self.flow, state, todo.gaps, utc_now())
        topic = self.flow.topic
        report = _losses(
            *(f"retention deleted {topic} {gap} before it was read" for gap in todo.gaps),
            *(
                f"{topic} has lost {lost} from its end; it is read from its start"
                for lost in todo.truncated
            ),
        )
        moves = {gap.partition: gap.end for gap in todo.gaps}
        moves |= {lost.partition: state.partitions[lost.partition].low for lost in todo.truncated}
        return report, moves

    def index(self, state: TopicState, part: Slice) -> SliceReport:
        """Every event of the slice into the index or the dead letters, acknowledged."""
        report = self.read(state, part)
        if self.flow.rewrites is None:
            index_registry.register(self.store, self.flow, report.indices, utc_now())
        if len(part) < self._slice_rows:
            # Caught up, so people wait for these events. In a backlog the refresh interval of
            # the index is cheaper.
            self.store.refresh(self.flow.index)
        return report

    def read(self, state: TopicState, part: Slice) -> SliceReport:
        """Every event of the slice written or buried, acknowledged."""
        report = self._read(part)
        self._check_same_topic(state, part)
        for start in range(0, len(report.outcome.dead), STORE_AT_ONCE):
            letters = report.outcome.dead[start : start + STORE_AT_ONCE]
            places = [(letter.partition, letter.offset) for letter in letters]
            raw = self.log.raw_messages(self.flow.topic, places)
            dead_letters.store_dead_letters(self.store, self.flow, state, letters, raw, utc_now())
        return report

    def _read(self, part: Slice) -> SliceReport:
        search = _Search()
        report = self._stream(part, search)
        if search.suspicion and not search.found:
            raise search.suspicion
        return report

    def _stream(self, part: Slice, search: "_Search") -> SliceReport:
        """The slice by one query; by more when it is too large, or when a message spoils it, down
        to that one message."""
        try:
            report = self._take(part)
        except QueryTooLarge:
            if len(part) == 1:
                raise
        except UndecodableMessage as error:
            search.failed(error)
            if len(part) == 1:
                return _unreadable(part, error)
        else:
            search.found |= report.rows > 0
            return report
        first, second = part.halves()
        both = self._stream(first, search).followed_by(self._stream(second, search))
        return replace(both, slices=1)

    def _take(self, part: Slice) -> SliceReport:
        if self.flow.rewrites is None:
            return stream(
                self.flow,
                self.log,
                self.engine,
                part,
                self.limits.bulk_rows,
                self.keys,
                self.run_id,
                self.write or partial(index_documents, self.store, self.flow),
            )
        return Refresher(
            flow=self.flow,
            rewrites=self.flow.rewrites,
            log=self.log,
            engine=self.engine,
            store=self.store,
            keys=self.keys,
            batch_rows=self.limits.bulk_rows,
            patience_seconds=self.limits.max_run_seconds,
        ).rewrite(part)

    def _check_same_topic(self, state: TopicState, part: Slice) -> None:
        """What was read must be of the topic that was planned for, and not half deleted."""
        now = self.log.topic_state(self.flow.topic)
        if now.topic_id != state.topic_id:
            raise SliceError(f"topic {self.flow.topic} was deleted and made again during the read")
        for each in part.ranges:
            if now.partitions[each.partition].low > each.start:
                raise SliceError(f"retention passed the start of {each} during the read")


@dataclass(slots=True)
class _Search:
    """The search for messages that Trino fails at. A failure of which Trino does not tell the cause
    is a message's fault only if others of the slice can be read."""

    found: bool = False
    failures: int = 0
    suspicion: SuspectMessage | None = None

    def failed(self, error: UndecodableMessage) -> None:
        """Raises the error when nothing could be read in so many queries."""
        self.failures += 1
        if isinstance(error, SuspectMessage):
            self.suspicion = error
            if not self.found and self.failures >= MOST_FAILURES:
                raise error


def _unreadable(part: Slice, error: UndecodableMessage) -> SliceReport:
    [one] = part.ranges
    report = SliceReport(asked=part.ranges, rows=1, slices=1)
    report.outcome.dead.append(DeadLetter(one.partition, one.start, "", "unreadable", str(error)))
    return report


def _losses(*sentences: str) -> SliceReport:
    """What can never be read: said in the log at once, and kept in the report."""
    for sentence in sentences:
        logger.error(sentence)
    return SliceReport(losses=sentences)
