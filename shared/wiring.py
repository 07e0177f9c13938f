"""Builds the provider, the database and the services that the settings choose, and imports only those."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import SecretStr

from shared.errors import ConfigurationError, DatabaseBusy, UnknownProvider
from shared.models import InputRules, split_model_name
from shared.providers.prices import OPENAI_PRICES
from shared.retry import Retrier, RetryPolicy
from shared.settings import Settings, load_settings

if TYPE_CHECKING:
    from shared.cache import Cache, RedisCache
    from shared.database.base import Database
    from shared.database.limits import Limits
    from shared.embedded.requirements import Lack
    from shared.embedding.model_providers import ModelProviders
    from shared.models import EmbeddingModel
    from shared.providers.base import EmbeddingProvider
    from shared.providers.budget import DailyBudget
    from shared.search.search import SearchService
    from shared.synonyms.generators.base import SynonymGenerator

Result = TypeVar("Result")

# The default number of concurrent requests to each provider. The in-process engine joins the texts of its callers, so a
# few are enough. For a remote provider more are useful, because each request spends most of its time on the network.
WORKERS = {"onnx": 4, "ollama": 2, "openai": 8}

# These retries limit how long a program waits for a free connection at its start. Later calls wait in the pool, for the
# same time.
_BUSY_RETRIES = RetryPolicy(max_attempts=100, max_seconds=15, base_wait=0.2, max_wait=2)


def get_provider(settings: Settings | None = None) -> EmbeddingProvider:
    """The embedding provider that EMBEDDING_PROVIDER names.

    Raises ConfigurationError if a package, a model or a key is missing.
    """
    settings = settings or load_settings()
    price = settings.embedding_price_per_million
    rules = InputRules(
        settings.embedding_query_prefix, settings.embedding_document_prefix, settings.embedding_input_types
    )
    if settings.embedding_provider == "onnx":
        from shared.providers.onnx.provider import OnnxProvider

        onnx = OnnxProvider(
            source=settings.onnx_model or settings.embedding_model,
            cache_dir=settings.tonnetz_data_dir / "models",
            precision=settings.onnx_precision,
            rules=rules,
        )
        if settings.embedding_dimensions is not None:
            _check_width(onnx.model, settings.embedding_dimensions, onnx.dimensions, shortens=False)
        return onnx
    if settings.embedding_provider == "ollama":
        from shared.providers.ollama.models import known_model
        from shared.providers.ollama.provider import DEFAULT_MODEL, OllamaProvider

        name = settings.embedding_model or DEFAULT_MODEL
        _check_width(name, settings.embedding_dimensions, known_model(name).dimensions or None)
        return OllamaProvider(
            url=settings.ollama_url,
            model=name,
            dimensions=settings.embedding_dimensions,
            price_per_million_tokens=price or 0.0,
            rules=rules,
        )
    from shared.providers.openai.provider import DEFAULT_MODEL as OPENAI_MODEL
    from shared.providers.openai.provider import KNOWN_WIDTHS, OpenAIProvider

    name = settings.embedding_model or OPENAI_MODEL
    shortens = name.startswith("text-embedding-3")
    _check_width(name, settings.embedding_dimensions, KNOWN_WIDTHS.get(name), shortens=shortens)
    return OpenAIProvider(
        # The SDK requires a key, even if a compatible server needs none.
        api_key=settings.openai_api_key or SecretStr("none"),
        model=name,
        dimensions=settings.embedding_dimensions,
        base_url=settings.openai_base_url,
        price_per_million_tokens=price,
        rules=rules,
    )


def _check_width(model: str, asked: int | None, native: int | None, *, shortens: bool = True) -> None:
    """Refuse an EMBEDDING_DIMENSIONS that a known model cannot have, before anything is sent or stored."""
    if asked is None or native is None or asked == native or (shortens and asked < native):
        return
    can = f"at most {native}" if shortens else f"exactly {native}"
    raise ConfigurationError(f"EMBEDDING_DIMENSIONS: {model} has {can} dimensions; unset it or choose another model")


def get_database_url(settings: Settings) -> SecretStr:
    """The address with which the owner connects: DATABASE_URL, or that of the embedded server, which this starts."""
    if settings.database_url is not None:
        return settings.database_url
    from shared.embedded.server import start_embedded

    return start_embedded(settings.tonnetz_data_dir)


def get_database(
    settings: Settings | None = None, *, max_connections: int = 10, limits: Limits | None = None
) -> Database:
    """The database that the settings name: Supabase, DATABASE_URL, or the embedded database, which this migrates.

    `limits` are for a server with DATABASE_URL or the embedded database. Supabase has its own limits for each role.
    """
    settings = settings or load_settings()
    if settings.supabase_url is not None and settings.supabase_service_role_key is not None:
        from shared.database.supabase import SupabaseDatabase

        return SupabaseDatabase(
            settings.supabase_url, settings.supabase_service_role_key, anon_key=settings.supabase_anon_key
        )
    from shared.database.postgres import PostgresDatabase

    url = settings.database_url
    if url is None:
        from shared.embedded.migrations import migrate
        from shared.embedded.server import start_embedded

        url = start_embedded(settings.tonnetz_data_dir)
        migrate(url)
    return _when_free(partial(PostgresDatabase, url, max_connections=max_connections, limits=limits))


def migrate_database(
    settings: Settings | None = None,
    *,
    collections: Sequence[str] | None = None,
    seed: bool = False,
    source: Path | None = None,
) -> list[str]:
    """Bring DATABASE_URL or the embedded database up to date; returns the versions of the applied migrations.

    `collections` are the shipped collections to set up. Without it, a new database gets all of them, and an existing
    database gets no new ones. `source` is the folder of an older embedded database; its rows are first copied into the
    embedded database. Raises ConfigurationError for a Supabase project, which the Supabase CLI migrates.
    """
    settings = settings or load_settings()
    if source is not None and (settings.supabase_url is not None or settings.database_url is not None):
        raise ConfigurationError("--from fills the embedded database: leave DATABASE_URL and SUPABASE_URL unset")
    _check_migratable(settings)
    from shared.embedded.migrations import migrate

    url = get_database_url(settings)
    if source is not None:
        from shared.embedded.transfer import transfer

        transfer(source, url)
    return _when_free(partial(migrate, url, collections=collections, seed=seed))


def _when_free(connect: Callable[[], Result]) -> Result:
    """Call `connect`, and repeat the call while the server or its pooler has no free connection."""
    return Retrier(_BUSY_RETRIES).call(connect, only=DatabaseBusy)


def check_database(settings: Settings | None = None) -> list[Lack]:
    """List what DATABASE_URL or the embedded database lacks before it can be migrated. This writes nothing.

    Raises ConfigurationError for a Supabase project without DATABASE_URL, DatabaseError if the database cannot be reached.
    """
    settings = settings or load_settings()
    _check_migratable(settings)
    from shared.database.postgres import connect
    from shared.embedded.requirements import list_lacks

    url = get_database_url(settings)
    with _when_free(partial(connect, url, application_name="tonnetz-check")) as connection:
        return list_lacks(connection)


def _check_migratable(settings: Settings) -> None:
    if settings.supabase_url is not None and settings.database_url is None:
        raise ConfigurationError(
            "SUPABASE_URL: migrations need the database itself; run `supabase db push`, "
            "or set DATABASE_URL to the project's connection string"
        )


def get_provider_for(spec: EmbeddingModel, settings: Settings | None = None) -> EmbeddingProvider:
    """The provider of a registered model, with the model's name and width and the configured keys and addresses.

    Raises ConfigurationError, which names the fix, if the settings allow no provider for it.
    """
    settings = settings or load_settings()
    if spec.provider not in WORKERS:
        raise UnknownProvider(
            f'the provider of the model {spec.name}, "{spec.provider}", is none of {", ".join(WORKERS)}: write the vectors '
            "with the program that makes them, or move the collection with backfill.py --switch-model"
        )
    name = split_model_name(spec.name)
    # The price of the settings is for the models of EMBEDDING_PROVIDER; a published price goes before it.
    keeps_price = spec.provider == settings.embedding_provider and name.model not in OPENAI_PRICES
    chosen = {
        "embedding_provider": spec.provider,
        "embedding_dimensions": name.width,
        "embedding_price_per_million": settings.embedding_price_per_million if keeps_price else None,
        "embedding_input_types": name.input_types,
        # A document prefix from the settings is part of the name. Otherwise the model's own prefix is used.
        "embedding_document_prefix": spec.document_prefix if name.prefixed else None,
        "embedding_query_prefix": None,
    }
    if spec.provider == "onnx":
        source = _onnx_source(name.model, settings)
        return get_provider(settings.model_copy(update={**chosen, "embedding_model": None, "onnx_model": source}))
    if spec.provider == "openai" and not (settings.openai_api_key or settings.openai_base_url):
        raise ConfigurationError(
            f"OPENAI_API_KEY: is needed for the model {spec.name}; set it, or move the collection with backfill.py "
            "--switch-model"
        )
    return get_provider(settings.model_copy(update={**chosen, "embedding_model": name.model}))


def _onnx_source(model: str, settings: Settings) -> str | None:
    """The folder or hub id of an ONNX model, if the settings name that model; None for the packaged one."""
    from shared.providers.onnx.model import PACKAGED_MODEL, name_of

    source = settings.onnx_model or (settings.embedding_model if settings.embedding_provider == "onnx" else None)
    if source is not None and name_of(source) == model:
        return source
    if model != PACKAGED_MODEL:
        raise ConfigurationError(
            f"ONNX_MODEL: set it to the folder of {model}, or move the collection with backfill.py --switch-model"
        )
    return None


@cache
def _redis(url: SecretStr) -> RedisCache:
    """One client for all caches of a process."""
    from shared.cache import RedisCache

    return RedisCache(url)


def get_cache(settings: Settings, *, size: int = 4096) -> Cache:
    """A cache of `size` values in this process, shared through REDIS_URL if it is set."""
    from shared.cache import Cache

    return Cache(_redis(settings.redis_url) if settings.redis_url else None, size=size)


def get_generator(settings: Settings | None = None) -> SynonymGenerator:
    """The language model that writes synonyms. Raises ConfigurationError if GENERATION_PROVIDER is unset."""
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
    raise ConfigurationError("GENERATION_PROVIDER: set it to ollama or openai to generate synonyms")


def get_budget(settings: Settings, database: Callable[[], Database], *, at_once: bool = False) -> DailyBudget | None:
    """The budget that EMBEDDING_BUDGET_PER_DAY sets; None without it. `at_once`: as DailyBudget."""
    if settings.embedding_budget_per_day is None:
        return None
    from shared.providers.budget import DailyBudget

    def record(usd: float) -> Mapping[str, float]:
        answer: Mapping[str, float] = database().call_scalar("embedding_costs", {"days": 0, "spent_usd": usd})
        return answer

    return DailyBudget(settings.embedding_budget_per_day, record, at_once=at_once)


def get_model_providers(settings: Settings, database: Database) -> ModelProviders:
    """The providers of all models under these settings. Each is created at its first use."""
    from shared.embedding.model_providers import ModelProviders

    configured, make = partial(get_provider, settings), partial(get_provider_for, settings=settings)
    budget = get_budget(settings, lambda: database)
    return ModelProviders(configured, make, closes_configured=True, budget=budget)


def get_search(
    settings: Settings | None = None, *, database: Database | None = None, provider: EmbeddingProvider | None = None
) -> SearchService:
    """The search service with the configured database, provider and cache; an existing database or provider can be given.

    With EMBEDDING_BUDGET_PER_DAY the cost of each query is recorded at once, because the service is never closed.
    """
    from shared.embedding.model_providers import ModelProviders
    from shared.search.search import SearchService

    settings = settings or load_settings()
    made, opened = provider or get_provider(settings), database or get_database(settings)
    budget = get_budget(settings, lambda: opened, at_once=True)
    providers = ModelProviders(lambda: made, partial(get_provider_for, settings=settings), budget=budget)
    prefix = settings.embedding_query_prefix
    return SearchService(opened, providers, get_cache(settings), query_prefix=prefix)
