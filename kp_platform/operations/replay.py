"""Replay: retained messages of a time window, or of some offsets, are processed again.

Belongs here: what becomes of each event: its document is overwritten, or goes into a new index that
replaces the old one. Does not belong here: the offsets to read (`replay_range.py`), the swap of
indices (`index_swap.py`), and dead letters, which are retried one by one (`dead_letter_retry.py`).

A document keeps its id and the time at which it was indexed first; its other members come from the
message and from current reference data. Positions do not move. An event whose message the topic no
longer holds keeps its document as it is.
"""

import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import orjson

from kp_platform.engine import dead_letters, index_registry
from kp_platform.engine.bulk import create, put, send
from kp_platform.engine.clock import utc_now
from kp_platform.engine.counting import iso
from kp_platform.engine.dead_letters import DeadLetter
from kp_platform.engine.documents import Document
from kp_platform.engine.errors import SliceError
from kp_platform.engine.indexer import Indexer
from kp_platform.engine.offsets import OffsetRange, Slice, TopicState, Watermarks, plan
from kp_platform.engine.ports import DocumentStore, ItemResult, Stored
from kp_platform.engine.reports import Outcome
from kp_platform.engine.writer import MESSAGE
from kp_platform.flows.model import Flow, ReferenceRefresh
from kp_platform.operations.index_swap import NewIndex, SwapUnknown, current_states, swap
from kp_platform.operations.replay_range import ReplayRange, days_of

# What a document keeps from when it was indexed first.
_FIRST = ("indexed_at", "delay_ms")


@dataclass(slots=True, kw_only=True)
class ReplayReport:
    """What a replay has done until now. Of the `rows` read, `reprocessed` documents were rewritten,
    `unchanged` ones were correct, `restored` ones were missing, `duplicates` have another offset,
    `dead_letters` cannot be indexed, and `outside` lie outside of the window.

    `kept` documents stay as they are because the topic no longer holds their messages; they are
    counted at the end. `swapped` are the names of the replaced indices.
    """

    rows: int = 0
    reprocessed: int = 0
    unchanged: int = 0
    restored: int = 0
    duplicates: int = 0
    dead_letters: int = 0
    outside: int = 0
    kept: int = 0
    swapped: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        counts = {
            "reprocessed": self.reprocessed,
            "unchanged": self.unchanged,
            "restored": self.restored,
            "duplicates": self.duplicates,
            "dead letters": self.dead_letters,
            "outside the range": self.outside,
            "kept, no longer in the topic": self.kept,
        }
        done = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        new = f"; swapped: {', '.join(self.swapped)}" if self.swapped else ""
        return f"{self.rows} messages read: {done or 'nothing to do'}, {self.seconds:.1f} s{new}"

    def add(self, outcome: Outcome, rows: int) -> None:
        self.rows += rows
        self.reprocessed += outcome.refreshed
        self.unchanged += outcome.already_indexed
        self.restored += outcome.indexed
        self.duplicates += outcome.duplicates
        self.dead_letters += len(outcome.rejected)
        self.outside += outcome.outside


def refreshes_of(indexers: Iterable[Indexer], flow: Flow) -> list[Indexer]:
    """The indexers of the reference refreshes whose target is the flow."""
    return [
        each
        for each in indexers
        if isinstance(each.flow, ReferenceRefresh) and each.flow.target == flow
    ]


def replay_in_place(
    indexer: Indexer, replay_range: ReplayRange, refreshes: Sequence[Indexer]
) -> Iterator[ReplayReport]:
    """Overwrite each document of the range that differs from its message and reference data.

    Yields the sums after each slice. `refreshes` are the reference refreshes of the flow. Raises
    SliceError or ServerDown; what was written until then stays written, and the replay can be
    repeated.
    """
    flow, store = replay_range.flow, indexer.servers.store
    catch_up, report = _RefreshCatchUp(refreshes), ReplayReport()
    writer = _Writer(store, replay_range)
    try:
        for each in _process(indexer, replay_range, writer, report):
            writer.remove_dead_letters()
            catch_up.run()
            yield each
        if report.restored and replay_range.window:  # perhaps into a new index
            existing = store.index_ids(flow.index)
            names = [name for name in days_of(flow, replay_range.window) if name in existing]
            index_registry.register(store, flow, names, utc_now())
    finally:
        catch_up.run()


def replay_into_new_indices(
    indexer: Indexer, replay_range: ReplayRange, refreshes: Sequence[Indexer]
) -> Iterator[ReplayReport]:
    """Write the documents of whole days into new indices, then swap each index at one moment.

    Yields and raises as `replay_in_place`; an index that is not complete is deleted.
    """
    flow, store = replay_range.flow, indexer.servers.store
    names = replay_range.whole_days()
    before = current_states(store, flow, names)
    new_indices = _NewIndices(store, flow, names)
    catch_up, report = _RefreshCatchUp(refreshes), ReplayReport()
    writer = _Writer(store, replay_range, new_indices)
    try:
        yield from _process(indexer, replay_range, writer, report)
        for name, new in sorted(new_indices.by_name.items()):
            try:
                swap(store, flow, name, new, before[name])
            except SwapUnknown:
                del new_indices.by_name[name]  # it may be in use
                raise
            del new_indices.by_name[name]
            report.swapped.append(name)
            yield report
        writer.remove_dead_letters()
    finally:
        for new in new_indices.by_name.values():
            store.delete_index(new.name)
        catch_up.run()


class _NewIndices:
    """Indices for days, each created with its first document. `by_name` has each index by the name
    that it will go by."""

    def __init__(self, store: DocumentStore, flow: Flow, allowed: Sequence[str]) -> None:
        self.by_name: dict[str, NewIndex] = {}
        self._store, self._flow, self._allowed = store, flow, allowed
        # Not `<index>-...`: the alias would include such an index from its creation.
        self._prefix = f"{self._flow.index}.{datetime.now(UTC):%Y%m%d%H%M%S}{secrets.token_hex(2)}"
        self._creation = threading.Lock()

    def of(self, name: str) -> str:
        """The name of the new index for a day. Raises ValueError."""
        with self._creation:
            if name not in self.by_name:
                if name not in self._allowed:
                    raise ValueError(f"{name} is outside the range of the replay")
                new = self._prefix + name.removeprefix(self._flow.index)
                self._store.make_index(new, self._flow.mapping)
                self.by_name[name] = NewIndex(new, self._store.index_ids(new)[new])
            return self.by_name[name].name


@dataclass(frozen=True, slots=True)
class _Write:
    """A document to write, with the stored one and the dead letter of its message, if any."""

    document: Document
    stored: Stored | None
    dead_letter: DeadLetter | None
    operation: bytes


class _Writer:
    """Overwrites documents, or writes them into new indices; called by several threads."""

    def __init__(
        self, store: DocumentStore, replay_range: ReplayRange, new: _NewIndices | None = None
    ) -> None:
        self._flow, self._store = replay_range.flow, store
        self._state, self._new = replay_range.state, new
        window = replay_range.window
        self._bounds = (iso(window.start), iso(window.end)) if window else None
        self._indexed: list[DeadLetter] = []

    def remove_dead_letters(self) -> None:
        """Remove the dead letters of messages that are indexed now."""
        found, self._indexed = self._indexed, []
        dead_letters.remove(self._store, found)

    def __call__(self, operations: Sequence[bytes]) -> Outcome:
        began = monotonic()
        documents = [Document(each) for each in operations]
        inside = [each for each in documents if self._is_inside(each)]
        outcome = Outcome(outside=len(documents) - len(inside))
        writes = list(self._writes(inside, outcome))
        results = send(self._store, [each.operation for each in writes]) if writes else []
        for write, result in zip(writes, results, strict=True):
            self._count(write, result, outcome)
        outcome.seconds = monotonic() - began
        return outcome

    def _writes(self, documents: Sequence[Document], outcome: Outcome) -> Iterator[_Write]:
        """The documents to write; the others are counted."""
        stored = self._store.get([(each.index, each.id) for each in documents])
        missing = [each for each in documents if (each.index, each.id) not in stored]
        found = dead_letters.of_offsets(
            self._store, self._flow, self._state, [each.partition_offset for each in missing]
        )
        for document in documents:
            theirs = stored.get((document.index, document.id))
            dead_letter = found.get(document.partition_offset)
            if theirs is not None and _differ(document.body, theirs.source, MESSAGE):
                outcome.duplicates += 1
            elif dead_letter is not None and dead_letter.discarded_at:
                outcome.rejected.append(document.rejected("discarded", "its bytes are deleted"))
            elif (operation := self._operation(document, theirs)) is None:
                outcome.already_indexed += 1
            else:
                yield _Write(document, theirs, dead_letter, operation)

    def _count(self, write: _Write, result: ItemResult, outcome: Outcome) -> None:
        """Count the result of a write. Raises SliceError."""
        error = f"{result.error}: {result.reason}"
        if result.rejected and write.stored is not None:
            raise SliceError(f"the index now refuses document {write.document.id}: {error}")
        if result.rejected:
            outcome.rejected.append(write.document.rejected(result.error, result.reason))
            return
        if write.dead_letter is not None:
            self._indexed.append(write.dead_letter)
        if result.conflict:  # another run has written it since, with current data
            outcome.already_indexed += 1
        elif write.stored is None:
            outcome.indexed += 1
        else:
            outcome.refreshed += 1

    def _is_inside(self, document: Document) -> bool:
        moment: str = document.body["@timestamp"]
        return self._bounds is None or self._bounds[0] <= moment < self._bounds[1]

    def _operation(self, document: Document, theirs: Stored | None) -> bytes | None:
        """The operation that writes a document; None: the stored one is correct."""
        body = document.body
        if theirs is None:
            index = self._new.of(document.index) if self._new else document.index
            return create(index, document.id, orjson.dumps(body))
        body |= {name: theirs.source[name] for name in _FIRST if name in theirs.source}
        if self._new:
            return put(self._new.of(document.index), document.id, orjson.dumps(body))
        if not _differ(body, theirs.source, (body.keys() | theirs.source.keys()) - {"run_id"}):
            return None
        return put(document.index, document.id, orjson.dumps(body), expected=theirs.version)


def _differ(ours: Mapping[str, Any], theirs: Mapping[str, Any], names: Iterable[str]) -> bool:
    return any(ours.get(name) != theirs.get(name) for name in names)


def _process(
    indexer: Indexer, replay_range: ReplayRange, writer: _Writer, report: ReplayReport
) -> Iterator[ReplayReport]:
    """Process the range in slices, with the sums after each and at the end."""
    began = indexer.clock.monotonic()
    state = replay_range.state
    for slice_ in _slices(state, replay_range.ranges, indexer.limits.slice_rows):
        processed = indexer.process(state, slice_, writer)
        report.add(processed.outcome, processed.rows)
        report.seconds = indexer.clock.monotonic() - began
        yield report
    report.kept = max(0, replay_range.documents - report.reprocessed - report.unchanged)
    yield report


def _slices(state: TopicState, ranges: Sequence[OffsetRange], most_rows: int) -> Iterator[Slice]:
    """Slices of all ranges, of all partitions at once."""
    ends = {each.partition: Watermarks(each.start, each.end) for each in ranges}
    requested = TopicState(state.topic, state.topic_id, ends)
    positions = {each.partition: each.start for each in ranges}
    while (slice_ := plan(requested, positions, most_rows).slice) is not None:
        yield slice_
        positions |= slice_.ends()


class _RefreshCatchUp:
    """Applies the reference changes that were published while a replay read older data."""

    def __init__(self, refreshes: Sequence[Indexer]) -> None:
        self._seen = [(each, _topic_state(each)) for each in refreshes]

    def run(self) -> None:
        """Process the changes since the last time. Raises what a reference refresh raises."""
        for number, (indexer, before) in enumerate(self._seen):
            state = _topic_state(indexer)
            if state.topic_id != before.topic_id:
                raise SliceError(f"topic {state.topic} was deleted and recreated during the replay")
            ranges = tuple(
                OffsetRange(partition, watermarks.high, state.partitions[partition].high)
                for partition, watermarks in sorted(before.partitions.items())
                if watermarks.high < state.partitions[partition].high
            )
            for slice_ in _slices(state, ranges, indexer.slice_rows):
                indexer.process(state, slice_)
            self._seen[number] = indexer, state


def _topic_state(indexer: Indexer) -> TopicState:
    return indexer.servers.log.topic_state(indexer.flow.topic)
