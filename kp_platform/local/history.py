"""Dagster's history, for who is no process of the stack.

Belongs here: opening it where the settings say that it lies, and asking its database. Does not
belong here: what is read and deleted there (`kp_platform/orchestration/retention.py`).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import sqlalchemy

from kp_platform.local.errors import StackError
from kp_platform.settings import Settings, without_password

VARIABLE = "KP_DAGSTER_POSTGRES_URL"
_ANSWER_SECONDS = 5


def why_not_postgres(url: str) -> str:
    """Why nobody gets into this database, with its address and without its password; empty: one
    does. Takes a few seconds at most, also where nobody answers."""
    engine = sqlalchemy.create_engine(url, connect_args={"connect_timeout": _ANSWER_SECONDS})
    try:
        engine.connect().close()
    except sqlalchemy.exc.SQLAlchemyError as error:
        cause, *_ = str(getattr(error, "orig", error)).splitlines()
        return f"PostgreSQL does not let us in at {without_password(url)}: {cause}"
    finally:
        engine.dispose()
    return ""


@contextmanager
def opened(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """The history of $DAGSTER_HOME, else of KP_HOME. Raises StackError when there is none, or its
    database cannot be used."""
    url = settings.dagster_postgres_url.get_secret_value()
    if url and (reason := why_not_postgres(url)):
        raise StackError(f"{reason}: start it, or mend {VARIABLE}")
    home = Path(os.environ.setdefault("DAGSTER_HOME", str(settings.home / "dagster")))
    if not home.is_dir():
        raise StackError(f"there is no Dagster in {home} yet: start it with `kp up`")
    config = home / "dagster.yaml"
    if not url and config.exists() and VARIABLE in config.read_text(encoding="utf-8"):
        raise StackError(f"the history of {home} lies in PostgreSQL: set {VARIABLE}")
    os.environ[VARIABLE] = url  # dagster.yaml asks the environment, settings may be in `.env`
    with dg.DagsterInstance.get() as instance:
        yield instance
