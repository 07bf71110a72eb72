"""Sizing: the resources that a rate of accesses needs, from the figures of the benchmarks.

Belongs here: the figures and the arithmetic. Does not belong here: printing (`cli/`) and measuring
(`docs/performance.md`; a test compares the figures with it).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from rich.filesize import decimal

# CPU-seconds of 1,000 accesses from the topic to searchable documents, B1.
RUN_CPU, KAFKA_CPU, TRINO_CPU, ELASTICSEARCH_CPU = 0.0078, 0.0008, 0.0081, 0.0282
# Accesses a second that one run indexed, with both cores of the machine busy, B1.
RUN_RATE = 43_058
# Cores that Trino uses for a run that is caught up, one small slice after another, B5.
CAUGHT_UP_TRINO_CORES = 1.103
# Peak memory of a run's process, B9.
RUN_BYTES = 239_000_000
# The benchmark's short events and their documents on disk, without replicas, B9.
EVENT_BYTES, DOCUMENT_BYTES = 108, 358

# The share of a core that a program should use at the peak: the rest is for merges, garbage
# collection and other programs.
BUSY = 0.6
# A partition for each core that reads, and some for growth.
PARTITIONS_PER_RUN = 6
# Elastic recommends shards of 10 to 50 GB for logs.
SHARD_BYTES = 30_000_000_000
KAFKA_REPLICAS, DOCUMENT_COPIES = 3, 2
# Trino reserves 400 MB for each query, keeps 300 MB free, and needs this much itself.
TRINO_QUERY_BYTES, TRINO_OWN_BYTES = 400_000_000, 1_100_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The load to size for. `peak` and `average` are accesses a second. The capacity is `catch_up`
    times the peak, so that a backlog shrinks. `cores` are those of one machine."""

    peak: float
    average: float
    catch_up: float = 2.0
    cores: int = 4
    keep_days: int = 30
    topic_days: int = 7

    @property
    def rate(self) -> float:
        """The accesses a second to provide capacity for."""
        return self.peak * self.catch_up

    @property
    def daily(self) -> float:
        return self.average * 86_400


@dataclass(frozen=True, slots=True)
class Need:
    """The amount of a resource, and what it was computed from."""

    resource: str
    amount: str
    basis: str


def needs(load: Load) -> Iterator[Need]:
    """The resources for a load, in the order of the data flow."""
    runs = ceil(load.rate / RUN_RATE)
    yield Need(
        "runs of the flow",
        f"{runs}",
        f"one indexed {RUN_RATE:,}/s; {load.rate:,.0f}/s are {load.catch_up:g} times the peak",
    )
    yield Need(
        "partitions of the topic", f"{runs * PARTITIONS_PER_RUN}", f"{PARTITIONS_PER_RUN} a run"
    )
    yield Need(
        "KP_PARTITIONS_PER_RUN",
        f"{PARTITIONS_PER_RUN if runs > 1 else 0}",
        "partitions that a run consumes; 0: all",
    )
    yield Need(
        "cores of the runs",
        _number(load.rate * RUN_CPU / 1_000 / BUSY),
        f"{RUN_CPU:g} CPU-seconds for 1,000 accesses, {BUSY:.0%} busy",
    )
    yield Need("memory of the runs", _bytes(runs * RUN_BYTES), f"{_bytes(RUN_BYTES)} each, at most")
    yield from _trino(load, runs)
    yield from _elasticsearch(load)
    yield Need(
        "cores of Kafka",
        _number(load.rate * KAFKA_CPU / 1_000 / BUSY),
        f"{KAFKA_CPU:g} CPU-seconds for 1,000 accesses read, without writing",
    )
    yield Need(
        "disk of Kafka",
        _bytes(load.daily * EVENT_BYTES * load.topic_days * KAFKA_REPLICAS),
        f"{load.topic_days} days of {_bytes(load.daily * EVENT_BYTES)}, {KAFKA_REPLICAS} replicas",
    )


def _trino(load: Load, runs: int) -> Iterator[Need]:
    caught_up, backlog = runs * CAUGHT_UP_TRINO_CORES, load.rate * TRINO_CPU / 1_000
    cores = max(caught_up, backlog) / BUSY
    yield Need(
        "cores of Trino's workers",
        _number(cores),
        f"{caught_up:.1f} for small slices one after another, {backlog:.1f} for large ones",
    )
    yield Need("workers of Trino", f"{ceil(cores / load.cores)}", f"of {load.cores} cores")
    yield Need(
        "heap of a Trino worker",
        _bytes(TRINO_OWN_BYTES + runs * TRINO_QUERY_BYTES),
        f"{_bytes(TRINO_QUERY_BYTES)} for the query of each run",
    )


def _elasticsearch(load: Load) -> Iterator[Need]:
    cores = DOCUMENT_COPIES * load.rate * ELASTICSEARCH_CPU / 1_000 / BUSY
    nodes = max(DOCUMENT_COPIES, ceil(cores / load.cores))
    day = load.daily * DOCUMENT_BYTES
    yield Need(
        "cores of Elasticsearch",
        _number(cores),
        f"{ELASTICSEARCH_CPU:g} CPU-seconds for 1,000 documents, {DOCUMENT_COPIES} copies",
    )
    yield Need("nodes of Elasticsearch", f"{nodes}", f"of {load.cores} cores, one for each copy")
    yield Need(
        "primary shards of a day",
        f"{max(ceil(day / SHARD_BYTES), ceil(nodes / DOCUMENT_COPIES))}",
        f"{_bytes(day)} a day in shards of {_bytes(SHARD_BYTES)}; all nodes write",
    )
    yield Need(
        "disk of Elasticsearch",
        _bytes(day * load.keep_days * DOCUMENT_COPIES),
        f"{load.keep_days} days of {_bytes(day)}, {DOCUMENT_COPIES} copies",
    )


def _number(cores: float) -> str:
    return f"{max(cores, 0.1):.1f}"


def _bytes(count: float) -> str:
    return decimal(round(count))
