"""Log lines that are held back."""

import logging

import pytest

from web_emitter.emitter.rate_limit import RateLimitedLogger


def test_a_line_is_said_once_per_interval_with_the_number_held_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    times = iter([0.0, 1.0, 9.9, 10.0])
    throttle = RateLimitedLogger(
        logging.getLogger("test"), interval_seconds=10.0, clock=lambda: next(times)
    )
    for number in range(4):
        throttle.warning("dropped: %d", number)
    assert caplog.messages == [
        "dropped: 0 (0 similar messages suppressed)",
        "dropped: 3 (2 similar messages suppressed)",
    ]
