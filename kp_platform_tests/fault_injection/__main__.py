"""`python -m kp_platform_tests.fault_injection`: run rows of the fault matrix on a separate stack.

Belongs here: options, start and end of the stack, progress. Does not belong here: faults
(`rows.py`), the steps of a trial (`trial.py`). `make faults` calls it.
"""

import argparse
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from rich.console import Console

from kp_platform.local.settings import LocalSettings
from kp_platform_tests.benchmarks.measure import commit
from kp_platform_tests.fault_injection import report
from kp_platform_tests.fault_injection.controls import CONTROLS, verdict_of
from kp_platform_tests.fault_injection.harness import FaultHarness
from kp_platform_tests.fault_injection.ledger import Amounts
from kp_platform_tests.fault_injection.rows import MIXED, ROWS, Row
from kp_platform_tests.fault_injection.trial import Laboratory, Result
from kp_platform_tests.stack import temporary_stack

CONTROLS_KEY = "controls"
# Port offsets below those of the tests' stack.
OFFSETS = range(2_000, 4_000, 100)
EVENTS_PER_SECOND = 1_300
MINIMUM_SECONDS = 15.0
ORDER = [*(row.key for row in ROWS), MIXED.key, "all"]
# Short intervals make trials short; they do not change the effect of a fault.
INTERVALS: dict[str, Any] = {
    "follow_idle_seconds": 5,
    "sensor_wait_seconds": 5,
    "max_run_seconds": 60,
    "ranking_seconds": 30,
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    rows = _chosen(options.rows)
    console = Console(highlight=False, soft_wrap=True)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        results = list(_results(rows, options, console))
    except KeyboardInterrupt:
        console.print("interrupted")
        return 130
    finally:
        options.page.write_text(report.render(report.read(options.results), ORDER))
    dirty = dict.fromkeys(result.row for result in results if not result.is_clean)
    console.print(f"{len(results)} trials, not clean: {', '.join(dirty) or 'none'}")
    return 1 if dirty else 0


def _results(
    rows: Sequence[Row], options: argparse.Namespace, console: Console
) -> Iterator[Result]:
    """Trials of all rows: first those on one node of each server, then those on a cluster."""
    with_controls = not options.rows or CONTROLS_KEY in options.rows
    kinds = {row.on_cluster for row in rows} | ({False} if with_controls else set())
    for on_cluster in sorted(kinds):
        with _stack(options.home, on_cluster, console) as harness:
            laboratory = Laboratory.of(harness, alone=True)
            for row in rows:
                if row.on_cluster == on_cluster:
                    yield from _trials(laboratory, row, options, console)
            if options.home is None:
                yield _all_data(laboratory, options, console)
            if with_controls and not on_cluster:
                _controls(laboratory, options, console)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rows", default="", help="keys of rows, mixed, controls; default: all except mixed"
    )
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--home", type=Path, help="KP_HOME of a running stack to use; it stays up")
    parser.add_argument("--results", type=Path, default=report.RESULTS)
    parser.add_argument("--page", type=Path, default=report.PAGE)
    return parser.parse_args(arguments)


def _chosen(keys: str) -> list[Row]:
    known = {row.key: row for row in (*ROWS, MIXED)}
    wanted = keys.replace(",", " ").split() or [row.key for row in ROWS]
    wanted = [key for key in wanted if key != CONTROLS_KEY]
    if unknown := [key for key in wanted if key not in known]:
        sys.exit(f"no row {', '.join(unknown)}; choose from: {', '.join([*known, CONTROLS_KEY])}")
    return [known[key] for key in wanted]


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


@contextmanager
def _stack(home: Path | None, on_cluster: bool, console: Console) -> Iterator[FaultHarness]:
    """A new stack, removed afterwards; or the running stack of `home`."""
    if home is not None:
        harness = FaultHarness.of(LocalSettings(home=home))
        if on_cluster != bool(harness.settings.trino_workers):
            sys.exit(f"rows of {'a cluster' if on_cluster else 'one node'} cannot run on {home}")
        harness.enter()
        yield harness
        return
    console.print(f"starting a {'cluster' if on_cluster else 'stack'}")
    with temporary_stack("faults", OFFSETS, is_cluster=on_cluster, **INTERVALS) as stack:
        yield FaultHarness(stack.settings, stack.variables)
        console.print("stopping the stack")


def _trials(
    laboratory: Laboratory, row: Row, options: argparse.Namespace, console: Console
) -> Iterator[Result]:
    seconds = max(MINIMUM_SECONDS, options.events / EVENTS_PER_SECOND)
    with row.setup(laboratory.harness) as tool:
        for trial in range(options.trials):
            with console.status(f"row {row.key}, {row.name}: trial {trial + 1}"):
                result = laboratory.run(
                    row,
                    trial=trial,
                    seed=options.seed,
                    amounts=row.amounts or Amounts.of(options.events, seconds),
                    tool=tool,
                )
            _store(result, options, console)
            yield result


def _all_data(laboratory: Laboratory, options: argparse.Namespace, console: Console) -> Result:
    """Check all data of the stack at once, including effects of one trial on another's data."""
    began = time.monotonic()
    verdict = laboratory.oracle.check()
    result = Result.of(
        "all", "all data of a call, checked at its end", verdict, options.seed, began
    )
    result.events = verdict.sizes["access_log messages"] + verdict.sizes["full_text messages"]
    _store(result, options, console)
    return result


def _controls(laboratory: Laboratory, options: argparse.Namespace, console: Console) -> None:
    """Raises SystemExit if one is not detected. They corrupt the data, so they run last."""
    with laboratory.harness.stopped("dagster-daemon", "dagster-code-server"):
        for name, variant in CONTROLS.items():
            began = time.monotonic()
            verdict = verdict_of(laboratory.oracle, variant, min(options.events, 2_000))
            key = f"control {name}"
            _store(Result.of(key, name, verdict, options.seed, began), options, console)
            if verdict.is_clean:
                sys.exit(f"the oracle did not detect the control {name}")


def _store(result: Result, options: argparse.Namespace, console: Console) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    report.append(options.results, asdict(result) | {"commit": commit(), "date": now})
    console.print(_line(result), markup=False)


def _line(result: Result) -> str:
    found = ", ".join(f"{count} {kind}" for kind, count in result.counts.items() if count)
    recovery = "" if result.recovery_seconds is None else f"recovery {result.recovery_seconds} s"
    state = ", ".join(filter(None, (found, result.problem))) or "clean"
    words = (state, recovery, f"took {result.seconds:.0f} s", result.note)
    return (
        f"row {result.row:<5} trial {result.trial + 1}  {result.events} events  "
        + "  ".join(filter(None, words))
        + "".join(f"\n    {kind}: {each[0]}" for kind, each in result.examples.items() if each)
    )


if __name__ == "__main__":
    sys.exit(main())
