"""Embeds the rows that a request names by key."""

import logging
import time
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shared.database.base import Database
from shared.deadline import Deadline
from shared.embedding.collection import Collection
from shared.embedding.model_providers import ModelProviders
from shared.errors import AppError, ProviderInputRejected
from shared.events import emit
from shared.models import ClaimedRow, EmbeddingModel, Spent
from shared.retry import REQUEST_RETRIES

if TYPE_CHECKING:
    from shared.providers.base import EmbeddingProvider

log = logging.getLogger(__name__)

LEASE_SECONDS = 300
# Seconds of a lease for a request with a deadline. They are few, so that the lease of a killed process expires soon.
SHORT_LEASE_SECONDS = 60
BATCH_SIZE = 50
# Seconds to wait for a row that another worker is embedding, which usually takes only a moment.
PATIENCE_SECONDS = 5.0


# The reasons why a requested row has no vector for its current text. If the provider refused the text, the reason is the
# provider's error.
_REASONS = {
    "missing": "there is no such row",
    "empty": "the row has no text to embed",
    "unreadable": "embedding.document_text raises for the row; the reason is listed with the failed rows",
    "cleared": "a trigger of the table removes or changes the vector; the reason is listed with the failed rows",
    "leased": "another worker is embedding the row; it will have its vector without this request",
    "other_text": "the text given is not the row's text: a vector belongs to the row's own text, so update the row first",
    "stale": "the row was changed or deleted while it was embedded; its new text is pending",
}


@dataclass(frozen=True, slots=True)
class RowToEmbed:
    """A row's key and, if the caller knows it, the text that it must have."""

    id: str
    text: str | None = None


@dataclass(frozen=True, slots=True)
class RowsReport:
    """The result of `embed_rows`.

    `processed` counts the rows that were checked, `updated` those with a new vector; `failed` is a list of (id, reason).
    `refused` are the failed rows whose text the provider refused.
    """

    processed: int
    updated: int
    failed: Sequence[tuple[str, str]]
    refused: AbstractSet[str] = frozenset()


@dataclass(frozen=True, slots=True)
class RowEmbedder:
    """Claims, embeds and saves named rows of one database, each collection with the provider of its model."""

    database: Database
    providers: ModelProviders

    def embed_rows(
        self, collection: str, rows: Sequence[RowToEmbed], batch_id: str, *, deadline: Deadline | None = None
    ) -> RowsReport:
        """Embed each row's current text; a row that has its vector already costs nothing.

        If a row's text differs from the given text, this row fails, and the others are still embedded. With a `deadline`
        the call fails fast when the provider is down. Raises NotFound for an untracked collection, ConfigurationError if
        the settings allow no provider for its model, ProviderError if no text can be embedded in time. Vectors that were
        saved before the error stay.
        """
        started = time.perf_counter()
        work = Collection(self.database, collection)
        provider = self.providers.for_collection(work)
        registered = work.register_embedding_model(provider.describe(deadline), use=True)
        common: dict[str, object] = {"batch_id": batch_id, "chunk_count": len(rows), "collection": collection}
        emit("embedding.batch_started.v1", **common)

        patience = Deadline(PATIENCE_SECONDS if deadline is None else min(PATIENCE_SECONDS, deadline.left))
        lease_seconds = LEASE_SECONDS if deadline is None else SHORT_LEASE_SECONDS
        run = _Call(work, provider, registered, deadline, patience, lease_seconds)
        try:
            for first in range(0, len(rows), BATCH_SIZE):
                run.embed(rows[first : first + BATCH_SIZE])
        except BaseException as error:
            run.give_back()
            took = round((time.perf_counter() - started) * 1000, 1)
            code = error.code if isinstance(error, AppError) else "internal"
            emit("embedding.batch_failed.v1", **common, duration_ms=took, error=code, tokens=run.spent.tokens)
            raise
        emit(
            "embedding.batch_completed.v1",
            **common,
            duration_ms=round((time.perf_counter() - started) * 1000, 1),
            model=registered.name,
            tokens=run.spent.tokens,
            cost_usd=round(run.spent.tokens * provider.price_per_million_tokens / 1e6, 6),
        )
        failed = [(row.id, run.failures[row.id]) for row in rows if row.id in run.failures]
        return RowsReport(len(rows), run.updated, failed, run.refused)


@dataclass(eq=False)
class _Call:
    """The state of one call of `embed_rows`. `held` are the leased rows; `asked_as` has each id as the caller wrote it."""

    work: Collection
    provider: "EmbeddingProvider"
    registered: EmbeddingModel
    deadline: Deadline | None
    patience: Deadline
    lease_seconds: int
    asked_as: dict[str, str] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    failures: dict[str, str] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    updated: int = 0
    spent: Spent = field(default_factory=Spent)

    def embed(self, asked: Sequence[RowToEmbed]) -> None:
        """Give these rows their vectors: that of an equal text in the table, or else one from the provider."""
        if self.deadline is not None and not self.deadline.left:
            raise self.deadline.error()
        rows = self._claim(asked)
        reused = self.work.reuse_embeddings(self.registered.name, rows)
        self.held -= reused
        self.updated += len(reused)
        if rest := [row for row in rows if row.row_id not in reused]:
            self._ask_provider(rest)

    def give_back(self) -> None:
        """Release the held rows. They have not failed, so the next worker may claim them at once."""
        if not self.held:
            return
        try:
            self.work.release_embeddings(sorted(self.held))
        except AppError as error:
            log.warning("%d rows stay leased for up to %d s: %s", len(self.held), self.lease_seconds, error.message)

    def _claim(self, asked: Sequence[RowToEmbed]) -> list[ClaimedRow]:
        """Lease the rows that need a vector, and record the reason for each of the others."""
        expected = {row.id: row.text for row in asked}
        claimed: dict[str, ClaimedRow] = {}
        wrong: dict[str, ClaimedRow] = {}
        pending = list(expected)
        while pending:
            leased = []
            for named in self.work.claim_embedding_rows(pending, self.lease_seconds):
                row, text = named.row, expected[named.asked_id]
                if named.state == "leased" and self.patience.left:
                    leased.append(named.asked_id)
                elif row is None or named.state == "leased":
                    self.failures[named.asked_id] = _REASONS[named.state]
                else:
                    if text is not None and text != row.text:
                        self.failures[named.asked_id] = _REASONS["other_text"]
                        wrong[row.row_id] = row
                    if named.state == "claimed":
                        claimed[row.row_id] = row
                        self.held.add(row.row_id)
                        self.asked_as[row.row_id] = named.asked_id
            if leased:
                time.sleep(0.1)
            pending = leased
        # Do this after the loop, because a request may name a row twice.
        unwanted = [row_id for row_id in claimed if row_id in wrong]
        if unwanted:
            self.work.release_embeddings(unwanted)
            self.held.difference_update(unwanted)
        return [row for row_id, row in claimed.items() if row_id not in wrong]

    def _ask_provider(self, rows: list[ClaimedRow]) -> None:
        """Embed and save these rows; a text is sent once for all rows that may share its vector."""
        shared = {row.text_hash: row.text for row in rows}
        texts = list(shared.values())
        answer = self.provider.embed(
            texts,
            registered=self.registered,
            isolate=True,
            spent=self.spent,
            retry=None if self.deadline is None else REQUEST_RETRIES,
            deadline=self.deadline,
        )
        place = {text_hash: index for index, text_hash in enumerate(shared)}
        good = [row for row in rows if place[row.text_hash] not in answer.errors]
        bad = [(row, answer.errors[place[row.text_hash]]) for row in rows if place[row.text_hash] in answer.errors]
        if bad:
            failures = [(row.row_id, error.message, isinstance(error, ProviderInputRejected)) for row, error in bad]
            self.work.fail_embeddings(failures)
            for row, error in bad:
                self.held.discard(row.row_id)
                self.failures[self.asked_as[row.row_id]] = error.message
                self.refused.add(self.asked_as[row.row_id])
        if good:
            vectors = answer.vectors[[place[row.text_hash] for row in good]]
            saved, stale = self.work.save_embeddings(self.registered.name, good, vectors)
            self.held.difference_update(row.row_id for row in good)
            self.updated += saved
            if stale:
                self._report_stale(good)

    def _report_stale(self, rows: list[ClaimedRow]) -> None:
        # The save returns only a count; a second claim shows which rows were saved.
        ids = [self.asked_as[row.row_id] for row in rows]
        for named in self.work.claim_embedding_rows(ids, self.lease_seconds):
            if named.state == "embedded":
                continue
            self.failures[named.asked_id] = _REASONS["stale"]
            if named.state == "claimed" and named.row is not None:
                self.work.release_embeddings([named.row.row_id])
