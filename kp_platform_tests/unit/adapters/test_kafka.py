"""How the Kafka adapters handle a broker's errors; `test_contracts.py` tests their answers."""

import pytest
from confluent_kafka import KafkaError, KafkaException

from kp_platform.adapters.errors import ServerDown, TopicMissing
from kp_platform.adapters.kafka import KafkaAdapter
from kp_platform.adapters.kafka_client import is_electing, is_not_visible_yet, is_transient
from kp_platform.engine.reference_change import ReferenceChange
from kp_platform.settings import Settings


@pytest.mark.parametrize(
    ("code", "transient", "after_creation"),
    [
        # The leader of a new partition is elected, but the broker does not serve it yet.
        (KafkaError.LEADER_NOT_AVAILABLE, True, True),
        (KafkaError.NOT_LEADER_FOR_PARTITION, True, True),
        (KafkaError.REPLICA_NOT_AVAILABLE, True, True),
        # The client's metadata is one leader epoch older or newer than the broker's.
        (KafkaError.FENCED_LEADER_EPOCH, True, True),
        (KafkaError.UNKNOWN_LEADER_EPOCH, True, True),
        # A new leader has no high watermark yet, or checks its disk.
        (KafkaError.OFFSET_NOT_AVAILABLE, True, True),
        (KafkaError.KAFKA_STORAGE_ERROR, True, True),
        # A missing topic is a final answer, except just after its creation.
        (KafkaError.UNKNOWN_TOPIC_OR_PART, False, True),
        (KafkaError.UNKNOWN_TOPIC_ID, False, True),
        # Needs an operator.
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, False, False),
        # No broker answers: reported at once.
        (KafkaError._TIMED_OUT, False, False),
    ],
)
def test_only_transient_errors_are_retried(
    code: int, transient: bool, after_creation: bool
) -> None:
    error = KafkaException(KafkaError(code))
    assert (is_transient(error), is_not_visible_yet(error)) == (transient, after_creation)


@pytest.mark.parametrize(
    ("code", "retried"),
    [
        # The groups' log is created on the first commit, or its leader has just changed.
        (KafkaError.COORDINATOR_LOAD_IN_PROGRESS, True),
        (KafkaError.COORDINATOR_NOT_AVAILABLE, True),
        (KafkaError.NOT_COORDINATOR, True),
        # The mirror is best effort: other errors are only logged.
        (KafkaError.GROUP_AUTHORIZATION_FAILED, False),
        (KafkaError._TIMED_OUT, False),
    ],
)
def test_a_commit_waits_only_for_a_coordinator(code: int, retried: bool) -> None:
    assert is_electing(KafkaException(KafkaError(code))) is retried


def test_changes_that_are_not_acknowledged_name_the_setting_and_the_fix() -> None:
    kafka = KafkaAdapter(Settings(kafka_bootstrap_servers="127.0.0.1:1"), delivery_seconds=0.5)
    named = r"127.0.0.1:1 \(setting KP_KAFKA_BOOTSTRAP_SERVERS\).* publish again.*`kp up`"
    with pytest.raises(ServerDown, match=f"Kafka does not accept the changes at {named}"):
        kafka.publish_changes([ReferenceChange("mysql", "presto")])


def test_a_missing_topic_names_the_setting_and_the_command_that_creates_it() -> None:
    missing = str(TopicMissing("analyze.action", "127.0.0.1:1"))
    assert "127.0.0.1:1 (setting KP_KAFKA_BOOTSTRAP_SERVERS); `kp up` creates it" in missing
