"""Reports how many rows of each collection are embedded, pending and failed, and why rows failed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shared.database.base import Database
from shared.embedding.collection import Collection, describe_collections, embedding_coverage
from shared.embedding.run_history import Running, running_by_collection
from shared.models import Coverage

FAILURES = 20


@dataclass(frozen=True, slots=True)
class CollectionStatus:
    """Coverage of a collection, its latest failed rows with their errors, its active runs, and its columns.

    `error` says why the rows cannot be read (None if they can); the counts then cover only vectors and the queue.
    `label_column` names a row (None if there is no such column); `category_columns` have few values.
    """

    coverage: Coverage
    error: str | None
    failures: Sequence[Mapping[str, Any]]
    running: Running | None
    label_column: str | None
    category_columns: Sequence[str]


def list_collections(database: Database) -> list[CollectionStatus]:
    """All collections, counted from their tables."""
    coverages = embedding_coverage(database)
    running = running_by_collection(database, {one.collection: one.pending for one in coverages})
    # `details` may lack a collection that was tracked between the two calls.
    details = {row["collection"]: row for row in describe_collections(database)}
    return [
        CollectionStatus(
            coverage,
            details.get(coverage.collection, {}).get("error"),
            Collection(database, coverage.collection).list_failed_embeddings(FAILURES) if coverage.failed else [],
            running.get(coverage.collection),
            details.get(coverage.collection, {}).get("label_column"),
            details.get(coverage.collection, {}).get("category_columns", ()),
        )
        for coverage in coverages
    ]


def list_failures(database: Database, collection: str, limit: int) -> tuple[list[dict[str, Any]], int]:
    """The latest failed rows, and how many there are. Raises NotFound for a collection that is not tracked."""
    work = Collection(database, collection)
    return work.list_failed_embeddings(limit), work.embedding_queue().failed
