"""The one place where settings become objects. Imports what is chosen, and only when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from shared.errors import ConfigurationError
from shared.settings import Settings, load_settings

if TYPE_CHECKING:
    from shared.database.base import Database
    from shared.models import EmbeddingModel
    from shared.providers.base import EmbeddingProvider
    from shared.search.query_cache import QueryCache
    from shared.search.search import SearchService
    from shared.synonyms.answer_cache import AnswerCache
    from shared.synonyms.generators.base import SynonymGenerator

# How many requests each provider is given at once, where the user does not say. The engine in process
# pools what its callers bring, so it needs a few; a remote one is waited for, so it can use more.
WORKERS = {"onnx": 4, "ollama": 2, "openai": 8}


def get_provider(settings: Settings | None = None) -> EmbeddingProvider:
    """The embedding provider that EMBEDDING_PROVIDER names.

    Raises ConfigurationError where a package, a model or a key is missing.
    """
    settings = settings or load_settings()
    price = settings.embedding_price_per_million
    if settings.embedding_provider == "onnx":
        from shared.providers.onnx.provider import OnnxProvider

        return OnnxProvider(
            source=settings.onnx_model or settings.embedding_model,
            cache_dir=settings.tonnetz_data_dir / "models",
            precision=settings.onnx_precision,
        )
    if settings.embedding_provider == "ollama":
        from shared.providers.ollama.provider import DEFAULT_MODEL, OllamaProvider

        return OllamaProvider(
            url=settings.ollama_url,
            model=settings.embedding_model or DEFAULT_MODEL,
            dimensions=settings.embedding_dimensions,
            price_per_million_tokens=price or 0.0,
        )
    from shared.providers.openai.provider import DEFAULT_MODEL as OPENAI_MODEL
    from shared.providers.openai.provider import OpenAIProvider

    return OpenAIProvider(
        # A compatible server may ask for no key; the client wants one to send.
        api_key=settings.openai_api_key or SecretStr("none"),
        model=settings.embedding_model or OPENAI_MODEL,
        dimensions=settings.embedding_dimensions,
        base_url=settings.openai_base_url,
        price_per_million_tokens=price,
    )


def get_database_url(settings: Settings) -> SecretStr:
    """Where the owner of the schema connects: DATABASE_URL, or the embedded server, started if need be."""
    if settings.database_url is not None:
        return settings.database_url
    from shared.embedded.server import start_embedded

    return start_embedded(settings.tonnetz_data_dir)


def get_database(settings: Settings | None = None, *, max_connections: int = 10) -> Database:
    """The database that the settings name: Supabase, DATABASE_URL or the embedded one, which migrates itself."""
    settings = settings or load_settings()
    if settings.supabase_url is not None and settings.supabase_service_role_key is not None:
        from shared.database.supabase import SupabaseDatabase

        return SupabaseDatabase(
            settings.supabase_url, settings.supabase_service_role_key, anon_key=settings.supabase_anon_key
        )
    from shared.database.postgres import PostgresDatabase

    url = get_database_url(settings)
    if settings.database_url is None:
        from shared.embedded.migrations import migrate

        migrate(url)
    return PostgresDatabase(url, max_connections=max_connections)


def migrate_database(
    settings: Settings | None = None,
    *,
    collections: Sequence[str] | None = None,
    seed: bool = False,
    source: Path | None = None,
) -> list[str]:
    """Bring DATABASE_URL or the embedded database up to date; returns the versions applied.

    `collections` are the shipped ones to set up. Without it a new database gets all, an existing one keeps those it has.
    With a `source`, the embedded database is filled from that older one's folder first.
    Raises ConfigurationError for a Supabase project, which its own CLI migrates.
    """
    settings = settings or load_settings()
    if source is not None and (settings.supabase_url is not None or settings.database_url is not None):
        raise ConfigurationError("--from fills the embedded database: leave DATABASE_URL and SUPABASE_URL unset")
    if settings.supabase_url is not None and settings.database_url is None:
        raise ConfigurationError(
            "SUPABASE_URL: migrations need the database itself; run `supabase db push`, "
            "or set DATABASE_URL to the project's connection string"
        )
    from shared.embedded.migrations import migrate

    url = get_database_url(settings)
    if source is not None:
        from shared.embedded.transfer import transfer

        transfer(source, url)
    return migrate(url, collections=collections, seed=seed)


def get_provider_for(spec: EmbeddingModel, settings: Settings | None = None) -> EmbeddingProvider:
    """The provider of a registered model, which need not be the configured one: keys and addresses are."""
    settings = settings or load_settings()
    # text-embedding-3-small@512: the width is part of the name of a shortened vector space.
    model, _, width = spec.name.partition("@")
    chosen = {
        "embedding_provider": spec.provider,
        "embedding_dimensions": int(width) if width else None,
        "embedding_price_per_million": None,
    }
    if spec.provider == "onnx":
        source = _onnx_source(model, settings)
        return get_provider(settings.model_copy(update={**chosen, "embedding_model": None, "onnx_model": source}))
    if spec.provider == "openai" and not (settings.openai_api_key or settings.openai_base_url):
        raise ConfigurationError(f"OPENAI_API_KEY: is needed for the model {spec.name}")
    return get_provider(settings.model_copy(update={**chosen, "embedding_model": model}))


def _onnx_source(model: str, settings: Settings) -> str | None:
    """Where an ONNX model's files are: what is set, where it is that model's; None for the packaged one."""
    from shared.providers.onnx.model import PACKAGED_MODEL, name_of

    source = settings.onnx_model or (settings.embedding_model if settings.embedding_provider == "onnx" else None)
    if source is not None and name_of(source) == model:
        return source
    if model != PACKAGED_MODEL:
        raise ConfigurationError(f"ONNX_MODEL: set it to the folder of {model}, in which rows are still embedded")
    return None


def get_query_cache(settings: Settings) -> QueryCache:
    """Query vectors, shared through REDIS_URL where it is set."""
    from shared.search.query_cache import QueryCache

    if settings.redis_url is None:
        return QueryCache()
    from shared.cache import RedisCache

    return QueryCache(RedisCache(settings.redis_url))


def get_answer_cache(settings: Settings) -> AnswerCache:
    """Answers about synonyms, shared through REDIS_URL where it is set."""
    from shared.synonyms.answer_cache import AnswerCache

    if settings.redis_url is None:
        return AnswerCache()
    from shared.cache import RedisCache

    return AnswerCache(RedisCache(settings.redis_url))


def get_generator(settings: Settings | None = None) -> SynonymGenerator:
    """Who writes synonyms, by GENERATION_PROVIDER. Raises ConfigurationError where nobody is set."""
    settings = settings or load_settings()
    if settings.generation_provider == "ollama":
        from shared.synonyms.generators.ollama import DEFAULT_MODEL as OLLAMA_CHAT
        from shared.synonyms.generators.ollama import OllamaGenerator

        return OllamaGenerator(url=settings.ollama_url, model=settings.generation_model or OLLAMA_CHAT)
    if settings.generation_provider == "openai":
        from shared.synonyms.generators.openai import DEFAULT_MODEL as OPENAI_CHAT
        from shared.synonyms.generators.openai import OpenAIGenerator

        return OpenAIGenerator(
            api_key=settings.openai_api_key or SecretStr("none"),
            model=settings.generation_model or OPENAI_CHAT,
            base_url=settings.openai_base_url,
        )
    raise ConfigurationError("GENERATION_PROVIDER: is needed to have synonyms written: ollama or openai")


def get_search(
    settings: Settings | None = None,
    *,
    database: Database | None = None,
    provider: EmbeddingProvider | Callable[[], EmbeddingProvider] | None = None,
) -> SearchService:
    """Search with the configured database, provider and cache.

    Those that are there already can be given; of a provider also what makes it, when the first search asks.
    """
    from shared.search.search import SearchService

    settings = settings or load_settings()
    return SearchService(
        database or get_database(settings),
        provider or get_provider(settings),
        get_query_cache(settings),
        provider_for=lambda spec: get_provider_for(spec, settings),
    )


def default_workers(settings: Settings) -> int:
    """Requests under way at once for the configured provider."""
    return WORKERS[settings.embedding_provider]
