"""Whether documents/s depend on how many rows MySQL and keys Redis have.

Belongs here: reference data of two sizes that take each other's place at once, and accesses of
names that both have. Does not belong here: how a figure is shown (`report.py`).
"""

from collections.abc import Sequence
from typing import Any

from kp_platform_tests.benchmarks.throughput import (
    POSITIONS,
    checksum,
    empty,
    publish,
    run_ours,
    stand_still,
)
from kp_platform_tests.fault_injection.servers import Search, Servers
from kp_platform_tests.stack import Stack

ACCESSED = 1_000
SIZES = {"few": 1_000, "many": 1_000_000}
_AT_ONCE = 10_000
_CREATED_AT = "2026-01-01 00:00:00"


class Dimensions:
    """A topic of accesses of `ACCESSED` names, which are all that the small reference data have."""

    def __init__(self, stack: Stack, events: int) -> None:
        self._stack, self._events = stack, events
        self._servers = Servers.of(stack.settings)
        stand_still(stack)
        every = SIZES["many"] // ACCESSED
        accessed = range(0, SIZES["many"], every)
        self._load(range(SIZES["many"]))
        self._swap()
        self._load(accessed)
        self._there = "few"
        self._known: dict[str, int] = {}
        self._expected = publish(self._servers, events, names=[_name(n) for n in accessed])
        for name in SIZES:
            self.rate(name)  # compiles what Trino and Elasticsearch compile

    def rate(self, name: str) -> float:
        """Documents a second of a run through all with these reference data. Raises AssertionError
        when others were written than there should be."""
        if name != self._there:
            self._swap()
            self._there = name
        with self._servers.search() as search:
            self._start_again(search, self._known.get(name, 0))
            seconds = run_ours(self._stack)
            assert checksum(search, "log.index") == (self._events, self._expected)
            self._known[name] = max(each["reference_rows"] for each in _positions(search).values())
        return self._events / seconds

    def _start_again(self, search: Search, known: int) -> None:
        """From the first event, but what is known of the size of reference data stays known."""
        empty(search, but=[POSITIONS])
        for identity, position in _positions(search).items():
            body = position | {"position": 0, "reference_rows": known}
            search.request("PUT", f"/{POSITIONS}/_doc/{identity}", body)

    def _swap(self) -> None:
        """The table and the database become those that stand beside them; both are instant."""
        with self._servers.mysql() as cursor, self._servers.values() as client:
            cursor.execute("CREATE TABLE IF NOT EXISTS other LIKE tests")
            cursor.execute("RENAME TABLE tests TO third, other TO tests, third TO other")
            number = client.get_connection_kwargs()["db"]
            client.swapdb(number, number + 1)

    def _load(self, numbers: Sequence[int]) -> None:
        with self._servers.mysql() as cursor, self._servers.values() as client:
            cursor.execute("TRUNCATE tests")
            client.flushdb()
            for first in range(0, len(numbers), _AT_ONCE):
                part = numbers[first : first + _AT_ONCE]
                cursor.executemany(
                    "INSERT INTO tests (test_id, test_name, created_at) VALUES (%s, %s, %s)",
                    [(number + 1, _name(number), _CREATED_AT) for number in part],
                )
                client.mset({_name(number): f"https://example.org/{number}" for number in part})


def _positions(search: Search) -> dict[str, dict[str, Any]]:
    everything: dict[str, Any] = {"match_all": {}}
    return {hit["_id"]: hit["_source"] for hit in search.scan(POSITIONS, everything)}


def _name(number: int) -> str:
    return f"name-{number}"
