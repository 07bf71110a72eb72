"""`python -m web_emitter`: the server, as `kp up` starts it.

Belongs here: where and with how many workers it listens, and that a stop by SIGTERM is a success:
uvicorn ends by the signal that stopped it, which looks like a crash. Does not belong here: the
application (`app.py`).
"""

import signal
from math import ceil
from types import FrameType
from urllib.parse import urlsplit

import uvicorn

from web_emitter.emitter.settings import Settings


def main() -> None:
    """Serves until SIGTERM or SIGINT. Requests get the grace that events get, before them."""
    settings = Settings()
    url = urlsplit(settings.emitter_url)
    signal.signal(signal.SIGTERM, _end)
    uvicorn.run(
        "web_emitter.site.app:app",
        host=url.hostname or "127.0.0.1",
        port=url.port or 80,
        workers=settings.emitter_workers,
        access_log=False,
        timeout_graceful_shutdown=ceil(settings.emitter_flush_seconds),
    )


def _end(number: int, frame: FrameType | None) -> None:
    """Called before the server listens, and again by uvicorn when everything has ended."""
    raise SystemExit(0)


if __name__ == "__main__":
    main()
