"""Redis as a Dagster resource: the values kept under the bare names, in the database of the URL.

Belongs here: plain string keys. Does not belong here: the join, which Trino does.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import dagster as dg
import redis
from pydantic import Field

from kp_platform.resources.errors import ServerDown
from kp_platform.settings import Settings


class RedisResource(dg.ConfigurableResource[None]):
    """The store of the reference keys. Its URL, which may hold a password, is KP_REDIS_URL."""

    timeout_seconds: float = Field(
        default=5.0, gt=0, description="Longest wait for one answer, seconds."
    )

    def probe(self) -> None:
        """Raises ServerDown unless Redis answers."""
        with self._client() as client:
            client.ping()

    def set_values(self, values: Mapping[str, str]) -> None:
        """Set each key to its value."""
        with self._client() as client:
            client.mset(dict(values))

    def values(self, keys: Sequence[str]) -> dict[str, str]:
        """The values of those keys that exist."""
        with self._client() as client:
            found = client.mget(list(keys))
        pairs = zip(keys, found, strict=True)
        return {key: str(value) for key, value in pairs if value is not None}

    @contextlib.contextmanager
    def _client(self) -> Iterator["redis.Redis"]:
        url = Settings().redis_url.get_secret_value()
        client = redis.Redis.from_url(
            url,
            decode_responses=True,
            socket_timeout=self.timeout_seconds,
            socket_connect_timeout=self.timeout_seconds,
        )
        try:
            with contextlib.closing(client):
                yield client
        except redis.RedisError as error:
            raise ServerDown("Redis", url, "KP_REDIS_URL", error) from error
