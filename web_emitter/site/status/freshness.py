"""The freshness of the logs: the newest access, the lag in Kafka, the latest run of each flow.

Belongs here: reading positions, heartbeats and watermarks, and computing lag. Does not belong here:
writing positions and heartbeats (the platform does), presentation (`templates/freshness.html`,
`metrics.py`).
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from confluent_kafka import (
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec
from starlette.concurrency import run_in_threadpool

from web_emitter.contract import (
    ACCESS_LOG_FLOW,
    ACCESS_LOG_INDEX,
    ACCESS_LOG_TOPIC,
    HEARTBEATS_INDEX,
    POSITIONS_INDEX,
    STALLED_SECONDS,
    HeartbeatDocument,
    PositionDocument,
    flow_of_heartbeat,
)
from web_emitter.site.search import NEWEST_FIRST, run_search

if TYPE_CHECKING:
    from elasticsearch import AsyncElasticsearch

# The timeout of a page's request to Kafka, and the pause after one has failed.
_TIMEOUT_SECONDS = 0.5
_PAUSE_SECONDS = 10.0
_MAX_DOCUMENTS = 10_000


class TopicWatermarks(NamedTuple):
    """The id of a topic, and the low and high watermark of each partition."""

    topic_id: str
    partitions: Mapping[int, tuple[int, int]]


class Topics(Protocol):
    """Reads the watermarks of the existing topics. None: Kafka does not answer."""

    def watermarks(self, topics: Collection[str]) -> Mapping[str, TopicWatermarks] | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """`[low, high)` are the offsets that Kafka retains; those from `position` on are not indexed. A
    position outside of the range is ignored."""

    number: int
    low: int
    high: int
    position: int

    @property
    def lag(self) -> int:
        is_within = self.low <= self.position <= self.high
        return self.high - (self.position if is_within else self.low)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowState:
    """The progress of a flow. `partitions` is None while Kafka does not answer; `run_id` is the run
    that sent the latest heartbeat, at `heartbeat_at`."""

    flow: str
    topic: str
    partitions: tuple[Partition, ...] | None = None
    run_id: str | None = None
    heartbeat_at: datetime | None = None

    @property
    def lag(self) -> int | None:
        """Events in Kafka that are not indexed, counted as by `kp lag`."""
        return None if self.partitions is None else sum(each.lag for each in self.partitions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Freshness:
    """The time of the newest access, and the state of each flow, the access log first."""

    now: datetime
    newest: datetime | None = None
    flows: tuple[FlowState, ...] = (FlowState(flow=ACCESS_LOG_FLOW, topic=ACCESS_LOG_TOPIC),)

    @property
    def access_log(self) -> FlowState:
        return self.flows[0]

    @property
    def run_is_alive(self) -> bool:
        """Whether a run of the access log sent a heartbeat recently."""
        sent_at = self.access_log.heartbeat_at
        return sent_at is not None and (self.now - sent_at).total_seconds() < STALLED_SECONDS


class FreshnessSearch(Protocol):
    """Raises SearchUnavailable."""

    async def now(self) -> Freshness: ...


class KafkaTopics:
    """Topics on Kafka's admin client, which connects on the first request. `security` has
    librdkafka's options for TLS and a user."""

    def __init__(
        self,
        bootstrap_servers: str,
        security: Mapping[str, str] | None = None,
        *,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._options = {"bootstrap.servers": bootstrap_servers, **(security or {})}
        self._admin: AdminClient | None = None
        self._clock = clock
        self._retry_at = float("-inf")

    def watermarks(self, topics: Collection[str]) -> Mapping[str, TopicWatermarks] | None:
        if self._clock() < self._retry_at:
            return None
        try:
            return self._watermarks(topics)
        except KafkaException:
            self._retry_at = self._clock() + _PAUSE_SECONDS
            # After a broker was killed, a client may never find the controller (seen with
            # librdkafka 2.16).
            self._admin = None
            return None

    def _watermarks(self, topics: Collection[str]) -> dict[str, TopicWatermarks]:
        # The local reference keeps the client alive when another thread replaces it: the futures
        # of a garbage-collected client never complete.
        admin = self._admin = self._admin or AdminClient({**self._options, "log_level": 0})
        described = _described(
            admin.describe_topics(TopicCollection(list(topics)), request_timeout=_TIMEOUT_SECONDS)
        )
        partitions = [(topic.name, each.id) for topic in described for each in topic.partitions]
        lows = _offsets(admin, partitions, OffsetSpec.earliest())
        highs = _offsets(admin, partitions, OffsetSpec.latest())
        return {
            topic.name: TopicWatermarks(
                str(topic.topic_id),
                {
                    each.id: (lows[topic.name, each.id], highs[topic.name, each.id])
                    for each in topic.partitions
                },
            )
            for topic in described
        }


def _offsets(
    admin: AdminClient, partitions: list[tuple[str, int]], spec: OffsetSpec
) -> dict[tuple[str, int], int]:
    if not partitions:
        return {}
    futures = admin.list_offsets(
        {TopicPartition(*partition): spec for partition in partitions},
        isolation_level=IsolationLevel.READ_COMMITTED,
        request_timeout=_TIMEOUT_SECONDS,
    )
    return {
        (each.topic, each.partition): future.result().offset for each, future in futures.items()
    }


def _described(futures: Mapping[str, Any]) -> list[Any]:
    """The existing topics. Raises KafkaException."""
    described = []
    for future in futures.values():
        try:
            described.append(future.result())
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise
    return described


class _Heartbeat(NamedTuple):
    run_id: str
    sent_at: datetime


class ElasticsearchFreshness:
    """FreshnessSearch on an Elasticsearch client and Kafka."""

    def __init__(self, client: "AsyncElasticsearch", topics: Topics) -> None:
        self._client = client
        self._topics = topics

    async def now(self) -> Freshness:
        (positions, heartbeats), newest = await asyncio.gather(self._state(), self._newest())
        topics = {ACCESS_LOG_FLOW: ACCESS_LOG_TOPIC} | {
            each["flow"]: each["topic"] for each in positions
        }
        watermarks = await run_in_threadpool(self._topics.watermarks, set(topics.values()))
        return Freshness(
            now=datetime.now(UTC),
            newest=newest,
            flows=tuple(
                _flow_state(flow, topic, positions, heartbeats.get(flow), watermarks)
                for flow, topic in topics.items()
            ),
        )

    async def _state(self) -> tuple[list[PositionDocument], dict[str, _Heartbeat]]:
        """All positions, and the latest heartbeat of each flow."""
        result = await run_search(
            self._client, f"{POSITIONS_INDEX},{HEARTBEATS_INDEX}", size=_MAX_DOCUMENTS
        )
        hits = result["hits"]["hits"]
        positions = [hit["_source"] for hit in hits if "topic_id" in hit["_source"]]
        heartbeats = [
            (flow_of_heartbeat(hit["_id"]), hit["_source"])
            for hit in hits
            if "run_id" in hit["_source"]
        ]
        return positions, _latest(heartbeats)

    async def _newest(self) -> datetime | None:
        result = await run_search(
            self._client, ACCESS_LOG_INDEX, sort=NEWEST_FIRST, size=1, track_total_hits=False
        )
        hits = result["hits"]["hits"]
        return datetime.fromisoformat(hits[0]["_source"]["@timestamp"]) if hits else None


def _latest(heartbeats: Sequence[tuple[str, HeartbeatDocument]]) -> dict[str, _Heartbeat]:
    """By flow; of a flow, each run with another assignment has a heartbeat."""
    latest: dict[str, _Heartbeat] = {}
    for flow, document in heartbeats:
        sent_at = datetime.fromisoformat(document["sent_at"])
        known = latest.get(flow)
        if known is None or sent_at >= known.sent_at:
            latest[flow] = _Heartbeat(document["run_id"], sent_at)
    return latest


def _flow_state(
    flow: str,
    topic: str,
    positions: Sequence[PositionDocument],
    heartbeat: _Heartbeat | None,
    watermarks: Mapping[str, TopicWatermarks] | None,
) -> FlowState:
    return FlowState(
        flow=flow,
        topic=topic,
        partitions=None if watermarks is None else _partitions(watermarks.get(topic), positions),
        run_id=heartbeat.run_id if heartbeat else None,
        heartbeat_at=heartbeat.sent_at if heartbeat else None,
    )


def _partitions(
    watermarks: TopicWatermarks | None, positions: Sequence[PositionDocument]
) -> tuple[Partition, ...]:
    """The partitions of a topic; positions of a deleted topic of that name are ignored."""
    if watermarks is None:
        return ()
    by_partition = {
        each["partition"]: each["position"]
        for each in positions
        if each["topic_id"] == watermarks.topic_id
    }
    return tuple(
        Partition(number=number, low=low, high=high, position=by_partition.get(number, low))
        for number, (low, high) in sorted(watermarks.partitions.items())
    )
