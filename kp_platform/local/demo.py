"""`kp demo`: real requests to the emitter, each followed until its enriched document is searchable.

Belongs here: sending, watching, checking and showing. Does not belong here: starting servers
(`local/`). It only uses what any visitor or reader could use, so it proves the whole way.
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
from kp_platform.operations.reference_data import REFERENCE_VALUES, seed
from kp_platform.settings import Settings

WAIT_SECONDS = 180.0
"""From the last request until all are searchable; a first run compiles Trino's joins: 40 s."""
_POLL_SECONDS = 0.1
_SHOWN = ("redis_key", "redis_value", "test_id", "test_name", "uri", "uuid")


@dataclass(frozen=True, slots=True)
class Seen:
    """A document and when it was first found by a search, in seconds since the epoch."""

    document: Mapping[str, Any]
    at: float


@dataclass(frozen=True, slots=True)
class Followed:
    """What a demo measured. `latency_seconds` has of each stage the 50th and 95th percentile."""

    requests: int
    documents: int
    lag: int
    latency_seconds: dict[str, dict[str, float]]


def run(settings: Settings, requests: int, console: Console) -> Followed:
    """Returns when every request is one correct document and the lag is 0.

    Raises ServerDown, and StackError when a document is missing, doubled or wrong.
    """
    mysql, redis = MySQLAdapter(Settings()), RedisAdapter(Settings())
    seed(mysql, redis, KafkaAdapter(Settings()).publish_changes)
    marker = f"/?page={secrets.token_hex(4)}-"  # a key whose values are announced
    uris = [f"{marker}{number}" for number in range(requests)]
    console.print(f"sending {requests} requests to {settings.emitter_url}")
    with ThreadPoolExecutor(1) as sender:
        sending = sender.submit(_send, settings.emitter_url, uris, console)
        seen = _watch(marker, uris, sending, console)
        sent = sending.result()
    check(list(seen.values()), uris, redis.values(list(REFERENCE_VALUES)), mysql.ids())
    _tell_the_way(list(seen.values()), settings, console)
    lag = _await_no_lag()
    followed = Followed(requests, len(seen), lag, latencies(sent, seen))
    _show_documents(list(seen.values())[:5], console)
    _show_latencies(followed.latency_seconds, console)
    console.print(f"{requests} requests, {len(seen)} documents, each its own; lag {lag}")
    return followed


def _send(emitter_url: str, uris: Sequence[str], console: Console) -> dict[str, float]:
    """The time of each request, in seconds since the epoch."""
    sent, waited = {}, []
    try:
        with httpx.Client(base_url=emitter_url, timeout=10, trust_env=False) as visitor:
            for uri in uris:
                sent[uri] = time.time()
                visitor.get(uri).raise_for_status()
                waited.append(time.time() - sent[uri])
    except httpx.HTTPError as error:
        raise ServerDown("emitter", emitter_url, "KP_EMITTER_URL", error) from error
    median = percentile(waited, 0.5) * 1_000
    _tell(console, "web emitter", f"answered each after {median:.1f} ms, none waited for Kafka")
    return sent


def _watch(
    marker: str, uris: Sequence[str], sending: Future[dict[str, float]], console: Console
) -> dict[str, Seen]:
    """Searches until all are found, and notes when each was found first."""
    seen: dict[str, Seen] = {}
    deadline = time.monotonic() + WAIT_SECONDS
    with console.status("waiting for the documents") as progress:
        while len(seen) < len(uris):
            if sending.done():
                sending.result()  # a request that failed ends the demo now
            documents, now = _search(marker, len(uris)), time.time()
            for document in documents:
                seen.setdefault(document["uri"], Seen(document, now))
            progress.update(f"{len(seen)} of {len(uris)} documents are searchable")
            if time.monotonic() > deadline:
                raise StackError(
                    f"only {len(seen)} of {len(uris)} events were searchable after "
                    f"{WAIT_SECONDS:.0f} s: see `kp lag`, `kp status` and the runs in Dagster"
                )
            time.sleep(_POLL_SECONDS)
    twice = Counter(document["uri"] for document in _search(marker, len(uris)))
    if doubled := [uri for uri, count in twice.items() if count > 1]:
        raise StackError(f"{len(doubled)} events are indexed twice, e.g. {doubled[0]}")
    return seen


def _search(marker: str, expected: int) -> list[dict[str, Any]]:
    from elasticsearch import ApiError, TransportError

    elasticsearch = ElasticsearchAdapter(Settings())
    try:
        answer = elasticsearch.client().search(
            index=ACCESS_LOG.index,
            query={"prefix": {"uri": marker}},
            size=min(2 * expected, 10_000),
            ignore_unavailable=True,
        )
    except (ApiError, TransportError) as error:
        if isinstance(error, ApiError) and error.status_code == 503:
            return []  # the first document has just opened the day's index
        address = elasticsearch.address
        raise ServerDown("Elasticsearch", address, "KP_ELASTICSEARCH_URL", error) from error
    return [hit["_source"] for hit in answer["hits"]["hits"]]


def _tell_the_way(seen: Sequence[Seen], settings: Settings, console: Console) -> None:
    """Through which partitions and runs the documents came."""
    documents = [each.document for each in seen]
    partitions = Counter(document["partition"] for document in documents)
    held = ", ".join(f"{number} in {partition}" for partition, number in sorted(partitions.items()))
    _tell(console, "Kafka", f"has them on {ACCESS_LOG.topic}, by partition: {held}")
    for run_id in dict.fromkeys(document["run_id"] for document in documents):
        _tell(console, "Dagster", f"took them in run {settings.dagster_url}/runs/{run_id}")
    _tell(console, "Trino", "joined each with the MySQL row and the Redis value of its name")
    _tell(console, "Elasticsearch", f"has a document for each in {ACCESS_LOG.index}")


def _tell(console: Console, part: str, what: str) -> None:
    console.print(f"  {part:<14} {what}", soft_wrap=True)


def check(
    seen: Sequence[Seen],
    uris: Sequence[str],
    redis_values: Mapping[str, str],
    mysql_ids: Mapping[str, int],
) -> None:
    """Every document carries its own uri and the reference data of its own name.

    Raises StackError that names the first that does not.
    """
    if Counter(each.document["uri"] for each in seen) != Counter(uris):
        raise StackError("the documents' uris are not the ones that were requested")
    for each in seen:
        document, name = each.document, each.document["name"]
        expected = {
            "redis_key": name,
            "redis_value": redis_values.get(name),
            "test_name": name,
            "test_id": mysql_ids.get(name),
        }
        found = {field: document.get(field) for field in expected}
        if found != expected or None in expected.values():
            raise StackError(f"document {document['uuid']} holds {found}, expected {expected}")


def _await_no_lag() -> int:
    """Positions follow the documents by one request to Elasticsearch. Returns the lag, which is 0;
    raises StackError when it does not become so."""
    deadline = time.monotonic() + 15
    while True:
        rows = partition_lags(
            ACCESS_LOG, KafkaAdapter(Settings()), ElasticsearchAdapter(Settings())
        )
        behind = sum(row.lag for row in rows)
        if behind == 0:
            return behind
        if time.monotonic() > deadline:
            raise StackError(f"all events are searchable, but the lag is {behind}: see `kp lag`")
        time.sleep(0.2)


def latencies(sent: Mapping[str, float], seen: Mapping[str, Seen]) -> dict[str, dict[str, float]]:
    """The 50th and 95th percentile of each stage as `p50` and `p95`, in seconds."""
    stages: dict[str, list[float]] = {
        "request -> event": [],
        "event -> indexed": [],
        "indexed -> searchable": [],
        "total": [],
    }
    for uri, begun in sent.items():
        document, found = seen[uri].document, seen[uri].at
        made, indexed = _epoch(document["@timestamp"]), _epoch(document["indexed_at"])
        steps = (made - begun, indexed - made, found - indexed, found - begun)
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


def _show_documents(seen: Sequence[Seen], console: Console) -> None:
    table = Table(box=None, title="five of the documents", title_justify="left")
    for field in _SHOWN:
        table.add_column(field, overflow="fold")  # on a narrow terminal nothing is cut off
    for each in seen:
        table.add_row(*(str(each.document[field]) for field in _SHOWN))
    console.print(table)


def _show_latencies(stages: Mapping[str, Mapping[str, float]], console: Console) -> None:
    table = Table("stage", "p50 s", "p95 s", box=None, title="latency", title_justify="left")
    for name, seconds in stages.items():
        table.add_row(name, f"{seconds['p50']:.3f}", f"{seconds['p95']:.3f}")
    console.print(table)
