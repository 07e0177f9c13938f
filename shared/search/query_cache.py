"""Caches the vectors of queries, so that a repeated query costs no provider call."""

import hashlib
from typing import TYPE_CHECKING

from shared.cache import Cache
from shared.embedding.collection import vector_text
from shared.models import EmbeddingModel

if TYPE_CHECKING:
    from shared.providers.base import EmbeddingProvider


class QueryCache(Cache):
    """Query vectors by model and text. Keys hold a digest of the query, so that Redis never holds a query."""

    def known(self, spec: EmbeddingModel, query: str) -> str | None:
        """The query's vector if this process has it."""
        vector: str | None = self.get(_key(spec, query), local_only=True)
        return vector

    def embed(self, provider: "EmbeddingProvider", query: str) -> str:
        """The query's vector as pgvector reads it. Raises ProviderError."""
        key = _key(provider.spec, query)
        vector: str | None = self.get(key)
        if vector is None:
            vector = vector_text(provider.embed_query(query))
            self.put(key, vector)
        return vector


def _key(spec: EmbeddingModel, query: str) -> str:
    # The prefix and the width are part of what the vector is.
    parts = "\0".join((spec.provider, spec.name, str(spec.dimensions), spec.query_prefix, query))
    return f"tonnetz:vector:{hashlib.sha256(parts.encode('utf-8', 'surrogatepass')).hexdigest()}"
