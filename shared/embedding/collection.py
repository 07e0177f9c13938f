"""Python methods for the SQL functions of a collection; each method has the name of its function."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from operator import itemgetter
from typing import Any

import orjson

from shared.database.base import Database
from shared.models import ClaimedRow, Coverage, EmbeddingModel, NamedRow, QueueState, Vectors

# The columns of a model, in the order of the fields of EmbeddingModel.
_OF_A_MODEL = itemgetter(*(field.name for field in fields(EmbeddingModel)))


@dataclass(frozen=True, slots=True)
class Collection:
    """One tracked table: its queue, models, vectors and runs."""

    database: Database
    collection: str

    def _call(self, function: str, **arguments: Any) -> list[Any]:
        return self.database.call(function, {"collection": self.collection, **arguments})

    def register_embedding_model(self, spec: EmbeddingModel, *, use: bool = False) -> EmbeddingModel:
        """Register a model whose vectors this program makes, and return it as it is registered.

        If the model is registered already, its prefixes replace those of `spec`, and another width raises an error. With
        `use` the collection is set to the model if it has none; if it has another model, an error is raised.
        """
        arguments = {**asdict(spec), "collection": self.collection if use else None, "made_here": True}
        return EmbeddingModel(*_OF_A_MODEL(self.database.call("register_embedding_model", arguments)[0]))

    def claim_embeddings(self, batch_size: int, lease_seconds: int, model: str | None = None) -> list[ClaimedRow]:
        """Lease up to `batch_size` pending rows; an empty list means that no row can be claimed now.

        With a `model`, a row whose text has a vector of this model in the table gets this vector, and is `reused`.
        """
        rows = self._call("claim_embeddings", batch_size=batch_size, lease_seconds=lease_seconds, model=model)
        return [ClaimedRow(**row) for row in rows]

    def claim_embedding_rows(self, row_ids: Sequence[str], lease_seconds: int) -> list[NamedRow]:
        """Lease these rows, also if others come first in the queue; returns one result for each id, in order."""
        return [
            NamedRow(
                row["asked_id"],
                row["state"],
                ClaimedRow(row["row_id"], row["text"], row["text_hash"], row["attempts"] or 0) if row["text"] else None,
            )
            for row in self._call("claim_embedding_rows", row_ids=list(row_ids), lease_seconds=lease_seconds)
        ]

    def reuse_embeddings(self, model: str, rows: Sequence[ClaimedRow]) -> set[str]:
        """Copy vectors of equal texts in the table to these rows; returns the ids of the rows that got one."""
        if not rows:
            return set()
        wanted = [{"row_id": row.row_id, "text_hash": row.text_hash} for row in rows]
        return set(self._call("reuse_embeddings", model=model, rows=wanted))

    def save_embeddings(
        self, model: str, rows: Sequence[ClaimedRow], vectors: Vectors | Sequence[Vectors]
    ) -> tuple[int, int]:
        """Store vector i for row i; returns (saved, stale)."""
        if not rows:
            return 0, 0
        payload = [
            # Send each vector as a text, so that the server parses only floats and builds no tree of JSON numbers.
            {"row_id": row.row_id, "text_hash": row.text_hash, "embedding": vector_text(vector)}
            for row, vector in zip(rows, vectors, strict=True)
        ]
        result = self._call("save_embeddings", model=model, rows=payload)[0]
        return result["saved"], result["stale"]

    def fail_embeddings(self, failures: Sequence[tuple[str, str, bool]], retry_after_seconds: int = 30) -> int:
        """Record failures, each as (row_id, error, final); returns how many of the rows now have the state failed."""
        if not failures:
            return 0
        rows = [{"row_id": row_id, "error": error, "final": final} for row_id, error, final in failures]
        return int(self._call("fail_embeddings", rows=rows, retry_after_seconds=retry_after_seconds)[0])

    def release_embeddings(self, row_ids: Sequence[str]) -> int:
        """Release rows without counting an attempt."""
        return int(self._call("release_embeddings", row_ids=list(row_ids))[0])

    def renew_embeddings(self, row_ids: Sequence[str], lease_seconds: int) -> int:
        """Extend the leases; returns how many rows are still leased."""
        return int(self._call("renew_embeddings", row_ids=list(row_ids), lease_seconds=lease_seconds)[0])

    def embedding_queue(self) -> QueueState:
        """Return how many rows are ready, leased, waiting and failed."""
        row = self._call("embedding_queue")[0]
        return QueueState(row["ready"], row["leased"], row["waiting"], row["failed"])

    def reconcile_embeddings(self) -> int:
        """Queue pending rows that were written without the triggers."""
        return int(self._call("reconcile_embeddings")[0]["queued"])

    def queue_missing_rows(self, after: str | None, batch_size: int) -> dict[str, Any]:
        """Read one batch of rows after the key `after`, and queue those that are pending and not queued.

        Returns `queued`, `last_id` (None at the end), `preparing` (all rows are still being read), `missing_indexes`, and
        at the end of the pending rows the fields of QueueState.
        """
        return dict(self._call("reconcile_embeddings", after=after, batch_size=batch_size)[0])

    def retry_failed_embeddings(self, row_ids: Sequence[str] | None = None) -> int:
        """Queue failed rows again; without `row_ids`, all of them. Returns how many were queued."""
        return int(self._call("retry_failed_embeddings", row_ids=None if row_ids is None else list(row_ids))[0])

    def list_failed_embeddings(self, max_rows: int = 20) -> list[dict[str, Any]]:
        """Failed rows with the reason, latest first."""
        return self._call("list_failed_embeddings", max_rows=max_rows)

    def verify_embeddings(self) -> int:
        """Count the rows whose vector, `fts` or queue entry is wrong."""
        return int(self._call("verify_embeddings")[0])

    def mismatched_embeddings(self, max_rows: int = 20) -> list[dict[str, Any]]:
        """The rows that `verify_embeddings` counts, with the reason."""
        return self._call("mismatched_embeddings", max_rows=max_rows)

    def repair_embeddings(self) -> int:
        """Remove wrong vectors, correct the queue and compute a wrong `fts` again; returns how many rows were repaired."""
        return int(self._call("repair_embeddings")[0])

    def set_collection_model(self, model: str, *, replace_foreign: bool = False) -> int:
        """Move the collection to a registered model; returns how many rows were queued.

        With `replace_foreign` the vectors that other programs made are replaced as well.
        """
        return int(self._call("set_collection_model", model=model, replace_foreign=replace_foreign)[0])

    def collection_models(self, planned: EmbeddingModel | None = None) -> list[EmbeddingModel]:
        """The models with which rows may be embedded; the model of the collection is the first.

        With a `planned` model, which need not be registered, raises DatabaseRejected if the column embedding cannot store
        its vectors, or if the model is registered with another width.
        """
        arguments = {"model": planned.name, "dimensions": planned.dimensions} if planned else {}
        return [EmbeddingModel(*_OF_A_MODEL(row)) for row in self._call("collection_models", **arguments)]

    def create_embedding_index(self, model: str | None = None, *, min_rows: int = 0) -> str | None:
        """Build the vector index of a model; returns its name.

        With `min_rows`, returns None if the index exists already or there are fewer vectors.
        """
        names = self._call("create_embedding_index", model=model, min_rows=min_rows)
        return names[0] if names else None

    def record_embedding_run(self, run_id: str | None, model: str, status: str, report: dict[str, Any]) -> str:
        """Record the start of a run (if `run_id` is None) or its progress; returns the run's id."""
        recorded = self._call("record_embedding_run", run_id=run_id, model=model, status=status, report=report)[0]
        # The record of a run that has ended is not changed; the answer is then empty.
        return str(recorded or run_id)

    def finish_embedding_run(
        self, run_id: str | None, model: str, status: str, report: dict[str, Any], *, index_min_rows: int | None = None
    ) -> QueueState:
        """Record how a backfill ended, and clean up after a finished model switch; returns the state of the queue.

        A run without an id that found no row leaves no record.
        """
        arguments = {"run_id": run_id, "model": model, "status": status, "report": report}
        return QueueState(**self._call("finish_embedding_run", **arguments, index_min_rows=index_min_rows)[0])


def embedding_coverage(database: Database) -> list[Coverage]:
    """The coverage of every collection, counted in its table."""
    return [Coverage(**row) for row in database.call("embedding_coverage")]


def has_ready_embeddings(database: Database) -> bool:
    """Whether a row of any collection could be claimed now."""
    return bool(database.call_scalar("has_ready_embeddings"))


def broken_embedding_collections(database: Database) -> dict[str, str]:
    """The collections whose rows cannot be read, each with the reason and the fix."""
    return {row["collection"]: row["error"] for row in describe_collections(database) if row["error"]}


def describe_collections(database: Database) -> list[dict[str, Any]]:
    """The tracked tables: the columns that describe a row, and the reason if the rows of a table cannot be read."""
    return database.call("list_embedding_collections", {"details": True})


def list_embedding_collections(database: Database) -> dict[str, str]:
    """The tracked tables and the name of their key column."""
    return {row["collection"]: row["key_column"] for row in database.call("list_embedding_collections")}


def vector_text(vector: Vectors) -> str:
    """A vector in pgvector's text format, with floats in their shortest exact form."""
    return orjson.dumps(vector, option=orjson.OPT_SERIALIZE_NUMPY).decode()
