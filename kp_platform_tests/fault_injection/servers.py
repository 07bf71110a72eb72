"""The addresses of the servers, and plain clients that share no code with the platform.

Belongs here: addresses, and the requests that load and oracle need. Does not belong here:
interpreting responses (`oracle.py`), breaking servers (`harness.py`).
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
import pymysql
import redis
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

PAGE = 10_000
# librdkafka logs many times a second that a broker is unreachable, which is expected here.
quiet_logger = logging.getLogger("kp_platform_tests.fault_injection.librdkafka")
quiet_logger.addHandler(logging.NullHandler())
quiet_logger.propagate = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """The addresses of one stack, as an application would configure them."""

    kafka: str
    elasticsearch: str
    emitter: str
    mysql_host: str
    mysql_port: int
    mysql_user: str
    mysql_password: str
    redis_url: str

    @classmethod
    def of(cls, settings: Any) -> "Servers":
        """The addresses in a stack's settings; no code of the platform is used."""
        return cls(
            kafka=settings.kafka_bootstrap_servers,
            elasticsearch=settings.elasticsearch_url,
            emitter=settings.emitter_url,
            mysql_host=settings.mysql_host,
            mysql_port=settings.mysql_port,
            mysql_user=settings.mysql_user,
            mysql_password=settings.mysql_password.get_secret_value(),
            redis_url=settings.redis_url.get_secret_value(),
        )

    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.kafka}, logger=quiet_logger)

    @contextlib.contextmanager
    def search(self) -> Iterator["Search"]:
        # To verify, each client reads all certificate authorities: 0.1 s of CPU.
        is_https = self.elasticsearch.startswith("https:")
        client = httpx.Client(
            base_url=self.elasticsearch, timeout=60, trust_env=False, verify=is_https
        )
        with client:
            yield Search(client)

    @contextlib.contextmanager
    def mysql(self) -> Iterator[Any]:
        """A cursor, its session in UTC."""
        connection = pymysql.connect(
            host=self.mysql_host,
            port=self.mysql_port,
            user=self.mysql_user,
            password=self.mysql_password,
            database="testing",
            autocommit=True,
            connect_timeout=5,
            read_timeout=30,
            init_command="SET time_zone = '+00:00'",
        )
        with contextlib.closing(connection), connection.cursor() as cursor:
            yield cursor

    @contextlib.contextmanager
    def values(self) -> Iterator["redis.Redis"]:
        client = redis.Redis.from_url(
            self.redis_url, decode_responses=True, socket_timeout=10, socket_connect_timeout=5
        )
        with contextlib.closing(client):
            yield client

    def rows(self) -> dict[str, tuple[int, str]]:
        """test_id and created_at (as in a document) by test_name."""
        with self.mysql() as cursor:
            cursor.execute("SELECT test_name, test_id, created_at FROM tests")
            found = cursor.fetchall()
        return {name: (number, f"{at:%Y-%m-%dT%H:%M:%SZ}") for name, number, at in found}

    def redis_values(self) -> dict[str, str]:
        """Every plain string key."""
        with self.values() as client:
            keys = [str(key) for key in client.scan_iter(count=1000, _type="string")]
            found: Any = client.mget(keys) if keys else []
        pairs = zip(keys, found, strict=True)
        return {key: str(value) for key, value in pairs if value is not None}

    def change_reference(self, name: str, url: str) -> None:
        """Set a name's row and value, then publish both changes, as an application does."""
        with self.mysql() as cursor:
            cursor.execute(
                "INSERT INTO tests (test_name) VALUES (%s) "
                "ON DUPLICATE KEY UPDATE created_at = CURRENT_TIMESTAMP",
                (name,),
            )
        with self.values() as client:
            client.set(name, url)
        self.publish_changes([("mysql", name), ("redis", name)])

    def publish_changes(self, changes: Sequence[tuple[str, str]]) -> None:
        """Raises ConnectionError unless the broker has acknowledged every (source, key)."""
        failures: list[object] = []
        producer = Producer(
            {"bootstrap.servers": self.kafka, "acks": "all", "message.timeout.ms": 10_000},
            logger=quiet_logger,
        )
        for source, key in changes:
            producer.produce(
                "reference.changed",
                orjson.dumps({"source": source, "key": key}),
                key.encode(),
                on_delivery=lambda error, _: failures.append(error) if error else None,
            )
        if producer.flush(15) or failures:
            raise ConnectionError(f"changes not published: {failures}")


class Search:
    """Elasticsearch by its HTTP interface. Raises httpx.HTTPError."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        content = None if body is None else orjson.dumps(body)
        headers = {"Content-Type": "application/json"} if content else {}
        answer = self._client.request(method, path, content=content, headers=headers)
        answer.raise_for_status()
        return orjson.loads(answer.content) if answer.content else None

    def scan(
        self, index: str, query: Mapping[str, Any], fields: Sequence[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Every document of an index or alias at a point in time, page by page.

        Yields nothing if the index does not exist.
        """
        options = "ignore_unavailable=true"
        self.request("POST", f"/{index}/_refresh?{options}&allow_no_indices=true")
        opened = self.request("POST", f"/{index}/_pit?keep_alive=5m&{options}")
        body: dict[str, Any] = {
            "pit": {"id": opened["id"], "keep_alive": "5m"},
            "query": query,
            "size": PAGE,
            "sort": ["_shard_doc"],
            "track_total_hits": False,
            "_source": True if fields is None else list(fields),
        }
        try:
            while hits := self.request("POST", "/_search", body)["hits"]["hits"]:
                yield from hits
                body["search_after"] = hits[-1]["sort"]
        finally:
            self.request("DELETE", "/_pit", {"id": opened["id"]})
