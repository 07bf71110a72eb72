"""The example's reference data: rows in MySQL, values in Redis, loaded by one command.

Belongs here: what the demo joins against. Does not belong here: connections (`resources/`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

REFERENCE_VALUES = {
    "presto": "https://prestodb.io/",
    "kafka": "https://kafka.apache.org/",
    "laravel": "https://laravel.com/",
    "elasticsearch": "https://www.elastic.co/jp/products/elasticsearch",
}


class Table(Protocol):
    """MySQL, as far as seeding needs it."""

    def has_table(self) -> bool: ...
    def create_table(self) -> None: ...
    def add_names(self, names: Sequence[str]) -> None: ...
    def ids(self) -> dict[str, int]: ...


class Values(Protocol):
    """Redis, as far as seeding needs it."""

    def set_values(self, values: Mapping[str, str]) -> None: ...
    def values(self, keys: Sequence[str]) -> dict[str, str]: ...


@dataclass(frozen=True, slots=True)
class SeedReport:
    """How many of the reference rows and keys are there now."""

    rows: int
    keys: int


def is_seeded(mysql: Table) -> bool:
    """Whether the reference data were ever loaded."""
    return mysql.has_table()


def seed(mysql: Table, redis: Values) -> SeedReport:
    """Load the reference data; again is safe: rows keep their ids, values are set anew."""
    return SeedReport(rows=seed_rows(mysql), keys=seed_values(redis))


def seed_rows(mysql: Table) -> int:
    """Create the table and a row for each name; returns how many of them are there."""
    mysql.create_table()
    mysql.add_names(list(REFERENCE_VALUES))
    return len(mysql.ids().keys() & REFERENCE_VALUES.keys())


def seed_values(redis: Values) -> int:
    """Set the value of each name; returns how many of them are there."""
    redis.set_values(REFERENCE_VALUES)
    return len(redis.values(list(REFERENCE_VALUES)))
