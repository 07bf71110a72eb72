"""`kp replay`: reprocess retained messages.

Belongs here: its options, progress and output. Does not belong here: which offsets are read
(`operations/replay_range.py`) and what is written (`operations/replay.py`).
"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from kp_platform.cli.output import AsJson, console, print_json
from kp_platform.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kp_platform.engine.indexer import Indexer
    from kp_platform.operations.replay import ReplayReport
    from kp_platform.operations.replay_range import ReplayRange


def replay(
    start: Annotated[
        str, typer.Option("--from", help="Start in UTC, e.g. 2026-11-25 or 2026-11-25T10:30.")
    ] = "",
    end: Annotated[str, typer.Option("--to", help="End in UTC; default: the end of today.")] = "",
    offsets: Annotated[
        str,
        typer.Option(
            help="Offset ranges, instead of times, as in the run tag kp/offsets: "
            "'0:[120,131) 3:[7,9)'."
        ),
    ] = "",
    flow: Annotated[str, typer.Option(help="Flow to replay, e.g. full_text.")] = "access_log",
    new_indices: Annotated[
        bool,
        typer.Option(
            "--new-indices",
            help="Write whole days to new indices, which then replace the old ones.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the range.")] = False,
    as_json: AsJson = False,
) -> None:
    """Reprocess retained messages with current reference data. Positions do not move. A replay can
    be repeated: documents that are already up to date stay unchanged."""
    from kp_platform.operations import replay
    from kp_platform.wiring import builtin_indexers

    indexers = builtin_indexers(Settings())
    if flow not in indexers:
        raise typer.BadParameter(f"unknown flow {flow!r}; known: {', '.join(indexers)}")
    if bool(start) == bool(offsets) or (end and not start):
        raise typer.BadParameter("set a time with --from and --to, or --offsets")
    indexer = indexers[flow]
    found = _find_range(indexer, offsets, start, end)
    if new_indices:
        found.whole_days()  # raises before anything is printed
    screen = console()
    screen.quiet = as_json
    screen.print(str(found), markup=False)
    if lost := found.describe_lost():
        screen.print(lost, markup=False)
    if dry_run:
        if as_json:
            print_json(found.as_json())
        return
    write = replay.replay_into_new_indices if new_indices else replay.replay_in_place
    refreshes = replay.refreshes_of(indexers.values(), found.flow)
    report = _show_progress(write(indexer, found, refreshes), len(found), screen)
    screen.print(str(report), markup=False)
    if as_json:
        print_json({**found.as_json(), **asdict(report)})


def _find_range(indexer: "Indexer", offsets: str, start: str, end: str) -> "ReplayRange":
    from kp_platform.operations import replay_range

    if offsets:
        return replay_range.range_of_offsets(indexer, replay_range.parse_offsets(offsets))
    return replay_range.range_of_time(indexer, replay_range.parse_window(start, end))


def _show_progress(
    reports: "Iterator[ReplayReport]", offsets: int, screen: Console
) -> "ReplayReport":
    """The last report; a progress bar is shown on a terminal."""
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    from kp_platform.operations.replay import ReplayReport

    last = ReplayReport()
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task("messages", total=offsets)
        for last in reports:
            bar.update(task, completed=last.rows)
    return last
