"""A real librdkafka producer without a broker, and a real spool."""

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event as Signal
from time import monotonic, sleep
from uuid import uuid4

import pytest
from confluent_kafka import KafkaException

from kp_platform_tests.stack import ROOT
from kp_platform_tests.unit.web_emitter.fakes import MortalSpool
from web_emitter.contract import Header
from web_emitter.emitter.events import AccessEvent
from web_emitter.emitter.ledger import Counts
from web_emitter.emitter.producer import BrokersUnreachable, EventProducer
from web_emitter.emitter.settings import ProducerSettings, SpoolSettings

LOGGER = logging.getLogger("test.kafka")
OPTIONS = {"message.timeout.ms": 60_000, "queue.buffering.max.messages": 5}


class HugeEvent:
    """An event over librdkafka's message.max.bytes."""

    timestamp_ms = 1

    def body(self) -> bytes:
        return b"x" * 2_000_000

    def headers(self) -> list[Header]:
        return []


class BrokenEvent(HugeEvent):
    """An event whose body cannot be encoded."""

    def body(self) -> bytes:
        raise TypeError("not JSON")


def event() -> AccessEvent:
    return AccessEvent.of(f"/{uuid4()}", name="kafka")


def started(settings: ProducerSettings) -> EventProducer:
    producer = EventProducer(settings, LOGGER)
    producer.start()
    return producer


def counts_when(producer: EventProducer, reached: Callable[[Counts], bool]) -> Counts:
    deadline = monotonic() + 10
    while not reached(producer.counts()) and monotonic() < deadline:
        sleep(0.01)
    return producer.counts()


@pytest.fixture
def nowhere(tmp_path: Path) -> ProducerSettings:
    return ProducerSettings(
        topic="analyze.action",
        bootstrap_servers="127.0.0.1:1",
        spool=SpoolSettings(folder=tmp_path / "spool"),
        options=OPTIONS,
    )


@pytest.fixture
def producer(nowhere: ProducerSettings) -> Iterator[EventProducer]:
    producer = started(nowhere)
    yield producer
    producer.close(0.01)


def test_counts_without_an_event_are_not_balanced() -> None:
    assert not Counts(accepted=2, acked=1).balanced


def test_closing_without_a_broker_takes_the_deadline_and_counts_every_event(
    producer: EventProducer,
) -> None:
    for _ in range(3):
        producer.publish(event())
    assert producer.counts() == Counts(accepted=3, in_flight=3)
    started = monotonic()
    counts = producer.close(0.3)
    assert 0.3 <= monotonic() - started < 2.0
    assert counts == Counts(accepted=3, spooled=3)
    assert counts.balanced


def test_closing_twice_returns_the_same_counts(producer: EventProducer) -> None:
    producer.publish(event())
    assert producer.close(0.01) == producer.close(60)


def test_events_over_the_size_of_the_queue_are_spooled(producer: EventProducer) -> None:
    assert [producer.publish(event()) for _ in range(8)] == [True] * 8
    spooled = counts_when(producer, lambda counts: counts.spooled > 0)
    assert spooled == Counts(accepted=8, in_flight=5, spooled=3)


def test_an_expired_event_is_produced_again(nowhere: ProducerSettings) -> None:
    producer = started(replace(nowhere, options={"message.timeout.ms": 300}))
    producer.publish(event())
    assert counts_when(producer, lambda counts: counts.spooled == 1).spooled == 1
    again = counts_when(producer, lambda counts: counts.in_flight == 1)
    assert again == Counts(accepted=1, in_flight=1)
    assert producer.close(0.01) == Counts(accepted=1, spooled=1)


def test_the_next_process_adopts_the_spool(nowhere: ProducerSettings) -> None:
    first = started(nowhere)
    first.publish(event())
    first.close(0.01)
    second = started(nowhere)
    recovered = counts_when(second, lambda counts: counts.recovered == 1)
    assert recovered.balanced
    assert second.close(0.01) == Counts(accepted=1, recovered=1, spooled=1)


def test_with_a_failing_disk_events_are_dropped_when_memory_is_full(
    nowhere: ProducerSettings, caplog: pytest.LogCaptureFixture
) -> None:
    (nowhere.spool.folder).write_text("a file where the folder should be")
    producer = started(replace(nowhere, spool=replace(nowhere.spool, max_waiting=2)))
    deadline = monotonic() + 10
    while "spool of analyze.action" not in caplog.text and monotonic() < deadline:
        sleep(0.01)
    assert [producer.publish(event()) for _ in range(8)] == [True] * 7 + [False]
    assert producer.counts() == Counts(accepted=8, in_flight=7, dropped={"spool_failed": 1})
    assert producer.close(0.01) == Counts(accepted=8, dropped={"spool_failed": 8})


def test_events_over_the_size_of_the_spool_are_dropped(nowhere: ProducerSettings) -> None:
    cap = replace(nowhere.spool, max_bytes=800, max_waiting=1)
    producer = started(replace(nowhere, spool=cap, options={**OPTIONS, "message.timeout.ms": 300}))
    for _ in range(5):
        producer.publish(event())
    counts = counts_when(producer, lambda counts: "spool_full" in counts.dropped)
    assert counts.balanced
    counts = producer.close(0.01)
    assert counts == Counts(accepted=5, spooled=2, dropped={"spool_full": 3})


def test_the_bytes_that_wait_for_the_disk_are_bounded(nowhere: ProducerSettings) -> None:
    spool = replace(nowhere.spool, max_waiting_bytes=1_000)
    producer = EventProducer(replace(nowhere, spool=spool), LOGGER)
    accepted = [producer.publish(event()) for _ in range(30)]
    assert accepted.count(True) == OPTIONS["queue.buffering.max.messages"] + 1_000 // len(
        event().body()
    )
    producer.close(0.01)


def test_an_event_that_kafka_rejects_permanently_is_dropped_with_the_reason(
    producer: EventProducer,
) -> None:
    assert not producer.publish(HugeEvent())
    assert producer.counts() == Counts(accepted=1, dropped={"MSG_SIZE_TOO_LARGE": 1})


def test_an_event_without_a_body_is_never_accepted(producer: EventProducer) -> None:
    with pytest.raises(TypeError, match="not JSON"):
        producer.publish(BrokenEvent())
    assert producer.counts() == Counts()


def test_a_deferred_event_is_counted_at_once_and_created_later(nowhere: ProducerSettings) -> None:
    producer = EventProducer(nowhere, LOGGER)
    created: list[AccessEvent] = []

    def create() -> AccessEvent:
        created.append(event())
        return created[-1]

    assert producer.defer(create)
    assert (producer.counts(), created) == (Counts(accepted=1, in_flight=1), [])
    producer.produce_deferred()
    assert (producer.counts(), len(created)) == (Counts(accepted=1, in_flight=1), 1)
    assert producer.close(0.01) == Counts(accepted=1, spooled=1)


def test_a_started_producer_creates_deferred_events(producer: EventProducer) -> None:
    created = Signal()

    def create() -> AccessEvent:
        created.set()
        return event()

    assert producer.defer(create)
    assert created.wait(10)


def test_deferred_events_are_spooled_at_the_end(nowhere: ProducerSettings) -> None:
    producer = EventProducer(nowhere, LOGGER)
    assert all([producer.defer(event) for _ in range(3)])
    assert producer.close(0.01) == Counts(accepted=3, spooled=3)


def test_a_deferred_event_that_cannot_be_created_is_counted(nowhere: ProducerSettings) -> None:
    producer = EventProducer(nowhere, LOGGER)
    assert producer.defer(BrokenEvent)
    assert producer.defer(event)
    producer.produce_deferred()
    assert producer.counts() == Counts(accepted=2, in_flight=1, dropped={"error": 1})
    producer.close(0.01)


def test_an_event_over_the_limit_of_memory_is_dropped_at_once(
    nowhere: ProducerSettings,
) -> None:
    small = replace(nowhere, spool=replace(nowhere.spool, max_waiting=2))
    producer = EventProducer(small, LOGGER)
    assert [producer.defer(event) for _ in range(9)] == [True] * 7 + [False] * 2
    assert producer.counts() == Counts(accepted=9, in_flight=7, dropped={"spool_slow": 2})
    assert producer.close(0.01) == Counts(accepted=9, spooled=7, dropped={"spool_slow": 2})


def test_a_closed_producer_drops_events(producer: EventProducer) -> None:
    producer.close(0.01)
    assert not producer.publish(event())
    assert not producer.defer(event)
    assert producer.counts() == Counts(accepted=2, dropped={"closed": 2})
    with pytest.raises(BrokersUnreachable, match="closed"):
        producer.brokers(0.01)


def test_brokers_that_do_not_answer_are_unreachable(producer: EventProducer) -> None:
    with pytest.raises(BrokersUnreachable, match="transport failure"):
        producer.brokers(0.1)


def test_an_unknown_librdkafka_option_is_rejected_at_start(
    nowhere: ProducerSettings,
) -> None:
    with pytest.raises(KafkaException, match="no.such.option"):
        EventProducer(replace(nowhere, options={"no.such.option": 1}), LOGGER)


def test_librdkafka_and_the_end_are_logged_through_the_given_logger(
    nowhere: ProducerSettings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    producer = started(nowhere)
    producer.publish(event())
    producer.close(0.3)
    messages = [record.getMessage() for record in caplog.records if record.name == LOGGER.name]
    assert len([message for message in messages if message.startswith("FAIL")]) == 1
    assert any("closed in" in message and "'spooled': 1" in message for message in messages)


PUBLISHES_UNDER_AUDIT = """
import logging, sys, threading
from pathlib import Path
from web_emitter.emitter.events import AccessEvent
from web_emitter.emitter.producer import EventProducer
from web_emitter.emitter.settings import ProducerSettings, SpoolSettings

done = []

def watch(event, arguments):
    if is_watching and threading.get_ident() == publisher:
        done.append(event)

publisher, is_watching = threading.get_ident(), False
sys.addaudithook(watch)
settings = ProducerSettings(
    topic="analyze.action",
    bootstrap_servers=sys.argv[1],
    spool=SpoolSettings(folder=Path(sys.argv[2])),
    options={"queue.buffering.max.messages": 100},
)
producer = EventProducer(settings, logging.getLogger())
producer.start()
events = [AccessEvent.of(f"/{number}", name="kafka") for number in range(2_000)]
is_watching = True
accepted = [producer.publish(event) for event in events]
is_watching = False
assert all(accepted)
assert not done, sorted(set(done))
counts = producer.close(0.01)
assert counts.spooled == counts.accepted == 2_000, counts
"""


def test_sending_does_nothing_that_could_wait(tmp_path: Path) -> None:
    """Python calls an audit hook for every file, socket, process and sleep. It is not called while
    2,000 events are published, neither without a broker nor with one that never answers."""
    with socket.create_server(("127.0.0.1", 0)) as unresponsive:
        for number, port in enumerate((1, unresponsive.getsockname()[1])):
            arguments = [f"127.0.0.1:{port}", str(tmp_path / str(number))]
            done = subprocess.run(
                [sys.executable, "-c", PUBLISHES_UNDER_AUDIT, *arguments],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, done.stderr


def test_an_unresponsive_disk_does_not_block_a_publisher(nowhere: ProducerSettings) -> None:
    is_blocked, may_continue = Signal(), Signal()
    spool = MortalSpool(nowhere.spool.folder, nowhere.spool.max_bytes)

    def block() -> None:
        is_blocked.set()
        assert may_continue.wait(60)

    spool.during_a_write = block
    producer = EventProducer(nowhere, LOGGER, spool=spool)
    producer.start()
    producer.publish(event())
    assert is_blocked.wait(60)
    assert [producer.publish(event()) for _ in range(20)] == [True] * 20  # does not block
    assert producer.counts() == Counts(accepted=21, in_flight=21)
    may_continue.set()
    assert producer.close(0.01) == Counts(accepted=21, spooled=21)
