"""What a benchmark is given: its options, a scratch folder, the console and a stack on request.

Belongs here: arguments that every benchmark shares. Does not belong here: measuring, and how a
figure is shown (`report.py`).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from kp_platform_tests.benchmarks.report import Result
from kp_platform_tests.stack import Stack, temporary_stack

# Port offsets between those of a demo and those of the fault tests.
OFFSETS = range(1_000, 2_000, 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One call of a group of benchmarks. `keys` are the benchmarks of the group to measure, e.g.
    `B1`; `seconds` is the duration of each load of B4 and B12."""

    keys: Sequence[str]
    folder: Path
    console: Console
    rounds: int
    events: int
    seconds: float
    idle_seconds: float

    def stack(self, **settings: Any) -> AbstractContextManager[Stack]:
        """A new stack with these settings, removed at the end."""
        self.log("starting a stack")
        return temporary_stack("bench", OFFSETS, **settings)

    def log(self, text: str) -> None:
        self.console.print(text)


Benchmark = Callable[[Session], Iterator[Result]]
