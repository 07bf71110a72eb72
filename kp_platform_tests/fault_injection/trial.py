"""One trial: a load starts, a fault is injected at a random moment and removed, the stack becomes
idle, and the oracle checks it.

Belongs here: the order of these steps, and the measurements. Does not belong here: faults
(`rows.py`), checks (`oracle.py`), tables (`report.py`).
"""

import random
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from kp_platform_tests.fault_injection.harness import DeadlineExceeded, FaultHarness, wait_until
from kp_platform_tests.fault_injection.ledger import ACCESSES, Amounts, Ledger, Load
from kp_platform_tests.fault_injection.oracle import (
    KINDS,
    Checkpoint,
    Oracle,
    TopicOffsets,
    Verdict,
)
from kp_platform_tests.fault_injection.rows import FaultContext, Row

LATE_URL = "https://late.example/"
# The documented bound: visits of the last 0.2 s and of one write to the spool, at 200 visits/s.
LOST_PER_KILL = 100


@dataclass(slots=True, kw_only=True)
class Result:
    """The result of one trial. `recovery_seconds` is None if it did not recover in time."""

    row: str
    name: str
    seed: int
    counts: dict[str, int]
    examples: dict[str, list[str]]
    dropped: int
    unknown: int
    seconds: float
    trial: int = 0
    events: int = 0
    recovery_seconds: float | None = None
    visits_failed: int = 0
    slowest_visit_seconds: float = 0.0
    note: str = ""
    problem: str = ""
    """Failures that the oracle does not count."""

    @classmethod
    def of(cls, row: str, name: str, verdict: Verdict, seed: int, began: float) -> "Result":
        """From a verdict; `began` is a time of the monotonic clock."""
        return cls(
            row=row,
            name=name,
            seed=seed,
            counts={kind: verdict.counts[kind] for kind in KINDS},
            examples={kind: each for kind, each in verdict.examples.items() if kind in KINDS},
            dropped=verdict.sizes["dropped"],
            unknown=verdict.sizes["sent unknown"] + verdict.sizes["visits unknown"],
            seconds=round(time.monotonic() - began, 1),
        )

    @property
    def is_clean(self) -> bool:
        return not self.problem and not any(self.counts.values())


@dataclass(frozen=True, slots=True)
class Laboratory:
    """A stack with its oracle and ledger, which runs trials."""

    harness: FaultHarness
    ledger: Ledger
    oracle: Oracle

    @classmethod
    def of(cls, harness: FaultHarness, *, alone: bool) -> "Laboratory":
        ledger = Ledger()
        return cls(harness, ledger, Oracle(harness.servers, ledger, alone=alone))

    def run(
        self,
        row: Row,
        *,
        trial: int,
        seed: int,
        amounts: Amounts,
        with_change: bool = True,
        tool: Any = None,
    ) -> Result:
        """The same seed gives the same random moments. `with_change`: reference data change when
        half of the load is sent. `tool` is the result of the row's `setup`."""
        began = time.monotonic()
        chance = random.Random(f"{row.key} {trial} {seed}")
        key = f"{row.key}-{trial}-{time.time_ns():x}"
        problems: list[str] = []
        checkpoint, before = self._checkpoint(), self._dropped()
        load = Load(self.harness.servers, self.ledger, amounts, key, random.Random(seed))
        context = FaultContext(self.harness, self.oracle, load, chance, trial, tool)
        self._warm_up(load, problems)
        load.start()
        change = _ReferenceChange(self.harness, load)
        if with_change:
            change.start()
        try:
            recovery = self._inject(row, context, amounts, problems)
            self._await_idle(checkpoint, load, change, row.patience_seconds, problems)
        finally:
            load.stop()
            change.stop()
        verdict = self.oracle.check(checkpoint)
        if row.on_cluster:
            context.note(_partitions(verdict))
        if row.ranks:
            _merge(verdict, self._ranking())
        self._check_dropped(verdict, before, LOST_PER_KILL * len(context.kills))
        self._check_counts(verdict)
        if load.visitor.errors and not row.ends_emitter:
            problems.append(f"{load.visitor.errors} visits failed")
        result = Result.of(row.key, row.name, verdict, seed, began)
        result.trial, result.events, result.note = trial, amounts.total, "; ".join(context.notes)
        result.recovery_seconds, result.problem = recovery, "; ".join(problems)
        result.visits_failed = load.visitor.errors
        result.slowest_visit_seconds = round(max(load.visitor.seconds, default=0.0), 3)
        return result

    def _inject(
        self, row: Row, context: FaultContext, amounts: Amounts, problems: list[str]
    ) -> float | None:
        """Inject and remove the fault; returns the seconds of the recovery."""
        moment = context.chance.uniform(*row.moment)
        wait_until(
            lambda: context.load.progress >= moment, "the fault's moment", amounts.seconds + 120
        )
        repaired = time.monotonic()
        try:
            with row.fault(context):
                time.sleep(context.chance.uniform(*row.duration))
                repaired = time.monotonic()
        except Exception as error:  # a failed trial must not end the others
            problems.append(repr(error))
        return self._recovery(repaired, row.patience_seconds, problems)

    def _checkpoint(self) -> Checkpoint:
        """A broker of several may learn of a topic later than the others, so it tries again."""
        found: list[Checkpoint] = []

        def read() -> bool:
            found.append(self.oracle.checkpoint())
            return True

        wait_until(read, "the end offsets of the topics", 60)
        return found[-1]

    def _warm_up(self, load: Load, problems: list[str]) -> None:
        """Wait for an active run, so that the fault meets one however long a run takes to start."""
        load.warm_up()
        try:
            wait_until(lambda: not self.oracle.lag()["access_log"], "the first events", 180)
        except DeadlineExceeded as late:
            problems.append(str(late))

    def _recovery(self, repaired: float, patience: float, problems: list[str]) -> float | None:
        """Seconds from the start of the repair until the positions reach the end offsets that the
        topics had at its end."""
        goals: dict[str, TopicOffsets] = {}

        def caught_up() -> bool:
            if not goals:
                goals.update(self.oracle.checkpoint().offsets)
            return not any(self.oracle.lag(goals).values())

        try:
            wait_until(caught_up, "positions at the end offsets of the repair", patience)
        except DeadlineExceeded as late:
            problems.append(str(late))
            return None
        return round(time.monotonic() - repaired, 1)

    def _await_idle(
        self,
        checkpoint: Checkpoint,
        load: Load,
        change: "_ReferenceChange",
        patience: float,
        problems: list[str],
    ) -> None:
        try:
            self.harness.await_ready(seconds=patience)
            if not load.join(patience):
                raise DeadlineExceeded("the load did not end")
            change.join(patience)
            load.finish(self.oracle.topic_offsets(ACCESSES).watermarks)
            wait_until(lambda: self._is_idle(checkpoint), "an idle stack", patience)
        except DeadlineExceeded as late:
            problems.append(str(late))

    def _is_idle(self, checkpoint: Checkpoint) -> bool:
        waiting = sum(
            counts["in_flight"] + counts["spooled"]
            for counts in self.harness.emitter_counts().values()
        )
        has_lag = any(self.oracle.lag().values())
        return not waiting and not has_lag and self.oracle.is_mirrored(checkpoint)

    def _dropped(self) -> tuple[int, int]:
        """The emitter's process id, and its count of dropped events."""
        counts = self.harness.emitter_counts()["events"]
        processes = self.harness.processes("emitter")
        return processes[0].pid if processes else 0, _dropped_in(counts)

    def _check_dropped(self, verdict: Verdict, before: tuple[int, int], allowed: int) -> None:
        """Accepted visits without an event are lost, unless the emitter counted them as dropped or
        was killed while it had them."""
        process, dropped = self._dropped()
        explained = dropped - (before[1] if process == before[0] else 0) + allowed
        missing = verdict.sizes["dropped"]
        if missing > explained:
            verdict.add("lost", f"{missing} visits missing, {explained} explained",
                        missing - explained)  # fmt: skip

    def _check_counts(self, verdict: Verdict) -> None:
        """accepted = acked + in flight + spooled + dropped."""
        for name, counts in self.harness.emitter_counts().items():
            total = counts["acked"] + counts["in_flight"] + counts["spooled"] + _dropped_in(counts)
            if counts["accepted"] != total:
                verdict.add("inconsistent", f"emitter's {name}: {counts}")

    def _ranking(self) -> Verdict:
        verdicts: list[Verdict] = []

        def is_ranked() -> bool:
            verdicts.append(self.oracle.check_ranking())
            return verdicts[-1].is_clean

        with suppress(DeadlineExceeded):
            wait_until(is_ranked, "the ranking of the current log", 180)
        if verdicts:
            return verdicts[-1]
        missing = Verdict()
        missing.add("unseen", "no ranking of the newest documents")
        return missing


def _dropped_in(counts: Mapping[str, Any]) -> int:
    return sum(counts["dropped"].values())


def _partitions(verdict: Verdict) -> str:
    """The distribution of the accesses, and the maximum delay of an event."""
    counts = sorted(len(each) for each in verdict.delays.values())
    longest = max(max(each) for each in verdict.delays.values())
    spread = f"{len(counts)} partitions of {counts[0]:,} to {counts[-1]:,} documents"
    return f"{spread}, maximum delay {longest / 1000:.0f} s"


def _merge(verdict: Verdict, other: Verdict) -> None:
    verdict.counts.update(other.counts)
    verdict.sizes.update(other.sizes)
    for kind, examples in other.examples.items():
        verdict.examples[kind] += examples


class _ReferenceChange:
    """Sets the reference data of the load's late name when half of the load is sent. It retries,
    because servers may be down at that time."""

    def __init__(self, harness: FaultHarness, load: Load) -> None:
        self._harness, self._load = harness, load
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._change, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._join(60)

    def join(self, seconds: float) -> None:
        self._join(seconds)
        if self._thread.is_alive():
            raise DeadlineExceeded("the reference data of the late name could not be set")

    def _join(self, seconds: float) -> None:
        if self._thread.ident is not None:  # it was started
            self._thread.join(seconds)

    def _change(self) -> None:
        while self._load.progress < 0.5 and not self._stop.wait(0.1):
            continue
        while not self._stop.is_set():
            try:
                return self._harness.servers.change_reference(self._load.late_name, LATE_URL)
            except Exception:  # of any client; the next attempt may succeed
                self._stop.wait(1)
