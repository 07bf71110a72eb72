"""Any order of events, delivery reports, rounds, full disks and kills: the ledger balances, no
event is lost that the bound protects, and spooled events are delivered unchanged."""

import logging
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
from confluent_kafka import KafkaError, Producer
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kp_platform_tests.unit.web_emitter.fakes import FakeLibrdkafka, MortalSpool
from web_emitter.emitter.events import AccessEvent
from web_emitter.emitter.producer import EventProducer
from web_emitter.emitter.settings import ProducerSettings, SpoolSettings

LOGGER = logging.getLogger("test.spooling")
QUEUE = 4
WAITING = 6
# Bytes; an event takes about 330.
CAP = 8_000
ROOM_FOR_ALL = (QUEUE + WAITING) * 400


class Spooling(RuleBasedStateMachine):
    """`ages` counts for each event of the current process the rounds since it was accepted: after
    two it is delivered, dropped or on disk."""

    def __init__(self) -> None:
        super().__init__()
        LOGGER.setLevel(logging.CRITICAL)
        self.folder = Path(tempfile.mkdtemp(prefix="kp-spooling-"))
        self.now = 0.0
        self.events: dict[UUID, AccessEvent] = {}
        self.delivered: set[UUID] = set()
        self.may_be_lost: set[UUID] = set()
        self.start()

    def start(self) -> None:
        spool = SpoolSettings(folder=self.folder, max_waiting=WAITING, replay_per_second=30)
        binding = ProducerSettings(
            topic="analyze.action",
            bootstrap_servers="fake",
            spool=spool,
            options={"queue.buffering.max.messages": QUEUE},
        )
        self.spool = MortalSpool(self.folder, CAP)
        self.kafka = FakeLibrdkafka(QUEUE)
        self.producer = EventProducer(
            binding,
            LOGGER,
            spool=self.spool,
            create_producer=lambda options, logger: self.kafka,
            clock=lambda: self.now,
        )
        self.ages: dict[UUID, int] = {}
        self.deferred: set[UUID] = set()

    @rule(count=st.integers(1, 5))
    def publish(self, count: int) -> None:
        for _ in range(count):
            event = self.event()
            self.record(event, self.producer.publish(event))

    @rule(count=st.integers(1, 5))
    def defer(self, count: int) -> None:
        for _ in range(count):
            event = self.event()
            self.deferred.add(event.uuid)
            self.record(event, self.producer.defer(partial(_same, event)))

    def event(self) -> AccessEvent:
        event = AccessEvent.of(f"/{len(self.events)}", name="kafka")
        self.events[event.uuid] = event
        return event

    def record(self, event: AccessEvent, is_accepted: bool) -> None:
        if is_accepted:
            self.ages[event.uuid] = 0
        else:
            self.may_be_lost.add(event.uuid)

    def produce_deferred(self) -> None:
        before = self.dropped()
        self.producer.produce_deferred()
        if self.dropped() > before:  # memory was full of events from the disk
            self.may_be_lost |= self.deferred
        self.deferred.clear()

    @rule(count=st.integers(1, QUEUE))
    def the_broker_acknowledges(self, count: int) -> None:
        self.kafka.deliver(count)
        self.note_deliveries()

    @rule(
        count=st.integers(1, QUEUE),
        code=st.sampled_from([KafkaError._MSG_TIMED_OUT, KafkaError.TOPIC_AUTHORIZATION_FAILED]),
    )
    def messages_expire(self, count: int, code: int) -> None:
        before = self.dropped()
        failed = self.kafka.queue[:count]
        self.kafka.fail(count, code)
        if self.dropped() > before:  # memory was full
            self.may_be_lost |= {_uuid(message.record.body) for message in failed}

    @rule()
    def a_message_is_rejected_for_ever(self) -> None:
        self.may_be_lost |= {_uuid(message.record.body) for message in self.kafka.queue[:1]}
        self.kafka.fail(1, KafkaError.MSG_SIZE_TOO_LARGE)

    @rule(rounds=st.integers(1, 3), acks_during_a_write=st.integers(0, 1))
    def time_passes(self, rounds: int, acks_during_a_write: int) -> None:
        for _ in range(rounds):
            self.now += 0.1
            self.produce_deferred()
            self.spool.during_a_write = lambda: self.kafka.deliver(acks_during_a_write)
            self.producer.maintain_spool()
            if self.disk_has_room():
                self.ages = {uuid: age + 1 for uuid, age in self.ages.items()}
        self.note_deliveries()

    @rule(is_full=st.booleans())
    def the_disk_is_full_or_not(self, is_full: bool) -> None:
        self.spool.disk_is_full = is_full

    @rule()
    def the_process_is_killed_and_restarted(self) -> None:
        self.may_be_lost |= {uuid for uuid, age in self.ages.items() if age < 2}
        self.spool.die()
        self.start()

    @rule(is_up=st.booleans())
    def the_process_is_stopped_and_restarted(self, is_up: bool) -> None:
        self.kafka.is_up = is_up
        self.produce_deferred()
        before = self.producer.counts().dropped
        counts = self.producer.close(0)
        assert counts.in_flight == 0
        assert counts.balanced
        if counts.dropped != before:
            assert not self.disk_has_room()
            self.may_be_lost |= set(self.ages)
        self.note_deliveries()
        self.start()

    @invariant()
    def the_ledger_balances(self) -> None:
        counts = self.producer.counts()
        assert counts.balanced
        assert min(counts.acked, counts.in_flight, counts.spooled, counts.recovered) >= 0

    @invariant()
    def memory_is_bounded(self) -> None:
        assert self.producer.counts().in_flight <= QUEUE + WAITING

    def teardown(self) -> None:
        """With a broker all spooled events are delivered unchanged, also from a full disk."""
        self.produce_deferred()
        for _ in range(CAP // 100):
            self.now += 1
            self.producer.maintain_spool()
            self.kafka.deliver(QUEUE)
        self.producer.maintain_spool()
        self.note_deliveries()
        counts = self.producer.counts()
        assert (counts.in_flight, counts.spooled) == (0, 0)
        assert set(self.events) - self.delivered <= self.may_be_lost
        assert self.spool.size == 0
        self.spool.close()
        shutil.rmtree(self.folder)

    def disk_has_room(self) -> bool:
        return not self.spool.disk_is_full and self.spool.size <= CAP - ROOM_FOR_ALL

    def dropped(self) -> int:
        return sum(self.producer.counts().dropped.values())

    def note_deliveries(self) -> None:
        for record in self.kafka.delivered:
            event = self.events[_uuid(record.body)]
            assert record == (event.timestamp_ms, event.body(), event.headers())
            self.delivered.add(event.uuid)
        self.kafka.delivered.clear()


def _same(event: AccessEvent) -> AccessEvent:
    return event


def _uuid(body: bytes) -> UUID:
    return UUID(orjson.loads(body)["uuid"])


TestSpooling = Spooling.TestCase
TestSpooling.settings = settings(max_examples=100, phases=[Phase.generate], stateful_step_count=40)


@pytest.mark.parametrize("kind", ["fake", "real"])
def test_the_fake_behaves_like_librdkafka(kind: str) -> None:
    """A full queue raises; a purge reports each message once, when the queue is flushed."""
    options: dict[str, str | int | float | bool] = {
        "bootstrap.servers": "127.0.0.1:1",
        "queue.buffering.max.messages": 2,
    }
    quiet = logging.getLogger("test.spooling.librdkafka")
    quiet.setLevel(logging.CRITICAL)
    producer: Any = FakeLibrdkafka(2) if kind == "fake" else Producer(options, logger=quiet)
    reports: list[int] = []

    def produce() -> None:
        producer.produce(
            "topic",
            b"value",
            headers=[("a", b"b")],
            timestamp=1,
            on_delivery=lambda error, message: reports.append(error.code()),
        )

    produce()
    produce()
    with pytest.raises(BufferError):
        produce()
    assert producer.flush(0.01) == 2
    assert reports == []
    producer.purge()
    assert producer.flush(5) == 0
    assert reports == [KafkaError._PURGE_QUEUE] * 2
    producer.close()
