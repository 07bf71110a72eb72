"""Dead letters read again: those that have become good are indexed, then removed.

Belongs here: which letters can be read again, in which slices, and what becomes of each letter.
Does not belong here: how a slice is indexed (`drain.py`), how letters are kept (`dead_letters.py`).

A message is read from its own offset, through its flow's query, as if for the first time, and its
letter goes only after its document was acknowledged. Killed in between, both are there, and the
next replay removes the letter. Positions do not move. Slices hold exactly the offsets of letters: a
neighbour whose letter was dropped, or not asked for, must not become a document.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from kp_platform.engine import dead_letters
from kp_platform.engine.dead_letters import StoredDeadLetter
from kp_platform.engine.documents import DeadLetter
from kp_platform.engine.errors import SuspectMessage
from kp_platform.engine.indexer import Indexer
from kp_platform.engine.loader import utc_now
from kp_platform.engine.offsets import OffsetRange, Slice, TopicState
from kp_platform.engine.store import DocumentStore
from kp_platform.engine.writer import Outcome

# Of each partition in one slice.
MOST_OFFSETS = 500


@dataclass(frozen=True, slots=True)
class Batch:
    """Letters of one flow whose messages its topic, in the state given, still holds."""

    indexer: Indexer
    state: TopicState
    letters: list[StoredDeadLetter]


@dataclass(slots=True)
class RetryReport:
    """What became of letters: `removed` from the dead letters, `still_dead` with the reason of now,
    or `unreadable` from the log, with the cause in words."""

    removed: list[StoredDeadLetter] = field(default_factory=list)
    still_dead: list[tuple[StoredDeadLetter, DeadLetter]] = field(default_factory=list)
    unreadable: list[tuple[StoredDeadLetter, str]] = field(default_factory=list)

    def __str__(self) -> str:
        reasons = Counter(found.reason for _, found in self.still_dead)
        why = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        return (
            f"{len(self.removed)} became good and are removed, {len(self.still_dead)} are still "
            f"dead{f' ({why})' if why else ''}, {len(self.unreadable)} cannot be read again"
        )

    def as_json(self) -> dict[str, Any]:
        """Letters by their ids; a `detail` may quote a message."""
        still_dead = [
            {"id": letter.id, "reason": found.reason, "detail": found.detail}
            for letter, found in self.still_dead
        ]
        removed = [letter.id for letter in self.removed]
        return {"removed": removed, "still_dead": still_dead, "unreadable": causes(self.unreadable)}


def replay(indexers: Mapping[str, Indexer], letters: Sequence[StoredDeadLetter]) -> RetryReport:
    """Read the letters' messages again, each by the pipeline of its flow's name.

    Raises SliceError and its kin; letters that were settled until then stay settled.
    """
    batches, lost = readable(indexers, letters)
    report = RetryReport(unreadable=lost)
    for batch in batches:
        batch.indexer.prepare()
        at = {letter.place: letter for letter in batch.letters}
        for part in slices(sorted(at)):
            together = [at[place] for place in _places(part)]
            try:
                outcome = batch.indexer.index(batch.state, part).outcome
            except SuspectMessage as error:  # alone, so no neighbour tells whose fault it is
                report.unreadable += [(letter, str(error)) for letter in together]
            else:
                _settle(batch.indexer.store, together, outcome, report)
    return report


def readable(
    indexers: Mapping[str, Indexer], letters: Sequence[StoredDeadLetter]
) -> tuple[list[Batch], list[tuple[StoredDeadLetter, str]]]:
    """The letters whose messages can be read again, and the others with the cause in words."""
    batches: dict[str, Batch] = {}
    lost: list[tuple[StoredDeadLetter, str]] = []
    for letter in letters:
        name = letter.source["flow"]
        if name not in indexers:
            lost.append((letter, f"flow {name} is not declared"))
            continue
        if name not in batches:
            indexer = indexers[name]
            batches[name] = Batch(indexer, indexer.log.topic_state(indexer.flow.topic), [])
        if cause := _obstacle(batches[name].state, letter):
            lost.append((letter, cause))
        else:
            batches[name].letters.append(letter)
    return list(batches.values()), lost


def causes(unreadable: Sequence[tuple[StoredDeadLetter, str]]) -> list[dict[str, str]]:
    """Why letters cannot be read again, as JSON."""
    return [{"id": letter.id, "cause": cause} for letter, cause in unreadable]


def slices(places: Sequence[tuple[int, int]]) -> Iterator[Slice]:
    """Slices of exactly these (partition, offset), which are sorted: a run of offsets that follow
    each other of each partition at once."""
    runs: dict[int, list[OffsetRange]] = {}
    for partition, offset in places:
        ranges = runs.setdefault(partition, [])
        if ranges and ranges[-1].end == offset and len(ranges[-1]) < MOST_OFFSETS:
            ranges[-1] = OffsetRange(partition, ranges[-1].start, offset + 1)
        else:
            ranges.append(OffsetRange(partition, offset, offset + 1))
    for together in zip_longest(*runs.values()):
        yield Slice(tuple(part for part in together if part is not None))


def _settle(
    store: DocumentStore, letters: Sequence[StoredDeadLetter], outcome: Outcome, report: RetryReport
) -> None:
    dead = {(each.partition, each.offset): each for each in outcome.dead}
    removed = [letter for letter in letters if letter.place not in dead]
    dead_letters.remove(store, removed)
    report.removed += removed
    for letter in letters:
        if found := dead.get(letter.place):
            dead_letters.give_reason(store, letter, found, utc_now())
            report.still_dead.append((letter, found))


def _places(part: Slice) -> Iterator[tuple[int, int]]:
    for each in part.ranges:
        yield from ((each.partition, offset) for offset in range(each.start, each.end))


def _obstacle(state: TopicState, letter: StoredDeadLetter) -> str:
    """Why the letter's message cannot be read again; empty: it can."""
    topic_id = letter.source["topic_id"]
    partition, offset = letter.place
    if letter.discarded_at:
        return f"it was dropped at {letter.discarded_at}"
    if state.topic_id != topic_id:
        return f"topic {state.topic} was made again: its id is {state.topic_id}, not {topic_id}"
    marks = state.partitions.get(partition)
    if marks is None or offset >= marks.high:
        return f"{state.topic} has no partition {partition} with that offset any more"
    if offset < marks.low:
        return f"retention deleted {state.topic} partition {partition} below offset {marks.low}"
    return ""
