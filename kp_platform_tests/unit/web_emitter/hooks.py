"""An identify hook as an application behind a login proxy would have it."""

from starlette.types import Scope


def remote_user(scope: Scope) -> str:
    """The name that the proxy sets. Raises ValueError when it is not there exactly once."""
    (name,) = [value for key, value in scope["headers"] if key == b"x-remote-user"]
    text: str = name.decode()
    return text
