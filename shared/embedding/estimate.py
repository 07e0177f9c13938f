"""What embedding the pending rows of a collection would take, for whoever decides about it."""

from dataclasses import dataclass

from shared.database.base import Database
from shared.embedding.backfill import estimate
from shared.embedding.collection import Collection
from shared.errors import Conflict
from shared.providers.base import EmbeddingProvider


@dataclass(frozen=True, slots=True)
class CollectionEstimate:
    """`cost` is in USD, None where the price is not known; `method` says in words how tokens were counted."""

    collection: str
    model: str
    rows: int
    tokens: int
    cost: float | None
    counted: str
    method: str


def estimate_collection(
    database: Database, provider: EmbeddingProvider, collection: str, *, price_is_set: bool
) -> CollectionEstimate:
    """As `backfill.py --dry-run`. `price_is_set`: the user has named a price, so that 0 means nothing is paid.

    Raises NotFound for a collection that is not tracked, Conflict where it is embedded with another model than the
    provider's.
    """
    models = Collection(database, collection).collection_models()
    if models and models[0].name != provider.model:
        raise Conflict(
            f'collection "{collection}" is embedded with model "{models[0].name}", not "{provider.model}": '
            "check EMBEDDING_PROVIDER and EMBEDDING_MODEL, or see backfill.py --switch-model"
        )
    expected = estimate(database, provider, collection)
    every = expected.sampled == expected.texts
    how = "the model's own tokenizer" if provider.counts_exactly else "an estimate by the characters of a text"
    scope = "every text" if every else f"{expected.sampled:,} of {expected.texts:,} texts, scaled by length"
    unpriced = provider.name == "openai" and not provider.price_per_million_tokens and not price_is_set
    return CollectionEstimate(
        collection=collection,
        model=provider.model,
        rows=expected.rows,
        tokens=expected.tokens,
        cost=None if unpriced else expected.cost_usd,
        counted="exact" if provider.counts_exactly and every else "estimated",
        method=f"{how}, on {scope}",
    )
