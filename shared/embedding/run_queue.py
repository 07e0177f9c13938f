"""Tasks in a server that lives long: one thread runs them in order, another says that they wait."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Protocol

from shared.database.base import Database
from shared.embedding.runs import Task, drain_collections, record_run
from shared.errors import AppError, Overloaded

log = logging.getLogger(__name__)

MAX_WAITING = 100
# Well below the silence after which a run is taken for crashed.
HEARTBEAT_SECONDS = 30.0


class Runner(Protocol):
    """Runs a task in the calling thread, until `stop` is set."""

    def run(self, task: Task, stop: threading.Event) -> object: ...


class TaskThread:
    """`dispatch` queues a task; `drain_every` seconds, if set, a task that `drain` makes is queued by itself.

    Not while the last of these waits or runs: it finds what has come meanwhile.
    """

    def __init__(
        self,
        database: Callable[[], Database],
        runner: Callable[[], Runner],
        *,
        drain_every: float | None = None,
        drain: Callable[[Database], Task | None] = drain_collections,
    ) -> None:
        self._database = database
        self._runner = runner
        self._drain_every = drain_every
        self._drain = drain
        self._drain_under_way: Task | None = None
        self._tasks: queue.Queue[Task] = queue.Queue(MAX_WAITING)
        self._stop = threading.Event()
        self._worker: threading.Thread | None = None
        self._clock: threading.Thread | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin to work; safe to repeat."""
        with self._lock:
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="tasks", daemon=True)
                self._clock = threading.Thread(target=self._tick, name="task-clock", daemon=True)
                self._worker.start()
                self._clock.start()

    def dispatch(self, task: Task) -> None:
        """Queue a task. Raises Overloaded where a hundred are waiting."""
        self.start()
        try:
            self._tasks.put_nowait(task)
        except queue.Full:
            raise Overloaded("a hundred tasks are waiting already; try again later", retry_after=60) from None

    def stop(self) -> None:
        """Have the running task end cleanly; nothing is begun any more."""
        self._stop.set()

    def close(self, seconds: float = 20.0) -> None:
        """End the running task cleanly, record those that wait as interrupted."""
        self.stop()
        for thread in (self._worker, self._clock):
            if thread is not None:
                thread.join(seconds)
        while True:
            try:
                task = self._tasks.get_nowait()
            except queue.Empty:
                return
            self._record(task, "interrupted")

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                task = self._tasks.get(timeout=0.2)
            except queue.Empty:
                continue
            try:
                self._runner().run(task, self._stop)
            except AppError as error:
                log.error("task %s could not run: %s", task.task_id, error.message)
                self._record(task, "failed", error.message)
            except Exception:
                # The thread must outlive a bug in one task.
                log.exception("task %s could not run", task.task_id)
            finally:
                if task is self._drain_under_way:
                    self._drain_under_way = None

    def _tick(self) -> None:
        drained = beaten = time.monotonic()
        while not self._stop.wait(1.0):
            now = time.monotonic()
            if now - beaten >= HEARTBEAT_SECONDS:
                beaten = now
                for task in list(self._tasks.queue):
                    self._record(task, "queued")
            if self._drain_every is not None and now - drained >= self._drain_every and self._drain_under_way is None:
                drained = now
                try:
                    self._start_drain()
                except AppError as error:
                    log.warning("the schedule could not start a run: %s", error.message)
                except Exception:
                    log.exception("the schedule could not start a run")

    def _start_drain(self) -> None:
        task = self._drain(self._database())
        if task is None:
            return
        self._drain_under_way = task
        try:
            self.dispatch(task)
        except Exception as error:
            self._drain_under_way = None
            self._record(
                task, "failed", error.message if isinstance(error, AppError) else "internal error; see the log"
            )
            raise

    def _record(self, task: Task, status: str, error: str | None = None) -> None:
        try:
            record_run(self._database(), task.task_id, task.collection, status, {"error": error})
        except AppError as problem:
            log.warning("could not record task %s: %s", task.task_id, problem.message)
