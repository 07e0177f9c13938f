"""Caches values in this process and, if REDIS_URL is set, in Redis for all processes."""

import logging
import time
from threading import Lock
from typing import TYPE_CHECKING, Any

import orjson
from cachetools import TTLCache
from pydantic import SecretStr

from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from redis import Redis

log = logging.getLogger(__name__)

LIFE_SECONDS = 24 * 3600
# After a failure, Redis is not asked for this many seconds. Otherwise every search would wait for a timeout.
PAUSE_SECONDS = 10.0


class RedisCache:
    """Stores texts in Redis, each for a limited time. If Redis fails, no text is found, and searches go on without it."""

    def __init__(self, url: SecretStr) -> None:
        try:
            import redis
        except ImportError:
            raise ConfigurationError("REDIS_URL: needs the package redis: pip install redis") from None
        try:
            self._redis: Redis = redis.Redis.from_url(
                url.get_secret_value(), socket_timeout=0.5, socket_connect_timeout=0.5, decode_responses=True
            )
        except ValueError:
            raise ConfigurationError("REDIS_URL: must start with redis://, rediss:// or unix://") from None
        self._failure = redis.RedisError
        self._paused_until = 0.0

    def __repr__(self) -> str:
        return "RedisCache()"

    def get(self, key: str) -> str | None:
        """The text, or None if Redis does not have it or cannot be reached."""
        value = self._ask("get", key)
        return value if isinstance(value, str) else None

    def set(self, key: str, value: str, seconds: int) -> None:
        """Keep a text for this many seconds, if Redis can be reached."""
        self._ask("set", key, value, ex=seconds)

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def _ask(self, command: str, *arguments: str, **options: int) -> object:
        if time.monotonic() < self._paused_until:
            return None
        try:
            return getattr(self._redis, command)(*arguments, **options)
        except self._failure as error:
            self._paused_until = time.monotonic() + PAUSE_SECONDS
            # Log only the type: the error's text may quote the URL.
            log.warning("redis cannot be reached (%s); searching without it", type(error).__name__)
            return None


class Cache:
    """Stores JSON values by key for `seconds`: at most `size` of them in this process, and all of them in `shared`."""

    def __init__(self, shared: RedisCache | None = None, *, size: int = 4096, seconds: int = LIFE_SECONDS) -> None:
        self._shared = shared
        self._seconds = seconds
        self._local: TTLCache[str, str] = TTLCache(maxsize=size, ttl=seconds)
        self._lock = Lock()

    def get(self, key: str) -> Any:
        """The value of the key, or None if there is none."""
        with self._lock:
            text = self._local.get(key)
        if text is None and self._shared is not None and (text := self._shared.get(key)):
            with self._lock:
                self._local[key] = text
        return None if text is None else orjson.loads(text)

    def put(self, key: str, value: object) -> None:
        """Keep a value in this process, and in `shared` for the other processes."""
        text = orjson.dumps(value).decode()
        with self._lock:
            self._local[key] = text
        if self._shared is not None:
            self._shared.set(key, text, self._seconds)
