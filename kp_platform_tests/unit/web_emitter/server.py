"""A real emitter process, and raw requests to it that no HTTP client would send.

Belongs here: starting, querying and stopping `python -m web_emitter`, and a broker for it. Does not
belong here: assertions.
"""

import os
import re
import signal
import socket
import subprocess
import sys
from ast import literal_eval
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import orjson
from confluent_kafka import Consumer, Producer, TopicPartition

from kp_platform.local.http import http_client
from kp_platform_tests.stack import ROOT

NO_BROKER = "127.0.0.1:1"
DEADLINE_SECONDS = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(slots=True)
class EmitterProcess:
    """One server; `log` is its log file."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @classmethod
    def start(cls, folder: Path, **variables: str) -> "EmitterProcess":
        """Returns when the server responds. Its spool is below the folder."""
        port = free_port()
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("KP_")},
            "PYTHONPATH": str(ROOT),
            "KP_HOME": str(folder),
            "KP_EMITTER_URL": f"http://127.0.0.1:{port}",
            "KP_KAFKA_BOOTSTRAP_SERVERS": NO_BROKER,
            "KP_ELASTICSEARCH_URL": "http://127.0.0.1:1",
            "KP_EMITTER_FLUSH_SECONDS": "0.5",
            **variables,
        }
        log = folder / f"{port}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "web_emitter"],
                cwd=folder,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        emitter = cls(process, port, log)
        emitter.wait_until(emitter.answers)
        return emitter

    def answers(self) -> bool:
        try:
            return self.get("/livez").status_code == 200
        except httpx.TransportError:
            return False

    def get(self, path: str) -> httpx.Response:
        with http_client(f"http://127.0.0.1:{self.port}", 30) as client:
            return client.get(path)

    def events(self) -> dict[str, Any]:
        """The counts of the access events."""
        counts: dict[str, Any] = self.get("/readyz").json()["events"]
        return counts

    def wait_until(self, reached: Callable[[], object]) -> None:
        deadline = monotonic() + DEADLINE_SECONDS
        while not reached():
            if self.process.poll() is not None or monotonic() > deadline:
                raise AssertionError(self.log.read_text())
            sleep(0.05)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def raw(self, request: bytes) -> bytes:
        """The complete response to a request, which must have `Connection: close`."""
        with self.connect() as connection:
            connection.sendall(request)
            chunks = []
            while chunk := connection.recv(65_536):
                chunks.append(chunk)
            return b"".join(chunks)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """The exit status."""
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_SECONDS)

    def kill(self) -> None:
        """Kill the server and its workers."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(DEADLINE_SECONDS)

    def last_counts(self) -> list[dict[str, Any]]:
        """The counts that the access producer of each worker logged when it closed."""
        lines = re.findall(r"producer of analyze.action closed in .*?: (.*)", self.log.read_text())
        return [literal_eval(line) for line in lines]


def spooled_events(folder: Path) -> list[dict[str, Any]]:
    """The bodies of the access events on disk, read without the code of the spool."""
    found = []
    for path in sorted(folder.glob("emitter/spool/analyze.action/*/*.segment")):
        data = path.read_bytes()
        while len(data) >= 8 and len(data) >= 8 + int.from_bytes(data[:4]):
            end = 8 + int.from_bytes(data[:4])
            found.append(orjson.loads(orjson.loads(data[8:end])[2].encode("latin-1")))
            data = data[end:]
    return found


class MockBroker:
    """librdkafka's mock broker in this process, on a real port, with an optional delay."""

    def __init__(self, answer_milliseconds: int = 0) -> None:
        self._host = Producer(
            {
                "test.mock.num.brokers": 1,
                "test.mock.broker.rtt": answer_milliseconds,
                "bootstrap.servers": "none",
            }
        )
        (broker,) = self._host.list_topics(timeout=10).brokers.values()
        self.address = f"{broker.host}:{broker.port}"

    def bodies(self, topic: str, count: int) -> list[dict[str, Any]]:
        """The values of a topic from its beginning, at least `count` if they arrive in time."""
        consumer = Consumer({"bootstrap.servers": self.address, "group.id": "test"})
        partitions = self._host.list_topics(topic, timeout=10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        found: list[dict[str, Any]] = []
        deadline = monotonic() + DEADLINE_SECONDS
        while len(found) < count and monotonic() < deadline:
            message = consumer.poll(1)
            if message is not None and message.error() is None:
                found.append(orjson.loads(message.value() or b""))
        consumer.close()
        return found

    def close(self) -> None:
        self._host.close()


def uris(events: Iterable[Mapping[str, Any]]) -> list[str]:
    return [event["uri"] for event in events]
