"""The web emitter of the local stack.

Belongs here: how `kp up` starts it. Does not belong here: the emitter itself (`web_emitter/`).
"""

import sys
from functools import partial

from kp_platform.adapters.errors import ServerDown
from kp_platform.local.http import http_client
from kp_platform.local.service import CONSUMERS, Service, url_port
from kp_platform.local.settings import LocalSettings


def service(settings: LocalSettings) -> Service:
    """Raises StackError for a URL of another host."""
    port = url_port("KP_EMITTER_URL", settings.emitter_url)
    return Service(
        name="emitter",
        stage=CONSUMERS,
        address=settings.emitter_url,
        ready=partial(_ready, settings),
        ports=(port,),
        command=(sys.executable, "-m", "web_emitter"),
        environment={"PYTHONUNBUFFERED": "1"},
    )


def _ready(settings: LocalSettings) -> None:
    import httpx

    down = partial(ServerDown, "emitter", settings.emitter_url, "KP_EMITTER_URL")
    try:
        with http_client(settings.emitter_url, 10) as client:
            answer = client.get("/readyz")
    except httpx.HTTPError as error:
        raise down(error) from error
    if answer.status_code != 200:
        raise down(f"/readyz answers {answer.status_code}: {answer.text}")
