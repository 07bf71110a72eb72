"""The Prometheus endpoints: the emitter's metrics of this worker, and the progress of the indexer.

Belongs here: `/metrics`, and names and help texts of `/metrics/indexer`. Does not belong here: the
emitter's own metrics (`emitter/metrics.py`), computing lag (`freshness.py`).

The indexer's metrics are the same at each worker. They have a path of their own because they are
read from Elasticsearch and Kafka; the emitter's metrics are available without these.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from web_emitter.site.search import SearchUnavailable
from web_emitter.site.status.freshness import Freshness, Partition

Values = Iterable[tuple[tuple[str, ...], float]]


class IndexerCollector(Collector):
    """The freshness of the logs at one time; None: Elasticsearch is unavailable."""

    def __init__(self, freshness: Freshness | None) -> None:
        self._freshness = freshness

    def collect(self) -> Iterator[Metric]:
        """rate(position) is the throughput, lag = high - position for each partition."""
        freshness = self._freshness
        is_up = {
            "elasticsearch": freshness is not None,
            "kafka": freshness is not None and freshness.access_log.partitions is not None,
        }
        yield _gauge("up", "1 if the server answers, else 0.", ["server"], _values(is_up))
        flows = freshness.flows if freshness else ()
        partitions = [
            ((flow.flow, flow.topic, str(partition.number)), partition)
            for flow in flows
            for partition in flow.partitions or ()
        ]
        for name, text, read in _PARTITION_GAUGES:
            values = [(labels, read(partition)) for labels, partition in partitions]
            yield _gauge(name, text, ["flow", "topic", "partition"], values)
        newest = freshness.newest if freshness else None
        yield _gauge(
            "newest_event_timestamp_seconds",
            "Unix time of the newest indexed access.",
            [],
            [] if newest is None else [((), newest.timestamp())],
        )
        heartbeats = {
            flow.flow: flow.heartbeat_at.timestamp() for flow in flows if flow.heartbeat_at
        }
        yield _gauge(
            "heartbeat_timestamp_seconds",
            "Unix time of the flow's last heartbeat.",
            ["flow"],
            _values(heartbeats),
        )


_PARTITION_GAUGES: tuple[tuple[str, str, Callable[[Partition], float]], ...] = (
    ("position", "Next offset to index.", lambda partition: partition.position),
    ("high_watermark", "Offset of the next message.", lambda partition: partition.high),
    ("lag", "Events in Kafka that are not indexed.", lambda partition: partition.lag),
)


def _values(numbers: Mapping[str, float]) -> Values:
    return [((label,), number) for label, number in numbers.items()]


def _gauge(name: str, text: str, labels: list[str], values: Values) -> Metric:
    metric = GaugeMetricFamily(f"kp_indexer_{name}", text, None, labels)
    for names, value in values:
        metric.add_metric(names, value)
    return metric


async def metrics(request: Request) -> Response:
    return _text(request.state.registry)


async def indexer_metrics(request: Request) -> Response:
    try:
        freshness: Freshness | None = await request.state.freshness()
    except SearchUnavailable:
        freshness = None
    registry = CollectorRegistry()
    registry.register(IndexerCollector(freshness))
    return _text(registry)


def _text(registry: CollectorRegistry) -> Response:
    return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
