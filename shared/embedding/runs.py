"""Runs that somebody asked for: recorded before they begin, reported on while they run, found out when they crash."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from shared.database.base import Database
from shared.embedding.collection import has_ready_embeddings, list_embedding_collections
from shared.errors import AppError, NotFound
from shared.events import emit
from shared.models import BackfillReport

if TYPE_CHECKING:
    from shared.embedding.backfill import Progress
    from shared.providers.base import EmbeddingProvider

log = logging.getLogger(__name__)

TASK_NAME = "generate-embeddings"
SYNONYMS_TASK_NAME = "generate-synonyms"
# Rows a claim, where the caller does not say.
BATCH_SIZE = 50
BATCH_SIZES = {"datasets": 100}
REPORT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Task:
    """A run to be made. Without a `collection` it is over all of them. `name` is what kind of work it is."""

    task_id: str
    collection: str | None = None
    batch_size: int = BATCH_SIZE
    name: str = TASK_NAME


class TaskService:
    """Records tasks and gives them to whoever runs them: `dispatch` returns at once."""

    def __init__(self, database: Database, dispatch: Callable[[Task], None]) -> None:
        self._database = database
        self._dispatch = dispatch

    def start(self, collection: str | None, batch_size: int | None = None) -> Task:
        """Record and dispatch a task. Raises NotFound for an untracked collection, and what `dispatch` raises."""
        size = batch_size or BATCH_SIZES.get(collection or "", BATCH_SIZE)
        task = Task(record_run(self._database, None, collection, "queued"), collection, size)
        try:
            self._dispatch(task)
        except AppError as error:
            record_run(self._database, task.task_id, collection, "failed", {"error": error.message})
            raise
        return task

    def get(self, task_id: str) -> Mapping[str, Any]:
        """The run's row. Raises NotFound."""
        row = self._database.call_scalar("list_embedding_runs", {"of_run": task_id})
        if row is None:
            raise NotFound(f"there is no task {task_id}")
        task_name = SYNONYMS_TASK_NAME if row["kind"] == "generation" else TASK_NAME
        return {**row, "started_at": row["recorded_at"], "task_name": task_name}


def record_run(
    database: Database, run_id: str | None, collection: str | None, status: str, report: Mapping[str, Any] | None = None
) -> str:
    """Begin a run (run_id None) or report on it; returns its id."""
    counts = dict(report or {})
    arguments = {
        "run_id": run_id,
        "collection": collection,
        "model": counts.get("model") or None,
        "status": status,
        "report": counts,
    }
    return str(database.call_scalar("record_embedding_run", arguments))


def drain_collections(database: Database) -> Task | None:
    """A task over all collections, recorded; None where no row waits to be embedded."""
    if not has_ready_embeddings(database):
        return None
    return Task(record_run(database, None, None, "queued"))


@dataclass(frozen=True, slots=True)
class TaskOutcome:
    """How a task ended: completed, failed or interrupted. `recorded`: the end is in its run's row already."""

    status: str
    report: BackfillReport
    error: str | None = None
    recorded: bool = False


class TaskRunner:
    """Runs one task in the calling thread."""

    def __init__(
        self,
        database: Database,
        provider: "Callable[[], EmbeddingProvider]",
        *,
        workers: int,
        observe: Callable[[BackfillReport], None] | None = None,
    ) -> None:
        self._database = database
        self._provider = provider
        self._workers = workers
        self._observe = observe or (lambda _: None)

    def run(self, task: Task, stop: threading.Event | None = None, *, wait_for_others: bool = True) -> TaskOutcome:
        """Embed what is pending; setting `stop` ends the task cleanly. Never raises for what the task met."""
        stop = stop or threading.Event()
        emit("embedding.batch_started.v1", batch_id=task.task_id, chunk_count=None, collection=task.collection)
        try:
            outcome = self._run(task, stop, wait_for_others)
        except AppError as error:
            outcome = TaskOutcome("failed", BackfillReport(task.collection or "", ""), error.message)
        except Exception:
            log.exception("a task failed", extra={"fields": {"task_id": task.task_id}})
            outcome = TaskOutcome("failed", BackfillReport(task.collection or "", ""), "internal error; see the log")
        report = outcome.report
        if not outcome.recorded:
            self._record_end(task, outcome)
        emit(
            "embedding.batch_completed.v1" if outcome.status == "completed" else "embedding.batch_failed.v1",
            batch_id=task.task_id,
            chunk_count=report.processed,
            duration_ms=round(report.seconds * 1000),
            model=report.model,
            tokens=report.tokens,
            cost_usd=report.cost_usd,
            collection=task.collection,
        )
        self._observe(report)
        return outcome

    def _record_end(self, task: Task, outcome: TaskOutcome) -> None:
        counts = {**asdict(outcome.report), "error": outcome.error}
        try:
            record_run(self._database, task.task_id, task.collection, outcome.status, counts)
        except AppError as error:
            # Its silence will be noticed: the run is shown as crashed.
            log.warning("could not record the end of task %s: %s", task.task_id, error.message)

    def _run(self, task: Task, stop: threading.Event, wait_for_others: bool) -> TaskOutcome:
        # Imported here: it needs numpy, which who only starts tasks does not.
        from shared.embedding.backfill import BackfillOptions, backfill

        names = [task.collection] if task.collection is not None else list(list_embedding_collections(self._database))
        record_run(self._database, task.task_id, task.collection, "running")
        done = BackfillReport(task.collection or "", self._provider().model)
        problems: list[str] = []
        status = "completed"
        for name in names:
            options = BackfillOptions(name, task.batch_size, self._workers, wait_for_others=wait_for_others)
            try:
                outcome = backfill(
                    self._database,
                    self._provider(),
                    options,
                    stop=stop,
                    on_progress=self._reporter(task, done),
                    run_id=task.task_id if task.collection is not None else None,
                )
            except AppError as error:
                # A collection with another model is no reason to leave the others undone.
                problems.append(error.message if len(names) == 1 else f"{name}: {error.message}")
                continue
            done = _sum(done, outcome.report)
            if outcome.error is not None:
                problems.append(outcome.error.message)
            if outcome.interrupted:
                status = "interrupted"
                break
        if problems:
            status = "failed"
        # A backfill records its own run; where it met an error, that may have been in recording it.
        return TaskOutcome(status, done, "; ".join(problems) or None, task.collection is not None and not problems)

    def _reporter(self, task: Task, before: BackfillReport) -> "Callable[[Progress], None]":
        """Reports sums over all collections; a task over one is reported by its backfill."""
        last = time.monotonic()

        def report(progress: "Progress") -> None:
            nonlocal last
            if task.collection is not None or time.monotonic() - last < REPORT_SECONDS:
                return
            last = time.monotonic()
            try:
                record_run(self._database, task.task_id, None, "running", asdict(_sum(before, progress.report)))
            except AppError as error:
                log.warning("could not report on task %s: %s", task.task_id, error.message)

        return report


def _sum(one: BackfillReport, other: BackfillReport) -> BackfillReport:
    counts = {
        field.name: getattr(one, field.name) + getattr(other, field.name)
        for field in fields(BackfillReport)
        if field.name not in ("collection", "model")
    }
    return replace(one, **counts)
