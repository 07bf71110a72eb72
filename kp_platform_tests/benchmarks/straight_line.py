"""A hand-written consumer without Trino and Dagster, as a baseline.

Belongs here: a confluent-kafka consumer, reference data in memory, and bulk requests. Its
guarantees are weaker than the platform's: it commits no offsets, a bad message ends it, and
reference data are read only once.

    python -m kp_platform_tests.benchmarks.straight_line SETTINGS INDEX
"""

import sys
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import orjson
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition
from elasticsearch import Elasticsearch

from kp_platform_tests.benchmarks.raw_bulk import CONNECTIONS, send
from kp_platform_tests.fault_injection.ledger import ACCESSES
from kp_platform_tests.fault_injection.servers import Servers

BATCH_MESSAGES = 5_000
IN_FLIGHT = 4
_RUN_ID = "00000000-0000-4000-8000-000000000000"


def main(settings: str, index: str) -> None:
    """Prints the seconds from the first message until all documents are searchable."""
    servers = Servers(**orjson.loads(settings))
    with Elasticsearch(servers.elasticsearch, request_timeout=60) as client:
        client.cluster.health()
        began = time.monotonic()
        count = index_topic(servers, client, index)
        client.indices.refresh(index=index)
    print(orjson.dumps({"seconds": time.monotonic() - began, "documents": count}).decode())


def index_topic(servers: Servers, client: Elasticsearch, index: str) -> int:
    rows, values = servers.rows(), servers.redis_values()
    consumer = Consumer(
        {
            "bootstrap.servers": servers.kafka,
            "group.id": "straight-line",
            "enable.auto.commit": False,
            "fetch.min.bytes": 1_000_000,
            "fetch.wait.max.ms": 50,
        }
    )
    partitions = list(consumer.list_topics(ACCESSES).topics[ACCESSES].partitions)
    consumer.assign([TopicPartition(ACCESSES, number, OFFSET_BEGINNING) for number in partitions])
    ends = [
        consumer.get_watermark_offsets(TopicPartition(ACCESSES, number))[1] for number in partitions
    ]
    count, left = 0, sum(ends)
    sending: deque[Future[bool]] = deque()
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        while count < left:
            messages = consumer.consume(BATCH_MESSAGES, timeout=1)
            if not messages:
                continue
            count += len(messages)
            sending.append(threads.submit(send, client, index, request(messages, rows, values)))
            if len(sending) > IN_FLIGHT and sending.popleft().result():
                sys.exit("a document was rejected")
    consumer.close()
    return count


def request(
    messages: Sequence[Message], rows: dict[str, tuple[int, str]], values: dict[str, str]
) -> bytes:
    now = datetime.now(UTC)
    indexed_at = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    now_ms = int(now.timestamp() * 1000)
    lines: list[bytes] = []
    for message in messages:
        event = orjson.loads(message.value() or b"")
        lines.append(b'{"create":{"_id":"%b"}}' % event["uuid"].encode())
        lines.append(orjson.dumps(document(message, event, rows, values, indexed_at, now_ms)))
    return b"\n".join(lines) + b"\n"


def document(
    message: Message,
    event: dict[str, str],
    rows: dict[str, tuple[int, str]],
    values: dict[str, str],
    indexed_at: str,
    now_ms: int,
) -> dict[str, Any]:
    name = event["name"]
    test_id, created_at = rows.get(name, (None, None))
    value = values.get(name)
    missing = [source for source, found in (("mysql", test_id), ("redis", value)) if found is None]
    _, timestamp = message.timestamp()
    at = datetime.fromtimestamp(timestamp / 1000, UTC)
    return {
        "@timestamp": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "uuid": event["uuid"],
        "uri": event["uri"],
        "name": name,
        "redis_key": None if value is None else name,
        "redis_value": value,
        "test_id": test_id,
        "test_name": None if test_id is None else name,
        "created_at": created_at,
        "partition": message.partition(),
        "offset": message.offset(),
        "topic": message.topic(),
        "indexed_at": indexed_at,
        "run_id": _RUN_ID,
        "delay_ms": now_ms - timestamp,
        "enrichment": {
            "state": ("complete", "partial", "none")[len(missing)],
            "missing": missing,
        },
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
