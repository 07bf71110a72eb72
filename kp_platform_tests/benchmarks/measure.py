"""Measuring: CPU time of a stack's programs, percentiles, and the provenance of a figure.

Belongs here: what several benchmarks measure with. Does not belong here: what they measure, and
tables (`report.py`).
"""

import math
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from kp_platform.local.artifacts import manifest
from kp_platform.local.supervisor import Supervisor
from kp_platform_tests.stack import ROOT, Stack


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of several rounds with its quartiles."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(low, median, high)

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} ({self.low:{spec}}-{self.high:{spec}})"


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share (above 0, in thousandths) does not exceed."""
    rank = math.ceil(round(share * 1_000) * len(values) / 1_000)
    return sorted(values)[rank - 1]


def cpu_seconds(stack: Stack) -> dict[str, float]:
    """CPU time of each program since its start, including its children, also ended ones."""
    seconds = {}
    for name, program in Supervisor(stack.settings.home).programs().items():
        with suppress(psutil.NoSuchProcess):
            seconds[name] = _of_tree(psutil.Process(program.pid))
    return seconds


def spent(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    return {name: after[name] - before.get(name, 0.0) for name in after}


def provenance() -> dict[str, Any]:
    """Machine, versions and commit that a figure was measured on."""
    packages = ("dagster", "confluent-kafka", "trino", "elasticsearch", "orjson")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": f"{_processor()}, {psutil.cpu_count()} cores, "
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "versions": {each.name: each.version for each in manifest().values()}
        | {"Python": platform.python_version()}
        | {f"{name} (Python)": version(name) for name in packages},
    }


def commit() -> str:
    """The commit, with `-dirty` if a file outside docs/, which has the results, was changed."""
    found = _git("describe", "--always") or "unknown"
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":(exclude)docs")
    return f"{found}-dirty" if changed else found


def _git(*arguments: str) -> str:
    """The output of git; empty outside a repository."""
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _of_tree(process: psutil.Process) -> float:
    """A parent's times include those of the children that it has waited for."""
    seconds = 0.0
    for each in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            seconds += times.user + times.system + times.children_user + times.children_system
    return seconds
