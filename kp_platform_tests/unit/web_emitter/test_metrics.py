"""`/metrics` in the text format with the numbers of the ledger, and `/metrics/indexer`."""

import logging
import os
from datetime import UTC, datetime

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from kp_platform_tests.unit.web_emitter.fakes import FakeFreshness, FakeSink
from web_emitter.emitter.identity import Identity
from web_emitter.emitter.ledger import Counts
from web_emitter.emitter.metrics import registry_of
from web_emitter.emitter.middleware import AccessPublisher
from web_emitter.emitter.redaction import Redaction
from web_emitter.emitter.spool import Status
from web_emitter.site.status.freshness import FlowState, Freshness, Partition

LOGGER = logging.getLogger("test.metrics")


class CountingSink(FakeSink):
    """A sink with fixed counts."""

    def counts(self) -> Counts:
        return Counts(
            accepted=15,
            acked=7,
            in_flight=2,
            spooled=3,
            dropped={"spool_full": 2, "closed": 1},
            recovered=4,
        )

    def spool(self) -> Status:
        return Status(size=900, since=0.0, damaged_bytes=5)


def samples(text: str) -> dict[tuple[str, str], float]:
    """By name and the label that is not `worker` or `topic`."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            assert sample.labels.pop("worker") == str(os.getpid())
            sample.labels.pop("topic", None)
            found[sample.name, "".join(sample.labels.values())] = sample.value
    return found


def test_every_number_of_the_ledger_is_a_metric() -> None:
    publisher = AccessPublisher(Identity(lambda scope: "", LOGGER), Redaction(), LOGGER)
    publisher.publish("/?token=x", {"state": {"sink": FakeSink()}})
    publisher.publish("/", {})
    publisher.rejected = 6
    registry = registry_of({"analyze.action": CountingSink()}, publisher)

    def value(name: str, **labels: str) -> float | None:
        labels["worker"] = str(os.getpid())
        return registry.get_sample_value(f"kp_emitter_{name}", labels)

    def of_topic(name: str, **labels: str) -> float | None:
        return value(name, topic="analyze.action", **labels)

    assert of_topic("events_accepted_total") == 15
    assert of_topic("events_acked_total") == 7
    assert of_topic("events_in_flight") == 2
    assert of_topic("events_spooled") == 3
    assert of_topic("events_dropped_total", reason="spool_full") == 2
    assert of_topic("events_dropped_total", reason="closed") == 1
    assert of_topic("events_recovered_total") == 4
    assert of_topic("spool_bytes") == 900
    assert of_topic("spool_damaged_bytes_total") == 5
    assert (of_topic("spool_age_seconds") or 0) > 1_000_000_000  # since 1970
    assert value("requests_rejected_total") == 6
    assert value("sink_failures_total") == 1
    assert value("anonymous_total", reason="empty") == 2
    assert value("redacted_values_total") == 1


def test_the_metrics_are_in_the_text_format_and_not_cached(client: TestClient) -> None:
    client.get("/")
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert answer.headers["cache-control"] == "no-store"
    found = samples(answer.text)
    assert found["kp_emitter_redacted_values_total", ""] == 0
    assert not [name for name, _ in found if name.startswith(("python_", "process_"))]


@pytest.mark.parametrize("topic", ["analyze.action", "fulltext.register"])
def test_each_topic_has_its_own_numbers(client: TestClient, topic: str) -> None:
    client.get("/hello")
    expected = 1 if topic == "analyze.action" else 0
    line = f'kp_emitter_events_accepted_total{{topic="{topic}",worker="{os.getpid()}"}} {expected}'
    assert line in client.get("/metrics").text


def indexer(client: TestClient) -> dict[tuple[str, ...], float]:
    """By name and the values of the labels, in the order of their names."""
    answer = client.get("/metrics/indexer")
    assert answer.status_code == 200
    return {
        (
            sample.name.removeprefix("kp_indexer_"),
            *(text for _, text in sorted(sample.labels.items())),
        ): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_the_progress_of_each_flow_is_a_metric(
    client: TestClient, freshness: FakeFreshness
) -> None:
    moment = datetime(2026, 3, 1, 12, tzinfo=UTC)
    partition = Partition(number=3, low=0, high=10, position=7)
    freshness.answer = Freshness(
        now=moment,
        newest=moment,
        flows=(
            FlowState(
                flow="access_log",
                topic="analyze.action",
                partitions=(partition,),
                heartbeat_at=moment,
            ),
        ),
    )
    labels = ("access_log", "3", "analyze.action")
    assert indexer(client) == {
        ("up", "elasticsearch"): 1,
        ("up", "kafka"): 1,
        ("position", *labels): 7,
        ("high_watermark", *labels): 10,
        ("lag", *labels): 3,
        ("newest_event_timestamp_seconds",): moment.timestamp(),
        ("heartbeat_timestamp_seconds", "access_log"): moment.timestamp(),
    }


def test_an_unavailable_kafka_is_a_metric(client: TestClient, freshness: FakeFreshness) -> None:
    freshness.answer = Freshness(now=datetime.now(UTC))
    assert indexer(client) == {("up", "elasticsearch"): 1, ("up", "kafka"): 0}


def test_the_ledger_metrics_are_available_without_elasticsearch(
    client: TestClient, freshness: FakeFreshness
) -> None:
    freshness.go_down()
    assert indexer(client) == {("up", "elasticsearch"): 0, ("up", "kafka"): 0}
    assert "kp_emitter_events_accepted_total" in client.get("/metrics").text
