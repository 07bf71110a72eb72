"""Work that one run does again whenever it is due, instead of a new run each time: that would cost
four CPU-seconds and 160 kB of Dagster's database.

Belongs here: when to look, and when to end. Does not belong here: what is due, and the work.
"""

import time
from collections.abc import Callable, Iterator

LOOK_SECONDS = 10.0


def turns(
    is_due: Callable[[], bool],
    *,
    seconds: float,
    idle_seconds: float,
    look_seconds: float = LOOK_SECONDS,
) -> Iterator[None]:
    """Yields at once, and again each time that a look finds something due, until `seconds` are over
    or nothing was due for `idle_seconds`."""
    began = last = time.monotonic()
    yield
    while True:
        now = time.monotonic()
        if now - began + look_seconds > seconds or now - last > idle_seconds:
            return
        time.sleep(look_seconds)
        if is_due():
            last = time.monotonic()
            yield
