"""A slice of changes: documents of another flow follow the reference data that its messages name.

Belongs here: which documents are rewritten, when the slice is done. Does not belong here: the
order of slices and positions (`drain.py`).

Older data never come over newer. A round takes a snapshot of the index first, then asks Trino for
the reference data of now, then writes each document only over the version that the snapshot saw.
Who wrote a document after the snapshot wins: a conflict, and another round. Who wrote it before the
snapshot had asked Trino before we did. No clock decides.

No document is missed. One may be on its way with data that were read before the change. So a slice
is done only by a round that began after everything was indexed that the other flow's topic held
when the slice was begun.
"""

import logging
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import orjson

from kp_platform.engine import index_registry, positions
from kp_platform.engine.documents import Columns, DeadLetter, Place, enrichment
from kp_platform.engine.errors import SliceError
from kp_platform.engine.loader import BULK_THREADS, PREVIEW_ROWS, SliceReport
from kp_platform.engine.offsets import Slice, TopicState
from kp_platform.engine.ports import Log
from kp_platform.engine.sql import CompletenessCheck, LookupPushdown, QueryEngine
from kp_platform.engine.store import DocumentStore, Hit, ItemResult, Snapshot, put, send
from kp_platform.flows.model import Flow, Rewrite

LOOK_SECONDS = 0.1

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Key:
    """What is known of one key: its columns of now, and the messages that named it."""

    facts: dict[str, Any] = field(default_factory=dict)
    messages: list[Place] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Sent:
    """Documents as they were sent, and what became of each."""

    documents: list[dict[str, Any]]
    results: Sequence[ItemResult]


@dataclass(frozen=True, slots=True)
class Refresher:
    """A flow of changes with the servers that it needs."""

    flow: Flow
    rewrites: Rewrite
    log: Log
    engine: QueryEngine
    store: DocumentStore
    keys: LookupPushdown
    batch_rows: int
    patience_seconds: float

    def rewrite(self, part: Slice) -> SliceReport:
        """Every document that a change of the slice concerns carries the reference data of now.

        Raises SliceError when the other flow does not index what waits for it in
        `patience_seconds`, and what query and bulk raise. Documents rewritten until then stay so.
        """
        deadline = time.monotonic() + self.patience_seconds
        goal = self.log.topic_state(self.rewrites.target.topic)
        rounds: list[SliceReport] = []
        while True:
            settled = self._has_indexed(goal)
            report, conflicts = self._round(part)
            rounds.append(report)
            if settled and not conflicts:
                return _summed(rounds)
            if settled and time.monotonic() > deadline:
                raise SliceError(
                    f"{conflicts} documents of {self.rewrites.target.index} are written by others "
                    f"again and again, for {self.patience_seconds:.0f} s"
                )
            self._wait_until_indexed(goal, deadline)

    def _has_indexed(self, goal: TopicState) -> bool:
        """Whether the other flow has indexed what its topic held then; a topic made again has
        nothing of that left."""
        state, held = positions.look(self.log, self.store, self.rewrites.target)
        if state.topic_id != goal.topic_id:
            return True
        at = positions.offsets(held)
        return all(at.get(part, marks.low) >= marks.high for part, marks in goal.partitions.items())

    def _wait_until_indexed(self, goal: TopicState, deadline: float) -> None:
        while not self._has_indexed(goal):
            if time.monotonic() > deadline:
                raise SliceError(
                    f"{self.rewrites.target.topic} is not indexed up to where it was when its "
                    f"reference data changed, after {self.patience_seconds:.0f} s: see `kp lag`"
                )
            time.sleep(LOOK_SECONDS)

    def _round(self, part: Slice) -> tuple[SliceReport, int]:
        """What one look did, and how many documents another writer had changed meanwhile."""
        report = SliceReport(asked=part.ranges, slices=1)
        index = self.rewrites.target.index
        self.store.refresh(index)
        with self.store.snapshot(index) as snapshot, ThreadPoolExecutor(BULK_THREADS) as threads:
            keys = self._read(part, report)
            began = time.monotonic()
            sending: deque[tuple[_Key, Future[_Sent]]] = deque()
            conflicts = 0
            for known, hits in self._pages(snapshot, keys):
                sending.append((known, threads.submit(self._send, hits, known.facts)))
                if len(sending) > BULK_THREADS:
                    conflicts += _collect(*sending.popleft(), report)
            while sending:
                conflicts += _collect(*sending.popleft(), report)
            report.elasticsearch_seconds = time.monotonic() - began
        return report, conflicts

    def _pages(
        self, snapshot: Snapshot, keys: Mapping[str, _Key]
    ) -> Iterator[tuple[_Key, list[Hit]]]:
        """The documents of each key that lack its facts; no more of a key that was refused."""
        for key, known in keys.items():
            field = self.rewrites.document_field
            for hits in snapshot.differing(field, key, known.facts, self.batch_rows):
                yield known, hits
                if not known.messages:
                    break

    def _read(self, part: Slice, report: SliceReport) -> dict[str, _Key]:
        """The keys that the slice's messages name, with what Trino knows of them now."""
        coverage = CompletenessCheck(part)
        keys: dict[str, _Key] = defaultdict(_Key)
        began = time.monotonic()
        with self.keys.query(self.engine, self.flow, part) as answer:
            known = Columns(self.flow, answer.columns)
            key_at = known.at[self.rewrites.key_field]
            for rows in answer.batches(self.batch_rows):
                report.rows += len(rows)
                coverage.tick(map(known.place, rows))
                for row in rows:
                    if dead := known.defect(row):
                        report.outcome.dead.append(dead)
                        continue
                    report.outcome.applied += 1
                    keys[row[key_at]].facts = {name: row[at] for name, at in known.facts.items()}
                    keys[row[key_at]].messages.append(known.place(row))
            report.query = answer.stats
        report.empty = coverage.check(self.log, self.flow.topic)
        report.trino_seconds = time.monotonic() - began
        return keys

    def _send(self, hits: Sequence[Hit], facts: dict[str, Any]) -> _Sent:
        """Rewrite those documents that do differ, each only over the version that was seen."""
        references, target = self.flow.references, self.rewrites.target
        missing = [source for source, column in references.items() if facts[column] is None]
        brought = facts | {"enrichment": enrichment(missing, references)}
        changed = [(hit, hit.stored.source | brought) for hit in hits]
        changed = [(hit, new) for hit, new in changed if new != hit.stored.source]
        operations = []
        for hit, new in changed:
            index = hit.index
            if index_registry.is_replayed(target, index):  # another may be in its place meanwhile
                index = target.daily_index(new["@timestamp"][:10])
            operations.append(put(index, hit.id, orjson.dumps(new), expected=hit.stored.version))
        results = send(self.store, operations) if operations else []
        return _Sent([new for _, new in changed], results)


def _collect(known: _Key, sending: Future[_Sent], report: SliceReport) -> int:
    """Count what was written; returns the number of conflicts.

    Facts that the index refuses make dead letters of the messages that brought them.
    """
    sent = sending.result()
    written = [
        new for new, result in zip(sent.documents, sent.results, strict=True) if result.written
    ]
    if refused := [result for result in sent.results if result.rejected]:
        reason = refused[0].error, refused[0].reason
        report.outcome.applied -= len(known.messages)
        report.outcome.dead += [DeadLetter.of(place, *reason) for place in known.messages]
        known.messages.clear()
    report.outcome.refreshed += len(written)
    report.preview += written[: PREVIEW_ROWS - len(report.preview)]
    logger.info("%d documents rewritten", len(written))
    return sum(result.conflict for result in sent.results)


def _summed(rounds: Sequence[SliceReport]) -> SliceReport:
    """The last round's report, for each reads the same messages, with the work of them all."""
    last = rounds[-1]
    last.outcome.refreshed = sum(each.outcome.refreshed for each in rounds)
    last.trino_seconds = sum(each.trino_seconds for each in rounds)
    last.elasticsearch_seconds = sum(each.elasticsearch_seconds for each in rounds)
    last.preview = next((each.preview for each in rounds if each.preview), [])
    return last
