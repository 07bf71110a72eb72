"""Which offsets are read next: exact cases, and rules that hold for any topic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kp_platform.engine.offsets import (
    ALL_PARTITIONS,
    OffsetRange,
    Plan,
    Slice,
    TopicState,
    Watermarks,
    assignment_text,
    parse_assignment,
    plan,
)


def topic(**watermarks: tuple[int, int]) -> TopicState:
    """`topic(p0=(low, high))`."""
    return TopicState("t", "id", {int(k[1:]): Watermarks(*v) for k, v in watermarks.items()})


@pytest.mark.parametrize(
    ("partition", "start", "end"),
    [
        (0, 5, 5),  # empty: a slice has something to read
        (0, 6, 5),  # backwards
        (0, -1, 5),  # Kafka's special offsets are not offsets
        (-1, 0, 5),  # no such partition
    ],
)
def test_a_range_checks_itself(partition: int, start: int, end: int) -> None:
    with pytest.raises(ValueError, match="not a range"):
        OffsetRange(partition, start, end)


def test_a_slice_has_one_range_for_each_partition() -> None:
    with pytest.raises(ValueError, match="distinct, sorted"):
        Slice((OffsetRange(0, 0, 5), OffsetRange(0, 5, 9)))
    with pytest.raises(ValueError, match="distinct, sorted"):
        Slice(())


def test_a_partition_without_position_starts_at_its_low_watermark() -> None:
    assert plan(topic(p0=(3, 7)), {}, 100) == Plan(
        gaps=(), truncated=(), slice=Slice((OffsetRange(0, 3, 7),)), lag=4
    )


def test_a_caught_up_topic_has_nothing_to_do() -> None:
    assert plan(topic(p0=(0, 7), p1=(0, 0)), {0: 7}, 100) == Plan((), (), None, 0)


def test_offsets_that_retention_deleted_are_an_exact_gap() -> None:
    result = plan(topic(p0=(10, 12)), {0: 4}, 100)
    assert result.gaps == (OffsetRange(0, 4, 10),)
    assert result.slice == Slice((OffsetRange(0, 10, 12),))


def test_a_gap_up_to_the_end_leaves_nothing_to_read() -> None:
    result = plan(topic(p0=(10, 10)), {0: 4}, 100)
    assert result.gaps == (OffsetRange(0, 4, 10),)
    assert result.slice is None


def test_a_position_past_the_end_restarts_the_partition() -> None:
    result = plan(topic(p0=(0, 5)), {0: 9}, 100)
    assert result.truncated == (OffsetRange(0, 5, 9),)
    assert result.slice == Slice((OffsetRange(0, 0, 5),))


def test_the_unused_share_of_a_short_partition_goes_to_the_long_ones() -> None:
    result = plan(topic(p0=(0, 1000), p1=(0, 4)), {}, 100)
    assert result.slice == Slice((OffsetRange(0, 0, 96), OffsetRange(1, 0, 4)))
    assert result.lag == 1004


@pytest.mark.parametrize(
    ("ranges", "first", "second"),
    [
        ([(0, 0, 5), (1, 0, 3), (2, 0, 1)], [(0, 0, 5)], [(1, 0, 3), (2, 0, 1)]),  # by partitions
        ([(0, 4, 9)], [(0, 4, 6)], [(0, 6, 9)]),  # by offsets
        ([(0, 4, 6)], [(0, 4, 5)], [(0, 5, 6)]),
    ],
)
def test_a_slice_is_split_in_two(
    ranges: list[tuple[int, int, int]],
    first: list[tuple[int, int, int]],
    second: list[tuple[int, int, int]],
) -> None:
    whole, left, right = (
        Slice(tuple(OffsetRange(*each) for each in group)) for group in (ranges, first, second)
    )
    assert whole.halves() == (left, right)


def test_a_single_offset_is_not_split() -> None:
    with pytest.raises(ValueError, match="not a range"):
        Slice((OffsetRange(0, 4, 5),)).halves()


@st.composite
def topics(draw: st.DrawFn) -> tuple[TopicState, dict[int, int]]:
    watermarks, positions = {}, {}
    for partition in draw(st.sets(st.integers(0, 20), max_size=8)):
        low = draw(st.integers(0, 1000))
        watermarks[partition] = Watermarks(low, low + draw(st.integers(0, 1000)))
        if draw(st.booleans()):
            positions[partition] = draw(st.integers(0, 2500))
    return TopicState("t", "id", watermarks), positions


@given(topics(), st.integers(1, 3000))
def test_a_slice_starts_at_positions_and_stays_within_watermarks_and_limit(
    drawn: tuple[TopicState, dict[int, int]], max_rows: int
) -> None:
    state, positions = drawn
    result = plan(state, positions, max_rows)
    for each in result.slice.ranges if result.slice else ():
        watermarks = state.partitions[each.partition]
        position = positions.get(each.partition, watermarks.low)
        assert each.start == (
            position if watermarks.low <= position <= watermarks.high else watermarks.low
        )
        assert watermarks.low <= each.start < each.end <= watermarks.high
    rows = len(result.slice) if result.slice else 0
    assert rows <= max_rows
    assert rows == min(max_rows, result.lag) or max_rows < len(state.partitions)
    assert (result.slice is None) == (result.lag == 0)


@given(topics(), st.integers(1, 3000))
def test_executing_plans_reaches_the_end_and_skips_only_recorded_gaps(
    drawn: tuple[TopicState, dict[int, int]], max_rows: int
) -> None:
    state, positions = drawn
    read: dict[int, list[int]] = {partition: [] for partition in state.partitions}
    stored = dict(positions)
    for _ in range(20_000):
        result = plan(state, stored, max_rows)
        for gap in result.gaps:
            stored[gap.partition] = gap.end
        for lost in result.truncated:
            stored[lost.partition] = state.partitions[lost.partition].low
        if result.slice is None:
            break
        for each in result.slice.ranges:
            read[each.partition] += range(each.start, each.end)
            stored[each.partition] = each.end
    for partition, watermarks in state.partitions.items():
        position = positions.get(partition, watermarks.low)
        first = position if watermarks.low <= position <= watermarks.high else watermarks.low
        assert read[partition] == list(range(first, watermarks.high))


@given(topics(), st.integers(0, 10))
def test_each_partition_is_assigned_to_one_run(
    drawn: tuple[TopicState, dict[int, int]], partitions_per_run: int
) -> None:
    state, _ = drawn
    parts = [state.of(each).partitions for each in state.assignments(partitions_per_run)]
    assert sorted(number for each in parts for number in each) == sorted(state.partitions)
    assert all(len(each) <= (partitions_per_run or len(state.partitions)) for each in parts)


def test_a_partition_that_is_added_changes_no_other_assignment() -> None:
    def text(count: int) -> list[str]:
        state = TopicState("t", "id", dict.fromkeys(range(count), Watermarks(0, 0)))
        return [assignment_text(each) for each in state.assignments(4)]

    assert text(12) == ["0-3", "4-7", "8-11"]
    assert text(13) == ["0-3", "4-7", "8-11", "12-15"]


@pytest.mark.parametrize("assignment", [ALL_PARTITIONS, range(1), range(6, 12)])
def test_an_assignment_is_read_as_it_is_written(assignment: range) -> None:
    assert parse_assignment(assignment_text(assignment)) == assignment


@pytest.mark.parametrize("text", ["3", "5-3", "-3", "1-", "a-b", "0-5,7"])
def test_another_text_is_no_assignment(text: str) -> None:
    with pytest.raises(ValueError, match="FIRST-LAST"):
        parse_assignment(text)
