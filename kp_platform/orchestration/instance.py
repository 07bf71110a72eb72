"""Dagster's instance, for programs that are no process of the stack.

Belongs here: opening it. Does not belong here: where it is (`local/dagster.py`) and what is read
and deleted there (`retention.py`).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg


@contextmanager
def open_instance(folder: Path, postgres_url: str) -> Iterator[dg.DagsterInstance]:
    """The instance of a DAGSTER_HOME. `postgres_url` is empty when its storage is SQLite."""
    os.environ["DAGSTER_HOME"] = str(folder)
    # dagster.yaml reads it from the environment; a setting may come from `.env`.
    os.environ["KP_DAGSTER_POSTGRES_URL"] = postgres_url
    with dg.DagsterInstance.get() as instance:
        yield instance
