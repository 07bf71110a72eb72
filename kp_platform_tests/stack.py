"""A running stack, and `kp` on it.

Belongs here: the one way in which tests and faults call `kp`. Does not belong here: starting and
ending it (`conftest.py`, `faults/__main__.py`).
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from kp_platform.settings import Settings

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Stack:
    """The programs of one KP_HOME. `variables` are the environment that `kp` is run with."""

    settings: Settings
    variables: dict[str, str]

    def kp(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `kp`. Raises RuntimeError with its output if it fails."""
        done = subprocess.run(
            [sys.executable, "-m", "kp_platform", *arguments],
            env=self.variables,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"kp {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done
