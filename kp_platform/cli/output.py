"""How commands print and how they fail.

Belongs here: the console, JSON, the shared `--json` option and the failure of a command. Does not
belong here: what one command prints (its module).
"""

import json
from typing import Annotated, Any

import typer
from rich.console import Console

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON only.")]


class Failure(Exception):
    """A command failed; the message is one line."""


def console() -> Console:
    """Lines are never wrapped, and a file or a pipe has room for a whole table."""
    screen = Console(highlight=False, soft_wrap=True)
    if not screen.is_terminal:
        screen.width = 200
    return screen


def print_line(text: str) -> None:
    """Print text as it is, without markup."""
    console().print(text, markup=False)


def print_json(value: Any) -> None:
    """Print JSON with readable characters."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_ascii_json(value: Any) -> None:
    """Print JSON of untrusted text: no character of it controls a terminal."""
    print(json.dumps(value, indent=2))
