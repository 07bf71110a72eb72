"""Whether documents/s depend on how many rows MySQL and keys Redis have.

Belongs here: reference data of any size, and accesses of some of its names. Does not belong here:
how a figure is shown (`report.py`).
"""

from kp_platform_tests.benchmarks.throughput import checksum, empty, publish, run_ours, stand_still
from kp_platform_tests.faults.servers import Servers
from kp_platform_tests.stack import Stack

ACCESSED = 1_000
SIZES = {"few": 1_000, "many": 1_000_000}
_AT_ONCE = 10_000


class Dimensions:
    """A stack whose accesses bear `ACCESSED` of `size` names with reference data."""

    def __init__(self, stack: Stack, size: int, events: int) -> None:
        self._stack, self._events = stack, events
        self._servers = Servers.of(stack.settings)
        stand_still(stack)
        _load(self._servers, size)
        names = [f"name-{number}" for number in range(0, size, size // ACCESSED)]
        self._expected = publish(self._servers, events, names=names)
        self.rate()  # compiles what Trino and Elasticsearch compile

    def rate(self) -> float:
        """Documents a second of a run through all. Raises AssertionError when others were written
        than there should be."""
        with self._servers.search() as search:
            empty(search)
            seconds = run_ours(self._stack)
            assert checksum(search, "log.index") == (self._events, self._expected)
        return self._events / seconds


def _load(servers: Servers, size: int) -> None:
    with servers.mysql() as cursor, servers.values() as client:
        for first in range(0, size, _AT_ONCE):
            names = [f"name-{number}" for number in range(first, min(first + _AT_ONCE, size))]
            cursor.executemany("INSERT INTO tests (test_name) VALUES (%s)", names)
            client.mset({name: f"https://example.org/{name}" for name in names})
