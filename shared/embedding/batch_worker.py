"""Embeds and saves one batch of a backfill, in a thread of its pool."""

import threading
from dataclasses import dataclass, field
from functools import partial

from shared.embedding.collection import Collection
from shared.errors import AppError, DatabaseError, Interrupted, ProviderInputRejected
from shared.models import ClaimedRow, EmbeddingModel, Spent, Vectors
from shared.providers.base import EmbeddingProvider
from shared.retry import Retrier


@dataclass(slots=True)
class Batch:
    """Rows, a result for each row (its vector, or the reason why it has none), and how the results were saved.

    `reserved` is the estimate of its tokens that counts against --max-cost until `spent` is known. If `error` is set, the
    batch ended early and its rows have to be released.
    """

    rows: list[ClaimedRow]
    results: list[Vectors | AppError] = field(default_factory=list)
    reserved: int = 0
    spent: Spent = field(default_factory=Spent)
    truncated: int = 0
    saved: int = 0
    stale: int = 0
    failed: int = 0
    error: Exception | None = None


@dataclass(eq=False)
class BatchWorker:
    """Works on batches in any number of threads; `requests` limits how many of them call the provider at once."""

    collection: Collection
    provider: EmbeddingProvider
    registered: EmbeddingModel
    retrier: Retrier
    halt: threading.Event
    requests: threading.Semaphore
    # True if a save has failed after all retries of the database: the other saves then try only once.
    gave_up: bool = False

    def embed(self, batch: Batch) -> Batch:
        """Embed the batch and save the results; after `halt` is set, send nothing."""
        try:
            with self.requests:
                if self.halt.is_set():
                    raise Interrupted()
                texts = [row.text for row in batch.rows]
                answer = self.provider.embed(
                    texts, registered=self.registered, isolate=True, spent=batch.spent, stop=self.halt
                )
        except Exception as error:  # noqa: BLE001 - a bug is raised again in the calling thread
            return self._end(batch, error)
        batch.truncated = answer.truncated
        batch.results = [answer.errors.get(place, vector) for place, vector in enumerate(answer.vectors)]
        return self.save(batch)

    def save(self, batch: Batch) -> Batch:
        """Write the results of a batch: vectors to the rows, errors to the queue."""
        good, vectors, failures = [], [], []
        for row, result in zip(batch.rows, batch.results, strict=True):
            if isinstance(result, AppError):
                failures.append((row.row_id, result.message, isinstance(result, ProviderInputRejected)))
            else:
                good.append(row)
                vectors.append(result)
        try:
            if good:
                save = partial(self.collection.save_embeddings, self.registered.name, good, vectors)
                batch.saved, batch.stale = save() if self.gave_up else self.retrier.call(save)
            if failures:
                fail = partial(self.collection.fail_embeddings, failures)
                _ = fail() if self.gave_up else self.retrier.call(fail)
                batch.failed = len(failures)
        except Exception as error:  # noqa: BLE001 - a bug is raised again in the calling thread
            self.gave_up = self.gave_up or isinstance(error, DatabaseError)
            return self._end(batch, error)
        return batch

    def _end(self, batch: Batch, error: Exception) -> Batch:
        """End the batch with an error. Set `halt` here, because this thread may start its next batch before the calling
        thread has seen the error.
        """
        self.halt.set()
        batch.error = error
        return batch
