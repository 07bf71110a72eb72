"""`python -m kp_platform_tests.benchmarks`: measure figures, each on a stack of its own.

Belongs here: options, the list of benchmarks, storing and printing results. Does not belong here:
measuring. `make bench` calls it.
"""

import argparse
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console

from kp_platform_tests.benchmarks import (
    backlog,
    dagster_storage,
    emitter,
    latency,
    month,
    parallel_runs,
    reference_data,
    report,
    slices,
    throughput,
)
from kp_platform_tests.benchmarks.measure import provenance
from kp_platform_tests.benchmarks.report import Result
from kp_platform_tests.benchmarks.session import Benchmark, Session

# Benchmarks of one function share a stack.
BENCHMARKS: Mapping[str, Benchmark] = {
    "B1": throughput.results,
    "B2": throughput.results,
    "B3": throughput.results,
    "B4": latency.results,
    "B5": latency.results,
    "B6": emitter.results,
    "B7": slices.results,
    "B8": reference_data.results,
    "B9": backlog.results,
    "B10": backlog.results,
    "B11": parallel_runs.results,
    "B12": dagster_storage.results,
    "B13": month.results,
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    console = Console(highlight=False, soft_wrap=True)
    signal.signal(signal.SIGTERM, _interrupt)
    missed: list[str] = []
    keys = options.bench.replace(",", " ").split() or list(BENCHMARKS)
    if unknown := sorted(set(keys) - set(BENCHMARKS)):
        sys.exit(f"no benchmark {', '.join(unknown)}; choose from: {', '.join(BENCHMARKS)}")
    try:
        for benchmark in dict.fromkeys(BENCHMARKS[key] for key in keys):
            with tempfile.TemporaryDirectory(prefix="kp-bench-") as folder:
                for result in benchmark(_session(options, keys, Path(folder), console)):
                    report.append(options.results, replace(result, provenance=provenance()))
                    missed += _show(result, console)
    except KeyboardInterrupt:
        console.print("interrupted")
        return 130
    finally:
        options.page.write_text(report.render(report.newest(options.results)))
    return 1 if missed else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.splitlines()[0])
    parser.add_argument("--bench", default="", help="keys of benchmarks, e.g. B1; default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=120.0, help="per rate, in B4 and B12")
    parser.add_argument("--idle", type=float, default=300.0, help="seconds before a cold start")
    parser.add_argument("--results", type=Path, default=report.RESULTS)
    parser.add_argument("--page", type=Path, default=report.PAGE)
    return parser.parse_args(arguments)


def _session(
    options: argparse.Namespace, keys: Sequence[str], folder: Path, console: Console
) -> Session:
    return Session(
        keys=keys,
        folder=folder,
        console=console,
        rounds=options.rounds,
        events=options.events,
        seconds=options.seconds,
        idle_seconds=options.idle,
    )


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _show(result: Result, console: Console) -> list[str]:
    """Print the figures and return the names of those that miss their targets."""
    for each in result.figures:
        state = "" if each.is_met else "  (not met)"
        target = f", target {each.target}" if each.target else ""
        console.print(f"{result.key} {each.name}: {each.value}{target}{state}")
    return [each.name for each in result.figures if not each.is_met]


if __name__ == "__main__":
    sys.exit(main())
