"""Embeds every pending row of a collection; claiming, embedding and saving run at the same time.

One thread claims, counts and reports; a pool of threads embeds and saves. No transaction is open during a provider
call, and every step may be repeated. A crash leaves nothing behind but leases, which expire.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import partial

from shared.database.base import Database
from shared.embedding.batch_worker import Batch, BatchWorker
from shared.embedding.collection import Collection
from shared.embedding.in_flight import InFlight
from shared.embedding.missing_rows import MissingRows
from shared.embedding.tally import Tally
from shared.errors import AppError, ConfigurationError, DatabaseError, DatabaseUnavailable, Interrupted
from shared.models import BackfillReport, EmbeddingModel, QueueState
from shared.providers.base import EmbeddingProvider
from shared.retry import Retrier, RetryPolicy

log = logging.getLogger(__name__)

# The number of additional threads, which save results while the workers send their next requests.
SAVERS = 2
TICK_SECONDS = 0.1
# Seconds between two reports of a run. It then records its counts and looks for new rows.
REPORT_SECONDS = 2.0
# With fewer vectors an exact scan is as good as an index. The index is built after a run, because an existing index makes
# every save of a bulk load slower.
INDEX_MIN_ROWS = 10_000
# After a deadlock or a server restart, retry for two minutes; then the run ends with the error.
DATABASE_RETRIES = RetryPolicy(max_attempts=100, max_seconds=120, base_wait=0.1, max_wait=5)


@dataclass(frozen=True, slots=True)
class BackfillOptions:
    """Options of a backfill. `workers` is the number of concurrent requests to the provider.

    A running backfill renews its leases, so `lease_seconds` is how long the rows of a killed one stay leased.
    `max_cost` is in USD.
    """

    collection: str
    batch_size: int = 50
    workers: int = 4
    limit: int | None = None
    max_cost: float | None = None
    lease_seconds: int = 60
    wait_for_others: bool = True

    def __post_init__(self) -> None:
        for name, low, high in (("batch_size", 1, 1000), ("workers", 1, 256), ("lease_seconds", 2, 86_400)):
            if not low <= getattr(self, name) <= high:
                raise ConfigurationError(
                    f"--{name.replace('_', '-')} must be between {low} and {high}, not {getattr(self, name)}"
                )
        if self.limit is not None and self.limit < 1:
            raise ConfigurationError(f"--limit must be at least 1, not {self.limit}")
        if self.max_cost is not None and self.max_cost < 0:
            raise ConfigurationError(f"--max-cost must not be negative, not {self.max_cost}")


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a run: its counts so far, and how many rows it will process (0 while that is not known)."""

    report: BackfillReport
    expected: int
    waiting_for_others: int = 0


@dataclass(frozen=True, slots=True)
class BackfillOutcome:
    """The result of a run.

    If the run ended early, `error` is the reason, or `over_budget` is true (--max-cost). `left` is the queue at its end.
    """

    report: BackfillReport
    left: QueueState
    interrupted: bool = False
    over_budget: bool = False
    error: AppError | None = None

    @property
    def complete(self) -> bool:
        """Whether every row that this run could claim is embedded."""
        return not (self.report.failed or self.error or self.over_budget or self.interrupted)


def backfill(
    database: Database,
    provider: EmbeddingProvider,
    options: BackfillOptions,
    *,
    stop: threading.Event | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    run_id: str | None = None,
) -> BackfillOutcome:
    """Embed the pending rows of the collection and report the counts.

    If `stop` is set, the run ends after the open requests and releases rows that were not sent. The run waits for rows
    that another worker holds, unless `limit` is set or `wait_for_others` is false. It is recorded under `run_id`, or
    under a new id. Raises AppError only for an error before the first row: an unknown collection, another model, an
    unreachable database.
    """
    collection = Collection(database, options.collection)
    registered = collection.register_embedding_model(provider.describe(), use=True)
    return _Run(collection, provider, registered, options, stop or threading.Event(), on_progress, run_id).run()


class _Run:
    """One backfill. Only the calling thread changes its state; the pool works on batches."""

    def __init__(
        self,
        collection: Collection,
        provider: EmbeddingProvider,
        registered: EmbeddingModel,
        options: BackfillOptions,
        stop: threading.Event,
        on_progress: Callable[[Progress], None] | None,
        run_id: str | None,
    ) -> None:
        self._collection = collection
        self._provider = provider
        self._prefix = registered.document_prefix
        self._options = options
        self._stop = stop
        self._on_progress = on_progress
        self._run_id = run_id
        # When this is set, every wait for the provider ends. It is set if the run is stopped, or after an error that
        # concerns every text.
        self._halt = threading.Event()
        self._retrier = Retrier(DATABASE_RETRIES)
        self._pool = ThreadPoolExecutor(options.workers + SAVERS, "embed")
        requests = threading.Semaphore(options.workers)
        self._worker = BatchWorker(collection, provider, registered, self._retrier, self._halt, requests)
        self._tasks: set[Future[Batch]] = set()
        self._in_flight = InFlight()
        # The most rows in flight: for each worker one batch at the provider and one that waits, and for each saver one.
        self._capacity = options.batch_size * (2 * options.workers + SAVERS)
        counts = BackfillReport(options.collection, registered.name)
        self._tally = Tally(counts, provider.price_per_million_tokens, options.max_cost)
        # The number of rows that --limit still allows to claim.
        self._left = options.limit
        # Whether rows may have become ready since the last empty claim.
        self._news = True
        # Whether the last claim found fewer rows than it asked for.
        self._drained = False
        self._missing = MissingRows(collection, self._retrier, stop)
        self._over_budget = False
        self._error: Exception | None = None
        self._expected = self._waiting_for_others = 0
        self._shown = 0.0
        self._renewed = self._reported = time.monotonic()

    def run(self) -> BackfillOutcome:
        """Work until no row is left, the budget is used up, the run is stopped or an error ends it."""
        try:
            try:
                self._missing.begin()
            except AppError as error:
                self._end(error)
            while self._advance():
                self._watch()
        finally:
            self._halt.set()
            self._pool.shutdown(wait=False, cancel_futures=True)
        # If the database has failed, do not try to release rows: their leases expire by themselves.
        if self._in_flight.held and not isinstance(self._error, DatabaseUnavailable):
            try:
                # Release these rows without counting an attempt, because the run ended before they were saved.
                self._collection.release_embeddings(list(self._in_flight.held))
            except AppError as error:
                log.warning("could not release rows, their lease expires by itself: %s", error.message)
        if self._on_progress:
            self._show(self._on_progress)
        return self._finish()

    def _advance(self) -> bool:
        """Claim a batch, or wait until one ends; False when the run is over."""
        size = self._options.batch_size if self._left is None else min(self._options.batch_size, self._left)
        held = len(self._in_flight.held)
        fits = not held or held + size <= self._capacity
        goes_on = size and not (self._over_budget or self._halt.is_set())
        try:
            if goes_on and fits and not self._drained:
                self._claim(size)
                return True
            prepares = goes_on and self._missing.preparing
            # The rows of a table that was large when it was tracked are read while batches are at the provider.
            if prepares:
                if self._missing.queue_next():
                    self._news, self._drained = True, False
                # Its counts of the queue include the leases of the batches at the provider.
                self._missing.queue = None
            if self._tasks:
                self._collect()
            elif prepares:
                self._missing.wait_while_paused()
            else:
                return not self._halt.is_set() and self._more_will_come()
        except AppError as error:
            self._end(error)
            return bool(self._tasks)
        return True

    def _watch(self) -> None:
        """At intervals: react to a stop, show progress, renew the leases and record the run."""
        if self._stop.is_set():
            self._end()
        now = time.monotonic()
        if self._on_progress and now - self._shown >= TICK_SECONDS:
            self._shown = now
            self._show(self._on_progress)
        try:
            if now - self._renewed >= self._options.lease_seconds / 3:
                self._renewed = now
                self._collection.renew_embeddings(list(self._in_flight.held), self._options.lease_seconds)
            if now - self._reported >= REPORT_SECONDS and not self._halt.is_set():
                self._reported = now
                self._record()
        except AppError as error:
            # The next round tries again. If the database stays unreachable, saving rows ends the run.
            log.warning("could not renew leases or record the run: %s", error.message)

    def _show(self, on_progress: Callable[[Progress], None]) -> None:
        report = self._tally.report
        on_progress(Progress(report, max(self._expected, report.processed), self._waiting_for_others))

    def _record(self) -> None:
        report = self._tally.report
        if self._run_id is not None or report.processed:
            counts = {**asdict(report), "calls": self._tally.calls}
            self._run_id = self._collection.record_embedding_run(self._run_id, report.model, "running", counts)
        if self._drained or self._missing.preparing or not self._expected:
            state = self._collection.embedding_queue()
            self._expected = report.processed + state.pending
            # New rows may have arrived while the pool was working.
            self._drained = self._drained and not state.ready

    def _end(self, error: Exception | None = None) -> None:
        """Send nothing more. Open requests still end and their results are saved, because they are paid."""
        if not isinstance(error, Interrupted):
            self._error = self._error or error
        self._halt.set()
        for task in self._tasks:
            task.cancel()

    def _claim(self, size: int) -> None:
        claim = partial(self._collection.claim_embeddings, size, self._options.lease_seconds, self._tally.counts.model)
        # `stop` ends the retries of a claim, but not those of a save: a stopped run saves every vector it has received.
        rows = self._retrier.call(claim, stop=self._stop)
        self._news = bool(rows)
        self._drained = len(rows) < size
        if self._left is not None:
            self._left -= len(rows)
        reused = sum(row.reused for row in rows)
        self._tally.add(embedded=reused, reused=reused)
        leaders = self._in_flight.add(row for row in rows if not row.reused)
        if not leaders:
            return
        inputs = [self._prefix + row.text for row in leaders]
        reserved = self._tally.reserve(inputs, self._provider.count_tokens)
        if reserved is None:
            self._over_budget = True
        else:
            self._tasks.add(self._pool.submit(self._worker.embed, Batch(leaders, reserved=reserved)))

    def _more_will_come(self) -> bool:
        """Whether more rows can be claimed, now or after another worker has released them. Call it if no batch is open."""
        if self._over_budget or self._left == 0:
            return False
        self._drained = False
        if self._missing.queue_some() or self._missing.preparing:
            self._news = True
            return True
        state, self._missing.queue = self._missing.queue, None
        if state is None:
            state = self._retrier.call(self._collection.embedding_queue, stop=self._stop)
        self._waiting_for_others = state.leased
        if state.ready and self._news:
            # Look at the pending rows again when these are embedded.
            self._missing.start_again()
            return True
        if self._left is not None or not self._options.wait_for_others or not (state.ready or state.leased):
            return False
        self._stop.wait(0.5 if state.leased else 0.05)
        return True

    def _collect(self) -> None:
        """Wait until batches have ended, count them and save the vectors of rows with equal texts."""
        ended, self._tasks = wait(self._tasks, TICK_SECONDS, FIRST_COMPLETED)
        if ended:
            # Rows of the batch that were stale can be claimed again.
            self._news = True
            self._drained = self._drained and not self._tasks
        for task in ended:
            if task.cancelled():
                continue
            batch = task.result()
            self._tally.add(
                embedded=batch.saved,
                failed=batch.failed,
                stale=batch.stale,
                # A batch without a request has only followers: rows that get the vector of an equal text.
                reused=0 if batch.spent.calls else batch.saved,
                truncated=batch.truncated,
                reserved=batch.reserved,
                spent=batch.spent,
            )
            if batch.error is not None:
                self._end(batch.error)
                continue
            followers = Batch([])
            for rows, result in zip(self._in_flight.settle(batch.rows), batch.results, strict=True):
                followers.rows += rows
                followers.results += [result] * len(rows)
            if followers.rows:
                self._tasks.add(self._pool.submit(self._worker.save, followers))

    def _finish(self) -> BackfillOutcome:
        """Record how the run ended; raises unexpected exceptions."""
        interrupted, error, report = self._stop.is_set(), self._error, self._tally.report
        bug = None if isinstance(error, AppError) else error
        status = "failed" if bug else "interrupted" if interrupted else "failed" if error else "completed"
        message = f"a bug: {type(bug).__name__}" if bug else str(error) if error else None
        counts = {**asdict(report), "calls": self._tally.calls, "error": message}
        finish = self._collection.finish_embedding_run
        record = partial(finish, self._run_id, report.model, status, counts, index_min_rows=INDEX_MIN_ROWS)
        left = QueueState(0, 0, 0, 0)
        try:
            # If the database has just failed, try to record the end only once.
            left = record() if bug or isinstance(error, DatabaseError) else self._retrier.call(record)
        except AppError as late:
            error = error or late
        if error is not None and not isinstance(error, AppError):
            raise error
        return BackfillOutcome(report, left, interrupted, self._over_budget, error)
