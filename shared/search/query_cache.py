"""Vectors of recent queries: a repeated query costs no provider call."""

import hashlib
from threading import Lock
from typing import TYPE_CHECKING, Protocol

from cachetools import TTLCache

from shared.embedding.collection import vector_text
from shared.models import EmbeddingModel

if TYPE_CHECKING:
    from shared.providers.base import EmbeddingProvider

LIFE_SECONDS = 24 * 3600


class SharedCache(Protocol):
    """A cache that several processes share. It may forget, and answers None when it is out of reach."""

    def get(self, key: str) -> str | None: ...

    def set(self, key: str, value: str, seconds: int) -> None: ...


class QueryCache:
    """Query vectors by model and text, at most `size` in this process, each for `seconds`; `shared` is asked next.

    Keys hold a digest of the query: what people search for stays out of a shared cache.
    """

    def __init__(self, shared: SharedCache | None = None, *, size: int = 4096, seconds: int = LIFE_SECONDS) -> None:
        self._shared = shared
        self._seconds = seconds
        self._local: TTLCache[str, str] = TTLCache(maxsize=size, ttl=seconds)
        self._lock = Lock()

    def known(self, spec: EmbeddingModel, query: str) -> str | None:
        """The query's vector where this process has it; asks nobody."""
        with self._lock:
            return self._local.get(_key(spec, query))

    def embed(self, provider: "EmbeddingProvider", query: str) -> str:
        """The query's vector as pgvector reads it. Raises ProviderError."""
        key = _key(provider.spec, query)
        with self._lock:
            known = self._local.get(key)
        if known is not None:
            return known
        vector = self._shared.get(key) if self._shared else None
        if vector is None:
            vector = vector_text(provider.embed_query(query))
            if self._shared:
                self._shared.set(key, vector, self._seconds)
        with self._lock:
            self._local[key] = vector
        return vector


def _key(spec: EmbeddingModel, query: str) -> str:
    # The prefix and the width are part of what the vector is.
    parts = "\0".join((spec.provider, spec.name, str(spec.dimensions), spec.query_prefix, query))
    return f"tonnetz:query:{hashlib.sha256(parts.encode('utf-8', 'surrogatepass')).hexdigest()}"
