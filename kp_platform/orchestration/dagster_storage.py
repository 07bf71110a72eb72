"""What retention deletes from Dagster's storage without a public API.

Belongs here: Dagster's private tables and files, and the versions that they were verified with.
Does not belong here: what expires, and deleting runs (`retention.py`).
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg

# The minor versions with these tables and files.
VERIFIED_VERSIONS = ("1.13",)
# Dagster keeps check results when it deletes their run. The latest of each check stays, because its
# asset shows it. The SQL is valid in SQLite and PostgreSQL.
_EXPIRED_CHECKS = """
DELETE FROM asset_check_executions WHERE evaluation_event_timestamp < :before AND id NOT IN
(SELECT max(id) FROM asset_check_executions GROUP BY asset_key, check_name)
"""
# Events that sensors report without a run; the latest of each asset and type stays.
_EXPIRED_RUNLESS_EVENTS = """
DELETE FROM event_logs WHERE run_id = '' AND timestamp < :before AND id NOT IN
(SELECT max(id) FROM event_logs WHERE run_id = '' GROUP BY asset_key, dagster_event_type)
"""


class UnverifiedVersion(Exception):
    """The installed Dagster may have other tables and files than those of this module."""


def check_version(installed: str = dg.__version__) -> None:
    """Raises UnverifiedVersion for a minor version that this module was not verified with."""
    minor = ".".join(installed.split(".")[:2])
    if minor not in VERIFIED_VERSIONS:
        raise UnverifiedVersion(
            f"Dagster {installed} is installed, and its storage was verified only with "
            f"{', '.join(VERIFIED_VERSIONS)}"
        )


def delete_events_and_checks(instance: dg.DagsterInstance, before: datetime) -> None:
    """Delete events without a run, and check results, from before a moment."""
    import sqlalchemy  # loading the definitions does not need it

    check_version()
    moment = sqlalchemy.bindparam(
        "before", before.astimezone(UTC).replace(tzinfo=None), sqlalchemy.DateTime
    )
    events, checks = (
        sqlalchemy.text(sql).bindparams(moment)
        for sql in (_EXPIRED_RUNLESS_EVENTS, _EXPIRED_CHECKS)
    )
    storage: Any = instance.event_log_storage
    with storage.run_connection("") as connection:  # SQLite: a file of its own
        connection.execute(events)
    with storage.index_connection() as connection:
        connection.execute(events)
        connection.execute(checks)


def run_files(instance: dg.DagsterInstance, run_id: str) -> Sequence[Path]:
    """The files and folders of a run outside the tables: its logs, and with SQLite its own event
    file, which Dagster empties but does not delete."""
    check_version()
    home, logs = Path(instance.root_directory), Path(instance.storage_directory()) / run_id
    events = (home / "history" / "runs").glob(f"{run_id}.db*")
    return [*events, *([logs, *logs.rglob("*")] if logs.is_dir() else [])]


def tick_logs(instance: dg.DagsterInstance, before: datetime) -> Sequence[Path]:
    """The log files of ticks from before a moment: Dagster deletes ticks without their logs."""
    check_version()
    logs = Path(instance.storage_directory()) / "__repository__"
    return [
        path
        for path in logs.rglob("*")
        if path.is_file() and path.stat().st_mtime < before.timestamp()
    ]
