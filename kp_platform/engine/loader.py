"""The loader: query rows of one slice to bulk requests.

Belongs here: turning rows into operations, sending them while more rows arrive, and counting. Does
not belong here: what precedes and follows (`indexer.py`), and what one request does (`writer.py`).
Memory is bounded by the number of batches in flight.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from kp_platform.engine.clock import utc_now
from kp_platform.engine.completeness import CompletenessCheck
from kp_platform.engine.documents import Batch, Columns, Document, builder
from kp_platform.engine.lookup_pushdown import LookupPushdown
from kp_platform.engine.offsets import Slice
from kp_platform.engine.ports import Servers
from kp_platform.engine.reports import PREVIEW_ROWS, Outcome, SliceReport
from kp_platform.flows.model import Flow

BULK_THREADS = 2
BATCHES_IN_FLIGHT = 4

# Writes the operations of `documents.builder`; called by several threads.
Write = Callable[[Sequence[bytes]], Outcome]


@dataclass(frozen=True, slots=True)
class DocumentLoader:
    """Loads slices of a flow whose messages become documents."""

    flow: Flow
    servers: Servers
    pushdown: LookupPushdown
    write: Write
    batch_rows: int
    run_id: str = ""

    def load(self, slice_: Slice) -> SliceReport:
        """Write a document for every event of the slice; rejected messages are only collected.

        Raises IncompleteAnswer unless exactly the slice's offsets came, and what query and bulk
        raise.
        """
        report = SliceReport(asked=slice_.ranges, slices=1)
        check = CompletenessCheck(slice_)
        sending: deque[Future[Outcome]] = deque()
        with ThreadPoolExecutor(BULK_THREADS) as threads:
            for operations in self._operations(slice_, check, report):
                sending.append(threads.submit(self.write, operations))
                if len(sending) > BATCHES_IN_FLIGHT:
                    report.outcome.add(sending.popleft().result())
            while sending:
                report.outcome.add(sending.popleft().result())
        report.elasticsearch_seconds = report.outcome.seconds
        report.empty = check.finish(self.servers.log, self.flow.topic)
        return report

    def _operations(
        self, slice_: Slice, check: CompletenessCheck, report: SliceReport
    ) -> Iterator[list[bytes]]:
        """An operation of a bulk request for each document, in batches."""
        began = time.monotonic()
        with self.pushdown.query(self.servers.query_engine, self.flow, slice_) as answer:
            columns = Columns(self.flow, answer.columns)
            build = builder(self.flow, columns, self.run_id)
            for rows in answer.batches(self.batch_rows):
                report.trino_seconds += time.monotonic() - began
                check.add(map(columns.coordinates, rows))
                batch = build(rows, utc_now())
                _count(batch, len(rows), report)
                yield batch.operations
                began = time.monotonic()
            report.trino_seconds += time.monotonic() - began
            report.query = answer.stats


def _count(batch: Batch, rows: int, report: SliceReport) -> None:
    report.rows += rows
    report.outcome.rejected += batch.rejected
    report.missing.update(batch.missing)
    report.indices |= batch.indices
    for operation in batch.operations[: PREVIEW_ROWS - len(report.preview)]:
        report.preview.append(Document(operation).body)
