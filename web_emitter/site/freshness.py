"""How fresh the logs are: the newest access, how many wait in Kafka, which run is at it; for the
page and for Prometheus.

Belongs here: reading positions, beats and the topic's ends, and what follows from them. Does not
belong here: moving positions and beating (the platform does), how it looks (`pages.py`,
`metrics.py`).
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
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

from web_emitter.emitter.settings import ACCESS_LOG_INDEX, ACCESS_LOG_TOPIC, Option
from web_emitter.site.search import NEWEST_FIRST, ask

if TYPE_CHECKING:
    from elasticsearch import AsyncElasticsearch

ACCESS_LOG = "access_log"
POSITIONS_INDEX, HEARTBEATS_INDEX = "kp.positions", "kp.heartbeats"
# A run says every five seconds that it works.
STALLED_SECONDS = 30.0
# A page waits for Kafka this long, and while it is down not again for a while.
_ANSWER_SECONDS = 0.5
_PAUSE_SECONDS = 10.0
_MOST_POSITIONS = 10_000


class Ends(NamedTuple):
    """A topic: its id, and of each partition the first offset and the one after the last."""

    topic_id: str
    partitions: Mapping[int, tuple[int, int]]


class Topics(Protocol):
    """What is asked of Kafka: the ends of those topics that there are. None: it does not answer."""

    def ends(self, topics: Collection[str]) -> Mapping[str, Ends] | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """`[low, high)` are the offsets that Kafka holds; those from `position` on are not indexed. One
    that lies outside says nothing of them."""

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
    """How far a flow is. `partitions` is None while Kafka does not answer; `run_id` is the latest
    run that worked at it, `beat_at` its last sign."""

    flow: str
    topic: str
    partitions: tuple[Partition, ...] | None = None
    run_id: str | None = None
    beat_at: datetime | None = None

    @property
    def lag(self) -> int | None:
        """Events in Kafka that are not indexed, as `kp lag` counts them."""
        return None if self.partitions is None else sum(each.lag for each in self.partitions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Freshness:
    """The time of the newest access, and how far each flow is, the access log first."""

    now: datetime
    newest: datetime | None = None
    flows: tuple[FlowState, ...] = (FlowState(flow=ACCESS_LOG, topic=ACCESS_LOG_TOPIC),)

    @property
    def access_log(self) -> FlowState:
        return self.flows[0]

    @property
    def run_is_alive(self) -> bool:
        """Whether a run is at work on the access log."""
        beat_at = self.access_log.beat_at
        return beat_at is not None and (self.now - beat_at).total_seconds() < STALLED_SECONDS


class FreshnessSearch(Protocol):
    """Raises SearchUnavailable."""

    async def now(self) -> Freshness: ...


class KafkaTopics:
    """Topics on Kafka's admin client, which connects on the first question. `security` are
    librdkafka's options for TLS and a user."""

    def __init__(
        self, bootstrap_servers: str, security: Mapping[str, Option] | None = None
    ) -> None:
        self._options = {"bootstrap.servers": bootstrap_servers, **(security or {})}
        self._admin: AdminClient | None = None
        self._ask_again_at = float("-inf")

    def ends(self, topics: Collection[str]) -> Mapping[str, Ends] | None:
        if monotonic() < self._ask_again_at:
            return None
        try:
            return self._ends(topics)
        except KafkaException:
            self._ask_again_at = monotonic() + _PAUSE_SECONDS
            # Once a broker was killed, a client may never find the controller again [ran].
            self._admin = None
            return None

    def _ends(self, topics: Collection[str]) -> dict[str, Ends]:
        # Kept here too, for another thread may replace it: when it is collected, its futures never
        # complete.
        admin = self._admin = self._admin or AdminClient({**self._options, "log_level": 0})
        described = _described(
            admin.describe_topics(TopicCollection(list(topics)), request_timeout=_ANSWER_SECONDS)
        )
        places = [(topic.name, part.id) for topic in described for part in topic.partitions]
        lows = _offsets(admin, places, OffsetSpec.earliest())
        highs = _offsets(admin, places, OffsetSpec.latest())
        return {
            topic.name: Ends(
                str(topic.topic_id),
                {
                    part.id: (lows[topic.name, part.id], highs[topic.name, part.id])
                    for part in topic.partitions
                },
            )
            for topic in described
        }


def _offsets(
    admin: AdminClient, places: list[tuple[str, int]], spec: OffsetSpec
) -> dict[tuple[str, int], int]:
    if not places:
        return {}
    futures = admin.list_offsets(
        {TopicPartition(*place): spec for place in places},
        isolation_level=IsolationLevel.READ_COMMITTED,
        request_timeout=_ANSWER_SECONDS,
    )
    return {
        (part.topic, part.partition): future.result().offset for part, future in futures.items()
    }


def _described(futures: Mapping[str, Any]) -> list[Any]:
    """The topics that there are. Raises KafkaException."""
    found = []
    for future in futures.values():
        try:
            found.append(future.result())
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise
    return found


class ElasticsearchFreshness:
    """FreshnessSearch on an Elasticsearch client and Kafka."""

    def __init__(self, client: "AsyncElasticsearch", topics: Topics) -> None:
        self._client = client
        self._topics = topics

    async def now(self) -> Freshness:
        (positions, leases), newest = await asyncio.gather(self._state(), self._newest())
        topics = {ACCESS_LOG: ACCESS_LOG_TOPIC} | {
            each["flow"]: each["topic"] for each in positions
        }
        ends = await run_in_threadpool(self._topics.ends, set(topics.values()))
        return Freshness(
            now=datetime.now(UTC),
            newest=newest,
            flows=tuple(
                FlowState(
                    flow=flow,
                    topic=topic,
                    partitions=None if ends is None else _partitions(ends.get(topic), positions),
                    **leases.get(flow, {}),
                )
                for flow, topic in topics.items()
            ),
        )

    async def _state(self) -> tuple[list[Mapping[str, Any]], dict[str, dict[str, Any]]]:
        """The positions, and of each work that a run does who is at it since when."""
        answer = await ask(
            self._client, f"{POSITIONS_INDEX},{HEARTBEATS_INDEX}", size=_MOST_POSITIONS
        )
        positions: list[Mapping[str, Any]] = []
        leases: dict[str, dict[str, Any]] = {}
        for hit in answer["hits"]["hits"]:
            source = hit["_source"]
            if "topic_id" in source:
                positions.append(source)
            elif "run_id" in source:
                beat_at = datetime.fromisoformat(source["beat_at"])
                # Runs that take some partitions each, `access_log:0-5`: the latest beat counts.
                flow = hit["_id"].partition(":")[0]
                if flow not in leases or beat_at > leases[flow]["beat_at"]:
                    leases[flow] = {"run_id": source["run_id"], "beat_at": beat_at}
        return positions, leases

    async def _newest(self) -> datetime | None:
        answer = await ask(
            self._client, ACCESS_LOG_INDEX, sort=NEWEST_FIRST, size=1, track_total_hits=False
        )
        hits = answer["hits"]["hits"]
        return datetime.fromisoformat(hits[0]["_source"]["@timestamp"]) if hits else None


def _partitions(ends: Ends | None, positions: Sequence[Mapping[str, Any]]) -> tuple[Partition, ...]:
    """The partitions of a topic; positions of a topic that was made again count no more."""
    if ends is None:
        return ()
    held = {
        each["partition"]: each["position"]
        for each in positions
        if each["topic_id"] == ends.topic_id
    }
    return tuple(
        Partition(number=part, low=low, high=high, position=held.get(part, low))
        for part, (low, high) in sorted(ends.partitions.items())
    )
