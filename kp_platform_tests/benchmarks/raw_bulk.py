"""A process that indexes documents by raw `_bulk` requests: the throughput limit of Elasticsearch.

Belongs here: two connections, each sending prepared requests one after another. Does not belong
here: preparing them (`throughput.py`).

    python -m kp_platform_tests.benchmarks.raw_bulk URL INDEX FILE
"""

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import orjson
from elasticsearch import Elasticsearch

CONNECTIONS = 2
_LENGTH = 8


def pack(path: Path, requests: Iterator[bytes]) -> None:
    """Write each request, preceded by its length in eight bytes."""
    with path.open("wb") as file:
        for request in requests:
            file.write(len(request).to_bytes(_LENGTH) + request)


def unpack(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while length := file.read(_LENGTH):
            yield file.read(int.from_bytes(length))


def main(url: str, index: str, path: str) -> None:
    """Prints the seconds from the first request until all documents are searchable."""
    requests = list(unpack(Path(path)))
    with Elasticsearch(url, request_timeout=60) as client:
        client.cluster.health()
        began = time.monotonic()
        with ThreadPoolExecutor(CONNECTIONS) as threads:
            for errors in threads.map(lambda each: send(client, index, each), requests):
                if errors:
                    sys.exit("a document was rejected")
        client.indices.refresh(index=index)
    print(orjson.dumps({"seconds": time.monotonic() - began}).decode())


def send(client: Elasticsearch, index: str, request: bytes) -> bool:
    """Return whether a document was rejected. The request names no index."""
    answer = client.perform_request(
        "POST",
        f"/{index}/_bulk?filter_path=errors",
        headers={"content-type": "application/x-ndjson", "accept": "application/json"},
        body=request,
    )
    return bool(answer["errors"])


if __name__ == "__main__":
    main(*sys.argv[1:])
