"""The worker on Lambda: runs a task that another function hands over, and every 30 minutes whatever is pending.

Not reached over HTTP, so it has no app: its events come from the other functions and from the schedule.
"""

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Protocol

from functions.services import SERVICES, Services
from shared.embedding.runs import BATCH_SIZE, SYNONYMS_TASK_NAME, TASK_NAME, Task, TaskOutcome, drain_collections
from shared.errors import AppError, InvalidRequest
from shared.models import BackfillReport

log = logging.getLogger(__name__)

# Kept back for the requests under way, for giving leases back and for the record. On a short time limit, a third of it.
MARGIN_SECONDS = 20.0

_NOTHING = BackfillReport("", "")


class LambdaContext(Protocol):
    """What is needed of Lambda's context."""

    def get_remaining_time_in_millis(self) -> int: ...


def handler(event: Mapping[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Run one task within the time that is left, and say how it ended."""
    return run(event, context, SERVICES)


def run(event: Mapping[str, Any], context: LambdaContext, services: Services) -> dict[str, Any]:
    """As `handler`, with other services than the process's own. Raises InvalidRequest for an event of another kind."""
    task = None if _is_schedule(event) else read_event(event)
    with time_limit(context.get_remaining_time_in_millis() / 1000) as stop:
        if task is None:
            return _drain(services, stop)
        if task.name == SYNONYMS_TASK_NAME:
            return _write_synonyms(task, services, stop)
        return _embed(task, services, stop)


def _drain(services: Services, stop: threading.Event) -> dict[str, Any]:
    """What waits in both queues. Where no row does, no provider is made for it, and no run recorded."""
    task = drain_collections(services.database)
    answer = _embed(task, services, stop) if task is not None else _answer(None, TaskOutcome("completed", _NOTHING))
    if (written := _drain_synonyms(services, stop)) is not None:
        answer["synonyms"] = written
    return answer


def _embed(task: Task, services: Services, stop: threading.Event) -> dict[str, Any]:
    # Rows that another worker holds are its business: waiting for them would be paid for.
    return _answer(task.task_id, services.task_runner.run(task, stop, wait_for_others=False))


def _answer(task_id: str | None, outcome: TaskOutcome) -> dict[str, Any]:
    return {
        "task_id": task_id,
        "status": outcome.status,
        "processed": outcome.report.processed,
        "embedded": outcome.report.embedded,
        "failed": outcome.report.failed,
        "error": outcome.error,
    }


def _write_synonyms(task: Task, services: Services, stop: threading.Event) -> dict[str, Any]:
    return {"task_id": task.task_id, **asdict(services.synonym_runner.run(task, stop))}


def _drain_synonyms(services: Services, stop: threading.Event) -> dict[str, Any] | None:
    """Synonyms for tags that wait, in the time that is left; None where there is nothing to do or nobody to do it.

    What was embedded is told whatever happens here.
    """
    if stop.is_set() or not services.has_generator:
        return None
    try:
        task = services.synonym_tasks.drain(services.database)
    except AppError as error:
        log.warning("could not look for tags that wait: %s", error.message)
        return {"status": "failed", "error": error.message}
    return _write_synonyms(task, services, stop) if task is not None else None


def read_event(event: Mapping[str, Any]) -> Task:
    """The task that another function hands over. Raises InvalidRequest for an event of another kind."""
    if not isinstance(event.get("task_id"), str):
        raise InvalidRequest("event: neither a task nor the schedule's")
    size = int(event.get("batch_size", BATCH_SIZE))
    return Task(event["task_id"], event.get("collection"), size, event.get("name", TASK_NAME))


def _is_schedule(event: Mapping[str, Any]) -> bool:
    return "task_id" not in event and event.get("source") in ("aws.events", "aws.scheduler")


@contextmanager
def time_limit(seconds: float) -> Iterator[threading.Event]:
    """An event that is set when the time is up, less the margin."""
    stop = threading.Event()
    timer = threading.Timer(max(seconds - min(MARGIN_SECONDS, seconds / 3), 0.0), stop.set)
    timer.daemon = True
    timer.start()
    try:
        yield stop
    finally:
        timer.cancel()
