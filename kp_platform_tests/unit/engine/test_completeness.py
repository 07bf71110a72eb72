"""The completeness check: an answer has exactly the offsets of the slice."""

import pytest

from kp_platform.engine.completeness import CompletenessCheck
from kp_platform.engine.errors import IncompleteAnswer
from kp_platform.engine.offsets import OffsetRange, Slice
from kp_platform.flows.builtin import ACCESS_LOG
from kp_platform_tests.fakes import FakeKafka

TWO = Slice((OffsetRange(0, 5, 7), OffsetRange(3, 0, 1)))


@pytest.fixture
def log() -> FakeKafka:
    """A message at each offset of TWO."""
    log = FakeKafka()
    log.create_topics({ACCESS_LOG.topic: 4})
    for _ in range(7):
        log.produce(ACCESS_LOG.topic, b"{}", 0)
    log.produce(ACCESS_LOG.topic, b"{}", 3)
    return log


def checked(*rows: tuple[int, int]) -> CompletenessCheck:
    check = CompletenessCheck(TWO)
    for partition, offset in rows:
        check.add([(partition, offset, "")])
    return check


def test_an_answer_in_any_order_is_complete_when_every_offset_came(log: FakeKafka) -> None:
    assert checked((3, 0), (0, 6), (0, 5)).finish(log, ACCESS_LOG.topic) == 0


def test_an_incomplete_answer_is_an_error_with_the_first_missing_offset(
    log: FakeKafka,
) -> None:
    with pytest.raises(IncompleteAnswer, match="1 of 2 offsets of partition 0 did not come.*is 6"):
        checked((3, 0), (0, 5)).finish(log, ACCESS_LOG.topic)


def test_an_offset_without_a_message_need_not_come_and_is_counted(log: FakeKafka) -> None:
    log.topics[ACCESS_LOG.topic].messages[0][5] = None  # the marker of a transaction
    assert checked((3, 0), (0, 6)).finish(log, ACCESS_LOG.topic) == 1
    with pytest.raises(IncompleteAnswer, match="1 of 2 offsets of partition 0 did not come.*is 6"):
        checked((3, 0)).finish(log, ACCESS_LOG.topic)


@pytest.mark.parametrize(
    ("partition", "offset"),
    [
        (0, 4),  # before the slice
        (0, 7),  # its end is not part of it
        (1, 0),  # a partition that was not requested
    ],
)
def test_an_offset_that_was_not_requested_is_an_error(partition: int, offset: int) -> None:
    with pytest.raises(IncompleteAnswer, match="was not requested"):
        checked((partition, offset))


def test_an_offset_that_comes_twice_is_an_error() -> None:
    with pytest.raises(IncompleteAnswer, match="came twice"):
        checked((0, 5), (0, 5))
