"""Replay: the documents of a time, or of some offsets, made again from what the topic still holds.

Belongs here: what becomes of each event: its document is written over, or into a new index that
takes the place of the old. Does not belong here: which offsets are read (`span.py`), that change of
places (`exchange.py`), and dead letters, which are read again one by one (`dead_replay.py`).

A document keeps its identity and the moment at which it was indexed first; its message and its
reference data are those of now. Positions do not move. An event whose message the topic has lost
keeps its document as it is.
"""

import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import orjson

from kp_platform.engine import dead_letters, index_registry
from kp_platform.engine.counting import iso
from kp_platform.engine.dead_letters import StoredDeadLetter
from kp_platform.engine.documents import Document
from kp_platform.engine.errors import SliceError
from kp_platform.engine.indexer import Indexer
from kp_platform.engine.loader import utc_now
from kp_platform.engine.offsets import OffsetRange, Slice, TopicState, Watermarks, plan
from kp_platform.engine.store import DocumentStore, Stored, create, put, send
from kp_platform.engine.writer import Outcome
from kp_platform.flows.model import Flow
from kp_platform.operations.index_swap import SwapUnknown, exchange, see
from kp_platform.operations.replay_range import ReplayRange, days_of

# What a document keeps from when it was indexed first.
_FIRST = ("indexed_at", "delay_ms")
_PLACE = ("topic", "partition", "offset")


@dataclass(slots=True, kw_only=True)
class ReplayReport:
    """What a replay did until now. Of the `rows` read, `remade` are documents written again,
    `unchanged` were as they should be, `brought_back` were missing, `duplicates` stand at another
    offset, `dead` cannot be documents, and `outside` are of another time.

    `kept` documents stay as they are, for the topic does not hold their messages any more; it is
    told at the end, as are the names of the indices that were exchanged.
    """

    rows: int = 0
    remade: int = 0
    unchanged: int = 0
    brought_back: int = 0
    duplicates: int = 0
    dead: int = 0
    outside: int = 0
    kept: int = 0
    exchanged: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        told = {
            "made again": self.remade,
            "unchanged": self.unchanged,
            "brought back": self.brought_back,
            "duplicates": self.duplicates,
            "dead letters": self.dead,
            "of another time": self.outside,
            "kept as they are, their messages are gone": self.kept,
        }
        found = ", ".join(f"{count} {what}" for what, count in told.items() if count)
        new = f"; new: {', '.join(self.exchanged)}" if self.exchanged else ""
        return f"{self.rows} messages read: {found or 'nothing to do'}, {self.seconds:.1f} s{new}"

    def add(self, outcome: Outcome, rows: int) -> None:
        self.rows += rows
        self.remade += outcome.refreshed
        self.unchanged += outcome.already_there
        self.brought_back += outcome.indexed
        self.duplicates += outcome.duplicates
        self.dead += len(outcome.dead)
        self.outside += outcome.outside


def followers(indexers: Iterable[Indexer], flow: Flow) -> list[Indexer]:
    """Those that make documents of the flow follow reference data."""
    return [each for each in indexers if each.flow.rewrites and each.flow.rewrites.target == flow]


def replay_in_place(
    indexer: Indexer, span: ReplayRange, changes: Sequence[Indexer]
) -> Iterator[ReplayReport]:
    """Write each document of the span over itself, where it is not what it should be.

    Yields the sums after each slice. `changes` are the flows that make documents of this one follow
    reference data. Raises SliceError and its kin; what was written until then stays written, and
    the same replay can be done again.
    """
    follower, report = _Follower(changes), ReplayReport()
    writer = _Writer(indexer, span)
    try:
        for each in _read(indexer, span, writer, report):
            writer.settle()
            follower.catch_up()
            yield each
        if report.brought_back and span.window:  # perhaps into a new index
            there = indexer.store.index_ids(indexer.flow.index)
            names = [name for name in days_of(indexer.flow, span.window) if name in there]
            index_registry.register(indexer.store, indexer.flow, names, utc_now())
    finally:
        follower.catch_up()


def replay_into_new_indices(
    indexer: Indexer, span: ReplayRange, changes: Sequence[Indexer]
) -> Iterator[ReplayReport]:
    """Make the documents of whole days in new indices, which take the place of the old at the end,
    each at one moment. Yields and raises as `into_place`; an index that is not complete is deleted.
    """
    flow, store = indexer.flow, indexer.store
    names = span.whole_days(flow)
    before = see(store, flow, names)
    made = _NewIndices(store, flow, names)
    follower, report = _Follower(changes), ReplayReport()
    writer = _Writer(indexer, span, made)
    try:
        yield from _read(indexer, span, writer, report)
        for name, (new, new_id) in sorted(made.names.items()):
            try:
                exchange(store, flow, name, new, new_id, before[name])
            except SwapUnknown:
                del made.names[name]  # it may be in its place
                raise
            del made.names[name]
            report.exchanged.append(name)
            yield report
        writer.settle()
    finally:
        for new, _ in made.names.values():
            store.delete_index(new)
        follower.catch_up()


class _NewIndices:
    """Indices for days, each made when its first document comes. `names`: name and id of each, by
    the name that it is to go by."""

    def __init__(self, store: DocumentStore, flow: Flow, allowed: Sequence[str]) -> None:
        self.names: dict[str, tuple[str, str]] = {}
        self._store, self._flow, self._allowed = store, flow, allowed
        # Not `<index>-...`: such a name would be behind the alias from its first moment.
        self._prefix = f"{self._flow.index}.{datetime.now(UTC):%Y%m%d%H%M%S}{secrets.token_hex(2)}"
        self._making = threading.Lock()

    def of(self, name: str) -> str:
        with self._making:
            if name not in self.names:
                if name not in self._allowed:
                    raise ValueError(f"{name} is of another time")
                new = self._prefix + name.removeprefix(self._flow.index)
                self._store.make_index(new, self._flow.mapping)
                self.names[name] = new, self._store.index_ids(new)[new]
            return self.names[name][0]


class _Writer:
    """Writes documents over themselves, or into new indices."""

    def __init__(self, indexer: Indexer, span: ReplayRange, new: _NewIndices | None = None) -> None:
        self._flow, self._store = indexer.flow, indexer.store
        self._state, self._new = span.state, new
        window = span.window
        self._bounds = (iso(window.start), iso(window.end)) if window else None
        self._letters: list[StoredDeadLetter] = []

    def settle(self) -> None:
        """Remove the dead letters of messages that have become documents."""
        letters, self._letters = self._letters, []
        dead_letters.remove(self._store, letters)

    def __call__(self, operations: Sequence[bytes]) -> Outcome:
        documents = [Document(each) for each in operations]
        inside = [each for each in documents if self._is_inside(each)]
        outcome = Outcome(outside=len(documents) - len(inside))
        held = self._store.get([(each.index, each.id) for each in inside])
        letters = self._letters_of([each for each in inside if (each.index, each.id) not in held])
        writing: list[tuple[Document, Stored | None]] = []
        lines: list[bytes] = []
        for document in inside:
            theirs = held.get((document.index, document.id))
            letter = letters.get((document.body["partition"], document.body["offset"]))
            if theirs is not None and _differ(document.body, theirs.source, _PLACE):
                outcome.duplicates += 1
            elif letter is not None and letter.discarded_at:
                outcome.dead.append(document.dead("dropped", "its bytes are to be forgotten"))
            elif (line := self._operation(document, theirs)) is None:
                outcome.already_there += 1
            else:
                writing.append((document, theirs))
                lines.append(line)
        results = send(self._store, lines) if lines else []
        for (document, theirs), result in zip(writing, results, strict=True):
            place = document.body["partition"], document.body["offset"]
            if result.rejected and theirs is not None:
                raise SliceError(f"{document.id} is refused now: {result.error}: {result.reason}")
            if result.rejected:
                outcome.dead.append(document.dead(result.error, result.reason))
                continue
            if place in letters:
                self._letters.append(letters[place])
            if result.conflict:  # written meanwhile, from what is known now
                outcome.already_there += 1
            elif theirs is None:
                outcome.indexed += 1
            else:
                outcome.refreshed += 1
        return outcome

    def _letters_of(self, documents: Sequence[Document]) -> dict[tuple[int, int], StoredDeadLetter]:
        """The dead letters of events that have no document, by partition and offset."""
        places = [(each.body["partition"], each.body["offset"]) for each in documents]
        return dead_letters.of_places(self._store, self._flow, self._state, places)

    def _is_inside(self, document: Document) -> bool:
        moment: str = document.body["@timestamp"]
        return self._bounds is None or self._bounds[0] <= moment < self._bounds[1]

    def _operation(self, document: Document, theirs: Stored | None) -> bytes | None:
        """None: the document is as it should be."""
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


def _read(
    indexer: Indexer, span: ReplayRange, writer: _Writer, report: ReplayReport
) -> Iterator[ReplayReport]:
    reader = replace(indexer, write=writer)
    began = monotonic()
    for part in _slices(span.state, span.ranges, indexer.limits.slice_rows):
        found = reader.read(span.state, part)
        report.add(found.outcome, found.rows)
        report.seconds = monotonic() - began
        yield report
    report.kept = max(0, span.documents - report.remade - report.unchanged)
    yield report


def _slices(state: TopicState, ranges: Sequence[OffsetRange], most_rows: int) -> Iterator[Slice]:
    """All ranges, of all partitions side by side."""
    ends = {part.partition: Watermarks(part.start, part.end) for part in ranges}
    asked = TopicState(state.topic, state.topic_id, ends)
    at = {part.partition: part.start for part in ranges}
    while (todo := plan(asked, at, most_rows).slice) is not None:
        yield todo
        at |= {part.partition: part.end for part in todo.ranges}


class _Follower:
    """Makes documents follow reference data that changed while a replay read them."""

    def __init__(self, changes: Sequence[Indexer]) -> None:
        self._seen = [(each, each.log.topic_state(each.flow.topic)) for each in changes]

    def catch_up(self) -> None:
        """Rewrite what was announced since the last time. Raises what a flow of changes raises."""
        for number, (indexer, before) in enumerate(self._seen):
            state = indexer.log.topic_state(indexer.flow.topic)
            if state.topic_id != before.topic_id:
                raise SliceError(f"topic {state.topic} was deleted and made again meanwhile")
            ranges = tuple(
                OffsetRange(part, marks.high, state.partitions[part].high)
                for part, marks in sorted(before.partitions.items())
                if marks.high < state.partitions[part].high
            )
            most = indexer.flow.slice_rows or indexer.limits.slice_rows
            for part in _slices(state, ranges, most):
                indexer.read(state, part)
            self._seen[number] = indexer, state
