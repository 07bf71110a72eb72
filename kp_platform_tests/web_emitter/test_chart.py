"""The bars of the accesses per hour."""

from datetime import UTC, datetime

from kp_platform_tests.web_emitter.fakes import hour_of_access
from web_emitter.chart import HEIGHT, Chart
from web_emitter.insights import HOUR

NOW = datetime(2026, 3, 1, 10, 20, 30, tzinfo=UTC)
CURRENT = datetime(2026, 3, 1, 10, tzinfo=UTC)


def test_there_is_a_bar_for_each_of_the_last_24_hours() -> None:
    chart = Chart.of([], NOW)
    assert [bar.hour for bar in chart.bars] == [CURRENT - HOUR * (23 - n) for n in range(24)]
    assert [bar.x for bar in chart.bars] == [10 * n for n in range(24)]
    assert {(bar.height, bar.y, bar.numbers) for bar in chart.bars} == {(0, HEIGHT, None)}
    assert (chart.highest, chart.total) == (0, 0)


def test_the_highest_bar_is_as_high_as_the_picture_and_the_lowest_is_seen() -> None:
    hours = [
        hour_of_access(CURRENT - 2 * HOUR, accesses=0),
        hour_of_access(CURRENT - HOUR, accesses=1),
        hour_of_access(CURRENT, accesses=100_000),
    ]
    chart = Chart.of(hours, NOW)
    assert [bar.height for bar in chart.bars[-3:]] == [0, 1, HEIGHT]
    assert [bar.numbers for bar in chart.bars[-3:]] == hours
    assert (chart.highest, chart.total) == (100_000, 100_001)
