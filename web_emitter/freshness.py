"""How fresh the logs are: the newest access, how many wait in Kafka, which run is at it.

Belongs here: reading positions, beats and the topic's ends, and what follows from them. Does not
belong here: moving positions and beating (the platform does), how it looks (`pages.py`).
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from confluent_kafka import IsolationLevel, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from starlette.concurrency import run_in_threadpool

from web_emitter.search import NEWEST_FIRST, ask
from web_emitter.settings import ACCESS_LOG_INDEX, ACCESS_LOG_TOPIC

if TYPE_CHECKING:
    from elasticsearch import AsyncElasticsearch

FLOW = "access_log"
POSITIONS_INDEX, LEASES_INDEX = "kp.positions", "kp.leases"
# A run says every five seconds that it works.
SILENT_SECONDS = 30.0
# A page waits for Kafka this long, and while it is down not again for a while.
_ANSWER_SECONDS = 0.5
_PAUSE_SECONDS = 10.0
_MOST_POSITIONS = 10_000


class Ends(NamedTuple):
    """A topic: its id, and of each partition the first offset and the one after the last."""

    topic_id: str
    partitions: Mapping[int, tuple[int, int]]


class Topic(Protocol):
    """What is asked of Kafka. None: it does not answer."""

    def ends(self) -> Ends | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Freshness:
    """`lag` counts the accesses that are in Kafka and not indexed, None while Kafka does not
    answer. `run_id` is the latest run that worked on the access log, `beat_at` its last sign."""

    now: datetime
    newest: datetime | None = None
    lag: int | None = None
    run_id: str | None = None
    beat_at: datetime | None = None

    @property
    def run_is_alive(self) -> bool:
        return (
            self.beat_at is not None and (self.now - self.beat_at).total_seconds() < SILENT_SECONDS
        )


class FreshnessSearch(Protocol):
    """Raises SearchUnavailable."""

    async def now(self) -> Freshness: ...


class KafkaTopic:
    """Topic on Kafka's admin client, which connects on the first question."""

    def __init__(self, bootstrap_servers: str) -> None:
        self._address = bootstrap_servers
        self._admin: AdminClient | None = None
        self._ask_again_at = float("-inf")

    def ends(self) -> Ends | None:
        if monotonic() < self._ask_again_at:
            return None
        try:
            return self._ends()
        except KafkaException:
            self._ask_again_at = monotonic() + _PAUSE_SECONDS
            return None

    def _ends(self) -> Ends:
        if self._admin is None:
            self._admin = AdminClient({"bootstrap.servers": self._address, "log_level": 0})
        topics = self._admin.describe_topics(
            TopicCollection([ACCESS_LOG_TOPIC]), request_timeout=_ANSWER_SECONDS
        )
        described = topics[ACCESS_LOG_TOPIC].result()
        partitions = [partition.id for partition in described.partitions]
        lows = self._offsets(partitions, OffsetSpec.earliest())
        highs = self._offsets(partitions, OffsetSpec.latest())
        return Ends(
            str(described.topic_id), {part: (lows[part], highs[part]) for part in partitions}
        )

    def _offsets(self, partitions: list[int], spec: OffsetSpec) -> dict[int, int]:
        assert self._admin is not None
        futures = self._admin.list_offsets(
            {TopicPartition(ACCESS_LOG_TOPIC, part): spec for part in partitions},
            isolation_level=IsolationLevel.READ_COMMITTED,
            request_timeout=_ANSWER_SECONDS,
        )
        return {part.partition: future.result().offset for part, future in futures.items()}


class ElasticsearchFreshness:
    """FreshnessSearch on an Elasticsearch client and a topic."""

    def __init__(self, client: "AsyncElasticsearch", topic: Topic) -> None:
        self._client = client
        self._topic = topic

    async def now(self) -> Freshness:
        state, newest, ends = await asyncio.gather(
            self._state(), self._newest(), run_in_threadpool(self._topic.ends)
        )
        positions = {
            each["partition"]: each["position"]
            for each in state
            if ends and each.get("topic_id") == ends.topic_id
        }
        lease: Mapping[str, Any] = next((each for each in state if "holder" in each), {})
        beat_at = lease.get("beat_at")
        return Freshness(
            now=datetime.now(UTC),
            newest=newest,
            lag=None if ends is None else lag(ends, positions),
            run_id=lease.get("holder"),
            beat_at=datetime.fromisoformat(beat_at) if beat_at else None,
        )

    async def _state(self) -> list[Mapping[str, Any]]:
        """The positions of the flow, and its lease."""
        answer = await ask(
            self._client,
            f"{POSITIONS_INDEX},{LEASES_INDEX}",
            query={
                "bool": {"should": [{"term": {"flow": FLOW}}, {"ids": {"values": [FLOW]}}]},
            },
            size=_MOST_POSITIONS,
        )
        return [hit["_source"] for hit in answer["hits"]["hits"]]

    async def _newest(self) -> datetime | None:
        answer = await ask(
            self._client, ACCESS_LOG_INDEX, sort=NEWEST_FIRST, size=1, track_total_hits=False
        )
        hits = answer["hits"]["hits"]
        return datetime.fromisoformat(hits[0]["_source"]["@timestamp"]) if hits else None


def lag(ends: Ends, positions: Mapping[int, int]) -> int:
    """How many offsets of a topic lie behind the positions, as `kp lag` counts them."""
    return sum(
        max(0, high - max(low, positions.get(part, low)))
        for part, (low, high) in ends.partitions.items()
    )
