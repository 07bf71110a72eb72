"""`kp demo`: send requests to the emitter and wait until their documents are searchable.

Belongs here: requests, polling, verification and output. Does not belong here: starting services
(`stack.py`). It uses only interfaces of visitors and readers, so it verifies the whole path.
"""

import math
import secrets
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.adapters.errors import ServerDown
from kp_platform.adapters.kafka import KafkaAdapter
from kp_platform.adapters.mysql import MySQLAdapter
from kp_platform.adapters.redis import RedisAdapter
from kp_platform.engine.lag import partition_lags
from kp_platform.flows.builtin import ACCESS_LOG
from kp_platform.local.errors import StackError
from kp_platform.local.http import http_client
from kp_platform.local.settings import LocalSettings
from kp_platform.operations.reference_data import REFERENCE_VALUES, seed

WAIT_SECONDS = 180.0
"""From the last request until all are searchable; a first run compiles Trino's joins: 40 s."""
_POLL_SECONDS = 0.1
_SHOWN = ("redis_key", "redis_value", "test_id", "test_name", "uri", "uuid")


@dataclass(frozen=True, slots=True)
class Found:
    """A document and when a search returned it first, in seconds since the epoch."""

    document: Mapping[str, Any]
    at: float


@dataclass(frozen=True, slots=True)
class DemoReport:
    """The measurements of a demo. `latency_seconds` has the p50 and p95 of each stage."""

    requests: int
    documents: int
    lag: int
    latency_seconds: dict[str, dict[str, float]]


def run(settings: LocalSettings, requests: int, console: Console) -> DemoReport:
    """Return when every request has exactly one correct document and the lag is 0.

    Raises ServerDown, and StackError when a document is missing, duplicate or wrong.
    """
    mysql, redis = MySQLAdapter(settings), RedisAdapter(settings)
    elasticsearch = ElasticsearchAdapter(settings)
    seed(mysql, redis, KafkaAdapter(settings).publish_changes)
    marker = f"/?page={secrets.token_hex(4)}-"  # a parameter that is not redacted
    uris = [f"{marker}{number}" for number in range(requests)]
    console.print(f"sending {requests} requests to {settings.emitter_url}")
    with ThreadPoolExecutor(1) as executor:
        sending = executor.submit(_send, settings.emitter_url, uris, console)
        found = _wait_for_documents(elasticsearch, marker, uris, sending, console)
        sent = sending.result()
    documents = list(found.values())
    check(documents, uris, redis.values(list(REFERENCE_VALUES)), mysql.ids())
    _print_path(documents, settings, console)
    lag = _wait_for_no_lag(KafkaAdapter(settings), elasticsearch)
    report = DemoReport(requests, len(found), lag, latencies(sent, found))
    _print_documents(documents[:5], console)
    _print_latencies(report.latency_seconds, console)
    console.print(f"{requests} requests, {len(found)} documents, all correct; lag {lag}")
    return report


def _send(emitter_url: str, uris: Sequence[str], console: Console) -> dict[str, float]:
    """The time of each request, in seconds since the epoch."""
    sent, durations = {}, []
    try:
        with http_client(emitter_url, 10) as client:
            for uri in uris:
                sent[uri] = time.time()
                client.get(uri).raise_for_status()
                durations.append(time.time() - sent[uri])
    except httpx.HTTPError as error:
        raise ServerDown("emitter", emitter_url, "KP_EMITTER_URL", error) from error
    median = percentile(durations, 0.5) * 1_000
    _print_step(console, "web emitter", f"response time {median:.1f} ms (p50), without Kafka")
    return sent


def _wait_for_documents(
    elasticsearch: ElasticsearchAdapter,
    marker: str,
    uris: Sequence[str],
    sending: Future[dict[str, float]],
    console: Console,
) -> dict[str, Found]:
    """Search until every uri has a document; returns when each was found first. Raises StackError
    after the deadline, or for duplicates."""
    found: dict[str, Found] = {}
    deadline = time.monotonic() + WAIT_SECONDS
    with console.status("waiting for the documents") as progress:
        while len(found) < len(uris):
            if sending.done():
                sending.result()  # a failed request ends the demo at once
            documents, now = _search(elasticsearch, marker, len(uris)), time.time()
            for document in documents:
                found.setdefault(document["uri"], Found(document, now))
            progress.update(f"{len(found)} of {len(uris)} documents are searchable")
            if time.monotonic() > deadline:
                raise StackError(
                    f"only {len(found)} of {len(uris)} events were searchable after "
                    f"{WAIT_SECONDS:.0f} s: see `kp lag`, `kp status` and the runs in Dagster"
                )
            time.sleep(_POLL_SECONDS)
    counts = Counter(document["uri"] for document in _search(elasticsearch, marker, len(uris)))
    if duplicates := [uri for uri, count in counts.items() if count > 1]:
        raise StackError(f"{len(duplicates)} events are indexed twice, e.g. {duplicates[0]}")
    return found


def _search(
    elasticsearch: ElasticsearchAdapter, marker: str, expected: int
) -> list[dict[str, Any]]:
    """The documents whose uri starts with the marker."""
    from elasticsearch import ApiError, TransportError

    try:
        answer = elasticsearch.client().search(
            index=ACCESS_LOG.index,
            query={"prefix": {"uri": marker}},
            size=min(2 * expected, 10_000),
            ignore_unavailable=True,
        )
    except (ApiError, TransportError) as error:
        if isinstance(error, ApiError) and error.status_code == 503:
            return []  # the first document has just created the day's index
        address = elasticsearch.address
        raise ServerDown("Elasticsearch", address, "KP_ELASTICSEARCH_URL", error) from error
    return [hit["_source"] for hit in answer["hits"]["hits"]]


def _print_path(found: Sequence[Found], settings: LocalSettings, console: Console) -> None:
    """The partitions and runs that processed the documents."""
    documents = [each.document for each in found]
    partitions = Counter(document["partition"] for document in documents)
    counts = ", ".join(f"{partition}: {count}" for partition, count in sorted(partitions.items()))
    _print_step(console, "Kafka", f"{ACCESS_LOG.topic}, events by partition: {counts}")
    for run_id in dict.fromkeys(document["run_id"] for document in documents):
        _print_step(console, "Dagster", f"indexed in run {settings.dagster_url}/runs/{run_id}")
    _print_step(console, "Trino", "joined each name with its MySQL row and its Redis value")
    _print_step(console, "Elasticsearch", f"one document per request in {ACCESS_LOG.index}")


def _print_step(console: Console, server: str, text: str) -> None:
    console.print(f"  {server:<14} {text}", soft_wrap=True)


def check(
    found: Sequence[Found],
    uris: Sequence[str],
    redis_values: Mapping[str, str],
    mysql_ids: Mapping[str, int],
) -> None:
    """Every document has its own uri and the reference data of its own name.

    Raises StackError that names the first that does not.
    """
    if Counter(each.document["uri"] for each in found) != Counter(uris):
        raise StackError("the documents' uris are not the requested ones")
    for each in found:
        document, name = each.document, each.document["name"]
        expected = {
            "redis_key": name,
            "redis_value": redis_values.get(name),
            "test_name": name,
            "test_id": mysql_ids.get(name),
        }
        actual = {field: document.get(field) for field in expected}
        if actual != expected or None in expected.values():
            raise StackError(f"document {document['uuid']} has {actual}, expected {expected}")


def _wait_for_no_lag(kafka: KafkaAdapter, elasticsearch: ElasticsearchAdapter) -> int:
    """Positions are stored one request after the documents. Returns the lag, which is 0; raises
    StackError when it is not 0 after 15 s."""
    deadline = time.monotonic() + 15
    while True:
        lag = sum(row.lag for row in partition_lags(ACCESS_LOG, kafka, elasticsearch))
        if lag == 0:
            return lag
        if time.monotonic() > deadline:
            raise StackError(f"all events are searchable, but the lag is {lag}: see `kp lag`")
        time.sleep(0.2)


def latencies(sent: Mapping[str, float], found: Mapping[str, Found]) -> dict[str, dict[str, float]]:
    """The 50th and 95th percentile of each stage as `p50` and `p95`, in seconds."""
    stages: dict[str, list[float]] = {
        "request -> event": [],
        "event -> indexed": [],
        "indexed -> searchable": [],
        "total": [],
    }
    for uri, requested in sent.items():
        document, searchable = found[uri].document, found[uri].at
        created, indexed = _epoch(document["@timestamp"]), _epoch(document["indexed_at"])
        steps = (
            created - requested, indexed - created, searchable - indexed, searchable - requested
        )  # fmt: skip
        for seconds, step in zip(stages.values(), steps, strict=True):
            seconds.append(max(0.0, step))  # Kafka's timestamps are whole milliseconds
    shares = {"p50": 0.50, "p95": 0.95}
    return {
        stage: {name: percentile(seconds, share) for name, share in shares.items()}
        for stage, seconds in stages.items()
    }


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _epoch(iso: str) -> float:
    return datetime.fromisoformat(iso).timestamp()


def _print_documents(found: Sequence[Found], console: Console) -> None:
    table = Table(box=None, title="five of the documents", title_justify="left")
    for field in _SHOWN:
        table.add_column(field, overflow="fold")  # nothing is cut off on a narrow terminal
    for each in found:
        table.add_row(*(str(each.document[field]) for field in _SHOWN))
    console.print(table)


def _print_latencies(stages: Mapping[str, Mapping[str, float]], console: Console) -> None:
    table = Table("stage", "p50 s", "p95 s", box=None, title="latency", title_justify="left")
    for name, seconds in stages.items():
        table.add_row(name, f"{seconds['p50']:.3f}", f"{seconds['p95']:.3f}")
    console.print(table)
