"""Documents a second, side by side: kp_platform, raw `_bulk` replay, a hand-written consumer, and
the example's way.

Belongs here: the contenders, taking turns at one topic, and the check of what each has written.
Does not belong here: how a figure is shown (`report.py`).
"""

import hashlib
import json
import random
import resource
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import orjson
import psutil
import trino
from confluent_kafka import Producer

from kp_platform.engine.offsets import assignment_text
from kp_platform.flows.builtin import ACCESS_LOG
from kp_platform.local.supervisor import Supervisor
from kp_platform_tests.benchmarks import dagster_run, raw_bulk
from kp_platform_tests.benchmarks.measure import cpu_seconds, spent
from kp_platform_tests.fault_injection.ledger import ACCESSES, NAMES
from kp_platform_tests.fault_injection.servers import Search, Servers
from kp_platform_tests.producing import produce
from kp_platform_tests.stack import Stack

OURS, RAW, STRAIGHT = "kp_platform", "raw bulk", "straight-line consumer"
TWO_RUNS = "two runs at a time"
SERVERS = ("kafka", "trino", "elasticsearch", "mysql", "redis")
POSITIONS = "kp.positions"
INDICES = {RAW: "bench.raw", STRAIGHT: "bench.straight"}
DOCUMENTS_AT_ONCE = 5_000
EXAMPLE_MESSAGES = 20
WARM_RUNS = 6
# The published example's query, in Trino's spelling: by name only, over the whole topic.
EXAMPLE_SQL = """
SELECT r.redis_key, r.redis_value, t.test_id, t.test_name, t.created_at, a.uri, a.uuid
FROM my_tests.testing.tests AS t
INNER JOIN red_tests.test.string AS r ON r.redis_key = t.test_name
INNER JOIN kafka_tests.analyze.action AS a ON a.name = t.test_name
WHERE t.test_name = '{name}' LIMIT 1"""
FACTS = ("uuid", "uri", "name", "redis_key", "redis_value", "test_id", "test_name", "created_at")


@dataclass(frozen=True, slots=True)
class Round:
    """One contender's turn. `cpu` are seconds by program; `client` is a contender's process."""

    documents: int
    seconds: float
    cpu: Mapping[str, float]

    @property
    def rate(self) -> float:
        """Documents a second."""
        return self.documents / self.seconds

    @property
    def of_limit(self) -> float:
        """The share of the rate at which the servers alone would keep all cores busy."""
        servers = sum(self.cpu_of(name) for name in SERVERS)
        return self.rate / (self.documents / servers * (psutil.cpu_count() or 1))

    def cpu_of(self, name: str) -> float:
        """Of all nodes of a server; `own` is all that is none."""
        return sum(seconds for each, seconds in self.cpu.items() if _server_of(each) == name)


def _server_of(program: str) -> str:
    """`kafka` of `kafka-2`."""
    server = program.partition("-")[0]
    return server if server in SERVERS else "own"


class Arena:
    """A topic of accesses, and contenders that take turns at making documents of them."""

    def __init__(self, stack: Stack, folder: Path, events: int) -> None:
        self._stack, self._events = stack, events
        self._servers = Servers.of(stack.settings)
        self._requests = folder / "requests"
        stand_still(stack)
        self._expected = publish(self._servers, events)
        for _ in range(WARM_RUNS):  # compile what Trino and Elasticsearch compile
            self._clear()
            run_ours(stack)
        with self._servers.search() as search:
            raw_bulk.pack(self._requests, _requests(search))

    def run(self, contender: str) -> Round:
        """Raises AssertionError when other documents were written than there should be."""
        self._clear()
        turns: dict[str, Callable[[], float]] = {
            OURS: partial(run_ours, self._stack),
            TWO_RUNS: partial(run_ours, self._stack, *_halves(self._stack)),
            RAW: self._run_raw,
            STRAIGHT: self._run_straight,
        }
        before, own = cpu_seconds(self._stack), _children_seconds()
        seconds = turns[contender]()
        cpu = spent(before, cpu_seconds(self._stack)) | {"client": _children_seconds() - own}
        with self._servers.search() as search:
            found = checksum(search, INDICES.get(contender, "log.index"))
        assert found == (self._events, self._expected), f"{contender}: {found[0]} documents, wrong"
        return Round(self._events, seconds, cpu)

    def example_seconds(self) -> list[float]:
        """Of each of some messages: its query, and a request to index it."""
        options = {"user": "example", "http_scheme": "http"}
        url = httpx.URL(self._stack.settings.trino_url)
        times = []
        with self._servers.search() as search:
            for number in range(EXAMPLE_MESSAGES):
                began = time.monotonic()
                connection = trino.dbapi.connect(host=url.host, port=url.port, **options)
                cursor = connection.cursor()
                cursor.execute(EXAMPLE_SQL.format(name=NAMES[number % 4]))
                [row] = cursor.fetchall()
                body = dict(zip((each.name for each in cursor.description), row, strict=True))
                search.request("POST", "/bench.example/_doc", body)
                times.append(time.monotonic() - began)
            search.request("DELETE", "/bench.example")
        return times

    def _clear(self) -> None:
        with self._servers.search() as search:
            empty(search)
            for index in INDICES.values():
                search.request("PUT", f"/{index}", _like_ours())

    def _run_raw(self) -> float:
        url = self._servers.elasticsearch
        return _client("raw_bulk", url, INDICES[RAW], str(self._requests))

    def _run_straight(self) -> float:
        settings = json.dumps(asdict(self._servers))
        return _client("straight_line", settings, INDICES[STRAIGHT])


def stand_still(stack: Stack) -> None:
    """Nothing comes, and no run starts by itself."""
    for name in ("dagster-daemon", "emitter"):
        Supervisor(stack.settings.home).stop_program(name)


def run_ours(stack: Stack, *assignments: str) -> float:
    """The seconds of a run through all that is not indexed; or of one for each of the assignments,
    all at the same time."""
    limits = {"follow_idle_seconds": 0, "max_run_seconds": 3_600}
    configs = [
        {"ops": {"enriched_access_log": {"config": {**limits, "partitions": each}}}}
        for each in assignments or ("",)
    ]
    return dagster_run.step_seconds(stack, "index_access_log", *configs)


def _halves(stack: Stack) -> tuple[str, str]:
    count = stack.settings.topic_partitions
    return assignment_text(range(count // 2)), assignment_text(range(count // 2, count))


def publish(
    servers: Servers, count: int, topic: str = ACCESSES, names: Sequence[str] = NAMES
) -> int:
    """Accesses of these names, by default four with reference data and one without; returns what
    `checksum` must find when all are enriched."""
    rows, values = servers.rows(), servers.redis_values()
    producer = Producer(
        {
            "bootstrap.servers": servers.kafka,
            "acks": "all",
            "linger.ms": 50,
            "sticky.partitioning.linger.ms": 0,  # else a small topic lies in one partition
        }
    )
    chance, total = random.Random(1), 0
    for number in range(count):
        event = {
            "uuid": str(uuid.UUID(int=chance.getrandbits(128), version=4)),
            "uri": f"/articles/{number}?page={number % 50}",
            "name": chance.choice(names),
        }
        name = event["name"]
        test_id, created_at = rows.get(name, (None, None))
        value = values.get(name)
        key, test_name = value and name, test_id and name
        total += _digest([*event.values(), key, value, test_id, test_name, created_at])
        produce(producer, topic, orjson.dumps(event))
        producer.poll(0)
    left = producer.flush(120)
    assert not left, f"{left} events were not acknowledged"
    return total % 2**64


def checksum(search: Search, index: str) -> tuple[int, int]:
    """How many documents an index has, and the sum of the hashes of their facts."""
    count = total = 0
    for hit in search.scan(index, {"match_all": {}}, FACTS):
        count += 1
        total += _digest([hit["_source"].get(name) for name in FACTS])
    return count, total % 2**64


def _digest(facts: Sequence[Any]) -> int:
    return int.from_bytes(hashlib.blake2b(orjson.dumps(facts), digest_size=8).digest())


def _requests(search: Search) -> Iterator[bytes]:
    """Our documents as bulk requests, with the ids that they have."""
    lines: list[bytes] = []
    for hit in search.scan("log.index", {"match_all": {}}):
        lines.append(b'{"create":{"_id":"%b"}}' % hit["_id"].encode())
        lines.append(orjson.dumps(hit["_source"]))
        if len(lines) == 2 * DOCUMENTS_AT_ONCE:
            yield b"\n".join(lines) + b"\n"
            lines = []
    if lines:
        yield b"\n".join(lines) + b"\n"


def empty(search: Search, but: Sequence[str] = ()) -> None:
    """Nothing is indexed, and no position is known."""
    names = search.request("GET", "/_cat/indices?format=json&h=index&expand_wildcards=all")
    for name in [each["index"] for each in names]:
        if name.startswith(("log.index-", "bench.", POSITIONS, "kp.indices")) and name not in but:
            search.request("DELETE", f"/{name}")


def _like_ours() -> dict[str, Any]:
    template = json.loads(ACCESS_LOG.mapping.read_text())["template"]
    return {"settings": template["settings"], "mappings": template["mappings"]}


def _client(module: str, *arguments: str) -> float:
    """A contender's process; the seconds that it tells."""
    name = f"kp_platform_tests.benchmarks.{module}"
    done = subprocess.run(
        [sys.executable, "-m", name, *arguments], stdout=subprocess.PIPE, check=True
    )
    seconds: float = orjson.loads(done.stdout)["seconds"]
    return seconds


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
