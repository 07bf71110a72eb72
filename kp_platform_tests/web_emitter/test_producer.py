"""The ledger, and a real librdkafka producer whose broker is not there."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from time import monotonic, sleep
from uuid import uuid4

import pytest
from confluent_kafka import KafkaException
from hypothesis import given
from hypothesis import strategies as st

from web_emitter.events import AccessEvent, Header
from web_emitter.producer import BrokersUnreachable, Counts, EventProducer, Ledger
from web_emitter.settings import ProducerSettings

LOGGER = logging.getLogger("test.kafka")
NOWHERE = ProducerSettings(
    topic="analyze.action",
    bootstrap_servers="127.0.0.1:1",
    options={"message.timeout.ms": 60_000, "queue.buffering.max.messages": 5},
)


class HugeEvent:
    """An event over librdkafka's message.max.bytes."""

    timestamp_ms = 1

    def body(self) -> bytes:
        return b"x" * 2_000_000

    def headers(self) -> list[Header]:
        return []


class BrokenEvent(HugeEvent):
    """An event that cannot say its bytes."""

    def body(self) -> bytes:
        raise TypeError("not JSON")


def event() -> AccessEvent:
    return AccessEvent.of(f"/{uuid4()}", name="kafka")


@pytest.fixture
def producer() -> Iterator[EventProducer]:
    producer = EventProducer(NOWHERE, LOGGER)
    yield producer
    producer.close(0.01)


@given(st.lists(st.sampled_from(["ack", "fail", "drop", "wait"])))
def test_the_ledger_is_balanced_after_every_step(fates: list[str]) -> None:
    ledger = Ledger()
    for fate in fates:
        ledger.accept()
        assert ledger.counts().balanced
        if fate == "ack":
            ledger.ack()
        elif fate == "fail":
            ledger.fail("_MSG_TIMED_OUT")
        elif fate == "drop":
            ledger.drop("queue_full")
        assert ledger.counts().balanced
    counts = ledger.counts()
    assert counts.accepted == len(fates)
    assert counts.in_flight == fates.count("wait")
    assert counts.acked == fates.count("ack")


def test_counts_that_lost_an_event_are_not_balanced() -> None:
    assert not Counts(accepted=2, acked=1).balanced


def test_closing_without_a_broker_ends_in_time_with_every_event_counted(
    producer: EventProducer,
) -> None:
    for _ in range(3):
        producer.send(event())
    assert producer.counts() == Counts(accepted=3, in_flight=3)
    started = monotonic()
    counts = producer.close(0.3)
    assert 0.3 <= monotonic() - started < 2.0
    assert counts == Counts(accepted=3, failed={"_PURGE_QUEUE": 3})
    assert counts.balanced


def test_closing_twice_tells_the_same_numbers(producer: EventProducer) -> None:
    producer.send(event())
    assert producer.close(0.01) == producer.close(60)


def test_a_full_queue_drops_and_never_waits(producer: EventProducer) -> None:
    started = monotonic()
    taken = [producer.send(event()) for _ in range(8)]
    assert monotonic() - started < 0.5
    assert taken == [True] * 5 + [False] * 3
    assert producer.counts() == Counts(accepted=8, in_flight=5, dropped={"queue_full": 3})


def test_an_event_that_expires_has_failed() -> None:
    settings = replace(NOWHERE, options={"message.timeout.ms": 100})
    producer = EventProducer(settings, LOGGER)
    producer.send(event())
    assert producer.close(5) == Counts(accepted=1, failed={"_MSG_TIMED_OUT": 1})


def test_the_poll_thread_serves_delivery_reports_without_being_asked() -> None:
    producer = EventProducer(replace(NOWHERE, options={"message.timeout.ms": 100}), LOGGER)
    producer.send(event())
    deadline = monotonic() + 5
    while producer.counts().in_flight and monotonic() < deadline:
        sleep(0.01)
    assert producer.counts() == Counts(accepted=1, failed={"_MSG_TIMED_OUT": 1})
    producer.close(1)


def test_an_event_that_kafka_never_takes_is_dropped_by_its_reason(
    producer: EventProducer,
) -> None:
    assert not producer.send(HugeEvent())
    assert producer.counts() == Counts(accepted=1, dropped={"MSG_SIZE_TOO_LARGE": 1})


def test_an_event_that_breaks_is_counted_and_told(producer: EventProducer) -> None:
    with pytest.raises(TypeError, match="not JSON"):
        producer.send(BrokenEvent())
    assert producer.counts() == Counts(accepted=1, dropped={"error": 1})


def test_a_closed_producer_drops(producer: EventProducer) -> None:
    producer.close(0.01)
    assert not producer.send(event())
    assert producer.counts() == Counts(accepted=1, dropped={"closed": 1})
    with pytest.raises(BrokersUnreachable, match="closed"):
        producer.brokers(0.01)


def test_brokers_that_do_not_answer_are_unreachable(producer: EventProducer) -> None:
    with pytest.raises(BrokersUnreachable, match="transport failure"):
        producer.brokers(0.1)


def test_an_option_that_librdkafka_does_not_know_is_refused_at_start() -> None:
    with pytest.raises(KafkaException, match="no.such.option"):
        EventProducer(replace(NOWHERE, options={"no.such.option": 1}), LOGGER)


def test_librdkafka_and_the_end_are_logged_through_the_given_logger(
    caplog: pytest.LogCaptureFixture,
) -> None:
    producer = EventProducer(NOWHERE, LOGGER)
    producer.send(event())
    producer.close(0.3)
    messages = [record.getMessage() for record in caplog.records if record.name == LOGGER.name]
    assert len([message for message in messages if message.startswith("FAIL")]) == 1
    assert any("closed in" in message and "_PURGE_QUEUE" in message for message in messages)
