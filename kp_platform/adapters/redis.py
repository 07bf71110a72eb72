"""Redis: the reference values and the ranking, in the database of the URL.

Belongs here: every call to Redis that the platform makes. Does not belong here: the join, which
Trino does, and the contents of a ranking (`analytics/ranking.py`).
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from kp_platform.adapters.errors import Refusal, server_error
from kp_platform.settings import Settings

_REFUSALS = (
    Refusal("invalid username-password pair", "KP_REDIS_URL", "refuses the user"),
    Refusal("authentication required", "KP_REDIS_URL", "requires a user"),
    Refusal("no permissions", "KP_REDIS_URL", "denies this operation to the user"),
)


@dataclass(frozen=True, slots=True)
class RedisAdapter:
    """The store of the reference keys and of the ranking. Waits at most `timeout_seconds` for an
    answer."""

    settings: Settings
    timeout_seconds: float = 5.0

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

    def replace(
        self,
        listing: str,
        sorted_sets: Mapping[str, Mapping[str, int]],
        hashes: Mapping[str, Mapping[str, str]],
    ) -> None:
        """See `RankingStore.replace`. MULTI and EXEC are sent in one write: a caller that is killed
        has changed everything or nothing."""

        def queue(transaction: "redis.client.Pipeline") -> None:
            before = transaction.zrange(listing, 0, -1)  # runs at once: the listing is watched
            transaction.multi()
            transaction.delete(*sorted_sets, *before, *hashes)
            for key, scores in sorted_sets.items():
                if scores:
                    transaction.zadd(key, dict(scores))
            for key, fields in hashes.items():
                transaction.hset(key, mapping=_mapping(fields))

        with self._client() as client:
            client.transaction(queue, listing)

    def set_hash(self, key: str, fields: Mapping[str, str]) -> None:
        """See `RankingStore.set_hash`."""
        with self._client() as client, client.pipeline(transaction=True) as transaction:
            transaction.delete(key)
            transaction.hset(key, mapping=_mapping(fields))
            transaction.execute()

    def hash(self, key: str) -> dict[str, str]:
        """See `RankingStore.hash`."""
        with self._client() as client:
            return {str(name): str(value) for name, value in client.hgetall(key).items()}

    def highest(self, key: str, count: int) -> list[tuple[str, int]]:
        """The members of a sorted set with the highest scores, as applications read them."""
        with self._client() as client:
            found: Any = client.zrevrange(key, 0, count - 1, withscores=True)
        return [(str(member), int(score)) for member, score in found]

    @contextlib.contextmanager
    def _client(self) -> Iterator["redis.Redis"]:
        settings = self.settings
        url = settings.redis_url.get_secret_value()
        trust = {"ssl_ca_certs": settings.trusted_ca_file} if url.startswith("rediss:") else {}
        client = redis.Redis.from_url(
            url,
            **trust,
            decode_responses=True,
            socket_timeout=self.timeout_seconds,
            socket_connect_timeout=self.timeout_seconds,
        )
        try:
            with contextlib.closing(client):
                yield client
        except redis.RedisError as error:
            raise server_error("Redis", url, "KP_REDIS_URL", error, _REFUSALS) from error


def _mapping(fields: Mapping[str, str]) -> dict[Any, Any]:
    """The fields as the client's types require them."""
    return dict(fields)
