"""How much of each collection is embedded, and what could not be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shared.database.base import Database
from shared.database.queue import EmbeddingQueue, embedding_coverage
from shared.models import Coverage

FAILURES = 20


@dataclass(frozen=True, slots=True)
class CollectionStatus:
    """Coverage of a collection, and its latest parked rows with their errors."""

    coverage: Coverage
    failures: Sequence[Mapping[str, Any]]


def list_collections(database: Database) -> list[CollectionStatus]:
    """All collections, counted from their tables."""
    return [
        CollectionStatus(
            coverage,
            EmbeddingQueue(database, coverage.collection).list_failed_embeddings(FAILURES) if coverage.failed else [],
        )
        for coverage in embedding_coverage(database)
    ]
