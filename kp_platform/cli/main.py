"""The `kp` command.

Belongs here: which commands exist, error handling and exit codes. Does not belong here: a command
(one module per group), and its work (`local/`, `operations/`, `wiring.py`). Commands import that
work inside their functions, so that `kp --help` is quick.
An error is one line on stderr, and stdout of `--json` is JSON only.
"""

import os
import sys

import typer
from pydantic import ValidationError
from stamina.instrumentation import set_on_retry_hooks
from typer.exceptions import TyperException

from kp_platform.cli import dlq, inspect, reference, replay, retention, stack
from kp_platform.cli.output import Failure

app = typer.Typer(
    name="kp",
    help="Index Kafka events in Elasticsearch, enriched with MySQL and Redis data by Trino.",
    epilog="Exit codes: 0 success, 1 failure, 2 wrong usage or setting, 128 + signal when "
    "interrupted.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def print_help_without_a_command(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


for command in (
    stack.up,
    stack.down,
    stack.status,
    stack.logs,
    stack.doctor,
    stack.demo,
    reference.seed,
    inspect.lag,
    inspect.config,
    inspect.sizing,
    replay.replay,
    retention.retention,
):
    app.command()(command)
app.add_typer(reference.app, name="reference")
app.add_typer(dlq.app, name="dlq")


def main() -> None:
    """Entry point: turns every expected error into one line and an exit code."""
    set_on_retry_hooks([])  # stamina prints each retry to stdout, which breaks the JSON
    try:
        code = app(prog_name="kp", standalone_mode=False)
    except TyperException as error:
        _exit(error.format_message(), error.exit_code)
    except ValidationError as error:
        _exit(_wrong_setting(error), 2)
    except UnicodeDecodeError as error:  # every other input may be any bytes
        _exit(f"the settings in .env are not UTF-8: {error}", 2)
    except (KeyboardInterrupt, typer.Abort):
        _exit("interrupted", 130)
    except SystemExit as end:
        code = int(end.code or 0)
        if code > 128:  # a signal during a start
            _exit("interrupted, the services that were started are stopped", code)
        sys.exit(code)  # of rich, for a broken pipe
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if not _is_expected(error):
            raise
        for line in getattr(error, "details", ()):
            print(f"    {line}", file=sys.stdout)
        _exit(str(error), 1)
    sys.exit(code or 0)


def _is_expected(error: Exception) -> bool:
    """The imports are here because an error class brings its package."""
    from kp_platform.adapters.errors import ServerDown, TopicMissing
    from kp_platform.engine.dead_letters import NoSuchDeadLetter
    from kp_platform.engine.errors import SliceError
    from kp_platform.local.errors import StackError
    from kp_platform.operations.replay_range import InvalidReplay

    expected = (
        Failure, NoSuchDeadLetter, InvalidReplay, SliceError, StackError, ServerDown, TopicMissing,
    )  # fmt: skip
    return isinstance(error, expected)


def _wrong_setting(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    name = "_".join(str(each) for each in first["loc"]).upper()
    return f"KP_{name}: {message}" if name else message


def _exit(message: str, code: int) -> None:
    print(f"kp: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
