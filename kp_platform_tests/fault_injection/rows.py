"""The rows of the fault matrix: what is broken, for how long, and how it is repaired.

Belongs here: one `Row` for each fault. A fault is a context manager: entering it breaks something,
leaving it repairs it. Does not belong here: operations on processes (`harness.py`), the steps of a
trial (`trial.py`).
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

from kp_platform.local.http import http_client
from kp_platform.local.supervisor import log_file
from kp_platform_tests.fault_injection.elasticsearch_stub import ElasticsearchStub
from kp_platform_tests.fault_injection.harness import (
    DeadlineExceeded,
    FaultHarness,
    kill,
    wait_until,
)
from kp_platform_tests.fault_injection.ledger import ACCESSES, Amounts, Load
from kp_platform_tests.fault_injection.oracle import STREAMS, Oracle
from kp_platform_tests.fault_injection.proxy import Proxy

LOG_INDEX = "log.index-*"
INDEXING = "index_access_log"


@dataclass(frozen=True, slots=True)
class FaultContext:
    """What a fault acts on. `tool` is the result of the row's `setup`; `trial` counts from 0."""

    harness: FaultHarness
    oracle: Oracle
    load: Load
    chance: random.Random
    trial: int | None = None
    tool: Any = None
    notes: list[str] = field(default_factory=list)
    kills: list[str] = field(default_factory=list)
    """Each SIGKILL of the emitter, which may lose the most recent visits."""

    def note(self, text: str) -> None:
        """Add to the notes of the trial, e.g. the chosen variant."""
        self.notes.append(text)

    def variant(self, *variants: str) -> str:
        """One of several variants of a fault: trials take turns, `mixed` chooses at random."""
        if self.trial is None:
            variant = self.chance.choice(variants)
        else:
            variant = variants[self.trial % len(variants)]
        self.note(variant)
        return variant


Fault = Callable[[FaultContext], AbstractContextManager[None]]
Setup = Callable[[FaultHarness], AbstractContextManager[Any]]


def _no_setup(_harness: FaultHarness) -> AbstractContextManager[Any]:
    return nullcontext()


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A fault. `duration` bounds its seconds; `setup` encloses all its trials.

    `moment` bounds the share of the load that is sent before the fault. `is_short`: `mixed` may
    choose it. `ranks`: the ranking is checked too. `ends_emitter`: visits may fail while the
    emitter restarts, and at no other time. `amounts`: overrides the load of the command line.
    `on_cluster`: it needs three brokers, two Trino workers and two concurrent runs of a flow.
    """

    key: str
    name: str
    fault: Fault
    duration: tuple[float, float] = (0.0, 0.0)
    moment: tuple[float, float] = (0.1, 0.6)
    setup: Setup = _no_setup
    is_short: bool = True
    ranks: bool = False
    ends_emitter: bool = False
    amounts: Amounts | None = None
    on_cluster: bool = False
    patience_seconds: float = 300.0


# The emitter and its broker


@contextmanager
def emitter_killed(context: FaultContext) -> Iterator[None]:
    context.harness.kill("emitter")
    context.kills.append("emitter")
    yield


@contextmanager
def emitter_terminated(context: FaultContext) -> Iterator[None]:
    log = log_file(context.harness.settings.home, "supervisord")
    size = log.stat().st_size
    context.harness.terminate("emitter")
    yield
    ended = "exited: emitter (exit status 0;"
    wait_until(lambda: ended in log.read_text()[size:], "the emitter exits with status 0", 30)


@contextmanager
def broker_stopped(context: FaultContext) -> Iterator[None]:
    with _visits_timed(context), context.harness.stopped("kafka"):
        yield


@contextmanager
def broker_frozen(context: FaultContext) -> Iterator[None]:
    with _visits_timed(context), context.harness.frozen("kafka"):
        yield


@contextmanager
def _visits_timed(context: FaultContext) -> Iterator[None]:
    seconds = context.load.visitor.seconds
    before = len(seconds)
    yield
    context.note(
        f"p99 of visits {_p99(seconds[:before])} ms before, "
        f"{_p99(seconds[before:])} ms during the fault"
    )


def _p99(seconds: list[float]) -> str:
    return f"{1000 * quantiles(seconds, n=100)[98]:.1f}" if len(seconds) > 1 else "?"


@contextmanager
def broker_killed(context: FaultContext) -> Iterator[None]:
    context.harness.kill("kafka")
    yield


@contextmanager
def emitter_behind_a_proxy(harness: FaultHarness) -> Iterator[Proxy]:
    """An additional listener advertises the proxy's address, so that clients stay behind it."""
    port = int(harness.servers.kafka.rpartition(":")[2])
    inner = port + 2  # free in the port block of a stack
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
def bad_link(context: FaultContext) -> Iterator[None]:
    """Delayed, cut and reset repeatedly."""
    proxy: Proxy = context.tool
    proxy.latency_seconds = context.chance.uniform(0.01, 0.1)
    proxy.cut_after = context.chance.randrange(20_000, 100_000)
    done = threading.Event()

    def reset() -> None:
        while not done.wait(context.chance.uniform(0.3, 1.5)):
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
    """A file system smaller than the spool's limit; mounting it needs root."""
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
def daemon_killed(context: FaultContext) -> Iterator[None]:
    for _ in range(context.chance.randint(1, 2)):
        before = context.harness.processes("dagster-daemon")[:1]
        context.harness.kill("dagster-daemon")
        psutil.wait_procs(before, timeout=10)
        wait_until(lambda: bool(context.harness.processes("dagster-daemon")), "the daemon runs", 60)
    yield


@contextmanager
def two_daemons(context: FaultContext) -> Iterator[None]:
    with context.harness.duplicated("dagster-daemon"):
        yield


@contextmanager
def code_server_killed(context: FaultContext) -> Iterator[None]:
    context.harness.kill("dagster-code-server")
    yield


@contextmanager
def code_server_behind_a_stub(harness: FaultHarness) -> Iterator[ElasticsearchStub]:
    with (
        ElasticsearchStub(harness.servers.elasticsearch) as stub,
        harness.rerouted("dagster-code-server", KP_ELASTICSEARCH_URL=stub.url),
    ):
        yield stub


@contextmanager
def worker_killed(context: FaultContext) -> Iterator[None]:
    """At a random point of a run."""
    kill(context.harness.await_worker(INDEXING))
    yield


@contextmanager
def worker_killed_at_a_point(context: FaultContext) -> Iterator[None]:
    """Before or after a bulk request or a position update is applied, in both cases before the run
    has the response."""
    stub: ElasticsearchStub = context.tool
    worker = context.harness.await_worker(INDEXING)
    when, text = context.variant(
        "before log.index", "after kp.positions", "after log.index", "before kp.positions"
    ).split()
    index = text.encode()
    remaining, killed = context.chance.randint(0, 2), threading.Event()

    def watch(moment: str, _path: str, body: bytes) -> None:
        nonlocal remaining
        head = body[:200]
        if killed.is_set() or moment != when or index not in head:
            return
        if index == b"kp.positions" and b"access_log" not in head:
            return
        remaining -= 1
        if remaining < 0:
            kill(worker)
            killed.set()

    stub.watch = watch
    try:
        if not killed.wait(20):
            kill(worker)  # it sent no such request
        yield
    finally:
        stub.heal()


@contextmanager
def worker_and_code_server_killed(context: FaultContext) -> Iterator[None]:
    worker = context.harness.await_worker(INDEXING)
    context.harness.kill("dagster-code-server")
    kill(worker)
    yield


@contextmanager
def dagster_home_deleted(context: FaultContext) -> Iterator[None]:
    """As an operator would, with the whole stack stopped."""
    context.harness.kp("down")
    try:
        shutil.rmtree(context.harness.settings.home / "dagster")
        yield
    finally:
        context.harness.kp("up")


@contextmanager
def sqlite_locked(context: FaultContext) -> Iterator[None]:
    """Runs and sensor ticks can be read and not written."""
    folder = context.harness.settings.home / "dagster"
    with ExitStack() as locks:
        for path in (folder / "history" / "runs.db", folder / "schedules" / "schedules.db"):
            connection = locks.enter_context(closing(sqlite3.connect(path, timeout=20)))
            connection.isolation_level = None
            connection.execute("BEGIN EXCLUSIVE")
            locks.callback(connection.execute, "ROLLBACK")
        yield


# Elasticsearch


@contextmanager
def elasticsearch_away(context: FaultContext) -> Iterator[None]:
    variants: dict[str, Fault] = {
        "stopped": lambda context: context.harness.stopped("elasticsearch"),
        "frozen": lambda context: context.harness.frozen("elasticsearch"),
    }
    with variants[context.variant(*variants)](context):
        yield


@contextmanager
def elasticsearch_frozen(context: FaultContext) -> Iterator[None]:
    with context.harness.frozen("elasticsearch"):
        yield


@contextmanager
def elasticsearch_busy(context: FaultContext) -> Iterator[None]:
    stub: ElasticsearchStub = context.tool
    before = stub.injected
    stub.reject_items = context.chance.randint(2, 7)
    stub.reject = context.chance.randint(3, 6)
    try:
        yield
    finally:
        stub.heal()
        context.note(f"{stub.injected - before} rejected")


@contextmanager
def responses_lost(context: FaultContext) -> Iterator[None]:
    stub: ElasticsearchStub = context.tool
    before = stub.injected
    stub.drop_responses = context.chance.randint(2, 4)
    try:
        yield
    finally:
        stub.heal()
        context.note(f"{stub.injected - before} responses lost")


@contextmanager
def index_blocked(context: FaultContext) -> Iterator[None]:
    block = context.variant("write", "read_only", "read_only_allow_delete")
    with _blocked(context, LOG_INDEX, block):
        yield


@contextmanager
def _blocked(context: FaultContext, index: str, block: str) -> Iterator[None]:
    with context.harness.servers.search() as search:
        wait_until(lambda: bool(search.request("GET", f"/{index}")), f"{index} exists", 90)
        search.request("PUT", f"/{index}/_settings", {f"index.blocks.{block}": True})
        try:
            yield
        finally:
            search.request("PUT", f"/{index}/_settings", {f"index.blocks.{block}": None})


@contextmanager
def crafted_messages(context: FaultContext) -> Iterator[None]:
    context.load.write_bad(_crafted(context))
    yield


def _crafted(context: FaultContext) -> list[bytes]:
    """Unique messages, each of which becomes a dead letter."""
    key = f"{context.chance.getrandbits(64):x}"

    def identity() -> str:
        digits = f"{context.chance.getrandbits(128):032x}"
        return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))

    return [
        f"no event {key}".encode(),
        f'{{"uuid": "{key}", "uri": "/", "name": "presto"}}'.encode(),
        f'{{"uuid": "{identity()}", "uri": "/{key}/{"k" * 40_000}", "name": "kafka"}}'.encode(),
        f'{{"uuid": "{identity()}", "uri": "/{key}/{"k" * 900_000}", "name": "kafka"}}'.encode(),
        f'{{"uuid": "{identity()}", "uri": "/{key}", "name": "{"n" * 40_000}"}}'.encode(),
        f'{{"uuid": "{identity()}", "uri": 5, "name": "{key}"}}'.encode(),
        f'{{"uuid": "{identity()}", "name": "{key}"}}'.encode(),
        b'{"uuid": "%b", "uri": "/\xff", "name": "presto"}' % identity().encode(),
    ]


@contextmanager
def index_deleted(context: FaultContext) -> Iterator[None]:
    with context.harness.servers.search() as search:
        indices = search.request("GET", "/_alias/log.index")
        for name in indices:
            search.request("DELETE", f"/{name}")
    yield


@contextmanager
def dead_letters_blocked(context: FaultContext) -> Iterator[None]:
    with _blocked(context, "kp.dead", "write"):
        context.load.write_bad(_crafted(context)[:2])
        yield


# Trino and the databases behind it


@contextmanager
def trino_broken(context: FaultContext) -> Iterator[None]:
    if context.variant("server", "queries") == "server":
        context.harness.kill("trino")
        yield
    else:
        with queries_killed(context):
            yield


@contextmanager
def queries_killed(context: FaultContext) -> Iterator[None]:
    context.note(f"{_kill_queries(context)} queries killed")
    yield


def _trino(context: FaultContext) -> httpx.Client:
    url = context.harness.settings.trino_url
    client = http_client(url, 5)
    client.headers["X-Trino-User"] = "faults"
    return client


def _kill_queries(context: FaultContext, seconds: float = 4.0) -> int:
    """Kill every query of the platform that runs within `seconds`. Returns their number."""
    killed, until = 0, time.monotonic() + seconds
    with _trino(context) as client:
        while time.monotonic() < until:
            for query in client.get("/v1/query?state=RUNNING").json():
                if query["session"]["user"] == context.harness.settings.trino_user:
                    killed += client.delete(f"/v1/query/{query['queryId']}").is_success
            time.sleep(0.05)
    return killed


def trino_with_little_memory(harness: FaultHarness) -> AbstractContextManager[None]:
    """Enough memory for a slice of a few thousand accesses."""
    return harness.rerouted("trino", "-Dquery.max-memory-per-node=1MB")


@contextmanager
def memory_exceeded(context: FaultContext) -> Iterator[None]:
    """By the query of a backlog; leaving waits until one has failed."""
    before = _memory_errors(context)
    with _runs_suspended(context.harness):
        yield
    wait_until(lambda: _memory_errors(context) > before, "a query exceeds its memory limit", 120)


def _memory_errors(context: FaultContext) -> int:
    with _trino(context) as client:
        failed = client.get("/v1/query?state=FAILED").json()
    names = [query["errorCode"]["name"] for query in failed]
    return names.count("EXCEEDED_LOCAL_MEMORY_LIMIT")


@contextmanager
def mysql_away(context: FaultContext) -> Iterator[None]:
    variants: dict[str, Fault] = {
        "stopped": lambda context: context.harness.stopped("mysql"),
        "frozen": lambda context: context.harness.frozen("mysql"),
        "table locked": mysql_locked,
    }
    with variants[context.variant(*variants)](context):
        yield


@contextmanager
def mysql_locked(context: FaultContext) -> Iterator[None]:
    with context.harness.servers.mysql() as cursor:
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
def mysql_slow(context: FaultContext) -> Iterator[None]:
    """0.1 to 1 s of delay per packet; a query needs about a dozen packets."""
    proxy: Proxy = context.tool
    proxy.latency_seconds = context.chance.uniform(0.1, 1)
    try:
        yield
    finally:
        proxy.heal()


@contextmanager
def redis_away(context: FaultContext) -> Iterator[None]:
    variants: dict[str, Fault] = {"stopped": redis_stopped, "emptied": redis_emptied}
    with variants[context.variant(*variants)](context):
        yield


@contextmanager
def redis_stopped(context: FaultContext) -> Iterator[None]:
    with context.harness.stopped("redis"):
        yield


@contextmanager
def redis_emptied(context: FaultContext) -> Iterator[None]:
    """Leaving restores the values and publishes the changes, which refreshes the documents."""
    servers = context.harness.servers
    values = servers.redis_values()
    with servers.values() as client:
        client.flushdb()
        yield
        client.mset(dict(values))
    servers.publish_changes([("redis", key) for key in values])


# Kafka's topics


@contextmanager
def retention(context: FaultContext) -> Iterator[None]:
    """Delete messages that are not indexed yet, because the runs are suspended."""
    oracle = context.oracle
    with _runs_suspended(context.harness):
        yield
        offsets = oracle.topic_offsets(ACCESSES)
        positions = oracle.positions(STREAMS[0], offsets.topic_id)
        oracle.archive()
        ends = [
            TopicPartition(ACCESSES, number, (positions.get(number, low) + high) // 2)
            for number, (low, high) in offsets.watermarks.items()
        ]
        for future in oracle.admin.delete_records(ends).values():
            future.result()
        gone = sum(end.offset - positions.get(end.partition, 0) for end in ends)
        context.note(f"{gone} deleted unread")


@contextmanager
def _runs_suspended(harness: FaultHarness) -> Iterator[None]:
    """Active runs are suspended and no run is started."""
    with ExitStack() as suspended:
        wait_until(lambda: _suspend(harness, suspended), "the runs are suspended", 90)
        yield


def _suspend(harness: FaultHarness, suspended: ExitStack) -> bool:
    """If the daemon was suspended while holding a database lock, reading the runs fails: then the
    daemon is resumed, and the caller tries again."""
    with ExitStack() as attempt:
        attempt.enter_context(harness.frozen("dagster-daemon"))
        for worker in harness.workers():
            worker.suspend()
            attempt.callback(_resume, worker)
        suspended.enter_context(attempt.pop_all())
        return True


def _resume(process: psutil.Process) -> None:
    if process.is_running():
        process.resume()


@contextmanager
def topic_recreated(context: FaultContext) -> Iterator[None]:
    """When all messages are indexed: messages deleted before that cannot be indexed."""
    oracle, admin = context.oracle, context.oracle.admin
    context.load.pause()
    wait_until(lambda: not any(oracle.lag().values()), "all messages are indexed", 180)
    oracle.archive()
    partitions = len(oracle.topic_offsets(ACCESSES).watermarks)
    admin.delete_topics([ACCESSES])[ACCESSES].result()

    def created() -> bool:
        admin.create_topics([NewTopic(ACCESSES, partitions, 1)])[ACCESSES].result()
        return True

    wait_until(created, "the topic is recreated", 60)
    context.load.resume()
    yield


@contextmanager
def partitions_added(context: FaultContext) -> Iterator[None]:
    count = len(context.oracle.topic_offsets(ACCESSES).watermarks) + 2
    admin = context.oracle.admin
    admin.create_partitions([NewPartitions(ACCESSES, count)])[ACCESSES].result()
    context.note(f"to {count} partitions")
    yield


@contextmanager
def group_deleted(context: FaultContext) -> Iterator[None]:
    admin = context.oracle.admin
    admin.delete_consumer_groups([STREAMS[0].group])[STREAMS[0].group].result()
    yield


# The other flows


@contextmanager
def reference_refresh_killed(context: FaultContext) -> Iterator[None]:
    name = "laravel"
    url = context.harness.servers.redis_values()[name]
    context.harness.servers.change_reference(
        name, f"https://{context.chance.getrandbits(32):x}.example/"
    )
    kill(context.harness.await_worker("index_reference_changes"))
    yield
    context.harness.servers.change_reference(name, url)


@contextmanager
def ranking_killed(context: FaultContext) -> Iterator[None]:
    kill(context.harness.await_worker("rank_accesses"))
    yield


@contextmanager
def full_text_killed(context: FaultContext) -> Iterator[None]:
    kill(context.harness.await_worker("index_full_text"))
    yield


# A cluster


@contextmanager
def one_broker_killed(context: FaultContext) -> Iterator[None]:
    """Each broker leads partitions; one is the active controller."""
    name = context.variant("kafka", "kafka-2", "kafka-3")
    with _visits_timed(context):
        context.harness.kill(name)
        yield


@contextmanager
def trino_worker_killed(context: FaultContext) -> Iterator[None]:
    context.harness.kill(context.variant("trino-worker-1", "trino-worker-2"))
    yield


@contextmanager
def one_run_killed(context: FaultContext) -> Iterator[None]:
    """One of the two runs that index the access log."""
    workers: list[psutil.Process] = []

    def both() -> bool:
        workers[:] = context.harness.workers(INDEXING)
        return len(workers) == 2

    wait_until(both, "two runs of the access log", 120)
    kill(context.chance.choice(workers))
    yield


@contextmanager
def broker_worker_and_run_killed(context: FaultContext) -> Iterator[None]:
    """In random order, within some seconds."""
    faults = [one_broker_killed, trino_worker_killed, one_run_killed]
    context.chance.shuffle(faults)
    with ExitStack() as active:
        for fault in faults:
            active.enter_context(fault(context))
            time.sleep(context.chance.uniform(0, 5))
        yield


SHORT, LONG = (3.0, 8.0), (8.0, 20.0)

ROWS: tuple[Row, ...] = (
    Row(key="1", name="emitter worker killed", fault=emitter_killed, ends_emitter=True),
    Row(
        key="2", name="emitter terminated under load", fault=emitter_terminated, ends_emitter=True,
    ),
    Row(key="3", name="broker stopped", fault=broker_stopped, duration=LONG),
    Row(key="4", name="broker frozen", fault=broker_frozen, duration=LONG),
    Row(key="5", name="broker killed", fault=broker_killed),
    Row(
        key="6", name="slow, lossy link from emitter to broker", fault=bad_link, duration=SHORT,
        setup=emitter_behind_a_proxy, is_short=False,
    ),
    Row(
        key="7", name="emitter spool full", fault=broker_frozen, duration=LONG,
        setup=emitter_with_a_small_spool, is_short=False,
    ),
    Row(key="8", name="daemon killed", fault=daemon_killed),
    Row(key="9", name="two daemons", fault=two_daemons, duration=LONG),
    Row(key="10", name="code server killed", fault=code_server_killed),
    Row(
        key="11", name="run worker killed before and after bulk request and commit",
        fault=worker_killed_at_a_point, setup=code_server_behind_a_stub, is_short=False,
    ),
    Row(
        key="12", name="run worker and code server killed", fault=worker_and_code_server_killed,
        is_short=False, patience_seconds=600,
    ),
    Row(
        key="13", name="kp down, Dagster home deleted, kp up", fault=dagster_home_deleted,
        is_short=False, ends_emitter=True,
    ),
    Row(key="14", name="Dagster's SQLite files locked", fault=sqlite_locked, duration=LONG),
    Row(key="15", name="Elasticsearch stopped or frozen", fault=elasticsearch_away, duration=LONG),
    Row(
        key="16", name="429 for some items of a bulk request, and 503", fault=elasticsearch_busy,
        duration=LONG, setup=code_server_behind_a_stub, is_short=False,
    ),
    Row(
        key="17", name="response lost after the bulk request was applied", fault=responses_lost,
        duration=LONG, setup=code_server_behind_a_stub, is_short=False,
    ),
    Row(key="18", name="index blocked", fault=index_blocked, duration=SHORT),
    Row(key="19", name="messages that cannot be indexed", fault=crafted_messages),
    Row(
        key="20", name="index deleted", fault=index_deleted, is_short=False,
    ),
    Row(key="21", name="Trino or its queries killed", fault=trino_broken, is_short=False),
    Row(key="22", name="MySQL stopped, frozen or locked", fault=mysql_away, duration=SHORT),
    Row(key="23", name="Redis stopped or emptied", fault=redis_away, duration=SHORT),
    Row(
        key="24", name="retention deletes unread messages", fault=retention,
        duration=SHORT, is_short=False,
    ),
    Row(
        key="25", name="topic deleted and recreated", fault=topic_recreated, is_short=False,
    ),
    Row(
        key="26", name="partitions added", fault=partitions_added, is_short=False,
    ),
    Row(key="27", name="consumer group deleted", fault=group_deleted),
    Row(
        key="28", name="dead-letter index not writable", fault=dead_letters_blocked,
        duration=SHORT,
    ),
    Row(key="29", name="reference refresh run killed", fault=reference_refresh_killed),
    Row(key="30", name="ranking run killed", fault=ranking_killed, ranks=True),
    Row(key="31", name="full-text run killed", fault=full_text_killed),
    Row(
        key="32", name="broker stopped for two minutes at 200 requests/s",
        fault=broker_stopped, duration=(120, 120), moment=(0.15, 0.15), is_short=False,
        amounts=Amounts(accesses=2_000, visits=36_000, notes=100, seconds=180),
    ),
    Row(
        key="33", name="disk of the emitter spool full", fault=broker_frozen, duration=LONG,
        setup=emitter_with_a_small_disk, is_short=False,
    ),
    Row(
        key="34", name="slow link from Trino to MySQL", fault=mysql_slow, duration=LONG,
        setup=trino_behind_a_proxy, is_short=False,
    ),
    Row(
        key="35", name="backlog query over Trino's memory limit", fault=memory_exceeded,
        duration=LONG, setup=trino_with_little_memory, is_short=False,
    ),
    Row(
        key="36", name="cluster: one of three brokers killed", fault=one_broker_killed,
        duration=LONG, is_short=False, on_cluster=True,
    ),
    Row(
        key="37", name="cluster: one of two Trino workers killed", fault=trino_worker_killed,
        is_short=False, on_cluster=True,
    ),
    Row(
        key="38", name="cluster: one of two runs killed", fault=one_run_killed,
        is_short=False, on_cluster=True,
    ),
    Row(
        key="39", name="cluster: a broker, a worker and a run killed",
        fault=broker_worker_and_run_killed, duration=SHORT, is_short=False, on_cluster=True,
    ),
)  # fmt: skip


@contextmanager
def mixed(context: FaultContext) -> Iterator[None]:
    """Short rows in random order, as long as the load lasts."""
    chosen = []
    while context.load.progress < 0.9:
        row = context.chance.choice([each for each in ROWS if each.is_short])
        chosen.append(row.key)
        try:
            with row.fault(replace(context, trial=None)):
                time.sleep(context.chance.uniform(*row.duration))
        except DeadlineExceeded as late:  # e.g. no run to kill was started
            chosen[-1] += f" ({late})"
        until = time.monotonic() + context.chance.uniform(5, 20)
        while time.monotonic() < until and context.load.progress < 0.9:
            time.sleep(0.5)
    context.note("rows " + " ".join(chosen))
    yield


MIXED = Row(
    key="mixed", name="short rows in random order", fault=mixed,
    is_short=False, ranks=True, ends_emitter=True, patience_seconds=900,
)  # fmt: skip

# For `make test`: short faults that leave a shared stack as it was.
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
    Row(key="14", name="Dagster's SQLite files locked", fault=sqlite_locked, duration=BRIEF),
    Row(key="15", name="Elasticsearch frozen", fault=elasticsearch_frozen, duration=BRIEF),
    Row(key="18", name="index blocked", fault=index_blocked, duration=BRIEF),
    Row(key="19", name="messages that cannot be indexed", fault=crafted_messages),
    Row(key="21", name="queries killed", fault=queries_killed),
    Row(key="22", name="MySQL table locked", fault=mysql_locked, duration=BRIEF),
    Row(key="23", name="Redis emptied", fault=redis_emptied, duration=BRIEF),
    Row(key="27", name="consumer group deleted", fault=group_deleted),
)
QUICK_ON_CLUSTER = Row(
    key="39",
    name="a broker, a worker and a run killed",
    fault=broker_worker_and_run_killed,
    on_cluster=True,
)
