"""The SQL of a slice: its branches, and the keys that its joins read."""

from kp_platform.engine.offsets import OffsetRange, Slice
from kp_platform.engine.sql import keys_query, slice_query
from kp_platform.flows.builtin import ACCESS_LOG

TWO = Slice((OffsetRange(0, 5, 7), OffsetRange(3, 0, 1)))


def test_each_partition_has_its_own_branch_with_bound_numbers() -> None:
    sql, parameters = slice_query(ACCESS_LOG, TWO)
    predicate = "_partition_id = ? AND _partition_offset >= ? AND _partition_offset < ?"
    assert sql.count(predicate) == 2
    assert sql.count("UNION ALL") == 1
    assert sql.count("?") == len(parameters)
    assert parameters == [0, 5, 7, 3, 0, 1]


def test_the_joins_occur_once_for_any_number_of_partitions() -> None:
    sql, _ = slice_query(ACCESS_LOG, TWO)
    assert sql.count("\nLEFT JOIN") == 2
    assert sql.count("kafka_tests.analyze.action") == 2


def test_the_file_can_be_pasted_as_it_is() -> None:
    text = ACCESS_LOG.sql
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


def test_keys_are_queried_in_exactly_the_offsets_of_the_slice() -> None:
    sql, parameters = keys_query(ACCESS_LOG.sql, TWO, 10_001)
    text, same = slice_query(ACCESS_LOG, TWO)
    union = sql[sql.index("WITH") : sql.index("\n)\nSELECT DISTINCT name FROM slice")]
    assert text[text.index("WITH") :].startswith(union)
    assert parameters == same
