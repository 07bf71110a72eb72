"""MySQL: the reference rows, database `testing`.

Belongs here: the table `tests` and its rows. Does not belong here: the join, which Trino does.
"""

import contextlib
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pymysql

from kp_platform.adapters.errors import Refusal, ServerDown, server_error
from kp_platform.settings import Settings

_SETTINGS = ("KP_MYSQL_HOST", "KP_MYSQL_PORT", "KP_MYSQL_USER", "KP_MYSQL_PASSWORD")
_USER = "KP_MYSQL_USER, KP_MYSQL_PASSWORD"
_REFUSALS = (
    Refusal("access denied", _USER, "refuses the user"),
    Refusal("command denied", _USER, "denies this operation to the user"),
    Refusal("insecure transport are prohibited", "KP_MYSQL_TLS", "requires TLS"),
    Refusal("ssl is required", "KP_MYSQL_TLS", "does not accept TLS"),
)
_CREATE_TABLE = """
CREATE TABLE IF NOT EXISTS testing.tests (
    test_id int unsigned NOT NULL AUTO_INCREMENT,
    test_name varchar(85) NOT NULL DEFAULT '',
    created_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
    PRIMARY KEY (test_id),
    UNIQUE KEY UIDX_TESTS_NAME (test_name),
    KEY IDX_TESTS (test_name, test_id)
) DEFAULT CHARACTER SET utf8mb4
"""


@dataclass(frozen=True, slots=True)
class MySQLAdapter:
    """The database of the reference rows. Waits at most `timeout_seconds` for an answer."""

    settings: Settings
    timeout_seconds: int = 10

    @property
    def address(self) -> str:
        return f"{self.settings.mysql_host}:{self.settings.mysql_port}"

    def probe(self) -> None:
        """Raises ServerDown unless the user can log in and query."""
        with self._cursor() as cursor:
            cursor.execute("SELECT 1")

    def create_table(self) -> None:
        """Create `testing.tests` unless it exists."""
        if not self.has_table():  # IF NOT EXISTS alone warns about an existing table
            with self._cursor() as cursor:
                cursor.execute(_CREATE_TABLE)

    def add_names(self, names: Sequence[str]) -> None:
        """Insert a row for each name that has none; existing rows keep id and time."""
        with self._cursor() as cursor:
            existing = _names(cursor)
            new = [(name,) for name in names if name not in existing]
            cursor.executemany(
                "INSERT INTO testing.tests (test_name) VALUES (%s) "
                # The collation is not case-sensitive: another spelling is the same row.
                "ON DUPLICATE KEY UPDATE test_id = test_id",
                new,
            )

    def touch(self, name: str) -> None:
        """Insert the name's row, or set the time of the existing one to now."""
        with self._cursor() as cursor:
            cursor.execute(
                "INSERT INTO testing.tests (test_name) VALUES (%s) "
                "ON DUPLICATE KEY UPDATE created_at = CURRENT_TIMESTAMP",
                (name,),
            )

    def ids(self) -> dict[str, int]:
        """test_id by test_name."""
        with self._cursor() as cursor:
            return _names(cursor)

    def has_table(self) -> bool:
        """Whether `testing.tests` exists."""
        with self._cursor() as cursor:
            cursor.execute("SHOW TABLES FROM testing LIKE 'tests'")
            return bool(cursor.fetchall())

    @contextlib.contextmanager
    def _cursor(self) -> Iterator[Any]:
        settings = self.settings
        try:
            with (
                contextlib.closing(
                    pymysql.connect(
                        host=settings.mysql_host,
                        port=settings.mysql_port,
                        user=settings.mysql_user,
                        password=settings.mysql_password.get_secret_value(),
                        charset="utf8mb4",
                        autocommit=True,
                        **_tls(settings),
                        connect_timeout=self.timeout_seconds,
                        read_timeout=self.timeout_seconds,
                        write_timeout=self.timeout_seconds,
                    )
                ) as connection,
                connection.cursor() as cursor,
            ):
                yield cursor
        except pymysql.OperationalError as error:
            raise self._down(error) from error
        except pymysql.MySQLError as error:
            raise self._down(error, "rejects a statement") from error

    def _down(self, cause: object, problem: str = "does not answer") -> ServerDown:
        settings = ", ".join(_SETTINGS)
        return server_error("MySQL", self.address, settings, cause, _REFUSALS, problem)


def _tls(settings: Settings) -> dict[str, Any]:
    """With KP_MYSQL_TLS a server without TLS is refused before the password is sent."""
    if not settings.mysql_tls:
        return {}
    return {"ssl": ssl.create_default_context(cafile=settings.ca_file or None)}


def _names(cursor: Any) -> dict[str, int]:
    cursor.execute("SELECT test_name, test_id FROM testing.tests")
    return dict(cursor.fetchall())
