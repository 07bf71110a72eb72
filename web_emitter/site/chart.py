"""The bars of accesses in time, in the units of an SVG.

Belongs here: how long a bar is, and geometry. Does not belong here: markup and words
(`templates/insights.html`), colours (`static/kp.css`), the numbers themselves (`insights.py`,
`logs.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from web_emitter.site.insights import HOUR, HOURS, HourOfAccess

SLOT_WIDTH = 10
HEIGHT = 60
MOST_BARS = 60
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_STEPS = [
    timedelta(seconds=seconds)
    for seconds in (1, 5, 10, 30, 60, 300, 600, 1_800, 3_600, 10_800, 43_200, 86_400, 604_800)
]


@dataclass(frozen=True, slots=True)
class Bar:
    """One step. `accesses` is None, and the height 0, while it is not computed; `numbers` are what
    else is known of an hour."""

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
    """Bars of one length, side by side; the highest is as high as the picture."""

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
        """HOURS bars up to the current hour."""
        current = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        numbers = {each.hour: each for each in hours}
        starts = [current - HOUR * (HOURS - 1 - number) for number in range(HOURS)]
        counts = {hour: each.accesses for hour, each in numbers.items()}
        return cls._of(starts, HOUR, {start: counts.get(start) for start in starts}, numbers)

    @classmethod
    def of_counts(
        cls, counts: Mapping[datetime, int], start: datetime, end: datetime, step: timedelta
    ) -> "Chart":
        """Bars from start to end, which are multiples of `step` since the epoch; where no count is
        known there was none."""
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
        known = [count for count in counts.values() if count is not None]
        highest = max(known, default=0)
        bars = tuple(
            Bar(
                start,
                start + step,
                SLOT_WIDTH * place,
                _height(counts[start], highest),
                counts[start],
                numbers.get(start),
            )
            for place, start in enumerate(starts)
        )
        return cls(bars, highest, sum(known), step)


def step_of(start: datetime, end: datetime) -> timedelta:
    """The shortest length of bars of which MOST_BARS are enough, in whole seconds."""
    least = (end - start) / MOST_BARS
    for step in _STEPS:
        if step >= least:
            return step
    return _STEPS[-1] * -(-least // _STEPS[-1])


def _height(accesses: int | None, highest: int) -> float:
    """An hour with few accesses is still seen."""
    if not accesses:
        return 0
    return max(1.0, round(HEIGHT * accesses / highest, 1))
