"""The parts of ASGI that the library uses, so that it needs no web framework.

Belongs here: the types of ASGI 3 (https://asgi.readthedocs.io/en/latest/specs/main.html) and a
plain-text response. Does not belong here: which requests are answered (`middleware.py`).
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


async def send_text(
    send: Send, status: int, text: str, headers: tuple[tuple[bytes, bytes], ...] = ()
) -> None:
    """Answers an HTTP request with plain text."""
    body = text.encode()
    content = (
        (b"content-length", str(len(body)).encode()),
        (b"content-type", b"text/plain; charset=utf-8"),
    )
    start = {"type": "http.response.start", "status": status, "headers": [*content, *headers]}
    await send(start)
    await send({"type": "http.response.body", "body": body})
