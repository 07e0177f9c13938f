"""The worker on Lambda: runs the task that another function sent, and every 30 minutes embeds pending rows and
generates synonyms.

It has no HTTP app: its events come from the other functions and from the schedule.
"""

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from functions.services import SERVICES, Services
from shared.embedding.runs import BATCH_SIZE, SYNONYMS_TASK_NAME, TASK_NAME, Job, Outcome, Task
from shared.errors import AppError, InvalidRequest
from shared.models import BackfillReport

log = logging.getLogger(__name__)

# Seconds at the end that are reserved for open requests, for releasing leases and for recording the run; at most a third
# of the time limit.
MARGIN_SECONDS = 20.0


class LambdaContext(Protocol):
    """The part of Lambda's context that this module uses."""

    def get_remaining_time_in_millis(self) -> int: ...


def handler(event: Mapping[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Run one task or the scheduled work within Lambda's time limit; returns the outcome."""
    return run(event, context, SERVICES)


def run(event: Mapping[str, Any], context: LambdaContext, services: Services) -> dict[str, Any]:
    """Like `handler`, with the given services. Raises InvalidRequest for an event of another kind."""
    task = None if _is_schedule(event) else read_event(event)
    with time_limit(context.get_remaining_time_in_millis() / 1000) as stop:
        return _run_schedule(services, stop) if task is None else _execute(services, task, stop)


def _run_schedule(services: Services, stop: threading.Event) -> dict[str, Any]:
    """Embed rows, then write synonyms in the rest of the time. Without work, creates no provider and records no run."""
    answer = _execute_if_needed(services, services.embedding_job, stop)
    if answer is None:
        answer = _answer(None, Outcome("completed", BackfillReport("", "")))
    if stop.is_set() or not services.has_generator:
        return answer
    try:
        written = _execute_if_needed(services, services.synonym_job, stop)
    except AppError as error:
        # The outcome of the rows is still returned.
        log.warning("could not look for queued tags: %s", error.message)
        written = {"status": "failed", "error": error.message}
    return answer if written is None else {**answer, "synonyms": written}


def _execute_if_needed(services: Services, job: Job, stop: threading.Event) -> dict[str, Any] | None:
    return _execute(services, services.runs.record_queued(name=job.name), stop) if job.has_work() else None


def _execute(services: Services, task: Task, stop: threading.Event) -> dict[str, Any]:
    job: Job = services.synonym_job if task.name == SYNONYMS_TASK_NAME else services.embedding_job
    return _answer(task.task_id, services.runs.execute(job, task, stop))


def _answer(task_id: str | None, outcome: Outcome) -> dict[str, Any]:
    counts = {name: getattr(outcome.report, name) for name in ("processed", "embedded", "failed", "stale")}
    return {"task_id": task_id, "status": outcome.status, **counts, "error": outcome.error}


def read_event(event: Mapping[str, Any]) -> Task:
    """The task that another function sent. Raises InvalidRequest for an event of another kind."""
    if not isinstance(event.get("task_id"), str):
        raise InvalidRequest(
            "event: expected a task (task_id) or a scheduled event (source aws.events or aws.scheduler)"
        )
    size = int(event.get("batch_size", BATCH_SIZE))
    return Task(event["task_id"], event.get("collection"), size, event.get("name", TASK_NAME))


def _is_schedule(event: Mapping[str, Any]) -> bool:
    return "task_id" not in event and event.get("source") in ("aws.events", "aws.scheduler")


@contextmanager
def time_limit(seconds: float) -> Iterator[threading.Event]:
    """A threading.Event that is set MARGIN_SECONDS before Lambda's time limit."""
    stop = threading.Event()
    timer = threading.Timer(max(seconds - min(MARGIN_SECONDS, seconds / 3), 0.0), stop.set)
    timer.daemon = True
    timer.start()
    try:
        yield stop
    finally:
        timer.cancel()
