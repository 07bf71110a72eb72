"""The refresher: documents of another flow get the current reference data of the keys that a slice
of messages names.

Belongs here: which documents are rewritten, and when the slice is complete. Does not belong here:
the order of slices and positions (`indexer.py`).

Older data never overwrite newer data. A round takes a snapshot of the index first, then queries
Trino for the current reference data, then writes each document only over the version in the
snapshot. A document written after the snapshot is a conflict and leads to another round. A document
written before the snapshot was joined before this round's query. No clock decides.

No document is missed. A document may be in flight with data that were read before the change. So a
slice is complete only after a round that began when everything was indexed that the topic of the
other flow held at the start of the slice.
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
from kp_platform.engine.bulk import put, send
from kp_platform.engine.clock import Clock
from kp_platform.engine.completeness import CompletenessCheck
from kp_platform.engine.documents import Columns, Coordinates, RejectedMessage, enrichment
from kp_platform.engine.errors import SliceError
from kp_platform.engine.loader import BULK_THREADS
from kp_platform.engine.lookup_pushdown import LookupPushdown
from kp_platform.engine.offsets import Slice, TopicState
from kp_platform.engine.ports import Hit, ItemResult, Servers, Snapshot
from kp_platform.engine.reports import PREVIEW_ROWS, SliceReport
from kp_platform.flows.model import ReferenceRefresh

POLL_SECONDS = 0.1

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Key:
    """A key with its current reference columns, and the messages that name it."""

    reference: dict[str, Any] = field(default_factory=dict)
    messages: list[Coordinates] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Sent:
    """Documents as they were sent, and the result of each."""

    documents: list[dict[str, Any]]
    results: Sequence[ItemResult]


@dataclass(frozen=True, slots=True)
class Refresher:
    """Loads slices of a reference refresh."""

    flow: ReferenceRefresh
    servers: Servers
    pushdown: LookupPushdown
    batch_rows: int
    patience_seconds: float
    clock: Clock

    def load(self, slice_: Slice) -> SliceReport:
        """Every document that a message of the slice names has the current reference data.

        Raises SliceError when the target flow does not index its topic within `patience_seconds`,
        and what query and bulk raise. Documents rewritten until then stay rewritten.
        """
        deadline = self.clock.monotonic() + self.patience_seconds
        goal = self.servers.log.topic_state(self.flow.target.topic)
        rounds: list[SliceReport] = []
        while True:
            complete = self._is_indexed(goal)
            report, conflicts = self._round(slice_)
            rounds.append(report)
            if complete and not conflicts:
                return _summed(rounds)
            if complete and self.clock.monotonic() > deadline:
                raise SliceError(
                    f"{conflicts} documents of {self.flow.index} are rewritten by other runs all "
                    f"the time, for {self.patience_seconds:.0f} s"
                )
            self._wait_until_indexed(goal, deadline)

    def _is_indexed(self, goal: TopicState) -> bool:
        """Whether the target flow has indexed its topic up to `goal`; nothing of a recreated topic
        remains to be indexed."""
        log, store = self.servers.log, self.servers.store
        state, stored = positions.read_consistent(log, store, self.flow.target)
        if state.topic_id != goal.topic_id:
            return True
        offsets = positions.offsets(stored)
        return all(
            offsets.get(partition, watermarks.low) >= watermarks.high
            for partition, watermarks in goal.partitions.items()
        )

    def _wait_until_indexed(self, goal: TopicState, deadline: float) -> None:
        while not self._is_indexed(goal):
            if self.clock.monotonic() > deadline:
                raise SliceError(
                    f"{self.flow.target.topic} is not indexed up to its end at the time of the "
                    f"change, after {self.patience_seconds:.0f} s: see `kp lag`"
                )
            self.clock.sleep(POLL_SECONDS)

    def _round(self, slice_: Slice) -> tuple[SliceReport, int]:
        """The report of one round, and the number of documents that another writer had changed."""
        report = SliceReport(asked=slice_.ranges, slices=1)
        store, index = self.servers.store, self.flow.index
        store.refresh(index)
        with store.snapshot(index) as snapshot, ThreadPoolExecutor(BULK_THREADS) as threads:
            keys = self._query(slice_, report)
            began = time.monotonic()
            sending: deque[tuple[_Key, Future[_Sent]]] = deque()
            conflicts = 0
            for key, hits in self._pages(snapshot, keys):
                sending.append((key, threads.submit(self._send, hits, key.reference)))
                if len(sending) > BULK_THREADS:
                    conflicts += _collect(*sending.popleft(), report)
            while sending:
                conflicts += _collect(*sending.popleft(), report)
            report.elasticsearch_seconds = time.monotonic() - began
        return report, conflicts

    def _pages(
        self, snapshot: Snapshot, keys: Mapping[str, _Key]
    ) -> Iterator[tuple[_Key, list[Hit]]]:
        """The documents of each key with other reference data; none after a rejected page."""
        field = self.flow.document_field
        for value, key in keys.items():
            for hits in snapshot.differing(field, value, key.reference, self.batch_rows):
                yield key, hits
                if not key.messages:
                    break

    def _query(self, slice_: Slice, report: SliceReport) -> dict[str, _Key]:
        """The keys that the slice's messages name, with their current reference columns."""
        check = CompletenessCheck(slice_)
        keys: dict[str, _Key] = defaultdict(_Key)
        began = time.monotonic()
        with self.pushdown.query(self.servers.query_engine, self.flow, slice_) as answer:
            columns = Columns(self.flow, answer.columns)
            key_at = columns.at[self.flow.key_field]
            for rows in answer.batches(self.batch_rows):
                report.rows += len(rows)
                check.add(map(columns.coordinates, rows))
                for row in rows:
                    if rejected := columns.rejected(row):
                        report.outcome.rejected.append(rejected)
                        continue
                    report.outcome.applied += 1
                    key = keys[row[key_at]]
                    key.reference = {name: row[at] for name, at in columns.reference.items()}
                    key.messages.append(columns.coordinates(row))
            report.query = answer.stats
        report.empty = check.finish(self.servers.log, self.flow.topic)
        report.trino_seconds = time.monotonic() - began
        return keys

    def _send(self, hits: Sequence[Hit], reference: dict[str, Any]) -> _Sent:
        """Rewrite the documents that differ, each only over the version of the snapshot."""
        sources, target = self.flow.references, self.flow.target
        missing = [source for source, column in sources.items() if reference[column] is None]
        members = reference | {"enrichment": enrichment(missing, sources)}
        changed = [(hit, hit.stored.source | members) for hit in hits]
        changed = [(hit, new) for hit, new in changed if new != hit.stored.source]
        operations = []
        for hit, new in changed:
            index = hit.index
            if index_registry.is_replayed(target, index):  # it may have been replaced since
                index = target.daily_index(new["@timestamp"][:10])
            operations.append(put(index, hit.id, orjson.dumps(new), expected=hit.stored.version))
        results = send(self.servers.store, operations) if operations else []
        return _Sent([new for _, new in changed], results)


def _collect(key: _Key, sending: Future[_Sent], report: SliceReport) -> int:
    """Count what was written; returns the number of conflicts.

    When the index refuses the reference data of a key, the messages of the key are rejected.
    """
    sent = sending.result()
    written = [
        new for new, result in zip(sent.documents, sent.results, strict=True) if result.written
    ]
    if refused := [result for result in sent.results if result.rejected]:
        reason = refused[0].error, refused[0].reason
        report.outcome.applied -= len(key.messages)
        report.outcome.rejected += [RejectedMessage.of(each, *reason) for each in key.messages]
        key.messages.clear()
    report.outcome.refreshed += len(written)
    report.preview += written[: PREVIEW_ROWS - len(report.preview)]
    logger.info("%d documents refreshed", len(written))
    return sum(result.conflict for result in sent.results)


def _summed(rounds: Sequence[SliceReport]) -> SliceReport:
    """The last round's report, as each round reads the same messages, with the work of all."""
    last = rounds[-1]
    last.outcome.refreshed = sum(each.outcome.refreshed for each in rounds)
    last.trino_seconds = sum(each.trino_seconds for each in rounds)
    last.elasticsearch_seconds = sum(each.elasticsearch_seconds for each in rounds)
    last.preview = next((each.preview for each in rounds if each.preview), [])
    return last
