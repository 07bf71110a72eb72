"""B1, B2 and B3: documents/s of kp_platform, raw `_bulk` requests, a hand-written consumer and the
published example.

Belongs here: the contenders, run in turns on one topic, the verification of what each has written,
and the figures. Does not belong here: how a figure is shown (`report.py`).
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
from kp_platform_tests.benchmarks.measure import Spread, cpu_seconds, spent
from kp_platform_tests.benchmarks.report import Figure, Result, Table
from kp_platform_tests.benchmarks.session import Session
from kp_platform_tests.fault_injection.ledger import ACCESSES, NAMES
from kp_platform_tests.fault_injection.servers import Search, Servers
from kp_platform_tests.producing import produce
from kp_platform_tests.stack import Stack

OURS, RAW, STRAIGHT = "kp_platform", "raw bulk", "straight-line consumer"
TWO_RUNS = "two concurrent runs"
SERVERS = ("kafka", "trino", "elasticsearch", "mysql", "redis")
POSITIONS = "kp.positions"
RIVALS = {"B1": RAW, "B3": STRAIGHT}
TARGETS = {"B1": 0.70, "B3": 0.85}
SERVER_SHARE_TARGET = 0.90
EXAMPLE_TARGET = 10_000
INDICES = {RAW: "bench.raw", STRAIGHT: "bench.straight"}
BULK_DOCUMENTS = 5_000
EXAMPLE_MESSAGES = 20
WARM_UP_RUNS = 6
# The published example's query, in Trino's dialect: by name only, over the whole topic.
EXAMPLE_SQL = """
SELECT r.redis_key, r.redis_value, t.test_id, t.test_name, t.created_at, a.uri, a.uuid
FROM my_tests.testing.tests AS t
INNER JOIN red_tests.test.string AS r ON r.redis_key = t.test_name
INNER JOIN kafka_tests.analyze.action AS a ON a.name = t.test_name
WHERE t.test_name = '{name}' LIMIT 1"""
FIELDS = ("uuid", "uri", "name", "redis_key", "redis_value", "test_id", "test_name", "created_at")


@dataclass(frozen=True, slots=True)
class Round:
    """One contender's run. `cpu` is in seconds, by program; `client` is a contender's process."""

    documents: int
    seconds: float
    cpu: Mapping[str, float]

    @property
    def rate(self) -> float:
        """Documents a second."""
        return self.documents / self.seconds

    @property
    def share_of_limit(self) -> float:
        """The rate, relative to the rate at which the servers alone would use all cores."""
        servers = sum(self.cpu_of(name) for name in SERVERS)
        return self.rate / (self.documents / servers * (psutil.cpu_count() or 1))

    def cpu_of(self, name: str) -> float:
        """CPU-seconds of all nodes of a server; `own` is every program that is no server."""
        return sum(seconds for each, seconds in self.cpu.items() if _server_of(each) == name)


def _server_of(program: str) -> str:
    """E.g. `kafka` for `kafka-2`."""
    server = program.partition("-")[0]
    return server if server in SERVERS else "own"


class Comparison:
    """A topic of accesses that each contender indexes in turn."""

    def __init__(self, stack: Stack, folder: Path, events: int) -> None:
        self._stack, self._events = stack, events
        self._servers = Servers.of(stack.settings)
        self._requests = folder / "requests"
        stop_traffic(stack)
        self._expected = publish(self._servers, events)
        for _ in range(WARM_UP_RUNS):  # Trino and Elasticsearch compile on first use
            self._clear()
            run_ours(stack)
        with self._servers.search() as search:
            raw_bulk.pack(self._requests, _requests(search))

    def run(self, contender: str) -> Round:
        """Raises AssertionError when the written documents differ from the expected ones."""
        self._clear()
        turns: dict[str, Callable[[], float]] = {
            OURS: partial(run_ours, self._stack),
            TWO_RUNS: partial(run_ours, self._stack, *_two_assignments(self._stack)),
            RAW: self._run_raw,
            STRAIGHT: self._run_straight,
        }
        before, own = cpu_seconds(self._stack), _children_seconds()
        seconds = turns[contender]()
        cpu = spent(before, cpu_seconds(self._stack)) | {"client": _children_seconds() - own}
        with self._servers.search() as search:
            found = checksum(search, INDICES.get(contender, "log.index"))
        assert found == (self._events, self._expected), (
            f"{contender}: {found[0]} documents, not as expected"
        )
        return Round(self._events, seconds, cpu)

    def example_seconds(self) -> list[float]:
        """Seconds per message of the published example: one query and one index request."""
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
            delete_indices(search)
            for index in INDICES.values():
                search.request("PUT", f"/{index}", _index_definition())

    def _run_raw(self) -> float:
        url = self._servers.elasticsearch
        return _client("raw_bulk", url, INDICES[RAW], str(self._requests))

    def _run_straight(self) -> float:
        settings = json.dumps(asdict(self._servers))
        return _client("straight_line", settings, INDICES[STRAIGHT])


def stop_traffic(stack: Stack) -> None:
    """Stop the emitter and the daemon: no event is published and no run is started."""
    for name in ("dagster-daemon", "emitter"):
        Supervisor(stack.settings.home).stop_program(name)


def run_ours(stack: Stack, *assignments: str) -> float:
    """The seconds of one run that indexes the whole backlog; or of concurrent runs, one per
    assignment."""
    limits = {"follow_idle_seconds": 0, "max_run_seconds": 3_600}
    configs = [
        {"ops": {"enriched_access_log": {"config": {**limits, "partitions": each}}}}
        for each in assignments or ("",)
    ]
    return dagster_run.step_seconds(stack, "index_access_log", *configs)


def _two_assignments(stack: Stack) -> tuple[str, str]:
    count = stack.settings.topic_partitions
    return assignment_text(range(count // 2)), assignment_text(range(count // 2, count))


def publish(
    servers: Servers, count: int, topic: str = ACCESSES, names: Sequence[str] = NAMES
) -> int:
    """Publish accesses of these names, by default four with reference data and one without. Returns
    the checksum of the enriched documents."""
    rows, values = servers.rows(), servers.redis_values()
    producer = Producer(
        {
            "bootstrap.servers": servers.kafka,
            "acks": "all",
            "linger.ms": 50,
            "sticky.partitioning.linger.ms": 0,  # otherwise one partition gets a small topic
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
    """The number of documents of an index, and the sum of the hashes of their `FIELDS`."""
    count = total = 0
    for hit in search.scan(index, {"match_all": {}}, FIELDS):
        count += 1
        total += _digest([hit["_source"].get(name) for name in FIELDS])
    return count, total % 2**64


def _digest(values: Sequence[Any]) -> int:
    return int.from_bytes(hashlib.blake2b(orjson.dumps(values), digest_size=8).digest())


def _requests(search: Search) -> Iterator[bytes]:
    """The platform's documents as bulk requests, with the same ids."""
    lines: list[bytes] = []
    for hit in search.scan("log.index", {"match_all": {}}):
        lines.append(b'{"create":{"_id":"%b"}}' % hit["_id"].encode())
        lines.append(orjson.dumps(hit["_source"]))
        if len(lines) == 2 * BULK_DOCUMENTS:
            yield b"\n".join(lines) + b"\n"
            lines = []
    if lines:
        yield b"\n".join(lines) + b"\n"


def delete_indices(search: Search, except_for: Sequence[str] = ()) -> None:
    """Delete all documents, positions and index registry entries."""
    names = search.request("GET", "/_cat/indices?format=json&h=index&expand_wildcards=all")
    for name in [each["index"] for each in names]:
        is_ours = name.startswith(("log.index-", "bench.", POSITIONS, "kp.indices"))
        if is_ours and name not in except_for:
            search.request("DELETE", f"/{name}")


def _index_definition() -> dict[str, Any]:
    template = json.loads(ACCESS_LOG.mapping.read_text())["template"]
    return {"settings": template["settings"], "mappings": template["mappings"]}


def _client(module: str, *arguments: str) -> float:
    """Run a contender's process. Returns the seconds that it prints."""
    name = f"kp_platform_tests.benchmarks.{module}"
    done = subprocess.run(
        [sys.executable, "-m", name, *arguments], stdout=subprocess.PIPE, check=True
    )
    seconds: float = orjson.loads(done.stdout)["seconds"]
    return seconds


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def results(session: Session) -> Iterator[Result]:
    with session.stack() as stack:
        comparison = Comparison(stack, session.folder, session.events)
        rivals = [rival for key, rival in RIVALS.items() if key in session.keys]
        rounds = in_turns(comparison, [OURS, *rivals], session)
        for key in session.keys:
            if key in RIVALS:
                yield _relative_to(key, rounds)
            elif key == "B2":
                yield _relative_to_the_example(rounds, comparison.example_seconds())


def in_turns(
    comparison: Comparison, contenders: Sequence[str], session: Session
) -> list[Mapping[str, Round]]:
    """Rounds by contender; each round starts with another one."""
    session.log(f"{session.events:,} events, {session.rounds} rounds")
    rounds: list[Mapping[str, Round]] = []
    for number in range(session.rounds):
        first = number % len(contenders)
        turns = {name: comparison.run(name) for name in (*contenders[first:], *contenders[:first])}
        rounds.append(turns)
        rates = (f"{name} {each.rate:,.0f}" for name, each in sorted(turns.items()))
        session.log(f"round {number + 1}, documents/s: {', '.join(rates)}")
    return rounds


def _relative_to(key: str, rounds: Sequence[Mapping[str, Round]]) -> Result:
    rival, target = RIVALS[key], TARGETS[key]
    ratio = Spread.of([turns[OURS].rate / turns[rival].rate for turns in rounds])
    name = f"documents/s relative to {rival}"
    figures = [Figure(name, f">= {target}", f"{ratio:.2f}", ratio.median >= target)]
    if key == "B1":
        limit = Spread.of([turns[OURS].share_of_limit for turns in rounds])
        figures.append(
            Figure(
                "documents/s relative to the servers' CPU limit",
                f">= {SERVER_SHARE_TARGET:.2f}",
                f"{limit:.2f}",
                limit.median >= SERVER_SHARE_TARGET,
            )
        )
    return Result(
        key,
        f"throughput relative to {rival}",
        f"{rounds[0][OURS].documents:,} accesses, from the topic to searchable documents; all "
        "documents are verified. The servers' CPU limit: documents/s if Kafka, Trino, MySQL, Redis "
        "and Elasticsearch alone used all cores, at the CPU-seconds they needed per document.",
        figures,
        costs_table([OURS, rival], rounds),
    )


def costs_table(names: Sequence[str], rounds: Sequence[Mapping[str, Round]]) -> Table:
    """Documents/s and CPU-seconds per 1,000 documents, by contender."""
    return Table(
        ("", "documents/s", *(f"CPU-s per 1,000: {name}" for name in ("own", *SERVERS))),
        [_costs(name, [turns[name] for turns in rounds]) for name in names],
    )


def _costs(name: str, turns: Sequence[Round]) -> list[str]:
    rate = Spread.of([turn.rate for turn in turns])
    costs = [
        Spread.of([1000 * turn.cpu_of(each) / turn.documents for turn in turns]).median
        for each in ("own", *SERVERS)
    ]
    return [name, f"{rate:,.0f}", *(f"{cost:.4f}" for cost in costs)]


def _relative_to_the_example(
    rounds: Sequence[Mapping[str, Round]], example: Sequence[float]
) -> Result:
    seconds = Spread.of(example)
    ratio = Spread.of([turns[OURS].rate for turns in rounds]).median * seconds.median
    return Result(
        "B2",
        "throughput relative to the published example",
        f"The example sends one query and one index request per message; measured for "
        f"{len(example)} messages, on the same servers and a topic of "
        f"{rounds[0][OURS].documents:,} messages.",
        [
            Figure(
                "documents/s relative to the published example",
                f">= {EXAMPLE_TARGET:,}",
                f"{ratio:,.0f}",
                ratio >= EXAMPLE_TARGET,
            )
        ],
        Table(("", "seconds per message"), [["published example", f"{seconds:.2f}"]]),
    )
