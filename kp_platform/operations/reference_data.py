"""The reference data: rows in MySQL and values in Redis. Changes are published.

Belongs here: what the demo joins against, and the order of a change: first the data, then the
message (`adapters/reference_changes.py`). Does not belong here: connections (`adapters/`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from kp_platform.engine.reference_change import ReferenceChange

REFERENCE_VALUES = {
    "presto": "https://prestodb.io/",
    "kafka": "https://kafka.apache.org/",
    "laravel": "https://laravel.com/",
    "elasticsearch": "https://www.elastic.co/jp/products/elasticsearch",
}


MAX_NAME_LENGTH = 85  # characters, of testing.tests.test_name

PublishChanges = Callable[[Sequence[ReferenceChange]], object]


class Table(Protocol):
    """What seeding needs of MySQL."""

    def has_table(self) -> bool: ...
    def create_table(self) -> None: ...
    def add_names(self, names: Sequence[str]) -> None: ...
    def touch(self, name: str) -> None: ...
    def ids(self) -> dict[str, int]: ...


class Values(Protocol):
    """What seeding needs of Redis."""

    def set_values(self, values: Mapping[str, str]) -> None: ...
    def values(self, keys: Sequence[str]) -> dict[str, str]: ...


@dataclass(frozen=True, slots=True)
class SeedReport:
    """The number of existing reference rows and keys."""

    rows: int
    keys: int


def is_seeded(mysql: Table) -> bool:
    """Whether the reference data were ever loaded."""
    return mysql.has_table()


def seed(mysql: Table, redis: Values, publish_changes: PublishChanges) -> SeedReport:
    """Load the reference data and publish the changes.

    Can be repeated: rows keep their ids, values are overwritten.
    """
    return SeedReport(
        rows=seed_rows(mysql, publish_changes), keys=seed_values(redis, publish_changes)
    )


def seed_rows(mysql: Table, publish_changes: PublishChanges) -> int:
    """Create the table and a row for each name; returns the number of existing rows."""
    mysql.create_table()
    before = mysql.ids()
    mysql.add_names(list(REFERENCE_VALUES))
    _publish_keys(publish_changes, "mysql", REFERENCE_VALUES.keys() - before.keys())
    return len(mysql.ids().keys() & REFERENCE_VALUES.keys())


def seed_values(redis: Values, publish_changes: PublishChanges) -> int:
    """Set the value of each name; returns the number of existing values."""
    before = redis.values(list(REFERENCE_VALUES))
    redis.set_values(REFERENCE_VALUES)
    changed = {key for key, value in REFERENCE_VALUES.items() if before.get(key) != value}
    _publish_keys(publish_changes, "redis", changed)
    return len(redis.values(list(REFERENCE_VALUES)))


def set_reference(
    mysql: Table, redis: Values, publish_changes: PublishChanges, name: str, url: str
) -> None:
    """Set a name's row in MySQL and its value in Redis, and publish both changes.

    An existing row keeps its id and gets a new time. Raises ValueError for a name that MySQL
    cannot hold.
    """
    if not name or len(name) > MAX_NAME_LENGTH:
        raise ValueError(f"a name has 1 to {MAX_NAME_LENGTH} characters")
    changes = [ReferenceChange("mysql", name), ReferenceChange("redis", name)]
    mysql.create_table()
    mysql.touch(name)
    redis.set_values({name: url})
    publish_changes(changes)


def _publish_keys(publish_changes: PublishChanges, source: str, keys: set[str]) -> None:
    if keys:
        publish_changes([ReferenceChange(source, key) for key in sorted(keys)])
