"""Searches a collection: embeds the query and ranks rows by full text and semantic similarity."""

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

from cachetools import TTLCache

from shared.cache import Cache
from shared.database.base import Database
from shared.deadline import Deadline
from shared.embedding.collection import Collection, vector_text
from shared.embedding.model_providers import ModelProviders
from shared.embedding.shipped import needs_collection
from shared.errors import ConfigurationError, InvalidRequest, NotFound, ProviderError
from shared.models import SCORES, Caller, EmbeddingModel, Hit, SearchResult
from shared.retry import RetryPolicy
from shared.search.filters import COMMON_OPTIONS, FILTERS, OPTIONS

log = logging.getLogger(__name__)

# Seconds for which the list of a collection's models is cached. They are few, so that a model switch is noticed soon.
MODELS_SECONDS = 2.0
QUERY_RETRIES = RetryPolicy(max_attempts=2, max_seconds=3, base_wait=0.2)
# Seconds in which a query must be embedded. They are enough for a provider that has to load its model first.
QUERY_SECONDS = 15.0


class SearchService:
    """Hybrid search over one database.

    If a collection has vectors of several models, the query is embedded with each of them. `cache` keeps the vectors of
    queries. The `query_prefix` of the settings replaces the prefixes of the models.
    """

    def __init__(
        self,
        database: Database,
        providers: ModelProviders,
        cache: Cache | None = None,
        *,
        query_prefix: str | None = None,
    ) -> None:
        self._database = database
        self._providers = providers
        self._cache = cache or Cache()
        self._query_prefix = query_prefix
        self._models: TTLCache[str, list[EmbeddingModel]] = TTLCache(maxsize=256, ttl=MODELS_SECONDS)
        self._lock = Lock()

    def search(
        self,
        collection: str,
        query: str,
        *,
        match_count: int = 10,
        filters: Mapping[str, str] | None = None,
        options: Mapping[str, object] | None = None,
        caller: Caller | None = None,
    ) -> SearchResult:
        """The best `match_count` rows for the query, with every part of their score.

        If a provider fails or cannot be created, rows of its model are found by full text only, and the result is
        `degraded`. A collection without a model is searched by full text only. With a `caller`, the rows are read with
        the rights of this caller, under row level security. `filters.py` lists the `options`.
        Raises NotFound for an unknown collection, InvalidRequest for an unknown filter or option, DatabaseError.
        """
        started = time.perf_counter()
        if collection not in FILTERS:
            raise NotFound(f"collection: {collection!r} cannot be searched; choose one of {', '.join(FILTERS)}")
        arguments: dict[str, object] = {"query_text": query, "match_count": match_count}
        for name, value in (filters or {}).items():
            if name not in FILTERS[collection]:
                raise InvalidRequest(f"filter: {name!r} is not known; use one of {', '.join(FILTERS[collection])}")
            arguments[f"filter_{name}"] = value
        for name, option in (options or {}).items():
            if name not in (*COMMON_OPTIONS, *OPTIONS.get(collection, ())):
                raise InvalidRequest(f"{name}: is not an option of a search of {collection}")
            arguments[name] = option

        database = self._database if caller is None else self._database.as_caller(caller)
        deadline = Deadline(QUERY_SECONDS)
        with needs_collection(self._database, collection):
            models = self._collection_models(collection)
            rows, degraded = self._ask(database, collection, models, query, arguments, deadline)
            # The list of models may be a few seconds old, so rows of a new model may be missing from the hits.
            if len(rows) < match_count and (latest := self._collection_models(collection, ask_again=True)) != models:
                rows, degraded = self._ask(database, collection, latest, query, arguments, deadline)
        rows = [{**row, "id": str(row["id"])} for row in rows]
        hits = [Hit(row["id"], **{name: row[name] for name in SCORES}, row=row) for row in rows]
        return SearchResult(hits, degraded, round((time.perf_counter() - started) * 1000, 1))

    def _ask(
        self,
        database: Database,
        collection: str,
        models: Sequence[EmbeddingModel],
        query: str,
        arguments: Mapping[str, object],
        deadline: Deadline,
    ) -> tuple[list[dict[str, Any]], bool]:
        """Search once; returns the rows, and whether the query could not be embedded with one of the models."""
        vectors: dict[str, str] = {}
        degraded = False
        for spec in models:
            try:
                vectors[spec.name] = self.query_vector(spec, query, deadline)
            except (ProviderError, ConfigurationError) as error:
                log.warning("searching %s without model %s: %s", collection, spec.name, error.message)
                degraded = True
        semantic = {"query_embeddings": vectors} if vectors else {}
        return database.call(f"search_{collection}", {**arguments, **semantic}), degraded

    def query_vector(self, spec: EmbeddingModel, query: str, deadline: Deadline | None = None) -> str:
        """The vector of a query in pgvector's text format; the provider is not asked again for a repeated query."""
        # The vector depends on the prefix and the width. The key is a digest, so that Redis never contains a query.
        prefix = self._query_prefix or spec.query_prefix
        parts = "\0".join((spec.provider, spec.name, str(spec.dimensions), prefix, query))
        key = f"tonnetz:vector:{hashlib.sha256(parts.encode('utf-8', 'surrogatepass')).hexdigest()}"
        vector: str | None = self._cache.get(key)
        if vector is None:
            provider = self._providers.for_model(spec)
            # A search must answer quickly, so there are only two tries. After them it continues without the vector.
            answer = provider.embed([query], "query", registered=spec, retry=QUERY_RETRIES, deadline=deadline)
            vector = vector_text(answer.vectors[0])
            self._cache.put(key, vector)
        return vector

    def _collection_models(self, collection: str, *, ask_again: bool = False) -> list[EmbeddingModel]:
        """The models of the collection's rows, read at most MODELS_SECONDS ago."""
        with self._lock:
            models = None if ask_again else self._models.get(collection)
        if models is None:
            models = Collection(self._database, collection).collection_models()
            with self._lock:
                self._models[collection] = models
        return models
