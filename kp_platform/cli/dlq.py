"""Commands of the dead-letter queue: `kp dlq list`, `show`, `retry`, `discard`.

Belongs here: their options and output; text of messages is untrusted and printed with escapes. Does
not belong here: the queue (`engine/dead_letters.py`) and the retry
(`operations/dead_letter_retry.py`).
"""

import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from kp_platform.cli.output import AsJson, Failure, console, print_ascii_json, print_line
from kp_platform.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
    from kp_platform.engine.dead_letters import DeadLetter, Selection
    from kp_platform.operations.dead_letter_retry import RetryReport

app = typer.Typer(help="Inspect, retry and discard dead letters: messages that cannot be indexed.")

Ids = Annotated[list[str] | None, typer.Argument(help="Ids from `kp dlq list`.")]
OfFlow = Annotated[str, typer.Option("--flow", help="Select by flow, e.g. access_log.")]
OfReason = Annotated[str, typer.Option("--reason", help="Select by reason, e.g. conflict.")]
SHOWN_BYTES = 4_000


@app.command("list")
def list_dead_letters(
    flow: OfFlow = "",
    reason: OfReason = "",
    limit: Annotated[
        int, typer.Option(min=1, max=10_000, help="Maximum number of dead letters to show.")
    ] = 50,
    everything: Annotated[
        bool, typer.Option("--all", help="Include discarded dead letters.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List dead letters, newest first, and count them by reason."""
    from kp_platform.engine import dead_letters

    store = _store(Settings())
    selection = dead_letters.Selection((), flow, reason, with_discarded=everything)
    found = next(dead_letters.pages(store, selection, limit), [])
    tally = dead_letters.tally(store, selection)
    if as_json:
        print_ascii_json(
            {
                "dead_letters": [{"id": each.id, **each.source} for each in found],
                "reasons": dict(sorted(tally.by_reason().items())),
                "discarded": tally.discarded,
            }
        )
        return
    if found:
        _print_table(found)
    print_line(dead_letters.printable(f"{len(found)} shown of {tally}"))


@app.command("show")
def show_dead_letter(
    identity: Annotated[str, typer.Argument(metavar="ID", help="Id from `kp dlq list`.")],
    raw: Annotated[
        bool, typer.Option("--raw", help="Write the exact bytes of the message to a pipe or file.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show all fields of a dead letter, with its message as text, or in hex if it is not text."""
    from kp_platform.engine import dead_letters

    found = dead_letters.by_id(_store(Settings()), identity)
    if raw:
        _write_raw(found)
    elif as_json:
        print_ascii_json({"id": found.id, **found.source})
    else:
        fields = {"id": found.id, **found.source}
        for name, value in fields.items():
            if name in ("key", "value") and not found.discarded_at:
                value = dead_letters.as_text(dead_letters.raw_bytes(found, name), SHOWN_BYTES)
            print_line(f"{name:<16} {'-' if value is None else dead_letters.printable(str(value))}")


@app.command("retry")
def retry_dead_letters(
    ids: Ids = None,
    flow: OfFlow = "",
    reason: OfReason = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print which messages can be read.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Process dead letters again, and remove those that are indexed from the queue."""
    from kp_platform.engine import dead_letters
    from kp_platform.operations import dead_letter_retry
    from kp_platform.wiring import builtin_indexers

    selection = _selection(ids, flow, reason)
    settings = Settings()
    store, indexers = _store(settings), builtin_indexers(settings)
    found = dead_letters.read(store, selection)
    if dry_run:
        batches, unreadable = dead_letter_retry.readable(indexers, found)
        readable = [each for batch in batches for each in batch.dead_letters]
        _print_readable(readable, unreadable, as_json)
        return
    report = dead_letter_retry.retry(indexers, found)
    _print_report(report, as_json)
    if remaining := len(found) - len(report.removed):
        raise Failure(f"{remaining} of {len(found)} dead letters remain; see `kp dlq list`")


@app.command("discard")
def discard_dead_letters(
    ids: Ids = None,
    flow: OfFlow = "",
    reason: OfReason = "",
    yes: Annotated[
        bool,
        typer.Option(
            "--yes", help="Confirm the deletion; without this option, only count dead letters."
        ),
    ] = False,
) -> None:
    """Delete the bytes of dead letters permanently, but keep their offsets and reasons."""
    from kp_platform.engine import dead_letters
    from kp_platform.engine.clock import utc_now

    selection = _selection(ids, flow, reason)
    store = _store(Settings())
    found = [each for each in dead_letters.read(store, selection) if each.discarded_at is None]
    if not yes:
        raise Failure(f"would discard {len(found)} dead letters: confirm with --yes")
    print_line(f"{dead_letters.discard(store, found, utc_now())} dead letters discarded")


def _store(settings: Settings) -> "ElasticsearchAdapter":
    """The store, whose dead letters are all searchable."""
    from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
    from kp_platform.engine.dead_letters import DEAD_INDEX

    store = ElasticsearchAdapter(settings)
    store.ensure_index(DEAD_INDEX)
    store.refresh(DEAD_INDEX)
    return store


def _selection(ids: list[str] | None, flow: str, reason: str) -> "Selection":
    from kp_platform.engine.dead_letters import Selection
    from kp_platform.flows.builtin import FLOWS

    names = [each.name for each in FLOWS]
    if flow and flow not in names:
        raise typer.BadParameter(f"unknown flow {flow!r}; known: {', '.join(names)}")
    if bool(ids) == bool(flow or reason):
        raise typer.BadParameter("select dead letters by their ids, or by --flow and --reason")
    return Selection(tuple(ids or ()), flow, reason)


def _print_table(found: "Sequence[DeadLetter]") -> None:
    """A line for each dead letter, with the detail truncated at the terminal's width."""
    from kp_platform.engine.dead_letters import printable

    rows: list[list[str]] = []
    for each in found:
        source = each.source
        stored_at = f"{source['@timestamp'][:19]}Z"
        discarded = f"discarded at {each.discarded_at}" if each.discarded_at else ""
        cells = (each.id, source["flow"], str(each), source["reason"], stored_at)
        rows.append([printable(cell) for cell in (*cells, discarded or source["detail"])])
    screen = console()
    used = sum(2 + max(len(row[column]) for row in rows) for column in range(5))
    room = max(20, screen.width - used)
    screen.width = used + room  # a narrow terminal wraps the lines, an id stays whole
    table = Table("id", "flow", "message", "reason", "stored", "detail", box=None, pad_edge=False)
    for row in rows:
        detail = Text(row.pop())
        detail.truncate(room, overflow="ellipsis")
        table.add_row(*map(Text, row), detail)
    screen.print(table, no_wrap=True)


def _write_raw(found: "DeadLetter") -> None:
    from kp_platform.engine.dead_letters import raw_bytes

    value = raw_bytes(found, "value")
    if found.discarded_at:
        raise Failure(f"its bytes were discarded at {found.discarded_at}")
    if value is None:
        raise Failure("the message has no value, not even an empty one (a tombstone)")
    if sys.stdout.isatty():
        raise Failure("raw bytes may control the terminal: redirect them to a file or a pipe")
    sys.stdout.buffer.write(value)
    sys.stdout.buffer.flush()


def _print_readable(
    readable: "Sequence[DeadLetter]",
    unreadable: "Sequence[tuple[DeadLetter, str]]",
    as_json: bool,
) -> None:
    from kp_platform.operations.dead_letter_retry import causes

    if as_json:
        ids = [each.id for each in readable]
        print_ascii_json({"readable": ids, "unreadable": causes(unreadable)})
    else:
        total = len(readable) + len(unreadable)
        print_line(f"would process {len(readable)} of {total} messages again")
        _print_unreadable(unreadable)


def _print_report(report: "RetryReport", as_json: bool) -> None:
    from kp_platform.engine.dead_letters import printable

    if as_json:
        print_ascii_json(report.as_json())
        return
    print_line(str(report))
    for each, rejected in report.still_dead:
        detail = printable(f"{rejected.reason}: {rejected.detail[:200]}")
        print_line(f"still a dead letter: {each.id}: {detail}")
    _print_unreadable(report.unreadable)


def _print_unreadable(unreadable: "Sequence[tuple[DeadLetter, str]]") -> None:
    from kp_platform.engine.dead_letters import printable

    for each, cause in unreadable:
        print_line(f"cannot be read: {each.id}: {printable(cause[:200])}")
    if any(each.discarded_at is None for each, _ in unreadable):
        print_line("to publish such a message again, write its bytes with `kp dlq show ID --raw`")
