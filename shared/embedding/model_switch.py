"""Moves a collection to another model."""

from shared.database.base import Database
from shared.embedding.collection import Collection
from shared.embedding.provider_check import ONE_TRY
from shared.providers.base import EmbeddingProvider


def switch_model(
    database: Database, provider: EmbeddingProvider, collection: str, *, replace_foreign: bool = False
) -> int:
    """Move the collection to the provider's model; returns how many rows are queued again.

    Search continues: it uses the old vector of each row until the next backfill replaces it. Vectors of a model that no
    provider here makes stay, unless `replace_foreign` is set.
    """
    moved = Collection(database, collection)
    # Check this before a request, which may cost money: the column may have a fixed width.
    moved.collection_models(provider.spec)
    # Embed one word first: an error ends the switch if the provider fails or returns vectors of another width.
    provider.embed(["music"], retry=ONE_TRY)
    registered = moved.register_embedding_model(provider.spec)
    return moved.set_collection_model(registered.name, replace_foreign=replace_foreign)
