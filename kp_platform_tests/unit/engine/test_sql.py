"""The slice's SQL, and the check that its answer is exactly the slice."""

import pytest

from kp_platform.engine.errors import IncompleteAnswer
from kp_platform.engine.offsets import OffsetRange, Slice
from kp_platform.engine.sql import CompletenessCheck, keys_query, slice_query
from kp_platform.flows.builtin import ACCESS_LOG
from kp_platform_tests.fakes import FakeKafka

TWO = Slice((OffsetRange(0, 5, 7), OffsetRange(3, 0, 1)))


def test_each_partition_has_its_own_branch_with_bound_numbers() -> None:
    sql, parameters = slice_query(ACCESS_LOG, TWO)
    predicate = "_partition_id = ? AND _partition_offset >= ? AND _partition_offset < ?"
    assert sql.count(predicate) == 2
    assert sql.count("UNION ALL") == 1
    assert sql.count("?") == len(parameters)
    assert parameters == [0, 5, 7, 3, 0, 1]


def test_the_joins_stand_once_whatever_the_number_of_partitions() -> None:
    sql, _ = slice_query(ACCESS_LOG, TWO)
    assert sql.count("\nLEFT JOIN") == 2
    assert sql.count("kafka_tests.analyze.action") == 2


def test_the_file_can_be_pasted_as_it_is() -> None:
    text = ACCESS_LOG.query.read_text()
    assert "_partition_id = 0 AND _partition_offset >= 0 AND _partition_offset < 100" in text
    assert "?" not in text.replace("-- ", "")
    assert "LIMIT" not in text


def test_joins_read_all_or_the_keys_that_are_listed() -> None:
    everything, parameters = slice_query(ACCESS_LOG, TWO)
    assert "FROM slice)" not in everything
    assert everything.count("IS NOT NULL") == 2
    listed, more = slice_query(ACCESS_LOG, TWO, ["a", "it's"])
    assert listed == everything.replace("IS NOT NULL", "IN (?, ?)")
    assert more == [*parameters, "a", "it's", "a", "it's"]
    nothing, none = slice_query(ACCESS_LOG, TWO, [])
    assert (nothing.count("IS NULL"), none) == (2, parameters)


def test_keys_are_found_in_the_very_offsets_of_the_slice() -> None:
    sql, parameters = keys_query(ACCESS_LOG.query, TWO)
    text, same = slice_query(ACCESS_LOG, TWO)
    union = sql[sql.index("WITH") : sql.index("\n)\nSELECT DISTINCT name FROM slice")]
    assert text[text.index("WITH") :].startswith(union)
    assert parameters == same


@pytest.fixture
def log() -> FakeKafka:
    """A message at each offset of TWO."""
    log = FakeKafka()
    log.create_topics({ACCESS_LOG.topic: 4})
    for _ in range(7):
        log.produce(ACCESS_LOG.topic, b"{}", 0)
    log.produce(ACCESS_LOG.topic, b"{}", 3)
    return log


def covered(*ticks: tuple[int, int]) -> CompletenessCheck:
    coverage = CompletenessCheck(TWO)
    for partition, offset in ticks:
        coverage.tick([(partition, offset, "")])
    return coverage


def test_an_answer_in_any_order_is_complete_when_every_offset_came(log: FakeKafka) -> None:
    assert covered((3, 0), (0, 6), (0, 5)).check(log, ACCESS_LOG.topic) == 0


def test_a_short_answer_is_refused_and_names_what_is_missing(log: FakeKafka) -> None:
    with pytest.raises(IncompleteAnswer, match="1 of 2 offsets of partition 0 did not come.*is 6"):
        covered((3, 0), (0, 5)).check(log, ACCESS_LOG.topic)


def test_an_offset_without_a_message_need_not_come_and_is_counted(log: FakeKafka) -> None:
    log.topics[ACCESS_LOG.topic].messages[0][5] = None  # the marker of a transaction
    assert covered((3, 0), (0, 6)).check(log, ACCESS_LOG.topic) == 1
    with pytest.raises(IncompleteAnswer, match="1 of 2 offsets of partition 0 did not come.*is 6"):
        covered((3, 0)).check(log, ACCESS_LOG.topic)


@pytest.mark.parametrize(
    ("partition", "offset"),
    [
        (0, 4),  # before the slice
        (0, 7),  # its end is not part of it
        (1, 0),  # a partition that was not asked for
    ],
)
def test_an_offset_that_was_not_asked_for_is_refused(partition: int, offset: int) -> None:
    with pytest.raises(IncompleteAnswer, match="was not asked for"):
        covered((partition, offset))


def test_an_offset_that_comes_twice_is_refused() -> None:
    with pytest.raises(IncompleteAnswer, match="came twice"):
        covered((0, 5), (0, 5))
