"""The `kp` command.

Belongs here: arguments, what is printed, exit codes, which `kp --help` tells. Does not belong
here: the work (`local/`, `reference.py`, `pipeline/`, `demo.py`). That is imported inside the
commands, so that `kp --help` is quick.
An error is one line on stderr, and stdout of `--json` is JSON only.
"""

import json
import os
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text
from stamina.instrumentation import set_on_retry_hooks
from typer.exceptions import TyperException

from kp_platform.settings import STACK_ENV, Settings, environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
    from kp_platform.engine.dead_letters import DeadLetter, Selection
    from kp_platform.engine.indexer import Indexer
    from kp_platform.operations.dead_letter_retry import RetryReport
    from kp_platform.operations.replay import ReplayReport

app = typer.Typer(
    name="kp",
    help="Access logs from Kafka, joined by Trino, searchable in Elasticsearch.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage or setting, 128 + signal when interrupted.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON only.")]
SERVICES = (
    "kafka",
    "mysql",
    "redis",
    "elasticsearch",
    "trino",
    "dagster-code-server",
    "dagster-webserver",
    "dagster-daemon",
    "emitter",
)


@app.callback(invoke_without_command=True)
def help_without_a_command(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def up(
    cluster: Annotated[
        bool,
        typer.Option(
            "--cluster",
            help="A new KP_HOME gets three Kafka brokers, two Trino workers, 12 partitions.",
        ),
    ] = False,
    secure: Annotated[
        bool,
        typer.Option(
            "--secure", help="A new KP_HOME gets TLS, and users with passwords of their own."
        ),
    ] = False,
) -> None:
    """Start all services and return when each of them answers."""
    from kp_platform.local import stack, state
    from kp_platform.local.cluster import cluster as made

    if cluster and secure:
        raise typer.BadParameter("a stack is either a --cluster or --secure")
    settings = Settings()
    if cluster:
        state.settle(settings.home, "--cluster", lambda: made(settings.port_offset))
    if secure:
        from kp_platform.local.secure import refuse_external, secured  # slow to import

        refuse_external(settings)
        state.settle(settings.home, "--secure", lambda: secured(settings))
    settings = Settings()
    stack.up(settings, _console())
    _print_urls(settings)


@app.command()
def down(
    purge: Annotated[bool, typer.Option("--purge", help="Remove KP_HOME with all data.")] = False,
) -> None:
    """Stop all services of KP_HOME and wait until no process is left."""
    from kp_platform.local import stack

    stack.down(Settings(), _console(), purge=purge)


@app.command()
def status(as_json: AsJson = False) -> None:
    """Ask every service once whether it is ready."""
    from kp_platform.local import stack

    found = stack.status(Settings())
    if as_json:
        _print_json([asdict(each) for each in found])
    else:
        table = Table("service", "state", "pid", "seconds", "address", "ready", box=None)
        for each in found:
            pid, uptime = str(each.pid or ""), str(each.uptime_seconds or "")
            ready = "yes" if each.ready else "no"
            table.add_row(each.service, each.state, pid, uptime, each.address, ready)
        _console().print(table)
    if waiting := [each for each in found if not each.ready]:
        count = f"{len(waiting)} of {len(found)} services are not ready"
        raise Failure(f"{count}; {waiting[0].reason}")


@app.command()
def logs(
    service: Annotated[
        str, typer.Argument(help=f"One of: {', '.join(SERVICES)}; or a further one of `kp status`.")
    ],
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="How many last lines.")] = 50,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as the log grows.")] = False,
) -> None:
    """Show the log of one service."""
    from kp_platform.local.servers import services
    from kp_platform.local.supervisor import log_file

    settings = Settings()
    known = [each.name for each in services(settings)]
    if service not in known:
        raise typer.BadParameter(f"unknown service {service!r}; known: {', '.join(known)}")
    if service in settings.external_services:
        raise Failure(f"{service} runs elsewhere (KP_EXTERNAL): its log is there")
    path = log_file(settings.home, service)
    if not path.exists():
        raise Failure(f"{service} has no log at {path} yet: start it with `kp up`")
    sys.stdout.flush()
    os.execvp("tail", ["tail", "-n", str(lines), *(["-F"] if follow else []), "--", str(path)])


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Look at everything that a start needs, with the command that mends what is missing."""
    from kp_platform.local import preflight, servers
    from kp_platform.local.supervisor import Supervisor

    settings = Settings()
    running = Supervisor(settings.home).pid() is not None
    findings = preflight.examine(settings, servers.services(settings), running=running)
    if as_json:
        _print_json([asdict(each) for each in findings])
    else:
        for each in findings:
            remedy = f"  ->  {each.remedy}" if each.remedy else ""
            _plain(f"{'✓' if each.ok else '✗'} {each.subject:<32} {each.detail}{remedy}")
    if missing := [each.subject for each in findings if not each.ok]:
        raise Failure(f"{len(missing)} finding(s) to mend: {', '.join(missing)}")


@app.command()
def seed(as_json: AsJson = False) -> None:
    """Load the reference rows into MySQL and the reference keys into Redis; repeatable."""
    from kp_platform.adapters.kafka import KafkaAdapter
    from kp_platform.adapters.mysql import MySQLAdapter
    from kp_platform.adapters.redis import RedisAdapter
    from kp_platform.operations import reference_data

    report = reference_data.seed(
        MySQLAdapter(Settings()), RedisAdapter(Settings()), KafkaAdapter(Settings()).publish_changes
    )
    if as_json:
        _print_json(asdict(report))
    else:
        _plain(f"{report.rows} rows in MySQL, {report.keys} keys in Redis")


reference_app = typer.Typer(help="Change reference data; indexed documents follow.")
app.add_typer(reference_app, name="reference")


@reference_app.command("set")
def set_reference(
    name: Annotated[str, typer.Argument(help="The name that events carry.")],
    url: Annotated[str, typer.Argument(help="Its value in Redis.")],
) -> None:
    """Give a name its row in MySQL and its value in Redis, and announce the change."""
    from kp_platform.adapters.kafka import KafkaAdapter
    from kp_platform.adapters.mysql import MySQLAdapter
    from kp_platform.adapters.redis import RedisAdapter
    from kp_platform.operations import reference_data

    Settings()  # a wrong one is a ValueError too, and no wrong argument
    publish_changes = KafkaAdapter(Settings()).publish_changes
    try:
        reference_data.set_reference(
            MySQLAdapter(Settings()), RedisAdapter(Settings()), publish_changes, name, url
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    _plain(f"{name} is set and announced; its documents follow, see `kp lag`")


@app.command()
def lag(as_json: AsJson = False) -> None:
    """Show how many events of each partition are not indexed yet."""
    from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
    from kp_platform.adapters.kafka import KafkaAdapter
    from kp_platform.engine.lag import partition_lags
    from kp_platform.flows.builtin import FLOWS

    kafka, elasticsearch = KafkaAdapter(Settings()), ElasticsearchAdapter(Settings())
    rows = [asdict(each) for flow in FLOWS for each in partition_lags(flow, kafka, elasticsearch)]
    if as_json:
        _print_json(rows)
        return
    names = ("flow", "topic", "partition", "low", "high", "position", "lag")
    table = Table(*names, box=None)
    for row in rows:
        table.add_row(*("-" if row[name] is None else str(row[name]) for name in names))
    _console().print(table)


@app.command()
def sizing(
    peak: Annotated[float, typer.Argument(min=0.001, help="Accesses a second at the peak.")],
    average: Annotated[
        float | None, typer.Option(min=0.001, help="Accesses a second over a day; a third of PEAK.")
    ] = None,
    catch_up: Annotated[
        float, typer.Option(min=1, help="How many times the peak everything is to take.")
    ] = 2.0,
    cores: Annotated[int, typer.Option(min=1, help="Cores of each server's machine.")] = 4,
    keep_days: Annotated[int, typer.Option(min=1, help="Days that documents are kept.")] = 30,
    topic_days: Annotated[int, typer.Option(min=1, help="Days that Kafka keeps events.")] = 7,
    as_json: AsJson = False,
) -> None:
    """Tell how many partitions, runs, Trino workers, shards, how much memory and disk a rate of
    accesses needs, from the benchmarks' figures (docs/performance.md)."""
    from kp_platform.operations.sizing import Load, needs

    load = Load(
        peak=peak,
        average=peak / 3 if average is None else average,
        catch_up=catch_up,
        cores=cores,
        keep_days=keep_days,
        topic_days=topic_days,
    )
    found = list(needs(load))
    if as_json:
        _print_json([asdict(each) for each in found])
        return
    table = Table("what", "how much", "because", box=None, pad_edge=False)
    for each in found:
        table.add_row(each.what, each.amount, each.because)
    _console().print(table)


@app.command()
def replay(
    start: Annotated[
        str, typer.Option("--from", help="Time in UTC, e.g. 2026-11-25 or 2026-11-25T10:30.")
    ] = "",
    end: Annotated[str, typer.Option("--to", help="Time in UTC; if left out, today's end.")] = "",
    offsets: Annotated[
        str, typer.Option(help="Offsets instead, as a run's tag has them: '0:[120,131) 3:[7,9)'.")
    ] = "",
    flow: Annotated[str, typer.Option(help="Whose documents, e.g. full_text.")] = "access_log",
    new_indices: Annotated[
        bool,
        typer.Option("--new-indices", help="Make whole days in new indices that replace the old."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is possible.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make documents again from the messages that the topic still holds, with the reference data
    of now. Positions do not move; it can be repeated."""
    from kp_platform.operations import replay as again
    from kp_platform.operations import replay_range as spans

    indexers = _indexers()
    if flow not in indexers:
        raise typer.BadParameter(f"unknown flow {flow!r}; known: {', '.join(indexers)}")
    if bool(start) == bool(offsets) or (end and not start):
        raise typer.BadParameter("name a time by --from and --to, or --offsets")
    if offsets:
        span = spans.range_of_offsets(indexers[flow], spans.parse_offsets(offsets))
    else:
        span = spans.range_of_time(indexers[flow], spans.parse_window(start, end))
    if new_indices:
        span.whole_days()  # refused before anything is said
    console = _console()
    console.quiet = as_json
    console.print(str(span), markup=False)
    if lost := span.describe_lost():
        console.print(lost, markup=False)
    if dry_run:
        if as_json:
            _print_json(span.as_json())
        return
    write = again.replay_into_new_indices if new_indices else again.replay_in_place
    changes = again.refreshes_of(indexers.values(), span.flow)
    report = _watched(write(indexers[flow], span, changes), len(span), console)
    console.print(str(report), markup=False)
    if as_json:
        _print_json({**span.as_json(), **asdict(report)})


@app.command()
def retention(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell what would be deleted.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Delete what is older than the settings keep it (KP_*_RETENTION_DAYS), as the
    schedule does every night."""
    from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
    from kp_platform.adapters.kafka import KafkaAdapter
    from kp_platform.flows.builtin import FLOWS
    from kp_platform.local import history
    from kp_platform.orchestration.retention import expire, sentence

    with history.opened(Settings()) as instance:
        servers = ElasticsearchAdapter(Settings()), KafkaAdapter(Settings())
        found = expire(*servers, instance, FLOWS, datetime.now(UTC), dry_run)
    if as_json:
        _print_json([asdict(each) for each in found])
    else:
        for each in found:
            _plain(sentence(each, dry_run))


def _watched(reports: "Iterator[ReplayReport]", offsets: int, console: Console) -> "ReplayReport":
    """The last report, having shown on a terminal how far each has come."""
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    from kp_platform.operations.replay import ReplayReport

    last = ReplayReport()
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("messages", total=offsets)
        for last in reports:
            bar.update(task, completed=last.rows)
    return last


dlq_app = typer.Typer(help="Work with messages that could not be indexed.")
app.add_typer(dlq_app, name="dlq")

Ids = Annotated[list[str] | None, typer.Argument(help="Ids, as `kp dlq list` shows them.")]
OfFlow = Annotated[str, typer.Option("--flow", help="Letters of this flow, e.g. access_log.")]
OfReason = Annotated[str, typer.Option("--reason", help="Letters with this reason.")]
SHOWN_BYTES = 4_000


@dlq_app.command("list")
def list_dead_letters(
    flow: OfFlow = "",
    reason: OfReason = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Most letters shown.")] = 50,
    everything: Annotated[bool, typer.Option("--all", help="Dropped ones too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show dead letters, the latest first, and how many there are for each reason."""
    from kp_platform.engine import dead_letters

    store = _dead_store()
    selection = dead_letters.Selection((), flow, reason, with_discarded=everything)
    letters = next(dead_letters.pages(store, selection, limit), [])
    counted = dead_letters.tally(store, selection)
    if as_json:
        _print_ascii_json(
            {
                "letters": [{"id": letter.id, **letter.source} for letter in letters],
                "reasons": dict(sorted(counted.by_reason().items())),
                "discarded": counted.discarded,
            }
        )
        return
    if letters:
        _print_letters(letters)
    _plain(dead_letters.printable(f"{len(letters)} shown of {counted}"))


@dlq_app.command("show")
def show_dead_letter(
    identity: Annotated[str, typer.Argument(metavar="ID", help="As `kp dlq list` shows it.")],
    raw: Annotated[
        bool, typer.Option("--raw", help="Write the message's exact bytes, for a pipe or a file.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show all that is known of a dead letter, its message as text or else in hex."""
    from kp_platform.engine import dead_letters

    letter = dead_letters.by_id(_dead_store(), identity)
    if raw:
        _write_raw(letter)
    elif as_json:
        _print_ascii_json({"id": letter.id, **letter.source})
    else:
        fields = {"id": letter.id, **letter.source}
        for name, value in fields.items():
            if name in ("key", "value") and not letter.discarded_at:
                value = dead_letters.as_text(dead_letters.raw_bytes(letter, name), SHOWN_BYTES)
            _plain(f"{name:<16} {'-' if value is None else dead_letters.printable(str(value))}")


@dlq_app.command("retry")
def retry_dead_letters(
    ids: Ids = None,
    flow: OfFlow = "",
    reason: OfReason = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is possible.")] = False,
    as_json: AsJson = False,
) -> None:
    """Read the messages of dead letters again; those that have become good are indexed and
    removed from the dead letters."""
    from kp_platform.engine import dead_letters
    from kp_platform.operations import dead_letter_retry

    selection = _selection(ids, flow, reason)
    store, indexers = _dead_store(), _indexers()
    letters = dead_letters.read(store, selection)
    if dry_run:
        batches, lost = dead_letter_retry.readable(indexers, letters)
        _print_readable([each for batch in batches for each in batch.dead_letters], lost, as_json)
        return
    report = dead_letter_retry.retry(indexers, letters)
    _print_replay(report, as_json)
    if remain := len(letters) - len(report.removed):
        raise Failure(f"{remain} of {len(letters)} dead letters remain; see `kp dlq list`")


@dlq_app.command("discard")
def discard_dead_letters(
    ids: Ids = None,
    flow: OfFlow = "",
    reason: OfReason = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do it; else only the count is told.")] = False,
) -> None:
    """Forget the bytes of dead letters, for good; their places and reasons are kept."""
    from kp_platform.engine import dead_letters
    from kp_platform.engine.clock import utc_now

    selection = _selection(ids, flow, reason)
    store = _dead_store()
    letters = [each for each in dead_letters.read(store, selection) if each.discarded_at is None]
    if not yes:
        raise Failure(f"would drop {len(letters)} dead letters: say --yes")
    _plain(f"{dead_letters.discard(store, letters, utc_now())} dead letters dropped")


@app.command()
def config(
    as_json: AsJson = False,
    show_secrets: Annotated[
        bool, typer.Option("--show-secrets", help="Do not mask passwords.")
    ] = False,
) -> None:
    """Show the effective settings as environment variables."""
    values = environment(Settings(), secrets=show_secrets)
    if as_json:
        _print_json(values)
        return
    for name, value in values.items():
        _plain(f"{name}={value}")


@app.command()
def demo(
    requests: Annotated[int, typer.Option(min=1, max=5000, help="How many are sent.")] = 200,
    as_json: AsJson = False,
) -> None:
    """Send requests to the emitter and follow each of them until it is searchable."""
    from kp_platform.local import demo as demonstration

    settings, console = Settings(), _console()
    console.quiet = as_json
    followed = demonstration.run(settings, requests, console)
    if as_json:
        _print_json(asdict(followed))
    else:
        _print_urls(settings)


class Failure(Exception):
    """A command that did not succeed, in one line."""


def main() -> None:
    """Entry point: turns every expected error into one line and an exit code."""
    set_on_retry_hooks([])  # else stamina prints each retry to stdout, into the JSON
    try:
        code = app(prog_name="kp", standalone_mode=False)
    except TyperException as error:
        _fail(error.format_message(), error.exit_code)
    except ValidationError as error:
        _fail(_wrong_setting(error), 2)
    except UnicodeDecodeError as error:  # all else that is read may be any bytes
        _fail(f"the settings in .env are not UTF-8: {error}", 2)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted", 130)
    except SystemExit as end:  # of a signal, while a stack was being started
        _fail("interrupted, nothing was left running", int(end.code or 0))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if not _is_expected(error):
            raise
        for line in getattr(error, "details", ()):
            print(f"    {line}", file=sys.stdout)
        _fail(str(error), 1)
    sys.exit(code or 0)


def _is_expected(error: Exception) -> bool:
    """Imported late: the resources' errors come with their package."""
    from kp_platform.adapters.errors import ServerDown, TopicMissing
    from kp_platform.engine.dead_letters import NoSuchDeadLetter
    from kp_platform.engine.errors import SliceError
    from kp_platform.local.errors import StackError
    from kp_platform.operations.replay_range import InvalidReplay

    expected = (
        Failure, NoSuchDeadLetter, InvalidReplay, SliceError, StackError, ServerDown, TopicMissing,
    )  # fmt: skip
    return isinstance(error, expected)


def _indexers() -> "dict[str, Indexer]":
    """The indexer of each flow, by its name."""
    from kp_platform.wiring import builtin_indexers

    return builtin_indexers(Settings())


def _dead_store() -> "ElasticsearchAdapter":
    """The store, with its dead letters as of now."""
    from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
    from kp_platform.engine.dead_letters import DEAD_INDEX

    store = ElasticsearchAdapter(Settings())
    store.ensure_index(DEAD_INDEX)
    store.refresh(DEAD_INDEX)
    return store


def _selection(ids: list[str] | None, flow: str, reason: str) -> "Selection":
    from kp_platform.engine.dead_letters import Selection
    from kp_platform.flows.builtin import FLOWS

    known = [each.name for each in FLOWS]
    if flow and flow not in known:
        raise typer.BadParameter(f"unknown flow {flow!r}; known: {', '.join(known)}")
    if bool(ids) == bool(flow or reason):
        raise typer.BadParameter("name dead letters by their ids, or by --flow and --reason")
    return Selection(tuple(ids or ()), flow, reason)


def _print_letters(letters: "Sequence[DeadLetter]") -> None:
    """A line for each, whose detail is cut at the terminal's edge."""
    from kp_platform.engine.dead_letters import printable

    rows: list[list[str]] = []
    for letter in letters:
        source = letter.source
        when = f"{source['@timestamp'][:19]}Z"
        dropped = f"dropped at {letter.discarded_at}" if letter.discarded_at else ""
        shown = (letter.id, source["flow"], str(letter), source["reason"], when)
        rows.append([printable(each) for each in (*shown, dropped or source["detail"])])
    console = _console()
    taken = sum(2 + max(len(row[column]) for row in rows) for column in range(5))
    room = max(20, console.width - taken)
    console.width = taken + room  # a narrow terminal breaks the lines, an id stays whole
    table = Table("id", "flow", "place", "reason", "when", "detail", box=None, pad_edge=False)
    for row in rows:
        detail = Text(row.pop())
        detail.truncate(room, overflow="ellipsis")
        table.add_row(*map(Text, row), detail)
    console.print(table, no_wrap=True)


def _write_raw(letter: "DeadLetter") -> None:
    from kp_platform.engine.dead_letters import raw_bytes

    value = raw_bytes(letter, "value")
    if letter.discarded_at:
        raise Failure(f"its bytes were dropped at {letter.discarded_at}")
    if value is None:
        raise Failure("the message has no value, not even an empty one (a tombstone)")
    if sys.stdout.isatty():
        raise Failure("bytes may harm a terminal: write them to a file or a pipe")
    sys.stdout.buffer.write(value)
    sys.stdout.buffer.flush()


def _print_readable(
    letters: "Sequence[DeadLetter]",
    lost: "Sequence[tuple[DeadLetter, str]]",
    as_json: bool,
) -> None:
    from kp_platform.operations.dead_letter_retry import causes

    if as_json:
        readable = [letter.id for letter in letters]
        _print_ascii_json({"readable": readable, "unreadable": causes(lost)})
    else:
        _plain(f"would read {len(letters)} of {len(letters) + len(lost)} messages again")
        _print_unreadable(lost)


def _print_replay(report: "RetryReport", as_json: bool) -> None:
    from kp_platform.engine.dead_letters import printable

    if as_json:
        _print_ascii_json(report.as_json())
        return
    _plain(str(report))
    for letter, found in report.still_dead:
        why = printable(f"{found.reason}: {found.detail[:200]}")
        _plain(f"still dead: {letter.id}: {why}")
    _print_unreadable(report.unreadable)


def _print_unreadable(letters: "Sequence[tuple[DeadLetter, str]]") -> None:
    from kp_platform.engine.dead_letters import printable

    for letter, cause in letters:
        _plain(f"cannot be read again: {letter.id}: {printable(cause[:200])}")
    if any(letter.discarded_at is None for letter, _ in letters):
        _plain("`kp dlq show ID --raw` writes a message's bytes, should it be published again")


def _wrong_setting(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    name = "_".join(str(part) for part in first["loc"]).upper()
    return f"KP_{name}: {message}" if name else message


def _fail(message: str, code: int) -> None:
    print(f"kp: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def _console() -> Console:
    """Lines are never broken, and a file or a pipe has room for a whole table."""
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 200
    return console


def _print_ascii_json(value: Any) -> None:
    """JSON of what strangers wrote: nothing in it can move a terminal."""
    print(json.dumps(value, indent=2))


def _plain(text: str) -> None:
    _console().print(text, markup=False)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _print_urls(settings: Settings) -> None:
    _plain(f"Dagster      {settings.dagster_url}")
    _plain(f"access logs  {settings.emitter_url}/analysis")
    _plain(f"full text    {settings.emitter_url}/fulltext")
    _plain(f"Trino        {settings.trino_url}/ui/")
    if settings.trino_password.get_secret_value():
        _plain(f"passwords    {settings.home / STACK_ENV}, e.g. of {settings.trino_user} for Trino")
        _plain("without TLS  Elasticsearch, Dagster and the pages, on 127.0.0.1 only")
