"""HTTP requests to the services of a stack.

Belongs here: the options that all of them share. Does not belong here: what is requested
(`dagster.py`, `emitter.py`, `demo.py`).
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx


def http_client(url: str, timeout_seconds: float) -> "httpx.Client":
    """A client for the service at this URL, which ignores the caller's proxy. httpx reads all
    certificate authorities for each client (0.1 s of CPU): here only for https."""
    import httpx

    is_https = url.startswith("https:")
    return httpx.Client(base_url=url, timeout=timeout_seconds, trust_env=False, verify=is_https)
