"""What embedding the pending rows of a collection would take: rows, tokens and money, without a request."""

from dataclasses import dataclass

from shared.database.base import Database
from shared.embedding.collection import Collection
from shared.errors import Conflict
from shared.providers.base import EmbeddingProvider


@dataclass(frozen=True, slots=True)
class Estimate:
    """`texts` are the distinct ones that a provider is needed for; tokens were counted on `sampled` of them.

    `cost_usd` is None where the price is not known. `counted` is exact or estimated; `method` says in words how.
    """

    collection: str
    model: str
    rows: int
    texts: int
    sampled: int
    tokens: int
    cost_usd: float | None
    counted: str
    method: str


def estimate(
    database: Database,
    provider: EmbeddingProvider,
    collection: str,
    *,
    switching: bool = False,
    price_is_set: bool = False,
) -> Estimate:
    """What a backfill would embed and cost, without a call to the provider.

    Texts are counted once, and not at all where the table holds their vector already. Tokens are counted on up to
    1,000 of them and scaled by length beyond that. `price_is_set`: the user has named a price, so that 0 means free.

    Raises NotFound for a collection that is not tracked, Conflict where it is embedded with another model than the
    provider's and is not `switching` to it.
    """
    models = Collection(database, collection).collection_models()
    if models and models[0].name != provider.model and not switching:
        raise Conflict(
            f'collection "{collection}" is embedded with model "{models[0].name}", not "{provider.model}": '
            "check EMBEDDING_PROVIDER and EMBEDDING_MODEL, or see backfill.py --switch-model"
        )
    row = database.call_scalar(
        "estimate_embeddings", {"collection": collection, "model": provider.model, "sample_size": 1000}
    )
    sample, texts, price = row["sample"], row["texts"], provider.price_per_million_tokens
    sampled = sum(map(len, sample))
    tokens = round(sum(provider.count_tokens(sample)) * row["characters"] / sampled) if sampled else 0
    every = len(sample) == texts
    how = "the model's own tokenizer" if provider.counts_exactly else "an estimate by the characters of a text"
    scope = "every text" if every else f"{len(sample):,} of {texts:,} texts, scaled by length"
    return Estimate(
        collection=collection,
        model=provider.model,
        rows=row["rows"],
        texts=texts,
        sampled=len(sample),
        tokens=tokens,
        cost_usd=None if provider.name == "openai" and not price and not price_is_set else tokens * price / 1e6,
        counted="exact" if provider.counts_exactly and every else "estimated",
        method=f"{how}, on {scope}",
    )
