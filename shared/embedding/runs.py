"""Starts runs in the background and records them: when queued, while active and at the end."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from shared.database.base import Database
from shared.errors import AppError, Interrupted, NotFound
from shared.models import BackfillReport

log = logging.getLogger(__name__)

TASK_NAME = "generate-embeddings"
SYNONYMS_TASK_NAME = "generate-synonyms"
KINDS = {TASK_NAME: "embedding", SYNONYMS_TASK_NAME: "generation"}
NAMES = {kind: name for name, kind in KINDS.items()}
# Rows per claim, if the caller does not set it.
BATCH_SIZE = 50
BATCH_SIZES = {"datasets": 100}
# Seconds between two reports of a run. A run without a report for 120 s is shown as crashed.
REPORT_SECONDS = 5.0
INTERNAL = "internal error; see the log"


@dataclass(frozen=True, slots=True)
class Task:
    """A requested run. Without a `collection`, it covers all collections. `name` is the kind of run."""

    task_id: str
    collection: str | None = None
    batch_size: int = BATCH_SIZE
    name: str = TASK_NAME


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: completed, failed or interrupted. `recorded` is true if the job has already stored the outcome."""

    status: str
    report: BackfillReport
    error: str | None = None
    recorded: bool = False


class Job(Protocol):
    """The work of one kind of run."""

    name: str

    def run(self, task: Task, stop: threading.Event, report: Callable[[BackfillReport], None]) -> Outcome:
        """Work until nothing is left or `stop` is set, and report the counts. It may raise any exception."""

    def has_work(self) -> bool:
        """Whether a run would find anything to do."""


class Dispatcher(Protocol):
    """Takes recorded tasks; another thread or another function runs them."""

    def dispatch(self, task: Task) -> None:
        """Accept the task and return at once. Raises AppError if it cannot be accepted."""

    def waiting(self) -> Task | None:
        """A task that is queued and has not started; None if no such task is known."""


@dataclass(frozen=True, slots=True)
class Runs:
    """Starts runs, executes them and keeps their records."""

    database: Database

    def start(
        self,
        dispatcher: Dispatcher,
        collection: str | None = None,
        batch_size: int | None = None,
        name: str = TASK_NAME,
    ) -> Task:
        """Record a task as queued and dispatch it.

        Raises NotFound for an untracked collection, and the errors of `Dispatcher.dispatch`.
        """
        task = self.record_queued(collection, batch_size, name)
        try:
            dispatcher.dispatch(task)
        except Exception as error:
            self.record(task, "failed", error=error.message if isinstance(error, AppError) else INTERNAL)
            raise
        return task

    def record_queued(
        self, collection: str | None = None, batch_size: int | None = None, name: str = TASK_NAME
    ) -> Task:
        """Create a task and record it as queued. Raises NotFound for an untracked collection."""
        task_id = record_run(self.database, None, collection, "queued", kind=KINDS[name])
        return Task(str(task_id), collection, batch_size or BATCH_SIZES.get(collection or "", BATCH_SIZE), name)

    def get(self, task_id: str) -> Mapping[str, Any]:
        """The run's row in the database. Raises NotFound if there is no such run."""
        row = self.database.call_scalar("list_embedding_runs", {"of_run": task_id})
        if row is None:
            raise NotFound(f"there is no task {task_id}")
        return {**row, "task_id": task_id, "task_name": NAMES[row["kind"]], "started_at": row["recorded_at"]}

    def execute(self, job: Job, task: Task, stop: threading.Event | None = None) -> Outcome:
        """Run the task in this thread and record how it ended. If `stop` is set, it releases its rows and ends.

        Never raises.
        """
        latest = deque([BackfillReport(task.collection or "", "")], maxlen=1)
        done = threading.Event()
        reporting = threading.Thread(target=self._report, args=(task, latest, done), name="run-report", daemon=True)
        try:
            if record_run(self.database, task.task_id, task.collection, "running", kind=KINDS[task.name]) is None:
                log.warning("task %s has ended already; it was delivered twice", task.task_id)
                return Outcome(str(self.get(task.task_id)["status"]), latest[-1], recorded=True)
            reporting.start()
            outcome = job.run(task, stop or threading.Event(), latest.append)
        except Interrupted:
            outcome = Outcome("interrupted", latest[-1])
        except AppError as error:
            outcome = Outcome("failed", latest[-1], error.message)
        except Exception:
            log.exception("a run failed", extra={"fields": {"task_id": task.task_id}})
            outcome = Outcome("failed", latest[-1], INTERNAL)
        done.set()
        if reporting.is_alive():
            reporting.join()
        if outcome.error is not None:
            log.warning("task %s (%s): %s", task.task_id, task.name, outcome.error)
        if not outcome.recorded:
            self.record(task, outcome.status, outcome.report, outcome.error)
        return outcome

    def record(self, task: Task, status: str, report: BackfillReport | None = None, error: str | None = None) -> None:
        """Record the task's state. If that fails, the error is logged and the run will be shown as crashed."""
        counts = {**(asdict(report) if report else {}), "error": error}
        try:
            record_run(self.database, task.task_id, task.collection, status, counts, KINDS[task.name])
        except AppError as problem:
            log.warning("could not record task %s as %s: %s", task.task_id, status, problem.message)

    def _report(self, task: Task, latest: "deque[BackfillReport]", done: threading.Event) -> None:
        """Record the latest counts of the job at intervals, also while the job waits for a provider."""
        before = latest[-1]
        while not done.wait(REPORT_SECONDS):
            if latest[-1] is not before:
                self.record(task, "running", latest[-1])


def record_run(
    database: Database,
    run_id: str | None,
    collection: str | None,
    status: str,
    report: Mapping[str, Any] | None = None,
    kind: str = "embedding",
) -> str | None:
    """Record the start of a run (if `run_id` is None) or its state; returns its id, or None if it has ended already."""
    counts = dict(report or {})
    arguments = {
        "run_id": run_id,
        "collection": collection,
        "model": counts.get("model") or None,
        "status": status,
        "report": counts,
        "kind": kind,
    }
    recorded = database.call_scalar("record_embedding_run", arguments)
    return None if recorded is None else str(recorded)
