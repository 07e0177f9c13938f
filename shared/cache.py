"""A cache in Redis, shared by all processes. A Redis that is down costs the cache, never the search."""

import logging
import time
from typing import TYPE_CHECKING

from pydantic import SecretStr

from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from redis import Redis

log = logging.getLogger(__name__)

# After a failure Redis is left alone for this long, so that each search does not wait for it again.
PAUSE_SECONDS = 10.0


class RedisCache:
    """Strings with a life in seconds; every failure counts as a miss."""

    def __init__(self, url: SecretStr) -> None:
        try:
            import redis
        except ImportError:
            raise ConfigurationError("REDIS_URL needs the package redis: pip install redis") from None
        try:
            self._redis: Redis = redis.Redis.from_url(
                url.get_secret_value(), socket_timeout=0.5, socket_connect_timeout=0.5, decode_responses=True
            )
        except ValueError:
            raise ConfigurationError("REDIS_URL must start with redis://, rediss:// or unix://") from None
        self._failure = redis.RedisError
        self._asleep_until = 0.0

    def __repr__(self) -> str:
        return "RedisCache()"

    def get(self, key: str) -> str | None:
        """The value, None where there is none or Redis is out of reach."""
        if time.monotonic() < self._asleep_until:
            return None
        try:
            value = self._redis.get(key)
        except self._failure as error:
            self._sleep(error)
            return None
        return value if isinstance(value, str) else None

    def set(self, key: str, value: str, seconds: int) -> None:
        """Keep a value for that long, if Redis can."""
        if time.monotonic() < self._asleep_until:
            return
        try:
            self._redis.set(key, value, ex=seconds)
        except self._failure as error:
            self._sleep(error)

    def close(self) -> None:
        """Give the connections back."""
        self._redis.close()

    def _sleep(self, error: Exception) -> None:
        self._asleep_until = time.monotonic() + PAUSE_SECONDS
        # The error's text may quote the URL.
        log.warning("redis is out of reach (%s); searching without it", type(error).__name__)
