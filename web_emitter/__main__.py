"""`python -m web_emitter`: the server, as `kp up` starts it.

Belongs here: address, number of workers, and exit status 0 after SIGTERM: uvicorn re-raises the
signal that stopped it, which looks like a crash. Does not belong here: the application
(`site/app.py`).
"""

import signal
from math import ceil
from types import FrameType
from urllib.parse import urlsplit

import uvicorn

from web_emitter.site.settings import SiteSettings


def main() -> None:
    """Serve until SIGTERM or SIGINT. Open requests get the same time as the delivery of events."""
    settings = SiteSettings()
    url = urlsplit(settings.emitter_url)
    signal.signal(signal.SIGTERM, _exit)
    uvicorn.run(
        "web_emitter.site.app:app",
        host=url.hostname or "127.0.0.1",
        port=url.port or 80,
        workers=settings.emitter_workers,
        access_log=False,
        timeout_graceful_shutdown=ceil(settings.emitter_flush_seconds),
    )


def _exit(number: int, frame: FrameType | None) -> None:
    """Runs before the server listens, and after uvicorn has shut down."""
    raise SystemExit(0)


if __name__ == "__main__":
    main()
