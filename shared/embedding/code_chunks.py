"""Stores pieces of code together with their vectors in the collection code_chunks."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from shared.database.base import Database
from shared.embedding.collection import Collection, vector_text
from shared.embedding.shipped import needs_collection
from shared.models import Vectors

if TYPE_CHECKING:
    from shared.providers.base import EmbeddingProvider

COLLECTION = "code_chunks"


@dataclass(frozen=True, slots=True)
class CodeChunk:
    """A piece of code. The caller chooses its `id`."""

    id: str
    content: str
    path: str = ""
    language: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


def check_chunks_can_be_stored(database: Database) -> None:
    """Raise NotFound if the database was set up without code_chunks. Call this before the chunks are embedded."""
    with needs_collection(database, COLLECTION):
        Collection(database, COLLECTION).collection_models()


def store_chunks(
    database: Database, provider: "EmbeddingProvider", chunks: Sequence[CodeChunk], vectors: Vectors
) -> int:
    """Write chunk i with vector i; returns how many chunks were new or changed.

    Raises DatabaseRejected if the collection is embedded with another model.
    """
    registered = Collection(database, COLLECTION).register_embedding_model(provider.spec)
    pairs = zip(chunks, vectors, strict=True)
    rows = [{**asdict(chunk), "embedding": vector_text(vector)} for chunk, vector in pairs]
    return int(database.call_scalar("store_code_chunks", {"model": registered.name, "rows": rows}))
