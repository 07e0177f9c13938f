"""Queues pending rows that the queue lacks: rows of a large table that was just tracked, or written without triggers."""

import logging
import threading
import time
from concurrent.futures import Future
from functools import partial

from shared.embedding.background import in_background
from shared.embedding.collection import Collection
from shared.errors import AppError
from shared.models import QueueState
from shared.retry import Retrier

log = logging.getLogger(__name__)

FIRST_BATCH = 100
LARGEST_BATCH = 1_000
# After this many rows were queued, they are embedded before more rows are read.
QUEUE_AHEAD = 5_000
# The time that reading one batch should take. A batch locks its rows, so writers of these rows wait this long.
BATCH_SECONDS = 0.2
# Seconds until the next attempt, if a row of the batch is locked, or if another backfill reads the collection.
PAUSE = 0.3
# Seconds that a run waits until its indexes are built; then it goes on without them. A long transaction delays a build.
INDEX_WAIT = 60.0


class MissingRows:
    """Reads the rows of a collection in batches, each of which takes a fraction of a second.

    While the collection is `preparing`, all backfills together read all rows once. After that, the rows without a vector
    are read, until `done`.
    """

    def __init__(self, collection: Collection, retrier: Retrier, stop: threading.Event) -> None:
        self._collection = collection
        self._retrier = retrier
        self._stop = stop
        self._after: str | None = None
        self._size = FIRST_BATCH
        self._paused_until = 0.0
        self._prepared_to: str | None = None
        self._build: Future[None] | None = None
        self.preparing = self.done = False
        # The queue after the last batch; None once it was taken.
        self.queue: QueueState | None = None

    def wait_while_paused(self) -> None:
        """If the last batch found a locked row, wait until the next attempt is due."""
        self._stop.wait(max(0.0, self._paused_until - time.monotonic()))

    def begin(self) -> int:
        """Find out whether the collection is being prepared, and build its indexes if they are missing."""
        queued = self.queue_next()
        deadline = time.monotonic() + INDEX_WAIT
        while self._build and not self._build.done() and not self._stop.wait(0.02):
            if time.monotonic() > deadline:
                log.warning("the indexes of %s are still being built; the run goes on", self._collection.collection)
                break
        # The pending rows are read once more before the run ends.
        self.start_again()
        return queued

    def start_again(self) -> None:
        """Read the pending rows again from the first one."""
        self._after, self.done, self.queue = None, False, None

    def queue_some(self) -> int:
        """Read pending rows until enough were queued or all were read; returns how many were queued."""
        queued = 0
        while not (self.done or self.preparing or self._stop.is_set()) and queued < QUEUE_AHEAD:
            queued += self.queue_next()
        return queued

    def queue_all(self) -> int:
        """Prepare the collection and read all its pending rows, but embed none; returns how many were queued."""
        queued = self.begin()
        while not (self.done or self._stop.is_set()):
            queued += self.queue_next()
            self.wait_while_paused()
        return queued

    def queue_next(self) -> int:
        """Read a batch of rows; returns how many were queued."""
        if time.monotonic() < self._paused_until:
            return 0
        began = time.monotonic()
        look = partial(self._collection.queue_missing_rows, self._after, self._size)
        found = self._retrier.call(look, stop=self._stop)
        seconds = time.monotonic() - began
        if found["missing_indexes"] and self._build is None:
            self._build = in_background(partial(_build, self._collection, found["missing_indexes"]), "indexes")
        self.preparing, last_id = found["preparing"], found["last_id"]
        if self.preparing and last_id == self._prepared_to:
            self._paused_until = time.monotonic() + PAUSE
        if seconds > BATCH_SECONDS:
            self._size = max(self._size // 2, 1)
        elif seconds < BATCH_SECONDS / 3:
            self._size = min(self._size * 2, LARGEST_BATCH)
        self._prepared_to = last_id if self.preparing else None
        self._after = None if self.preparing else last_id
        if not self.preparing and last_id is None:
            self.done = True
            self.queue = QueueState(found["ready"], found["leased"], found["waiting"], found["failed"])
        return int(found["queued"])


def _build(collection: Collection, missing: list[str]) -> None:
    """Build indexes without a lock on writers; if this connection cannot do so, log the statements.

    Rows can be embedded without these indexes, so an error does not end the run.
    """
    name = collection.collection
    try:
        if not collection.database.run_alone("select embedding.missing_indexes(%s)", name):
            log.warning("%s has no indexes yet; run these as its owner, each alone: %s;", name, "; ".join(missing))
    except AppError as error:
        log.warning("could not build the indexes of %s: %s", name, error.message)
