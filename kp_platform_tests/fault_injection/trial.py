"""One trial: a load runs, something breaks at a random moment and is healed, all becomes quiet, and
the oracle speaks.

Belongs here: the order of these steps, and what is measured. Does not belong here: faults
(`rows.py`), counting (`oracle.py`), tables (`report.py`).
"""

import random
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from kp_platform_tests.fault_injection.harness import FaultHarness, Late, wait_until
from kp_platform_tests.fault_injection.ledger import ACCESSES, Amounts, Ledger, Load
from kp_platform_tests.fault_injection.oracle import KINDS, Edges, Mark, Oracle, Verdict
from kp_platform_tests.fault_injection.rows import Harness, Row

LATE_URL = "https://late.example/"
# Stated: the visits of the last 0.2 s and of the time of one write; there are 200 a second.
LOST_BY_A_KILL = 100
Say = Callable[[str], None]


@dataclass(slots=True, kw_only=True)
class Result:
    """What one trial found. `recovery_seconds` is None when it did not recover in time."""

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
    """What failed besides what the oracle counts."""

    @classmethod
    def of(cls, row: str, name: str, verdict: Verdict, seed: int, began: float) -> "Result":
        """A verdict; `began` is a time of the monotonic clock."""
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
    """A stack with its oracle and ledger, on which trials are run."""

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
        """The same seed draws the same moments. `with_change`: reference data change half-way."""
        began = time.monotonic()
        chance = random.Random(f"{row.key} {trial} {seed}")
        marker = f"{row.key}-{trial}-{time.time_ns():x}"
        notes: list[str] = []
        problems: list[str] = []
        mark, before = self._mark(), self._dropped()
        load = Load(self.harness.servers, self.ledger, amounts, marker, random.Random(seed))
        harness = Harness(self.harness, self.oracle, load, chance, trial, tool, notes)
        moment = chance.uniform(*row.moment)
        self._warm_up(load, problems)
        load.start()
        late = _Late(self.harness, load)
        if with_change:
            late.start()
        try:
            wait_until(lambda: load.progress >= moment, "the fault's moment", amounts.seconds + 120)
            healed = time.monotonic()
            try:
                with row.fault(harness):
                    time.sleep(chance.uniform(*row.hold))
                    healed = time.monotonic()
            except Exception as error:  # a trial that went wrong must not end all others
                problems.append(repr(error))
            recovery = self._recovery(healed, row.patience_seconds, problems)
            self._await_quiet(mark, load, late, row.patience_seconds, problems)
        finally:
            load.stop()
            late.stop()
        verdict = self.oracle.check(mark)
        if row.on_cluster:
            notes.append(_partitions(verdict))
        if row.ranks:
            _merge(verdict, self._ranking())
        self._judge_dropped(verdict, before, LOST_BY_A_KILL * len(harness.kills))
        self._check_identity(verdict)
        result = Result.of(row.key, row.name, verdict, seed, began)
        result.trial, result.events, result.note = trial, amounts.total, "; ".join(notes)
        result.recovery_seconds = recovery
        result.visits_failed = load.visitor.errors
        result.slowest_visit_seconds = round(max(load.visitor.seconds, default=0.0), 3)
        if load.visitor.errors and not row.ends_emitter:
            problems.append(f"{load.visitor.errors} visits failed")
        result.problem = "; ".join(problems)
        return result

    def _mark(self) -> Mark:
        """One of several brokers may learn of a topic later than the others."""
        found: list[Mark] = []

        def look() -> bool:
            found.append(self.oracle.mark())
            return True

        wait_until(look, "the ends of the topics", 60)
        return found[-1]

    def _warm_up(self, load: Load, problems: list[str]) -> None:
        """So that a run follows the topic when the fault comes, however long runs take to start."""
        load.warm_up()
        try:
            wait_until(lambda: not self.oracle.behind()["access_log"], "the first events", 180)
        except Late as late:
            problems.append(str(late))

    def _recovery(self, healed: float, patience: float, problems: list[str]) -> float | None:
        """Seconds from when healing began until positions have passed the ends that the topics had
        when it was done."""
        goals: dict[str, Edges] = {}

        def caught_up() -> bool:
            if not goals:
                goals.update(self.oracle.mark().edges)
            return not any(self.oracle.behind(goals).values())

        try:
            wait_until(caught_up, "positions at the ends that the topics had at the heal", patience)
        except Late as late:
            problems.append(str(late))
            return None
        return round(time.monotonic() - healed, 1)

    def _await_quiet(
        self, mark: Mark, load: Load, late: "_Late", patience: float, problems: list[str]
    ) -> None:
        try:
            self.harness.await_ready(seconds=patience)
            if not load.join(patience):
                raise Late("the load did not end")
            late.join(patience)
            load.finish(self.oracle.edges(ACCESSES).marks)
            wait_until(lambda: self._is_quiet(mark), "quiet", patience)
        except Late as missed:
            problems.append(str(missed))

    def _is_quiet(self, mark: Mark) -> bool:
        waiting = sum(
            counts["in_flight"] + counts["spooled"]
            for counts in self.harness.emitter_counts().values()
        )
        return not waiting and not any(self.oracle.behind().values()) and self.oracle.mirrored(mark)

    def _dropped(self) -> tuple[int, int]:
        """The emitter's process, and how many events it says to have given up."""
        counts = self.harness.emitter_counts()["events"]
        processes = self.harness.processes("emitter")
        return processes[0].pid if processes else 0, _given_up(counts)

    def _judge_dropped(self, verdict: Verdict, before: tuple[int, int], excused: int) -> None:
        """Visits that the emitter accepted and gave up are lost unless it says so, or was killed
        while it had them."""
        process, given_up = self._dropped()
        said = given_up - (before[1] if process == before[0] else 0) + excused
        dropped = verdict.sizes["dropped"]
        if dropped > said:
            verdict.add("lost", f"{dropped} visits gone, {said} explained", dropped - said)

    def _check_identity(self, verdict: Verdict) -> None:
        """accepted = acked + in flight + spooled + dropped."""
        for name, counts in self.harness.emitter_counts().items():
            parts = counts["acked"] + counts["in_flight"] + counts["spooled"] + _given_up(counts)
            if counts["accepted"] != parts:
                verdict.add("inconsistent", f"emitter's {name}: {counts}")

    def _ranking(self) -> Verdict:
        found: list[Verdict] = []

        def is_ranked() -> bool:
            found.append(self.oracle.check_ranking())
            return found[-1].is_clean

        with suppress(Late):
            wait_until(is_ranked, "the ranking is that of the log", 180)
        if found:
            return found[-1]
        late = Verdict()
        late.add("unseen", "no ranking of the newest documents")
        return late


def _given_up(counts: Mapping[str, Any]) -> int:
    return sum(counts["dropped"].values())


def _partitions(verdict: Verdict) -> str:
    """How the accesses were spread, and the longest time that an event of a partition waited."""
    counts = sorted(len(each) for each in verdict.delays.values())
    longest = max(max(each) for each in verdict.delays.values())
    spread = f"{len(counts)} partitions of {counts[0]:,} to {counts[-1]:,} documents"
    return f"{spread}, no event waited longer than {longest / 1000:.0f} s"


def _merge(verdict: Verdict, other: Verdict) -> None:
    verdict.counts.update(other.counts)
    verdict.sizes.update(other.sizes)
    for kind, examples in other.examples.items():
        verdict.examples[kind] += examples


class _Late:
    """Gives the load's late name its reference row when half of the load is sent, as often as it
    takes: servers may be away just then."""

    def __init__(self, harness: FaultHarness, load: Load) -> None:
        self._house, self._load = harness, load
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
            raise Late("the reference row of the late name could not be set")

    def _join(self, seconds: float) -> None:
        if self._thread.ident is not None:  # it was started
            self._thread.join(seconds)

    def _change(self) -> None:
        while self._load.progress < 0.5 and not self._stop.wait(0.1):
            continue
        while not self._stop.is_set():
            try:
                return self._house.servers.change_reference(self._load.late_name, LATE_URL)
            except Exception:  # of any client: it is tried again
                self._stop.wait(1)
