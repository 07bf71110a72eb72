"""Dead-letter retry: messages of dead letters are processed again; those that succeed are indexed
and their dead letters removed.

Belongs here: which dead letters can be retried, in which slices, and the result for each. Does not
belong here: processing a slice (`indexer.py`) and storing dead letters (`dead_letters.py`).

A message is read at its own offset, through its flow's query, and its dead letter is removed only
after its document was acknowledged. After a kill in between both exist, and the next retry removes
the dead letter. Positions do not move. Slices hold exactly the offsets of dead letters: a neighbour
whose dead letter was discarded, or not selected, must not become a document.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from kp_platform.engine import dead_letters
from kp_platform.engine.clock import utc_now
from kp_platform.engine.dead_letters import DeadLetter
from kp_platform.engine.documents import RejectedMessage
from kp_platform.engine.errors import SuspectMessage
from kp_platform.engine.indexer import Indexer
from kp_platform.engine.offsets import OffsetRange, Slice, TopicState
from kp_platform.engine.ports import Documents
from kp_platform.engine.reports import Outcome

# Of each partition in one slice.
MOST_OFFSETS = 500


@dataclass(frozen=True, slots=True)
class Batch:
    """Dead letters of one flow whose messages its topic, in this state, still holds."""

    indexer: Indexer
    state: TopicState
    dead_letters: list[DeadLetter]


@dataclass(slots=True)
class RetryReport:
    """The results of a retry: dead letters that were `removed`, those `still_dead` with the current
    reason, and those whose messages are `unreadable`, with the cause."""

    removed: list[DeadLetter] = field(default_factory=list)
    still_dead: list[tuple[DeadLetter, RejectedMessage]] = field(default_factory=list)
    unreadable: list[tuple[DeadLetter, str]] = field(default_factory=list)

    def __str__(self) -> str:
        reasons = Counter(found.reason for _, found in self.still_dead)
        why = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        return (
            f"{len(self.removed)} indexed and removed, {len(self.still_dead)} still dead"
            f"{f' ({why})' if why else ''}, {len(self.unreadable)} cannot be read"
        )

    def as_json(self) -> dict[str, Any]:
        """Dead letters by their ids; a `detail` may quote a message."""
        still_dead = [
            {"id": dead_letter.id, "reason": found.reason, "detail": found.detail}
            for dead_letter, found in self.still_dead
        ]
        removed = [dead_letter.id for dead_letter in self.removed]
        return {"removed": removed, "still_dead": still_dead, "unreadable": causes(self.unreadable)}


def retry(indexers: Mapping[str, Indexer], selected: Sequence[DeadLetter]) -> RetryReport:
    """Process the messages of dead letters again, each by the indexer of its flow's name.

    Raises SliceError or ServerDown; dead letters that were settled until then stay settled.
    """
    batches, lost = readable(indexers, selected)
    report = RetryReport(unreadable=lost)
    for batch in batches:
        batch.indexer.prepare()
        by_offset = {
            dead_letter.partition_offset: dead_letter for dead_letter in batch.dead_letters
        }
        for slice_ in slices(sorted(by_offset)):
            batched = [by_offset[each] for each in _partition_offsets(slice_)]
            try:
                outcome = batch.indexer.process(batch.state, slice_).outcome
            except SuspectMessage as error:  # without a readable neighbour the cause is unknown
                report.unreadable += [(dead_letter, str(error)) for dead_letter in batched]
            else:
                _settle(batch.indexer.servers.store, batched, outcome, report)
    return report


def readable(
    indexers: Mapping[str, Indexer], selected: Sequence[DeadLetter]
) -> tuple[list[Batch], list[tuple[DeadLetter, str]]]:
    """The dead letters whose messages can be read, and the others with the cause."""
    batches: dict[str, Batch] = {}
    lost: list[tuple[DeadLetter, str]] = []
    for dead_letter in selected:
        name = dead_letter.source["flow"]
        if name not in indexers:
            lost.append((dead_letter, f"flow {name} is not declared"))
            continue
        if name not in batches:
            indexer = indexers[name]
            state = indexer.servers.log.topic_state(indexer.flow.topic)
            batches[name] = Batch(indexer, state, [])
        if cause := _obstacle(batches[name].state, dead_letter):
            lost.append((dead_letter, cause))
        else:
            batches[name].dead_letters.append(dead_letter)
    return list(batches.values()), lost


def causes(unreadable: Sequence[tuple[DeadLetter, str]]) -> list[dict[str, str]]:
    """The causes why dead letters cannot be retried, as JSON."""
    return [{"id": dead_letter.id, "cause": cause} for dead_letter, cause in unreadable]


def slices(offsets: Sequence[tuple[int, int]]) -> Iterator[Slice]:
    """Slices of exactly these (partition, offset), which are sorted: consecutive offsets of each
    partition at once."""
    by_partition: dict[int, list[OffsetRange]] = {}
    for partition, offset in offsets:
        ranges = by_partition.setdefault(partition, [])
        if ranges and ranges[-1].end == offset and len(ranges[-1]) < MOST_OFFSETS:
            ranges[-1] = OffsetRange(partition, ranges[-1].start, offset + 1)
        else:
            ranges.append(OffsetRange(partition, offset, offset + 1))
    for ranges_of_slice in zip_longest(*by_partition.values()):
        yield Slice(tuple(each for each in ranges_of_slice if each is not None))


def _settle(
    store: Documents, selected: Sequence[DeadLetter], outcome: Outcome, report: RetryReport
) -> None:
    rejected = {(each.partition, each.offset): each for each in outcome.rejected}
    removed = [
        dead_letter for dead_letter in selected if dead_letter.partition_offset not in rejected
    ]
    dead_letters.remove(store, removed)
    report.removed += removed
    for dead_letter in selected:
        if found := rejected.get(dead_letter.partition_offset):
            dead_letters.retry(store, dead_letter, found, utc_now())
            report.still_dead.append((dead_letter, found))


def _partition_offsets(slice_: Slice) -> Iterator[tuple[int, int]]:
    for each in slice_.ranges:
        yield from ((each.partition, offset) for offset in range(each.start, each.end))


def _obstacle(state: TopicState, dead_letter: DeadLetter) -> str:
    """Why the message cannot be read; empty: it can."""
    topic_id = dead_letter.source["topic_id"]
    partition, offset = dead_letter.partition_offset
    if dead_letter.discarded_at:
        return f"it was discarded at {dead_letter.discarded_at}"
    if state.topic_id != topic_id:
        return f"topic {state.topic} was recreated: its id is {state.topic_id}, not {topic_id}"
    watermarks = state.partitions.get(partition)
    if watermarks is None or offset >= watermarks.high:
        return f"{state.topic} partition {partition} no longer has that offset"
    if offset < watermarks.low:
        return f"retention deleted {state.topic} partition {partition} below {watermarks.low}"
    return ""
