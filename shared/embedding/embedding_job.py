"""Embeds the pending rows of one collection, or of all collections one after the other."""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import TYPE_CHECKING

from shared.database.base import Database
from shared.embedding.collection import Collection, has_ready_embeddings, list_embedding_collections
from shared.embedding.model_providers import ModelProviders
from shared.embedding.runs import TASK_NAME, Outcome, Task
from shared.errors import AppError, BudgetSpent
from shared.events import emit
from shared.models import BackfillReport

if TYPE_CHECKING:
    from shared.embedding.backfill import Progress

log = logging.getLogger(__name__)

Report = Callable[[BackfillReport], None]

DEFAULT_WORKERS = 4


@dataclass(slots=True)
class EmbeddingJob:
    """Embeds each collection with the provider of its model. `workers` is the number of concurrent requests of a provider.

    With `wait_for_others`, a run also waits for rows that other workers hold. On Lambda, this time would have to be paid.
    """

    database: Database
    providers: ModelProviders
    workers: Mapping[str, int] = field(default_factory=dict)
    wait_for_others: bool = True
    observe: Report | None = None
    name: str = TASK_NAME

    def has_work(self) -> bool:
        """Whether a row is ready to be embedded."""
        return has_ready_embeddings(self.database)

    def run(self, task: Task, stop: threading.Event, report: Report) -> Outcome:
        """Embed the pending rows. If one collection fails, the others are still embedded."""
        emit("embedding.batch_started.v1", batch_id=task.task_id, chunk_count=None, collection=task.collection)
        outcome = Outcome("failed", BackfillReport(task.collection or "", ""))
        try:
            outcome = self._embed(task, stop, report)
        finally:
            done = outcome.report
            emit(
                "embedding.batch_completed.v1" if outcome.status == "completed" else "embedding.batch_failed.v1",
                batch_id=task.task_id,
                chunk_count=done.processed,
                duration_ms=round(done.seconds * 1000),
                model=done.model,
                tokens=done.tokens,
                cost_usd=done.cost_usd,
                collection=task.collection,
            )
            if self.observe is not None:
                self.observe(done)
        return outcome

    def _embed(self, task: Task, stop: threading.Event, report: Report) -> Outcome:
        # Imported only here, because it needs numpy, and a function that only starts tasks does not.
        from shared.embedding.backfill import BackfillOptions, backfill

        alone = task.collection is not None
        names = [task.collection] if task.collection is not None else list(list_embedding_collections(self.database))
        done = BackfillReport(task.collection or "", "")
        models: set[str] = set()
        problems: dict[str, tuple[str, list[str]]] = {}
        interrupted = False
        for name in names:
            try:
                provider = self.providers.for_backfill(Collection(self.database, name))
                if provider is None:
                    continue
                models.add(provider.model)
                # A run over several collections has a model only if all of them have the same model.
                done = replace(done, model=provider.model if len(models) == 1 else "")
                options = BackfillOptions(
                    name,
                    task.batch_size,
                    self.workers.get(provider.name, DEFAULT_WORKERS),
                    wait_for_others=self.wait_for_others,
                )
                # Each backfill records a run. If the task has one collection, it is the task's own run; otherwise each
                # collection has a run with a new id.
                outcome = backfill(
                    self.database,
                    provider,
                    options,
                    stop=stop,
                    on_progress=None if alone else partial(_report_sum, report, done),
                    run_id=task.task_id if alone else None,
                )
            except AppError as error:
                _note(problems, name, error)
                continue
            for model, rows in outcome.left.foreign_vectors.items():
                log.warning("%s: %d rows keep vectors of %s, which no provider here makes", name, rows, model)
            done = _sum(done, outcome.report)
            if outcome.error is not None:
                _note(problems, name, outcome.error)
            if interrupted := outcome.interrupted:
                break
        status = "failed" if problems else "interrupted" if interrupted else "completed"
        # After an error the run is recorded again, because recording it may be what failed.
        lines = [message if alone else f"{', '.join(of)}: {message}" for message, of in problems.values()]
        return Outcome(status, done, "; ".join(lines) or None, recorded=alone and not problems)


def _note(problems: dict[str, tuple[str, list[str]]], name: str, error: AppError) -> None:
    """Add a problem of a collection. All collections share the budget, so a spent budget is one problem of them all."""
    kind = error.code if isinstance(error, BudgetSpent) else f"{name}: {error.message}"
    problems.setdefault(kind, (error.message, []))[1].append(name)


def _report_sum(report: Report, done: BackfillReport, progress: "Progress") -> None:
    report(_sum(done, progress.report))


def _sum(one: BackfillReport, other: BackfillReport) -> BackfillReport:
    counts = {
        field.name: getattr(one, field.name) + getattr(other, field.name)
        for field in fields(BackfillReport)
        if field.name not in ("collection", "model")
    }
    return replace(one, **counts)
