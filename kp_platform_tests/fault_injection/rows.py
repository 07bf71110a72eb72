"""The rows of the fault matrix, declared: what is broken, for how long, and how it is healed.

Belongs here: one `Row` for each fault. Each is a context manager: entering it breaks something,
leaving it heals. Does not belong here: the verbs (`house.py`) and how a trial goes (`trial.py`).
"""

import random
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import quantiles
from typing import Any

import httpx
import psutil
from confluent_kafka import TopicPartition
from confluent_kafka.admin import NewPartitions, NewTopic

from kp_platform.local.supervisor import log_file
from kp_platform_tests.fault_injection.elasticsearch_stub import ElasticsearchStub
from kp_platform_tests.fault_injection.harness import FaultHarness, Late, kill, wait_until
from kp_platform_tests.fault_injection.ledger import ACCESSES, Amounts, Load
from kp_platform_tests.fault_injection.oracle import STREAMS, Oracle
from kp_platform_tests.fault_injection.proxy import Proxy

LOG_INDEX = "log.index-*"
INDEXING = "index_access_log"


@dataclass(frozen=True, slots=True)
class Harness:
    """What a fault acts on. `tool` is what the row's `setup` gave; `trial` counts from 0."""

    harness: FaultHarness
    oracle: Oracle
    load: Load
    chance: random.Random
    trial: int | None = None
    tool: Any = None
    notes: list[str] = field(default_factory=list)
    kills: list[str] = field(default_factory=list)
    """Each kill -9 of the emitter, which may cost the visits of its last moments."""

    def say(self, what: str) -> None:
        """For the note of the trial, e.g. which of several ways was taken."""
        self.notes.append(what)

    def way(self, *ways: str) -> str:
        """One of several ways to break something: trials take turns, `mixed` draws."""
        way = self.chance.choice(ways) if self.trial is None else ways[self.trial % len(ways)]
        self.say(way)
        return way


Fault = Callable[[Harness], AbstractContextManager[None]]
Setup = Callable[[FaultHarness], AbstractContextManager[Any]]


def _no_setup(_house: FaultHarness) -> AbstractContextManager[Any]:
    return nullcontext()


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A fault. `hold` bounds the seconds that it lasts; `setup` surrounds all its trials.

    `moment` bounds the share of the load that is sent when it comes. `is_cheap`: it is over soon,
    so `mixed` may draw it. `ranks`: the ranking is checked too. `ends_emitter`: visits may fail
    while it starts again, and at no other time. `amounts`: the load, whatever was asked for.
    `on_cluster`: it needs three brokers, two Trino workers and two runs of a flow at a time.
    """

    key: str
    name: str
    fault: Fault
    hold: tuple[float, float] = (0.0, 0.0)
    moment: tuple[float, float] = (0.1, 0.6)
    setup: Setup = _no_setup
    is_cheap: bool = True
    ranks: bool = False
    ends_emitter: bool = False
    amounts: Amounts | None = None
    on_cluster: bool = False
    patience_seconds: float = 300.0


# The emitter and its broker


@contextmanager
def emitter_killed(harness: Harness) -> Iterator[None]:
    harness.harness.kill("emitter")
    harness.kills.append("emitter")
    yield


@contextmanager
def emitter_terminated(harness: Harness) -> Iterator[None]:
    log = log_file(harness.harness.settings.home, "supervisord")
    seen = log.stat().st_size
    harness.harness.terminate("emitter")
    yield
    ended = "exited: emitter (exit status 0;"
    wait_until(lambda: ended in log.read_text()[seen:], "the emitter ends with 0", 30)


@contextmanager
def broker_stopped(harness: Harness) -> Iterator[None]:
    with _visits_timed(harness), harness.harness.stopped("kafka"):
        yield


@contextmanager
def broker_frozen(harness: Harness) -> Iterator[None]:
    with _visits_timed(harness), harness.harness.frozen("kafka"):
        yield


@contextmanager
def _visits_timed(harness: Harness) -> Iterator[None]:
    seconds = harness.load.visitor.seconds
    before = len(seconds)
    yield
    harness.say(
        f"p99 of visits {_p99(seconds[:before])} ms before, {_p99(seconds[before:])} ms meanwhile"
    )


def _p99(seconds: list[float]) -> str:
    return f"{1000 * quantiles(seconds, n=100)[98]:.1f}" if len(seconds) > 1 else "?"


@contextmanager
def broker_killed(harness: Harness) -> Iterator[None]:
    harness.harness.kill("kafka")
    yield


@contextmanager
def emitter_behind_a_proxy(harness: FaultHarness) -> Iterator[Proxy]:
    """A listener of its own, whose advertised address is the proxy, keeps clients in the proxy."""
    port = int(harness.servers.kafka.rpartition(":")[2])
    inner = port + 2  # free in the block of ports of a stack
    config = harness.settings.home / "kafka" / "server.properties"
    text = config.read_text()
    with Proxy("127.0.0.1", inner) as proxy:
        config.write_text(
            text.replace("listeners=P", f"listeners=LINK://127.0.0.1:{inner},P", 1)
            .replace(
                "advertised.listeners=", f"advertised.listeners=LINK://127.0.0.1:{proxy.port},"
            )
            .replace("protocol.map=", "protocol.map=LINK:PLAINTEXT,")
        )
        try:
            with harness.stopped("kafka"):
                pass
            harness.await_ready("kafka")
            address = f"127.0.0.1:{proxy.port}"
            with harness.rerouted("emitter", KP_KAFKA_BOOTSTRAP_SERVERS=address):
                yield proxy
        finally:
            config.write_text(text)
            with harness.stopped("kafka"):
                pass
            harness.await_ready("kafka")


@contextmanager
def bad_link(harness: Harness) -> Iterator[None]:
    """Slow, sliced and reset again and again, until healed."""
    proxy: Proxy = harness.tool
    proxy.latency_seconds = harness.chance.uniform(0.01, 0.1)
    proxy.cut_after = harness.chance.randrange(20_000, 100_000)
    done = threading.Event()

    def reset() -> None:
        while not done.wait(harness.chance.uniform(0.3, 1.5)):
            proxy.reset()

    thread = threading.Thread(target=reset)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        proxy.heal()


def emitter_with_a_small_spool(harness: FaultHarness) -> AbstractContextManager[None]:
    return _spooling_to(harness, harness.settings.home / "emitter" / "small", 64 * 1024)


@contextmanager
def emitter_with_a_small_disk(harness: FaultHarness) -> Iterator[None]:
    """A file system of its own (only root can make one), smaller than what the spool may take."""
    folder = harness.settings.home / "emitter" / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    subprocess.run(mount, check=True)
    try:
        with _spooling_to(harness, folder / "spool", 256 * 1024 * 1024):
            yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def _spooling_to(harness: FaultHarness, folder: Path, size: int) -> Iterator[None]:
    with harness.rerouted(
        "emitter",
        KP_EMITTER_SPOOL=str(folder),
        KP_EMITTER_SPOOL_BYTES=str(size),
        KP_EMITTER_SPOOL_MESSAGES="100",
        KP_EMITTER_QUEUE_MESSAGES="100",
    ):
        yield


# Dagster


@contextmanager
def daemon_killed(harness: Harness) -> Iterator[None]:
    for _ in range(harness.chance.randint(1, 2)):
        before = harness.harness.processes("dagster-daemon")[:1]
        harness.harness.kill("dagster-daemon")
        psutil.wait_procs(before, timeout=10)
        wait_until(
            lambda: bool(harness.harness.processes("dagster-daemon")), "the daemon is back", 60
        )
    yield


@contextmanager
def two_daemons(harness: Harness) -> Iterator[None]:
    with harness.harness.doubled("dagster-daemon"):
        yield


@contextmanager
def code_server_killed(harness: Harness) -> Iterator[None]:
    harness.harness.kill("dagster-code-server")
    yield


@contextmanager
def code_server_behind_a_stub(harness: FaultHarness) -> Iterator[ElasticsearchStub]:
    with (
        ElasticsearchStub(harness.servers.elasticsearch) as stub,
        harness.rerouted("dagster-code-server", KP_ELASTICSEARCH_URL=stub.url),
    ):
        yield stub


@contextmanager
def worker_killed(harness: Harness) -> Iterator[None]:
    """At a random moment of a run."""
    kill(harness.harness.await_worker(INDEXING))
    yield


@contextmanager
def worker_killed_at_a_point(harness: Harness) -> Iterator[None]:
    """Before or after a bulk of documents or the move of the positions was applied, and before
    the run has its answer."""
    stub: ElasticsearchStub = harness.tool
    worker = harness.harness.await_worker(INDEXING)
    when, text = harness.way(
        "before log.index", "after kp.positions", "after log.index", "before kp.positions"
    ).split()
    index = text.encode()
    passed, hit = harness.chance.randint(0, 2), threading.Event()

    def watch(moment: str, _path: str, body: bytes) -> None:
        nonlocal passed
        head = body[:200]
        if hit.is_set() or moment != when or index not in head:
            return
        if index == b"kp.positions" and b"access_log" not in head:
            return
        passed -= 1
        if passed < 0:
            kill(worker)
            hit.set()

    stub.watch = watch
    try:
        if not hit.wait(20):
            kill(worker)  # it had ended by itself meanwhile
        yield
    finally:
        stub.heal()


@contextmanager
def worker_and_code_server_killed(harness: Harness) -> Iterator[None]:
    worker = harness.harness.await_worker(INDEXING)
    harness.harness.kill("dagster-code-server")
    kill(worker)
    yield


@contextmanager
def dagster_home_deleted(harness: Harness) -> Iterator[None]:
    """As an operator does it, with the whole stack down."""
    harness.harness.kp("down")
    try:
        shutil.rmtree(harness.harness.settings.home / "dagster")
        yield
    finally:
        harness.harness.kp("up")


@contextmanager
def sqlite_locked(harness: Harness) -> Iterator[None]:
    """Runs and sensor ticks can be read, and not be written."""
    folder = harness.harness.settings.home / "dagster"
    with ExitStack() as locks:
        for path in (folder / "history" / "runs.db", folder / "schedules" / "schedules.db"):
            connection = locks.enter_context(closing(sqlite3.connect(path, timeout=20)))
            connection.isolation_level = None
            connection.execute("BEGIN EXCLUSIVE")
            locks.callback(connection.execute, "ROLLBACK")
        yield


# Elasticsearch


@contextmanager
def elasticsearch_away(harness: Harness) -> Iterator[None]:
    ways: dict[str, Fault] = {
        "stopped": lambda harness: harness.harness.stopped("elasticsearch"),
        "frozen": lambda harness: harness.harness.frozen("elasticsearch"),
    }
    with ways[harness.way(*ways)](harness):
        yield


@contextmanager
def elasticsearch_frozen(harness: Harness) -> Iterator[None]:
    with harness.harness.frozen("elasticsearch"):
        yield


@contextmanager
def elasticsearch_busy(harness: Harness) -> Iterator[None]:
    stub: ElasticsearchStub = harness.tool
    before = stub.spoilt
    stub.refuse_items = harness.chance.randint(2, 7)
    stub.refuse = harness.chance.randint(3, 6)
    try:
        yield
    finally:
        stub.heal()
        harness.say(f"{stub.spoilt - before} refused")


@contextmanager
def answers_lost(harness: Harness) -> Iterator[None]:
    stub: ElasticsearchStub = harness.tool
    before = stub.spoilt
    stub.lose = harness.chance.randint(2, 4)
    try:
        yield
    finally:
        stub.heal()
        harness.say(f"{stub.spoilt - before} answers lost")


@contextmanager
def index_blocked(harness: Harness) -> Iterator[None]:
    block = harness.way("write", "read_only", "read_only_allow_delete")
    with _blocked(harness, LOG_INDEX, block):
        yield


@contextmanager
def _blocked(harness: Harness, index: str, block: str) -> Iterator[None]:
    with harness.harness.servers.search() as search:
        wait_until(lambda: bool(search.request("GET", f"/{index}")), f"{index} exists", 90)
        search.request("PUT", f"/{index}/_settings", {f"index.blocks.{block}": True})
        try:
            yield
        finally:
            search.request("PUT", f"/{index}/_settings", {f"index.blocks.{block}": None})


@contextmanager
def crafted_messages(harness: Harness) -> Iterator[None]:
    harness.load.write_bad(_crafted(harness))
    yield


def _crafted(harness: Harness) -> list[bytes]:
    """Each unique; each a dead letter."""
    mark = f"{harness.chance.getrandbits(64):x}"

    def identity() -> str:
        digits = f"{harness.chance.getrandbits(128):032x}"
        return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))

    return [
        f"no event {mark}".encode(),
        f'{{"uuid": "{mark}", "uri": "/", "name": "presto"}}'.encode(),
        f'{{"uuid": "{identity()}", "uri": "/{mark}/{"k" * 40_000}", "name": "kafka"}}'.encode(),
        f'{{"uuid": "{identity()}", "uri": "/{mark}/{"k" * 900_000}", "name": "kafka"}}'.encode(),
        f'{{"uuid": "{identity()}", "uri": "/{mark}", "name": "{"n" * 40_000}"}}'.encode(),
        f'{{"uuid": "{identity()}", "uri": 5, "name": "{mark}"}}'.encode(),
        f'{{"uuid": "{identity()}", "name": "{mark}"}}'.encode(),
        b'{"uuid": "%b", "uri": "/\xff", "name": "presto"}' % identity().encode(),
    ]


@contextmanager
def index_deleted(harness: Harness) -> Iterator[None]:
    with harness.harness.servers.search() as search:
        indices = search.request("GET", "/_alias/log.index")
        for name in indices:
            search.request("DELETE", f"/{name}")
    yield


@contextmanager
def dead_letters_blocked(harness: Harness) -> Iterator[None]:
    with _blocked(harness, "kp.dead", "write"):
        harness.load.write_bad(_crafted(harness)[:2])
        yield


# Trino and the databases behind it


@contextmanager
def trino_broken(harness: Harness) -> Iterator[None]:
    if harness.way("server", "queries") == "server":
        harness.harness.kill("trino")
        yield
    else:
        with queries_killed(harness):
            yield


@contextmanager
def queries_killed(harness: Harness) -> Iterator[None]:
    harness.say(f"{_kill_queries(harness)} queries killed")
    yield


def _trino(harness: Harness) -> httpx.Client:
    url = harness.harness.settings.trino_url
    return httpx.Client(base_url=url, headers={"X-Trino-User": "faults"}, trust_env=False)


def _kill_queries(harness: Harness, seconds: float = 4.0) -> int:
    """Each query of the platform that is seen within so many seconds."""
    killed, until = 0, time.monotonic() + seconds
    with _trino(harness) as client:
        while time.monotonic() < until:
            for query in client.get("/v1/query?state=RUNNING").json():
                if query["session"]["user"] == harness.harness.settings.trino_user:
                    killed += client.delete(f"/v1/query/{query['queryId']}").is_success
            time.sleep(0.05)
    return killed


def trino_with_little_memory(harness: FaultHarness) -> AbstractContextManager[None]:
    """Enough for a slice of some thousand accesses."""
    return harness.rerouted("trino", "-Dquery.max-memory-per-node=1MB")


@contextmanager
def memory_exceeded(harness: Harness) -> Iterator[None]:
    """By the query of a backlog; returns when one has failed."""
    before = _memory_errors(harness)
    with _standing_still(harness.harness):
        yield
    wait_until(lambda: _memory_errors(harness) > before, "a query exceeds its memory", 120)


def _memory_errors(harness: Harness) -> int:
    with _trino(harness) as client:
        failed = client.get("/v1/query?state=FAILED").json()
    names = [query["errorCode"]["name"] for query in failed]
    return names.count("EXCEEDED_LOCAL_MEMORY_LIMIT")


@contextmanager
def mysql_away(harness: Harness) -> Iterator[None]:
    ways: dict[str, Fault] = {
        "stopped": lambda harness: harness.harness.stopped("mysql"),
        "frozen": lambda harness: harness.harness.frozen("mysql"),
        "table locked": mysql_locked,
    }
    with ways[harness.way(*ways)](harness):
        yield


@contextmanager
def mysql_locked(harness: Harness) -> Iterator[None]:
    with harness.harness.servers.mysql() as cursor:
        cursor.execute("LOCK TABLES tests WRITE")
        try:
            yield
        finally:
            cursor.execute("UNLOCK TABLES")


@contextmanager
def trino_behind_a_proxy(harness: FaultHarness) -> Iterator[Proxy]:
    settings = harness.settings
    with (
        Proxy(settings.mysql_host, settings.mysql_port) as proxy,
        harness.rerouted("trino", KP_MYSQL_PORT=str(proxy.port)),
    ):
        yield proxy


@contextmanager
def mysql_slow(harness: Harness) -> Iterator[None]:
    """From a tenth of a second to one for each packet, of which a query needs a dozen."""
    proxy: Proxy = harness.tool
    proxy.latency_seconds = harness.chance.uniform(0.1, 1)
    try:
        yield
    finally:
        proxy.heal()


@contextmanager
def redis_away(harness: Harness) -> Iterator[None]:
    ways: dict[str, Fault] = {"stopped": redis_stopped, "emptied": redis_emptied}
    with ways[harness.way(*ways)](harness):
        yield


@contextmanager
def redis_stopped(harness: Harness) -> Iterator[None]:
    with harness.harness.stopped("redis"):
        yield


@contextmanager
def redis_emptied(harness: Harness) -> Iterator[None]:
    """Filled again and announced: then documents carry the values again."""
    servers = harness.harness.servers
    values = servers.redis_values()
    with servers.values() as client:
        client.flushdb()
        yield
        client.mset(dict(values))
    servers.publish_changes([("redis", key) for key in values])


# Kafka's topics


@contextmanager
def retention(harness: Harness) -> Iterator[None]:
    """Messages go that nobody has indexed, because the runs stand still."""
    oracle = harness.oracle
    with _standing_still(harness.harness):
        yield
        edges = oracle.edges(ACCESSES)
        held = oracle.positions(STREAMS[0], edges.topic_id)
        oracle.archive()
        ends = [
            TopicPartition(ACCESSES, part, (held.get(part, low) + high) // 2)
            for part, (low, high) in edges.marks.items()
        ]
        for future in oracle.admin.delete_records(ends).values():
            future.result()
        gone = sum(end.offset - held.get(end.partition, 0) for end in ends)
        harness.say(f"{gone} deleted unread")


@contextmanager
def _standing_still(harness: FaultHarness) -> Iterator[None]:
    """No run goes on and none is started."""
    with ExitStack() as frozen:
        wait_until(lambda: _freeze(harness, frozen), "the runs stand still", 90)
        yield


def _freeze(harness: FaultHarness, frozen: ExitStack) -> bool:
    """The daemon may have been stopped while it held a lock of the database, in which the runs are
    looked up: then it goes on, and is stopped again."""
    with ExitStack() as attempt:
        attempt.enter_context(harness.frozen("dagster-daemon"))
        for worker in harness.workers():
            worker.suspend()
            attempt.callback(_resume, worker)
        frozen.enter_context(attempt.pop_all())
        return True


def _resume(process: psutil.Process) -> None:
    if process.is_running():
        process.resume()


@contextmanager
def topic_made_again(harness: Harness) -> Iterator[None]:
    """While nothing is unread: what an administrator deletes unread, nobody can index."""
    oracle, admin = harness.oracle, harness.oracle.admin
    harness.load.pause()
    wait_until(lambda: not any(oracle.behind().values()), "all is indexed", 180)
    oracle.archive()
    partitions = len(oracle.edges(ACCESSES).marks)
    admin.delete_topics([ACCESSES])[ACCESSES].result()

    def made() -> bool:
        admin.create_topics([NewTopic(ACCESSES, partitions, 1)])[ACCESSES].result()
        return True

    wait_until(made, "the topic is made again", 60)
    harness.load.go_on()
    yield


@contextmanager
def partitions_added(harness: Harness) -> Iterator[None]:
    count = len(harness.oracle.edges(ACCESSES).marks) + 2
    admin = harness.oracle.admin
    admin.create_partitions([NewPartitions(ACCESSES, count)])[ACCESSES].result()
    harness.say(f"to {count}")
    yield


@contextmanager
def group_deleted(harness: Harness) -> Iterator[None]:
    admin = harness.oracle.admin
    admin.delete_consumer_groups([STREAMS[0].group])[STREAMS[0].group].result()
    yield


# The other flows


@contextmanager
def re_enrichment_killed(harness: Harness) -> Iterator[None]:
    name = "laravel"
    url = harness.harness.servers.redis_values()[name]
    harness.harness.servers.change_reference(
        name, f"https://{harness.chance.getrandbits(32):x}.example/"
    )
    kill(harness.harness.await_worker("index_reference_changes"))
    yield
    harness.harness.servers.change_reference(name, url)


@contextmanager
def ranking_killed(harness: Harness) -> Iterator[None]:
    kill(harness.harness.await_worker("rank_accesses"))
    yield


@contextmanager
def full_text_killed(harness: Harness) -> Iterator[None]:
    kill(harness.harness.await_worker("index_full_text"))
    yield


# A cluster


@contextmanager
def one_broker_killed(harness: Harness) -> Iterator[None]:
    """Every one of them leads partitions; one is the active controller."""
    name = harness.way("kafka", "kafka-2", "kafka-3")
    with _visits_timed(harness):
        harness.harness.kill(name)
        yield


@contextmanager
def trino_worker_killed(harness: Harness) -> Iterator[None]:
    harness.harness.kill(harness.way("trino-worker-1", "trino-worker-2"))
    yield


@contextmanager
def one_run_killed(harness: Harness) -> Iterator[None]:
    """One of the two that work at the access log."""
    found: list[psutil.Process] = []

    def both() -> bool:
        found[:] = harness.harness.workers(INDEXING)
        return len(found) == 2

    wait_until(both, "two runs of the access log", 120)
    kill(harness.chance.choice(found))
    yield


@contextmanager
def broker_worker_and_run_killed(harness: Harness) -> Iterator[None]:
    """In any order, some seconds after each other."""
    faults = [one_broker_killed, trino_worker_killed, one_run_killed]
    harness.chance.shuffle(faults)
    with ExitStack() as struck:
        for fault in faults:
            struck.enter_context(fault(harness))
            time.sleep(harness.chance.uniform(0, 5))
        yield


SHORT, LONG = (3.0, 8.0), (8.0, 20.0)

ROWS: tuple[Row, ...] = (
    Row(key="1", name="emitter worker killed", fault=emitter_killed, ends_emitter=True),
    Row(
        key="2", name="emitter terminated under load", fault=emitter_terminated, ends_emitter=True,
    ),
    Row(key="3", name="broker stopped", fault=broker_stopped, hold=LONG),
    Row(key="4", name="broker frozen", fault=broker_frozen, hold=LONG),
    Row(key="5", name="broker killed", fault=broker_killed),
    Row(
        key="6", name="slow, lossy link from emitter to broker", fault=bad_link, hold=SHORT,
        setup=emitter_behind_a_proxy, is_cheap=False,
    ),
    Row(
        key="7", name="spool of the emitter full", fault=broker_frozen, hold=LONG,
        setup=emitter_with_a_small_spool, is_cheap=False,
    ),
    Row(key="8", name="daemon killed", fault=daemon_killed),
    Row(key="9", name="two daemons", fault=two_daemons, hold=LONG),
    Row(key="10", name="code server killed", fault=code_server_killed),
    Row(
        key="11", name="run worker killed before, in and after bulk and commit",
        fault=worker_killed_at_a_point, setup=code_server_behind_a_stub, is_cheap=False,
    ),
    Row(
        key="12", name="run worker and code server killed", fault=worker_and_code_server_killed,
        is_cheap=False, patience_seconds=600,
    ),
    Row(
        key="13", name="kp down, Dagster home deleted, kp up", fault=dagster_home_deleted,
        is_cheap=False, ends_emitter=True,
    ),
    Row(key="14", name="sqlite of Dagster locked", fault=sqlite_locked, hold=LONG),
    Row(key="15", name="Elasticsearch stopped or frozen", fault=elasticsearch_away, hold=LONG),
    Row(
        key="16", name="429 for a part of a bulk, and 503", fault=elasticsearch_busy, hold=LONG,
        setup=code_server_behind_a_stub, is_cheap=False,
    ),
    Row(
        key="17", name="answer lost after the bulk was applied", fault=answers_lost, hold=LONG,
        setup=code_server_behind_a_stub, is_cheap=False,
    ),
    Row(key="18", name="index blocked", fault=index_blocked, hold=SHORT),
    Row(key="19", name="messages that no index takes", fault=crafted_messages),
    Row(
        key="20", name="index deleted", fault=index_deleted, is_cheap=False,
    ),
    Row(key="21", name="Trino killed, or its queries", fault=trino_broken, is_cheap=False),
    Row(key="22", name="MySQL stopped, frozen or locked", fault=mysql_away, hold=SHORT),
    Row(key="23", name="Redis stopped or emptied", fault=redis_away, hold=SHORT),
    Row(
        key="24", name="retention passes the position", fault=retention, hold=SHORT, is_cheap=False,
    ),
    Row(
        key="25", name="topic deleted and made again", fault=topic_made_again, is_cheap=False,
    ),
    Row(
        key="26", name="partitions added", fault=partitions_added, is_cheap=False,
    ),
    Row(key="27", name="consumer group deleted", fault=group_deleted),
    Row(key="28", name="dead letters not writable", fault=dead_letters_blocked, hold=SHORT),
    Row(key="29", name="run of a reference change killed", fault=re_enrichment_killed),
    Row(key="30", name="run of the ranking killed", fault=ranking_killed, ranks=True),
    Row(key="31", name="run of the full text killed", fault=full_text_killed),
    Row(
        key="32", name="broker stopped for two minutes under 200 requests a second",
        fault=broker_stopped, hold=(120, 120), moment=(0.15, 0.15), is_cheap=False,
        amounts=Amounts(accesses=2_000, visits=36_000, notes=100, seconds=180),
    ),
    Row(
        key="33", name="disk of the spool full", fault=broker_frozen, hold=LONG,
        setup=emitter_with_a_small_disk, is_cheap=False,
    ),
    Row(
        key="34", name="slow link from Trino to MySQL", fault=mysql_slow, hold=LONG,
        setup=trino_behind_a_proxy, is_cheap=False,
    ),
    Row(
        key="35", name="query of a backlog over Trino's memory limit", fault=memory_exceeded,
        hold=LONG, setup=trino_with_little_memory, is_cheap=False,
    ),
    Row(
        key="36", name="cluster: one of three brokers killed", fault=one_broker_killed,
        hold=LONG, is_cheap=False, on_cluster=True,
    ),
    Row(
        key="37", name="cluster: one of two Trino workers killed", fault=trino_worker_killed,
        is_cheap=False, on_cluster=True,
    ),
    Row(
        key="38", name="cluster: one of two runs killed", fault=one_run_killed,
        is_cheap=False, on_cluster=True,
    ),
    Row(
        key="39", name="cluster: a broker, a worker and a run killed",
        fault=broker_worker_and_run_killed, hold=SHORT, is_cheap=False, on_cluster=True,
    ),
)  # fmt: skip


@contextmanager
def mixed(harness: Harness) -> Iterator[None]:
    """Cheap rows one after another, as the seed draws them, as long as the load lasts."""
    drawn = []
    while harness.load.progress < 0.9:
        row = harness.chance.choice([each for each in ROWS if each.is_cheap])
        drawn.append(row.key)
        try:
            with row.fault(replace(harness, trial=None)):
                time.sleep(harness.chance.uniform(*row.hold))
        except Late as late:  # e.g. the run that it would kill did not come
            drawn[-1] += f" ({late})"
        until = time.monotonic() + harness.chance.uniform(5, 20)
        while time.monotonic() < until and harness.load.progress < 0.9:
            time.sleep(0.5)
    harness.say("rows " + " ".join(drawn))
    yield


MIXED = Row(
    key="mixed", name="cheap rows at random", fault=mixed,
    is_cheap=False, ranks=True, ends_emitter=True, patience_seconds=900,
)  # fmt: skip

# For `make test`: soon healed, on a stack that others use and that stays as it was.
BRIEF = (1.0, 2.0)
QUICK: tuple[Row, ...] = (
    Row(
        key="2",
        name="emitter terminated under load",
        fault=emitter_terminated,
        ends_emitter=True,
    ),
    Row(key="5", name="broker killed", fault=broker_killed),
    Row(key="8", name="daemon killed", fault=daemon_killed),
    Row(key="10", name="code server killed", fault=code_server_killed),
    Row(key="11", name="run worker killed", fault=worker_killed),
    Row(key="14", name="sqlite of Dagster locked", fault=sqlite_locked, hold=BRIEF),
    Row(key="15", name="Elasticsearch frozen", fault=elasticsearch_frozen, hold=BRIEF),
    Row(key="18", name="index blocked", fault=index_blocked, hold=BRIEF),
    Row(key="19", name="messages that no index takes", fault=crafted_messages),
    Row(key="21", name="queries killed", fault=queries_killed),
    Row(key="22", name="MySQL table locked", fault=mysql_locked, hold=BRIEF),
    Row(key="23", name="Redis emptied", fault=redis_emptied, hold=BRIEF),
    Row(key="27", name="consumer group deleted", fault=group_deleted),
)
QUICK_ON_CLUSTER = Row(
    key="39",
    name="a broker, a worker and a run killed",
    fault=broker_worker_and_run_killed,
    on_cluster=True,
)
