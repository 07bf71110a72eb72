"""The Prometheus metrics of the emitter: delivery ledgers, spools and requests of one worker.

Belongs here: names and help texts of the metrics. Does not belong here: counting, which each module
does, and serving them over HTTP, which the application does.

With several workers a scrape reaches one of them; the label `worker` is its process id.
"""

import os
import time
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from web_emitter.emitter.middleware import AccessPublisher
from web_emitter.emitter.producer import Sink

Values = Iterable[tuple[tuple[str, ...], float]]


class EmitterCollector(Collector):
    """The ledgers, spools and request counters of one worker; `sinks` by topic."""

    def __init__(self, sinks: Mapping[str, Sink], publisher: AccessPublisher) -> None:
        self._sinks = sinks
        self._publisher = publisher
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
        yield self._counter(
            "events_accepted", "Events accepted for delivery.", ["topic"], each("accepted")
        )
        yield self._counter(
            "events_acked", "Events acknowledged by Kafka.", ["topic"], each("acked")
        )
        yield self._counter(
            "events_recovered",
            "Accepted events that an earlier process left in the spool.",
            ["topic"],
            each("recovered"),
        )
        yield self._counter("events_dropped", "Events lost.", ["topic", "reason"], dropped)
        yield self._gauge(
            "events_in_flight",
            "Events in memory that are not acknowledged.",
            ["topic"],
            each("in_flight"),
        )
        yield self._gauge(
            "events_spooled",
            "Events on disk that will be produced again.",
            ["topic"],
            each("spooled"),
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
        yield self._gauge("spool_bytes", "Size of the spool on disk in bytes.", ["topic"], size)
        yield self._gauge(
            "spool_age_seconds", "Age of the oldest segment of the spool.", ["topic"], age
        )
        yield self._counter(
            "spool_damaged_bytes",
            "Bytes of damaged records that a crash left in the spool.",
            ["topic"],
            damaged,
        )

    def _requests(self) -> Iterator[Metric]:
        publisher = self._publisher
        anonymous = [((reason,), number) for reason, number in publisher.identity.anonymous.items()]
        yield self._counter(
            "requests_rejected", "Requests answered with 503.", [], [((), publisher.rejected)]
        )
        yield self._counter(
            "sink_failures",
            "Events for which the sink raised an exception.",
            [],
            [((), publisher.sink_failures)],
        )
        yield self._counter(
            "anonymous",
            "Accesses for which the identify hook returned no valid name.",
            ["reason"],
            anonymous,
        )
        yield self._counter(
            "redacted_values", "Redacted parts of URIs.", [], [((), publisher.redaction.count)]
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


def registry_of(sinks: Mapping[str, Sink], publisher: AccessPublisher) -> CollectorRegistry:
    """A registry with the collector of this worker."""
    registry = CollectorRegistry()
    registry.register(EmitterCollector(sinks, publisher))
    return registry
