"""B8: whether documents/s depend on the number of rows in MySQL and keys in Redis.

Belongs here: reference data of two sizes, switched between rounds, accesses of names that both
sizes contain, and the figure. Does not belong here: how a figure is shown (`report.py`).
"""

from collections.abc import Iterator, Sequence
from typing import Any

from kp_platform_tests.benchmarks.measure import Spread
from kp_platform_tests.benchmarks.report import Figure, Result, Table
from kp_platform_tests.benchmarks.session import Session
from kp_platform_tests.benchmarks.throughput import (
    POSITIONS,
    checksum,
    delete_indices,
    publish,
    run_ours,
    stop_traffic,
)
from kp_platform_tests.fault_injection.servers import Search, Servers
from kp_platform_tests.stack import Stack

ACCESSED = 1_000
SMALL, LARGE = "small", "large"
SIZES = {SMALL: 1_000, LARGE: 1_000_000}
_INSERT_ROWS = 10_000
_CREATED_AT = "2026-01-01 00:00:00"


class ReferenceData:
    """A topic of accesses of `ACCESSED` names, which are all names of the small reference data."""

    def __init__(self, stack: Stack, events: int) -> None:
        self._stack, self._events = stack, events
        self._servers = Servers.of(stack.settings)
        stop_traffic(stack)
        every = SIZES[LARGE] // ACCESSED
        accessed = range(0, SIZES[LARGE], every)
        self._load(range(SIZES[LARGE]))
        self._swap()
        self._load(accessed)
        self._active = SMALL
        self._reference_rows: dict[str, int] = {}
        self._expected = publish(self._servers, events, names=[_name(n) for n in accessed])
        for size in SIZES:
            self.rate(size)  # Trino and Elasticsearch compile on first use

    def rate(self, size: str) -> float:
        """Documents per second of a run over all accesses. Raises AssertionError when the written
        documents differ from the expected ones."""
        if size != self._active:
            self._swap()
            self._active = size
        with self._servers.search() as search:
            self._reset(search, self._reference_rows.get(size, 0))
            seconds = run_ours(self._stack)
            assert checksum(search, "log.index") == (self._events, self._expected)
            rows = [each["other_rows"] for each in _positions(search).values()]
            self._reference_rows[size] = max(rows)
        return self._events / seconds

    def _reset(self, search: Search, reference_rows: int) -> None:
        """Delete the documents and reset the positions, but for the size of the reference data that
        they store."""
        delete_indices(search, except_for=[POSITIONS])
        for identity, position in _positions(search).items():
            body = position | {"position": 0, "other_rows": reference_rows}
            search.request("PUT", f"/{POSITIONS}/_doc/{identity}", body)

    def _swap(self) -> None:
        """Exchange the table and the Redis database with their counterparts, instantly."""
        with self._servers.mysql() as cursor, self._servers.values() as client:
            cursor.execute("CREATE TABLE IF NOT EXISTS other LIKE tests")
            cursor.execute("RENAME TABLE tests TO third, other TO tests, third TO other")
            number = client.get_connection_kwargs()["db"]
            client.swapdb(number, number + 1)

    def _load(self, numbers: Sequence[int]) -> None:
        with self._servers.mysql() as cursor, self._servers.values() as client:
            cursor.execute("TRUNCATE tests")
            client.flushdb()
            for first in range(0, len(numbers), _INSERT_ROWS):
                batch = numbers[first : first + _INSERT_ROWS]
                cursor.executemany(
                    "INSERT INTO tests (test_id, test_name, created_at) VALUES (%s, %s, %s)",
                    [(number + 1, _name(number), _CREATED_AT) for number in batch],
                )
                client.mset({_name(number): f"https://example.org/{number}" for number in batch})


def _positions(search: Search) -> dict[str, dict[str, Any]]:
    everything: dict[str, Any] = {"match_all": {}}
    return {hit["_id"]: hit["_source"] for hit in search.scan(POSITIONS, everything)}


def _name(number: int) -> str:
    return f"name-{number}"


def results(session: Session) -> Iterator[Result]:
    events = session.events // 5
    rates: dict[str, list[float]] = {size: [] for size in SIZES}
    with session.stack() as stack:
        session.log("loading reference data")
        data = ReferenceData(stack, events)
        for number in range(session.rounds):
            turn = list(rates) if number % 2 else list(rates)[::-1]
            for size in turn:
                rates[size].append(data.rate(size))
            shown = ", ".join(f"{size} {turns[-1]:,.0f}" for size, turns in rates.items())
            session.log(f"round {number + 1}, documents/s: {shown}")
    ratio = Spread.of(
        [large / small for small, large in zip(rates[SMALL], rates[LARGE], strict=True)]
    )
    yield Result(
        "B8",
        "throughput with large reference data",
        f"{events:,} accesses of {ACCESSED:,} names, with both sizes of reference data in turns.",
        [
            Figure(
                "documents/s, large relative to small reference data",
                ">= 0.90",
                f"{ratio:.2f}",
                ratio.median >= 0.90,
            )
        ],
        Table(
            ("MySQL rows and Redis keys", "documents/s"),
            [
                [f"{SIZES[size]:,} of each", f"{Spread.of(turns):,.0f}"]
                for size, turns in rates.items()
            ],
        ),
    )
