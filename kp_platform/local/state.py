"""The folder of a stack, KP_HOME: configuration files and the servers' data.

Belongs here: creating and removing it, and writing files from templates. Does not belong here: what
is in the files of one server (that server's module).
"""

import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from string import Template

import dotenv

from kp_platform.local.errors import StackError
from kp_platform.settings import STACK_ENV

TEMPLATES = Path(__file__).with_name("templates")
MARKER = "kp-stack"
"""The file that distinguishes the folder of a stack from one that KP_HOME names by mistake."""


def is_stack(home: Path) -> bool:
    """Whether kp created this folder."""
    return (home / MARKER).is_file()


def claim(home: Path) -> None:
    """Create KP_HOME, readable by its owner only. Raises StackError when it holds other files."""
    if home.exists() and not is_stack(home) and (not home.is_dir() or any(home.iterdir())):
        raise StackError(f"KP_HOME={home} holds other files than a stack's: set an empty folder")
    try:
        (home / "log").mkdir(mode=0o700, parents=True, exist_ok=True)
        home.chmod(0o700)
        (home / MARKER).write_text("All state of one local kp_platform stack.\n", encoding="utf-8")
    except OSError as error:
        raise StackError(
            f"KP_HOME={home} cannot be written: {error.strerror}; set another folder"
        ) from error


def settle(home: Path, flag: str, make: Callable[[], Mapping[str, str]]) -> None:
    """Store the settings that `kp up FLAG` generates for a stack in its folder, where every later
    command reads them. `make` is called once, for a new KP_HOME. Raises StackError when it holds a
    stack of another kind.
    """
    path, title = home / STACK_ENV, f"# Made by `kp up {flag}`."
    if path.exists() and path.read_text(encoding="utf-8").startswith(title):
        return
    if is_stack(home):
        raise StackError(
            f"KP_HOME={home} holds a stack that was not created by `kp up {flag}`: "
            "set another folder, or remove the stack with `kp down --purge`"
        )
    claim(home)
    generated = make()
    path.touch(mode=0o600)
    path.write_text(f"{title}\n", encoding="utf-8")
    for name, value in generated.items():
        dotenv.set_key(path, name, value)


def purge(home: Path) -> None:
    """Remove KP_HOME. Raises StackError when kp did not create it."""
    if not is_stack(home):
        raise StackError(f"KP_HOME={home} was not created by kp: nothing is removed")
    shutil.rmtree(home)


def render(template: str, path: Path, **values: int | str | Path) -> None:
    """Write a file from a template and its values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(filled(template, **values), encoding="utf-8")


def filled(template: str, **values: int | str | Path) -> str:
    """The text of a template with its values."""
    return Template((TEMPLATES / template).read_text(encoding="utf-8")).substitute(values)


def run_initialization(
    name: str, command: tuple[str, ...], environment: dict[str, str] | None = None
) -> None:
    """Run a command that creates the initial data of a server. Raises StackError with the end of
    its output when it fails."""
    result = subprocess.run(
        command,
        env=environment or None,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        lines = tuple(result.stdout.splitlines()[-15:])
        raise StackError(
            f"{name}: its initial data could not be created in KP_HOME (exit {result.returncode}); "
            "`kp doctor` shows what it needs",
            lines,
        )
