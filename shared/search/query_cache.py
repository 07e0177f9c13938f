"""Caches the vectors of queries, so that a repeated query costs no provider call."""

import hashlib
from collections.abc import Callable

from shared.cache import Cache
from shared.embedding.collection import vector_text
from shared.models import EmbeddingModel, Vectors


class QueryCache(Cache):
    """Query vectors by model and text. Keys contain a digest of the query, so that the query itself is not in Redis.

    `query_prefix` is the prefix from the settings, which replaces the prefix of the model.
    """

    query_prefix: str | None = None

    def vector(self, spec: EmbeddingModel, query: str, embed: Callable[[], Vectors]) -> str:
        """The query's vector in pgvector's text format. Raises the errors of `embed`."""
        # Prefix and width are part of the key, because the vector depends on them.
        prefix = self.query_prefix or spec.query_prefix
        parts = "\0".join((spec.provider, spec.name, str(spec.dimensions), prefix, query))
        key = f"tonnetz:vector:{hashlib.sha256(parts.encode('utf-8', 'surrogatepass')).hexdigest()}"
        vector: str | None = self.get(key)
        if vector is None:
            vector = vector_text(embed())
            self.put(key, vector)
        return vector
