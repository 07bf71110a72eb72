"""The bar chart of accesses."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kp_platform_tests.unit.web_emitter.fakes import hour_of_access
from web_emitter.site.analysis.chart import EPOCH, HEIGHT, MAX_BARS, Chart, step_of
from web_emitter.site.analysis.insights import HOUR

NOW = datetime(2026, 3, 1, 10, 20, 30, tzinfo=UTC)
CURRENT = datetime(2026, 3, 1, 10, tzinfo=UTC)


def test_there_is_a_bar_for_each_of_the_last_24_hours() -> None:
    chart = Chart.of_hours([], NOW)
    assert [bar.start for bar in chart.bars] == [CURRENT - HOUR * (23 - n) for n in range(24)]
    assert [bar.x for bar in chart.bars] == [10 * n for n in range(24)]
    assert {(bar.height, bar.y, bar.numbers) for bar in chart.bars} == {(0, HEIGHT, None)}
    assert (chart.highest, chart.total) == (0, 0)


def test_the_highest_bar_has_full_height_and_the_lowest_is_visible() -> None:
    hours = [
        hour_of_access(CURRENT - 2 * HOUR, accesses=0),
        hour_of_access(CURRENT - HOUR, accesses=1),
        hour_of_access(CURRENT, accesses=100_000),
    ]
    chart = Chart.of_hours(hours, NOW)
    assert [bar.height for bar in chart.bars[-3:]] == [0, 1, HEIGHT]
    assert [bar.numbers for bar in chart.bars[-3:]] == hours
    assert (chart.highest, chart.total) == (100_000, 100_001)


@pytest.mark.parametrize(
    ("length", "step"),
    [
        (timedelta(minutes=15), timedelta(seconds=30)),
        (timedelta(hours=1), timedelta(minutes=1)),
        (timedelta(hours=24), timedelta(minutes=30)),
        (timedelta(days=7), timedelta(hours=3)),
        (timedelta(seconds=1), timedelta(seconds=1)),
        (timedelta(weeks=601), timedelta(weeks=11)),
    ],
)
def test_the_step_is_the_shortest_that_needs_at_most_60_bars(
    length: timedelta, step: timedelta
) -> None:
    assert step_of(NOW, NOW + length) == step


moments = st.integers(1, 10**11).map(lambda seconds: EPOCH + timedelta(seconds=seconds))


@given(moments, moments)
def test_the_bars_of_counts_cover_a_period_without_a_gap(one: datetime, other: datetime) -> None:
    start, end = min(one, other), max(one, other) + timedelta(milliseconds=1)
    step = step_of(start, end)
    chart = Chart.of_counts({}, start, end, step)
    assert chart.bars[0].start <= start < chart.bars[0].end
    assert chart.bars[-1].start < end <= chart.bars[-1].end
    assert all(bar.end == after.start for bar, after in pairwise(chart.bars))
    assert len(chart.bars) <= MAX_BARS + 1


def test_each_count_is_assigned_to_its_bar() -> None:
    hour = timedelta(hours=1)
    chart = Chart.of_counts({CURRENT: 3}, CURRENT - hour, CURRENT + 2 * hour, hour)
    assert [bar.accesses for bar in chart.bars] == [0, 3, 0]
    assert chart.length == 3 * hour
