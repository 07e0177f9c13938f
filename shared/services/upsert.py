"""Embed exactly the rows that somebody asks for, by key."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.database.base import Database
from shared.database.queue import EmbeddingQueue
from shared.errors import AppError, ProviderInputRejected
from shared.events import emit
from shared.models import ClaimedRow

if TYPE_CHECKING:
    from shared.providers.base import EmbeddingProvider

LEASE_SECONDS = 300
BATCH_SIZE = 50
# A row that another worker holds is done within moments, as a rule; it is waited for this long.
PATIENCE_SECONDS = 5.0

_REASONS = {
    "missing": "there is no such row",
    "empty": "the row has no text to embed",
    "leased": "another worker is embedding the row; it will have its vector without this request",
}


@dataclass(frozen=True, slots=True)
class RowToEmbed:
    """A row's key and, where the caller knows it, the text that it must have."""

    id: str
    text: str | None = None


@dataclass(frozen=True, slots=True)
class UpsertReport:
    """`processed` rows were looked at, `updated` of them have a new vector, `failed` is (id, reason)."""

    processed: int
    updated: int
    failed: Sequence[tuple[str, str]]


class UpsertService:
    """Claims, embeds and saves named rows of one database with one provider."""

    def __init__(self, database: Database, provider: "EmbeddingProvider") -> None:
        self._database = database
        self._provider = provider

    def upsert(self, collection: str, rows: Sequence[RowToEmbed], batch_id: str) -> UpsertReport:
        """Give each row the vector of its present text; a row that has it costs nothing.

        A vector belongs to its row's text: a row whose text is not the one that was given fails, and its
        neighbours do not. Raises NotFound for an untracked collection, DatabaseRejected for one that is
        embedded with another model, ProviderError where no text can be embedded.
        """
        started = time.perf_counter()
        work = EmbeddingQueue(self._database, collection)
        registered = work.register_embedding_model(self._provider.spec)
        work.use_collection_model(registered.name)
        provider = self._provider.with_spec(registered)
        emit("embedding.batch_started.v1", batch_id=batch_id, chunk_count=len(rows), collection=collection)

        run = _Upsert(work, provider, rows)
        for first in range(0, len(rows), BATCH_SIZE):
            run.embed(run.claim(rows[first : first + BATCH_SIZE]))
        emit(
            "embedding.batch_completed.v1",
            batch_id=batch_id,
            chunk_count=len(rows),
            duration_ms=round((time.perf_counter() - started) * 1000, 1),
            model=provider.model,
            tokens=run.tokens,
            cost_usd=round(run.tokens * provider.price_per_million_tokens / 1e6, 6),
            collection=collection,
        )
        failed = [(row.id, run.failures[row.id]) for row in rows if row.id in run.failures]
        return UpsertReport(len(rows), run.updated, failed)


class _Upsert:
    """The state of one `upsert`."""

    def __init__(self, work: EmbeddingQueue, provider: "EmbeddingProvider", rows: Sequence[RowToEmbed]) -> None:
        self._work = work
        self._provider = provider
        self._deadline = time.monotonic() + PATIENCE_SECONDS
        self._asked_as: dict[str, str] = {}
        self.failures: dict[str, str] = {}
        self.updated = 0
        self.tokens = 0

    def claim(self, asked: Sequence[RowToEmbed]) -> list[ClaimedRow]:
        """Lease what is to be embedded of these rows, and note why the others are not."""
        expected = {row.id: row.text for row in asked}
        claimed: dict[str, ClaimedRow] = {}
        wrong: dict[str, ClaimedRow] = {}
        pending = list(expected)
        while pending:
            leased = []
            for named in self._work.claim_embedding_rows(pending, LEASE_SECONDS):
                row, text = named.row, expected[named.asked_id]
                if named.state == "leased" and time.monotonic() < self._deadline:
                    leased.append(named.asked_id)
                elif row is None or named.state == "leased":
                    self.failures[named.asked_id] = _REASONS[named.state]
                else:
                    if text is not None and text != row.text:
                        self.failures[named.asked_id] = (
                            "the text given is not the row's text: a vector belongs to the row's own text, so update the row first"
                        )
                        wrong[row.row_id] = row
                    if named.state == "claimed":
                        claimed[row.row_id] = row
                        self._asked_as[row.row_id] = named.asked_id
            if leased:
                time.sleep(0.1)
            pending = leased
        # Only after all of them: one row may have been asked for twice.
        unwanted = [row_id for row_id in claimed if row_id in wrong]
        if unwanted:
            self._work.release_embeddings(unwanted)
        return [row for row_id, row in claimed.items() if row_id not in wrong]

    def embed(self, rows: list[ClaimedRow]) -> None:
        """Fill the rows: from an equal text's vector where there is one, else from the provider."""
        if not rows:
            return
        try:
            reused = self._work.reuse_embeddings(self._provider.model, rows)
            self.updated += len(reused)
            self._ask_provider([row for row in rows if row.row_id not in reused])
        except AppError:
            # Nothing is wrong with these rows: the next worker may have them at once.
            self._work.release_embeddings([row.row_id for row in rows])
            raise

    def _ask_provider(self, rows: list[ClaimedRow]) -> None:
        if not rows:
            return
        texts = list(dict.fromkeys(row.text for row in rows))
        place = {text: index for index, text in enumerate(texts)}
        answer = self._provider.embed(texts, isolate=True)
        self.tokens += answer.tokens
        good = [row for row in rows if place[row.text] not in answer.errors]
        bad = [(row, answer.errors[place[row.text]]) for row in rows if place[row.text] in answer.errors]
        if bad:
            self._work.fail_embeddings(
                [(row.row_id, error.message, isinstance(error, ProviderInputRejected)) for row, error in bad]
            )
            self.failures.update({self._asked_as[row.row_id]: error.message for row, error in bad})
        if good:
            saved, stale = self._work.save_embeddings(
                self._provider.model, good, answer.vectors[[place[row.text] for row in good]]
            )
            self.updated += saved
            if stale:
                self._report_stale(good)

    def _report_stale(self, rows: list[ClaimedRow]) -> None:
        # The save says how many; which ones is seen by asking again.
        ids = [self._asked_as[row.row_id] for row in rows]
        for named in self._work.claim_embedding_rows(ids, LEASE_SECONDS):
            if named.state == "embedded":
                continue
            self.failures[named.asked_id] = "the row was changed or deleted meanwhile; its new text is pending"
            if named.state == "claimed" and named.row is not None:
                self._work.release_embeddings([named.row.row_id])
