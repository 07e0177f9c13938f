"""The queue of one kind of run in a long-lived server: one thread executes the runs in order."""

import logging
import threading
import time
from queue import SimpleQueue

from shared.embedding.runs import KINDS, Job, Runs, Task
from shared.errors import AppError, Overloaded

log = logging.getLogger(__name__)

MAX_WAITING = 100
# Seconds between reports for queued runs, because a run without a report for 120 s is shown as crashed.
HEARTBEAT_SECONDS = 30.0


class RunQueue:
    """Runs dispatched tasks. Every `every` seconds it also starts a scheduled task, if the job has work.

    A scheduled run is not started while the previous one waits or runs.
    """

    def __init__(self, runs: Runs, job: Job, *, every: float | None = None) -> None:
        self._runs = runs
        self._job = job
        self._every = every
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._waiting: dict[str, Task] = {}
        self._running: str | None = None
        self._scheduled: str | None = None
        self._stop = threading.Event()
        self._lock = threading.Lock()
        # Use daemon threads, so that the process can end while a provider does not answer.
        kind = KINDS[job.name]
        self._threads = [
            threading.Thread(target=self._work, name=f"{kind}-runs", daemon=True),
            threading.Thread(target=self._watch, name=f"{kind}-clock", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def dispatch(self, task: Task) -> None:
        """Queue a task. Raises Overloaded if a hundred are waiting."""
        with self._lock:
            if len(self._waiting) >= MAX_WAITING:
                raise Overloaded("a hundred tasks are waiting already; try again later", retry_after=60)
            self._waiting[task.task_id] = task
        self._tasks.put(task)

    def waiting(self) -> Task | None:
        """The task that will start next, or None."""
        with self._lock:
            return next(iter(self._waiting.values()), None)

    def stop(self) -> None:
        """Tell the running task to release its rows and end, and start no other task; safe in a signal handler."""
        self._stop.set()

    def close(self, seconds: float = 20.0) -> None:
        """End the running task as `stop` does, and record the waiting tasks as interrupted."""
        self.stop()
        self._tasks.put(None)
        for thread in self._threads:
            thread.join(seconds)
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for task in waiting.values():
            self._runs.record(task, "interrupted")

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None and not self._stop.is_set():
            with self._lock:
                if self._waiting.pop(task.task_id, None) is None:
                    continue  # recorded as interrupted
                self._running = task.task_id
            self._runs.execute(self._job, task, self._stop)
            self._running = None

    def _watch(self) -> None:
        beaten = scheduled = time.monotonic()
        while not self._stop.wait(1.0):
            now = time.monotonic()
            if now - beaten >= HEARTBEAT_SECONDS:
                beaten = now
                self._report_waiting()
            with self._lock:
                is_active = self._scheduled is not None and self._scheduled in (*self._waiting, self._running)
            if self._every is not None and now - scheduled >= self._every and not is_active:
                scheduled = now
                self._start_scheduled()

    def _report_waiting(self) -> None:
        with self._lock:
            waiting = list(self._waiting.values())
        for task in waiting:
            # The task may have started while the others were reported.
            if task.task_id in self._waiting:
                self._runs.record(task, "queued")

    def _start_scheduled(self) -> None:
        try:
            if self._job.has_work():
                self._scheduled = self._runs.start(self, name=self._job.name).task_id
        except AppError as error:
            log.warning("the schedule could not start a run: %s", error.message)
        except Exception:
            log.exception("the schedule could not start a run")
