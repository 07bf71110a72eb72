"""The bar chart of accesses over time, in SVG units.

Belongs here: the time step of a bar, and geometry. Does not belong here: markup and texts
(`templates/overview.html`), colours (`static/kp.css`), the numbers (`insights.py`, `logs.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from web_emitter.site.analysis.insights import HOUR, HOURS, HourOfAccess

SLOT_WIDTH = 10
HEIGHT = 60
MAX_BARS = 60
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_STEPS = [
    timedelta(seconds=seconds)
    for seconds in (1, 5, 10, 30, 60, 300, 600, 1_800, 3_600, 10_800, 43_200, 86_400, 604_800)
]


@dataclass(frozen=True, slots=True)
class Bar:
    """One time step. `accesses` is None, and the height 0, when it has not been computed; `numbers`
    are the other KPIs of an hour."""

    start: datetime
    end: datetime
    x: int
    height: float
    accesses: int | None
    numbers: HourOfAccess | None = None

    @property
    def y(self) -> float:
        return HEIGHT - self.height


@dataclass(frozen=True, slots=True)
class Chart:
    """Bars of equal time steps, side by side; the highest bar has the height of the picture."""

    bars: tuple[Bar, ...]
    highest: int
    total: int
    step: timedelta
    slot_width: int = SLOT_WIDTH
    height: int = HEIGHT

    @property
    def width(self) -> int:
        return SLOT_WIDTH * len(self.bars)

    @property
    def length(self) -> timedelta:
        return self.step * len(self.bars)

    @property
    def has_numbers(self) -> bool:
        return any(bar.numbers for bar in self.bars)

    @classmethod
    def of_hours(cls, hours: Sequence[HourOfAccess], now: datetime) -> "Chart":
        """HOURS bars up to the current hour; `now` has a time zone."""
        current = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        numbers = {each.hour: each for each in hours}
        starts = [current - HOUR * (HOURS - 1 - number) for number in range(HOURS)]
        counts = {hour: each.accesses for hour, each in numbers.items()}
        return cls._of(starts, HOUR, {start: counts.get(start) for start in starts}, numbers)

    @classmethod
    def of_counts(
        cls, counts: Mapping[datetime, int], start: datetime, end: datetime, step: timedelta
    ) -> "Chart":
        """Bars from `start` to `end` at multiples of `step` since the epoch; default count 0."""
        first = EPOCH + (start - EPOCH) // step * step
        number = -((first - end) // step)
        starts = [first + step * each for each in range(number)]
        return cls._of(starts, step, {each: counts.get(each, 0) for each in starts}, {})

    @classmethod
    def _of(
        cls,
        starts: Sequence[datetime],
        step: timedelta,
        counts: Mapping[datetime, int | None],
        numbers: Mapping[datetime, HourOfAccess],
    ) -> "Chart":
        computed = [count for count in counts.values() if count is not None]
        highest = max(computed, default=0)
        bars = tuple(
            Bar(
                start,
                start + step,
                SLOT_WIDTH * index,
                _height(counts[start], highest),
                counts[start],
                numbers.get(start),
            )
            for index, start in enumerate(starts)
        )
        return cls(bars, highest, sum(computed), step)


def step_of(start: datetime, end: datetime) -> timedelta:
    """The shortest time step with at most MAX_BARS bars, in whole seconds."""
    least = (end - start) / MAX_BARS
    for step in _STEPS:
        if step >= least:
            return step
    return _STEPS[-1] * -(-least // _STEPS[-1])


def _height(accesses: int | None, highest: int) -> float:
    """A bar with few accesses remains visible."""
    if not accesses:
        return 0
    return max(1.0, round(HEIGHT * accesses / highest, 1))
