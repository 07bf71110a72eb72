"""Numbers for Prometheus: the book of this worker, and how far the pipeline is.

Belongs here: names and help texts of the metrics, `/metrics` and `/metrics/indexer`. Does not
belong here: counting, which each part does itself.

With several workers a question reaches one of them: the label `worker`, its process id, says whose
book it is. The pipeline's numbers are the same at each; they stand apart because they are asked of
Elasticsearch and Kafka, and the book must be there when these are not.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from web_emitter.emitter.middleware import AccessPublisher
from web_emitter.emitter.producer import Sink
from web_emitter.site.freshness import Freshness, Partition
from web_emitter.site.search import SearchUnavailable

Values = Iterable[tuple[tuple[str, ...], float]]


class EmitterCollector(Collector):
    """Reads the counts when it is asked; `sinks` by topic."""

    def __init__(self, sinks: Mapping[str, Sink], announcer: AccessPublisher) -> None:
        self._sinks = sinks
        self._announcer = announcer
        self._worker = str(os.getpid())

    def collect(self) -> Iterator[Metric]:
        """accepted = acked + in_flight + spooled + the sum of dropped, for each topic."""
        yield from self._events()
        yield from self._spools()
        yield from self._requests()

    def _events(self) -> Iterator[Metric]:
        counts = {topic: sink.counts() for topic, sink in self._sinks.items()}

        def each(column: str) -> Values:
            return [((topic,), getattr(count, column)) for topic, count in counts.items()]

        dropped = [
            ((topic, reason), number)
            for topic, count in counts.items()
            for reason, number in count.dropped.items()
        ]
        yield self._counter("events_accepted", "Events taken.", ["topic"], each("accepted"))
        yield self._counter("events_acked", "Events that Kafka has.", ["topic"], each("acked"))
        yield self._counter(
            "events_recovered",
            "Of the accepted, those that an earlier process left on disk.",
            ["topic"],
            each("recovered"),
        )
        yield self._counter("events_dropped", "Events lost.", ["topic", "reason"], dropped)
        yield self._gauge(
            "events_in_flight", "Events in memory, on their way.", ["topic"], each("in_flight")
        )
        yield self._gauge(
            "events_spooled", "Events on disk, to be sent again.", ["topic"], each("spooled")
        )

    def _spools(self) -> Iterator[Metric]:
        spools = {topic: sink.spool() for topic, sink in self._sinks.items()}
        now = time.time()
        size = [((topic,), spool.size) for topic, spool in spools.items()]
        age = [
            ((topic,), 0 if spool.since is None else max(0.0, now - spool.since))
            for topic, spool in spools.items()
        ]
        damaged = [((topic,), spool.damaged_bytes) for topic, spool in spools.items()]
        yield self._gauge("spool_bytes", "Bytes of the spool on disk.", ["topic"], size)
        yield self._gauge("spool_age_seconds", "Age of its oldest segment.", ["topic"], age)
        yield self._counter(
            "spool_damaged_bytes", "Bytes a crash left that are no event.", ["topic"], damaged
        )

    def _requests(self) -> Iterator[Metric]:
        announcer = self._announcer
        anonymous = [((reason,), number) for reason, number in announcer.identity.anonymous.items()]
        yield self._counter(
            "requests_rejected", "Requests answered with 503.", [], [((), announcer.rejected)]
        )
        yield self._counter(
            "sink_failures", "Events not taken by a defect.", [], [((), announcer.sink_failures)]
        )
        yield self._counter(
            "anonymous", "Visitors that identify could not name.", ["reason"], anonymous
        )
        yield self._counter(
            "redacted_values", "Parts taken out of uris.", [], [((), announcer.redaction.count)]
        )

    def _counter(self, name: str, text: str, labels: list[str], values: Values) -> Metric:
        labels = [*labels, "worker"]
        return self._with(CounterMetricFamily(f"kp_emitter_{name}", text, None, labels), values)

    def _gauge(self, name: str, text: str, labels: list[str], values: Values) -> Metric:
        labels = [*labels, "worker"]
        return self._with(GaugeMetricFamily(f"kp_emitter_{name}", text, None, labels), values)

    def _with(self, metric: CounterMetricFamily | GaugeMetricFamily, values: Values) -> Metric:
        for labels, value in values:
            metric.add_metric([*labels, self._worker], value)
        return metric


def registry_of(sinks: Mapping[str, Sink], announcer: AccessPublisher) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(EmitterCollector(sinks, announcer))
    return registry


class PipelineCollector(Collector):
    """What is known of the pipeline at one moment; None: Elasticsearch, which has it, is away."""

    def __init__(self, freshness: Freshness | None) -> None:
        self._freshness = freshness

    def collect(self) -> Iterator[Metric]:
        """rate(position) is the throughput, lag = high - position for each partition."""
        known = self._freshness
        answers = {
            "elasticsearch": known is not None,
            "kafka": known is not None and known.access_log.partitions is not None,
        }
        yield _pipeline("up", "Whether it answers.", ["server"], _values(answers))
        flows = known.flows if known else ()
        partitions = [
            ((flow.flow, flow.topic, str(part.number)), part)
            for flow in flows
            for part in flow.partitions or ()
        ]
        for name, text, read in _OF_PARTITION:
            values = [(labels, read(part)) for labels, part in partitions]
            yield _pipeline(name, text, ["flow", "topic", "partition"], values)
        newest = known.newest if known else None
        yield _pipeline(
            "newest_event_timestamp_seconds",
            "When the newest access that can be searched happened.",
            [],
            [] if newest is None else [((), newest.timestamp())],
        )
        beats = {flow.flow: flow.beat_at.timestamp() for flow in flows if flow.beat_at}
        yield _pipeline(
            "beat_timestamp_seconds",
            "When a run that works at the flow said so last.",
            ["flow"],
            _values(beats),
        )


_OF_PARTITION: tuple[tuple[str, str, Callable[[Partition], float]], ...] = (
    ("position", "The next offset to index.", lambda part: part.position),
    ("high_watermark", "The offset that the next message gets.", lambda part: part.high),
    ("lag", "Events in Kafka that are not indexed.", lambda part: part.lag),
)


def _values(numbers: Mapping[str, float]) -> Values:
    return [((label,), number) for label, number in numbers.items()]


def _pipeline(name: str, text: str, labels: list[str], values: Values) -> Metric:
    metric = GaugeMetricFamily(f"kp_indexer_{name}", text, None, labels)
    for names, value in values:
        metric.add_metric(names, value)
    return metric


async def metrics(request: Request) -> Response:
    return _text(request.state.registry)


async def indexer_metrics(request: Request) -> Response:
    try:
        known: Freshness | None = await request.state.freshness()
    except SearchUnavailable:
        known = None
    registry = CollectorRegistry()
    registry.register(PipelineCollector(known))
    return _text(registry)


def _text(registry: CollectorRegistry) -> Response:
    return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
