"""Estimates the rows, tokens and cost of embedding the pending rows of a collection, without a provider call."""

from dataclasses import dataclass

from shared.database.base import Database
from shared.embedding.collection import Collection
from shared.errors import Conflict
from shared.providers.base import EmbeddingProvider


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a backfill would embed, and its cost.

    `texts` is the number of distinct texts that the provider would embed; tokens were counted on `sampled` of them.
    `rows_estimated` is true if the table is large: `rows` and `texts` are then estimated from a sample. `cost_usd` is
    None if the price is not known. `counted` says whether `tokens` is exact or estimated, `method` how it was found.
    """

    collection: str
    model: str
    rows: int
    rows_estimated: bool
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
) -> Estimate:
    """Estimate what a backfill would embed and cost, without a call to the provider.

    Equal texts count once, and texts that already have a vector in the table do not count. The tokens of up to 1,000
    texts are counted, with the model's document prefix; if there are more texts, the sum is scaled by their length. The
    rows of a large table are counted on a sample.

    Raises NotFound for a collection that is not tracked, DatabaseRejected if its column has another fixed width than the
    model, and Conflict if it is embedded with another model than the provider's (unless it is `switching` to it).
    """
    models = Collection(database, collection).collection_models(
        provider.declared if provider.declared.dimensions else None
    )
    if models and models[0].name != provider.model and not switching:
        raise Conflict(
            f'collection "{collection}" is embedded with model "{models[0].name}", not "{provider.model}": '
            "check EMBEDDING_PROVIDER and EMBEDDING_MODEL, or see backfill.py --switch-model"
        )
    row = database.call_scalar(
        "estimate_embeddings", {"collection": collection, "model": provider.model, "sample_size": 1000}
    )
    sample, texts, price = row["sample"], row["texts"], provider.price_per_million_tokens
    registered = next((model for model in models if model.name == provider.model), provider.declared)
    prefix = registered.document_prefix
    every = len(sample) == texts and not row["estimated"]
    inputs = [prefix + text for text in sample]
    tokens = sum(provider.count_tokens(inputs))
    if sample and not every:
        tokens = round(tokens * (row["characters"] + texts * len(prefix)) / sum(map(len, inputs)))
    how = "the model's own tokenizer" if provider.counts_exactly else "an estimate by the characters of a text"
    about = "about " if row["estimated"] else ""
    scope = "every text" if every else f"{len(sample):,} of {about}{texts:,} texts, scaled by length"
    return Estimate(
        collection=collection,
        model=provider.model,
        rows=row["rows"],
        rows_estimated=row["estimated"],
        texts=texts,
        sampled=len(sample),
        tokens=tokens,
        cost_usd=tokens * price / 1e6 if provider.price_is_known else None,
        counted="exact" if provider.counts_exactly and every else "estimated",
        method=f"{how}, on {scope}",
    )
