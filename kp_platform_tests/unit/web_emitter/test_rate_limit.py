"""Repeated log messages are suppressed."""

import logging

import pytest

from web_emitter.emitter.rate_limit import RateLimitedLogger


def test_a_message_is_logged_once_per_interval_with_the_number_suppressed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    times = iter([0.0, 1.0, 9.9, 10.0])
    limited = RateLimitedLogger(
        logging.getLogger("test"), interval_seconds=10.0, clock=lambda: next(times)
    )
    for number in range(4):
        limited.warning("dropped: %d", number)
    assert caplog.messages == [
        "dropped: 0 (0 similar messages suppressed)",
        "dropped: 3 (2 similar messages suppressed)",
    ]
