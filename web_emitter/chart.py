"""The bars of the accesses per hour, in the units of an SVG.

Belongs here: geometry. Does not belong here: markup and words (`templates/insights.html`), colours
(`static/kp.css`), the numbers themselves (`insights.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from web_emitter.insights import HOUR, HOURS, HourOfAccess

SLOT_WIDTH = 10
HEIGHT = 60


@dataclass(frozen=True, slots=True)
class Bar:
    """One hour. `numbers` is None, and the height 0, while it is not computed."""

    hour: datetime
    x: int
    height: float
    numbers: HourOfAccess | None

    @property
    def y(self) -> float:
        return HEIGHT - self.height


@dataclass(frozen=True, slots=True)
class Chart:
    """HOURS bars up to the current hour; the highest is as high as the picture."""

    bars: tuple[Bar, ...]
    highest: int
    total: int
    slot_width: int = SLOT_WIDTH
    width: int = SLOT_WIDTH * HOURS
    height: int = HEIGHT

    @classmethod
    def of(cls, hours: Sequence[HourOfAccess], now: datetime) -> "Chart":
        current = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        numbers = {each.hour: each for each in hours}
        highest = max((each.accesses for each in hours), default=0)
        slots = (current - HOUR * (HOURS - 1 - number) for number in range(HOURS))
        return cls(
            bars=tuple(
                Bar(
                    hour,
                    SLOT_WIDTH * number,
                    _height(numbers.get(hour), highest),
                    numbers.get(hour),
                )
                for number, hour in enumerate(slots)
            ),
            highest=highest,
            total=sum(each.accesses for each in hours),
        )


def _height(numbers: HourOfAccess | None, highest: int) -> float:
    """An hour with few accesses is still seen."""
    if numbers is None or not numbers.accesses:
        return 0
    return max(1.0, round(HEIGHT * numbers.accesses / highest, 1))
