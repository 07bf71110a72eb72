"""When the sensor starts a run: the pure decision, and the answer when a server is down."""

import dagster as dg
import pytest

from kp_platform.adapters.elasticsearch import ElasticsearchAdapter
from kp_platform.adapters.kafka import KafkaAdapter
from kp_platform.definitions import build_definitions
from kp_platform.engine.offsets import OffsetRange, Plan, Slice
from kp_platform.orchestration.flow_sensors import Decision, decide, decision_tags
from kp_platform.orchestration.run_state import JobRun
from kp_platform.settings import Settings

SETTINGS = Settings(_env_file=None, max_run_seconds=600)
WORK = Plan((), (), Slice((OffsetRange(0, 0, 5),)), 5)
NOTHING = Plan((), (), None, 0)
STARTED, QUEUED = dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.QUEUED
NOT_STARTED = dg.DagsterRunStatus.NOT_STARTED


def test_waiting_events_start_a_run() -> None:
    assert decide(WORK, [], SETTINGS) == Decision(True, "lag 5")


def test_a_run_is_tagged_with_its_partitions_and_offsets() -> None:
    waiting = Plan((), (), Slice((OffsetRange(0, 2, 5), OffsetRange(3, 0, 1))), 4)
    assert decision_tags(waiting, decide(waiting, [], SETTINGS)) == {
        "kp/reason": "lag 4",
        "kp/partitions": "0,3",
        "kp/offsets": "0:[2,5) 3:[0,1)",
    }


def test_a_caught_up_flow_starts_no_run() -> None:
    assert decide(NOTHING, [], SETTINGS) == Decision(False, "caught up, lag 0")


def test_a_gap_alone_starts_a_run() -> None:
    todo = Plan((OffsetRange(0, 0, 5),), (), None, 0)
    assert decide(todo, [], SETTINGS) == Decision(True, "lag 0, lost 1 range(s)")


@pytest.mark.parametrize(
    ("status", "age", "start"),
    [
        (STARTED, 10.0, False),  # a live run follows the topic
        (STARTED, 59.0, False),  # too young for a heartbeat
        (STARTED, 60.0, True),  # no heartbeat
        (QUEUED, 10.0, False),  # about to start
        (NOT_STARTED, 10.0, False),  # just created by a tick
        (NOT_STARTED, 31.0, True),  # its launch failed, or the daemon was killed
    ],
)
def test_only_a_live_run_blocks_the_next(
    status: dg.DagsterRunStatus, age: float, start: bool
) -> None:
    assert decide(WORK, [JobRun("0123456789", status, age)], SETTINGS).start is start


@pytest.mark.parametrize(
    ("age", "heartbeat_age", "start"),
    [
        (300.0, 29.0, False),  # live
        (300.0, 30.0, True),  # its process ended with the code server
        (300.0, None, True),  # the latest heartbeat is of another run
        (59.0, None, False),  # just started
        (781.0, 5.0, True),  # 180 s past its time limit
    ],
)
def test_a_run_blocks_the_next_as_long_as_it_sends_heartbeats(
    age: float, heartbeat_age: float | None, start: bool
) -> None:
    runs = [JobRun("0123456789", STARTED, age)]
    assert decide(WORK, runs, SETTINGS, heartbeat_age=heartbeat_age).start is start


def test_an_older_run_does_not_block_the_next() -> None:
    """It was stalled when the newer one was started."""
    ended = JobRun("0123456789", dg.DagsterRunStatus.SUCCESS, 30)
    assert decide(WORK, [ended, JobRun("9876543210", STARTED, 100)], SETTINGS).start


def test_a_deleted_index_starts_a_run_although_the_flow_is_caught_up() -> None:
    assert decide(NOTHING, [], SETTINGS, deleted=["log.index-2026.03.01"]) == Decision(
        True, "lag 0, deleted: log.index-2026.03.01"
    )


def test_a_live_run_is_named_in_the_reason() -> None:
    decision = decide(WORK, [JobRun("0123456789", STARTED, 10)], SETTINGS)
    assert decision.reason == "run 01234567 is started; lag 5"


@pytest.mark.parametrize(
    ("failures", "age", "start"),
    [
        (1, 9.0, False),  # a pause after a failure
        (1, 11.0, True),
        (2, 11.0, False),  # twice as long after the second
        (2, 21.0, True),
        (10, 59.0, False),  # at most a minute
        (10, 61.0, True),
    ],
)
def test_consecutive_failures_double_the_pause(failures: int, age: float, start: bool) -> None:
    failed = [JobRun("0123456789", dg.DagsterRunStatus.FAILURE, age) for _ in range(failures)]
    assert decide(WORK, failed, SETTINGS).start is start


def test_a_success_ends_the_pause() -> None:
    runs = [
        JobRun("0123456789", dg.DagsterRunStatus.SUCCESS, 1),
        JobRun("0123456789", dg.DagsterRunStatus.FAILURE, 2),
    ]
    assert decide(WORK, runs, SETTINGS).start


def test_a_pause_is_named_in_the_reason() -> None:
    failed = JobRun("0123456789", dg.DagsterRunStatus.FAILURE, 3)
    assert decide(WORK, [failed], SETTINGS).reason == (
        "run 01234567 failed, the next starts in 7 s; lag 5"
    )


def test_a_server_that_is_down_is_a_skip_that_names_it_and_not_an_empty_topic() -> None:
    sensor = build_definitions().resolve_sensor_def("access_log_offsets")
    resources = {
        "settings": Settings(),
        "kafka": KafkaAdapter(Settings(kafka_bootstrap_servers="127.0.0.1:1"), timeout_seconds=0.5),
        "elasticsearch": ElasticsearchAdapter(Settings()),
    }
    with (
        dg.DagsterInstance.ephemeral() as instance,
        dg.build_sensor_context(instance=instance, resources=resources) as context,
    ):
        answer = sensor(context)
    assert isinstance(answer, dg.SkipReason)
    assert "Kafka does not answer at 127.0.0.1:1" in str(answer.skip_message)
