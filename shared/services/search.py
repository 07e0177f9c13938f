"""Find rows by their words and by their meaning."""

import time
from collections.abc import Mapping
from threading import Lock

from cachetools import TTLCache

from shared.database.base import Database
from shared.database.queue import vector_text
from shared.errors import InvalidRequest, ProviderError
from shared.models import Hit, SearchResult
from shared.providers.base import EmbeddingProvider

# The collections that have a search function, and the columns it filters by.
FILTERS: Mapping[str, tuple[str, ...]] = {"music_knowledge": ("category",)}

_SCORES = ("score", "full_text_score", "full_text_rank", "semantic_score", "semantic_rank")


class QueryCache:
    """Vectors of recent queries by model and text: a repeated query costs no provider call.

    Bounded to `size` queries, each kept for `seconds`.
    """

    def __init__(self, *, size: int = 4096, seconds: float = 24 * 3600) -> None:
        self._vectors: TTLCache[tuple[str, str], str] = TTLCache(maxsize=size, ttl=seconds)
        self._lock = Lock()

    def embed(self, provider: EmbeddingProvider, query: str) -> str:
        """The query's vector as pgvector reads it. Raises ProviderError."""
        key = (provider.model, query)
        with self._lock:
            known = self._vectors.get(key)
        if known is not None:
            return known
        vector = vector_text(provider.embed_query(query))
        with self._lock:
            self._vectors[key] = vector
        return vector


class SearchService:
    """Hybrid search over one database with one provider."""

    def __init__(self, database: Database, provider: EmbeddingProvider, cache: QueryCache | None = None) -> None:
        self._database = database
        self._provider = provider
        self._cache = cache or QueryCache()

    def search(
        self,
        collection: str,
        query: str,
        *,
        match_count: int = 10,
        filters: Mapping[str, str] | None = None,
        full_text_weight: float | None = None,
        semantic_weight: float | None = None,
        fusion: str | None = None,
    ) -> SearchResult:
        """The best `match_count` rows for the query, with every part of their score.

        Where the provider fails, the words alone are searched and the result says `degraded`.
        Raises InvalidRequest for an unknown collection or filter, DatabaseError.
        """
        started = time.perf_counter()
        if collection not in FILTERS:
            raise InvalidRequest(f"collection: {collection!r} cannot be searched; choose one of {', '.join(FILTERS)}")
        arguments: dict[str, object] = {"query_text": query, "match_count": match_count}
        for name, value in (filters or {}).items():
            if name not in FILTERS[collection]:
                raise InvalidRequest(f"filter: {name!r} is not known; use one of {', '.join(FILTERS[collection])}")
            arguments[f"filter_{name}"] = value
        optional = {"full_text_weight": full_text_weight, "semantic_weight": semantic_weight, "fusion": fusion}
        arguments.update({name: value for name, value in optional.items() if value is not None})

        degraded = False
        try:
            arguments["query_embedding"] = self._cache.embed(self._provider, query)
            arguments["embedding_model"] = self._provider.model
        except ProviderError:
            degraded = True
        rows = self._database.call(f"search_{collection}", arguments)
        hits = [
            Hit(
                id=str(row["id"]),
                **{name: row[name] for name in _SCORES},
                row={name: value for name, value in row.items() if name not in ("id", *_SCORES)},
            )
            for row in rows
        ]
        return SearchResult(hits, degraded, round((time.perf_counter() - started) * 1000, 1))
