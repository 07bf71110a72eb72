"""What KafkaAdapter makes of a broker's errors; its answers are in `test_contracts.py`."""

import pytest
from confluent_kafka import KafkaError, KafkaException

from kp_platform.adapters.errors import ServerDown, TopicMissing
from kp_platform.adapters.kafka import KafkaAdapter, _is_electing, _is_not_known_yet, _is_transient
from kp_platform.adapters.reference_changes import ReferenceChange
from kp_platform.settings import Settings


@pytest.mark.parametrize(
    ("code", "transient", "while_made"),
    [
        # The leader of a new partition is elected, but the broker has not taken it up yet.
        (KafkaError.LEADER_NOT_AVAILABLE, True, True),
        (KafkaError.NOT_LEADER_FOR_PARTITION, True, True),
        (KafkaError.REPLICA_NOT_AVAILABLE, True, True),
        # The client's metadata is a leader epoch older, or newer, than the broker's.
        (KafkaError.FENCED_LEADER_EPOCH, True, True),
        (KafkaError.UNKNOWN_LEADER_EPOCH, True, True),
        # A new leader does not know its high watermark yet; its disk is being checked.
        (KafkaError.OFFSET_NOT_AVAILABLE, True, True),
        (KafkaError.KAFKA_STORAGE_ERROR, True, True),
        # A topic that is not there: an answer, except just after it was made.
        (KafkaError.UNKNOWN_TOPIC_OR_PART, False, True),
        (KafkaError.UNKNOWN_TOPIC_ID, False, True),
        # A person has to do something.
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, False, False),
        # No broker answers: told at once.
        (KafkaError._TIMED_OUT, False, False),
    ],
)
def test_only_what_passes_by_itself_is_asked_again(
    code: int, transient: bool, while_made: bool
) -> None:
    error = KafkaException(KafkaError(code))
    assert (_is_transient(error), _is_not_known_yet(error)) == (transient, while_made)


@pytest.mark.parametrize(
    ("code", "again"),
    [
        # The log of the groups is made at the first commit, or its leader has just changed.
        (KafkaError.COORDINATOR_LOAD_IN_PROGRESS, True),
        (KafkaError.COORDINATOR_NOT_AVAILABLE, True),
        (KafkaError.NOT_COORDINATOR, True),
        # The mirror is best effort: what does not pass by itself is only said.
        (KafkaError.GROUP_AUTHORIZATION_FAILED, False),
        (KafkaError._TIMED_OUT, False),
    ],
)
def test_a_commit_waits_for_a_coordinator_only(code: int, again: bool) -> None:
    assert _is_electing(KafkaException(KafkaError(code))) is again


def test_changes_that_nobody_takes_name_the_setting_and_the_way_out() -> None:
    kafka = KafkaAdapter(Settings(kafka_bootstrap_servers="127.0.0.1:1"), delivery_seconds=0.5)
    named = r"127.0.0.1:1 \(setting KP_KAFKA_BOOTSTRAP_SERVERS\).* publish again.*`kp up`"
    with pytest.raises(ServerDown, match=f"Kafka does not take the changes at {named}"):
        kafka.publish_changes([ReferenceChange("mysql", "presto")])


def test_a_topic_that_is_missing_names_the_setting_and_the_command_that_makes_it() -> None:
    missing = str(TopicMissing("analyze.action", "127.0.0.1:1"))
    assert "127.0.0.1:1 (setting KP_KAFKA_BOOTSTRAP_SERVERS); `kp up` creates it" in missing
