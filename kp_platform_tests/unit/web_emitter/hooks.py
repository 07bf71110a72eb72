"""An identify hook for an application behind a login proxy."""

from starlette.types import Scope


def remote_user(scope: Scope) -> str:
    """The name that the proxy sets. Raises ValueError unless the header occurs exactly once."""
    (name,) = [value for key, value in scope["headers"] if key == b"x-remote-user"]
    text: str = name.decode()
    return text
