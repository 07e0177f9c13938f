"""The one place where settings become objects. Imports what is chosen, and only when it is asked for."""

from pydantic import SecretStr

from shared.database.base import Database
from shared.database.migrations import migrate
from shared.database.postgres import PostgresDatabase
from shared.errors import ConfigurationError
from shared.providers.base import EmbeddingProvider
from shared.services.search import SearchService
from shared.settings import Settings, load_settings

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
        from shared.providers.onnx import OnnxProvider

        return OnnxProvider(
            source=settings.onnx_model or settings.embedding_model,
            cache_dir=settings.tonnetz_data_dir / "models",
            precision=settings.onnx_precision,
        )
    if settings.embedding_provider == "ollama":
        from shared.providers.ollama import DEFAULT_MODEL, OllamaProvider

        return OllamaProvider(
            url=settings.ollama_url,
            model=settings.embedding_model or DEFAULT_MODEL,
            dimensions=settings.embedding_dimensions,
            price_per_million_tokens=price or 0.0,
        )
    from shared.providers.openai import DEFAULT_MODEL as OPENAI_MODEL
    from shared.providers.openai import OpenAIProvider

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
    from shared.database.embedded import start_embedded

    return start_embedded(settings.tonnetz_data_dir)


def get_database(settings: Settings | None = None, *, max_connections: int = 10) -> Database:
    """The database that the settings name: Supabase, DATABASE_URL or the embedded one, which migrates itself."""
    settings = settings or load_settings()
    if settings.supabase_url is not None and settings.supabase_service_role_key is not None:
        from shared.database.supabase import SupabaseDatabase

        return SupabaseDatabase(settings.supabase_url, settings.supabase_service_role_key)
    url = get_database_url(settings)
    if settings.database_url is None:
        migrate(url)
    return PostgresDatabase(url, max_connections=max_connections)


def migrate_database(settings: Settings | None = None, *, seed: bool = False) -> list[str]:
    """Bring DATABASE_URL or the embedded database up to date; returns the versions applied.

    Raises ConfigurationError for a Supabase project, which its own CLI migrates.
    """
    settings = settings or load_settings()
    if settings.supabase_url is not None and settings.database_url is None:
        raise ConfigurationError(
            "SUPABASE_URL: migrations need the database itself; run `supabase db push`, "
            "or set DATABASE_URL to the project's connection string"
        )
    return migrate(get_database_url(settings), seed=seed)


def get_search(settings: Settings | None = None) -> SearchService:
    """Search with the configured database and provider."""
    settings = settings or load_settings()
    return SearchService(get_database(settings), get_provider(settings))


def default_workers(settings: Settings) -> int:
    """Requests under way at once for the configured provider."""
    return WORKERS[settings.embedding_provider]
