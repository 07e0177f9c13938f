"""Give every pending row of a collection its vector: claim, embed and save, overlapped.

One thread claims, several embed, a few save. Nothing is held in a transaction meanwhile, and every step
may be repeated: what a crash leaves behind is a lease that runs out.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass

import numpy as np

from shared.database.base import Database
from shared.embedding.collection import Collection
from shared.embedding.in_flight import Leases
from shared.embedding.tally import Tally
from shared.errors import AppError, ConfigurationError, DatabaseError, Interrupted, ProviderInputRejected
from shared.models import BackfillReport, ClaimedRow, Embeddings, QueueState
from shared.providers.base import EmbeddingProvider
from shared.retry import Retrier, RetryPolicy

log = logging.getLogger(__name__)

SAVERS = 2
# How often a run is recorded while it is at work: who watches it sees it move.
REPORT_SECONDS = 2.0
# Below this many vectors an exact scan is as good as an index.
INDEX_MIN_ROWS = 10_000
# A deadlock or a server that restarts is waited out for two minutes; then the run ends with its reason.
DATABASE_RETRIES = RetryPolicy(max_attempts=100, max_seconds=120, base_wait=0.1, max_wait=5)


@dataclass(frozen=True, slots=True)
class BackfillOptions:
    """How to run. `workers` is how many requests to the provider are under way at once.

    A lease is renewed while its worker lives, so `lease_seconds` is how long a killed worker's rows
    stay out of reach. `max_cost` is in USD.
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
    """A moment of a run: its counts so far, and the queue as it was at the start."""

    report: BackfillReport
    expected: int
    waiting_for_others: int = 0


@dataclass(frozen=True, slots=True)
class BackfillOutcome:
    """How a run ended. `error` ended it early; `over_budget` means that --max-cost did; `left` is the queue then."""

    report: BackfillReport
    left: QueueState
    interrupted: bool = False
    over_budget: bool = False
    error: AppError | None = None

    @property
    def complete(self) -> bool:
        """Whether every row that this run could have taken is embedded."""
        return not (self.report.failed or self.error or self.over_budget or self.interrupted)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run would cost: rows to embed, their tokens and the price in USD.

    `texts` are the distinct ones that a provider is needed for; tokens were counted on `sampled` of them.
    """

    rows: int
    tokens: int
    cost_usd: float
    texts: int
    sampled: int


@dataclass(frozen=True, slots=True)
class _Batch:
    rows: list[ClaimedRow]
    reserved: int


@dataclass(frozen=True, slots=True)
class _Embedded:
    rows: list[ClaimedRow]
    answer: Embeddings


def estimate(database: Database, provider: EmbeddingProvider, collection: str, *, switching: bool = False) -> Estimate:
    """What a backfill would embed and cost, without a call to the provider.

    Texts are counted once, and not at all where the table holds their vector already. Tokens are counted
    on up to 1,000 of them and scaled by length beyond that.
    """
    models = Collection(database, collection).collection_models()
    if models and models[0].name != provider.model and not switching:
        raise ConfigurationError(
            f'collection "{collection}" is embedded with model "{models[0].name}", not "{provider.model}": '
            "check EMBEDDING_PROVIDER and EMBEDDING_MODEL, or see --switch-model"
        )
    row = database.call_scalar(
        "estimate_embeddings", {"collection": collection, "model": provider.model, "sample_size": 1000}
    )
    sample = row["sample"]
    counted = sum(provider.count_tokens(sample))
    sampled = sum(map(len, sample))
    tokens = round(counted * row["characters"] / sampled) if sampled else 0
    return Estimate(
        rows=row["rows"],
        tokens=tokens,
        cost_usd=tokens * provider.price_per_million_tokens / 1e6,
        texts=row["texts"],
        sampled=len(sample),
    )


def build_index(database: Database, collection: str) -> str | None:
    """Build the vector index once there are enough rows for it; returns its name, None where none is due.

    To be called after a run: an index that is there during a bulk load makes every row slower to save.
    Raises DatabaseTimeout where the API's statement timeout ends it.
    """
    work = Collection(database, collection)
    return work.create_embedding_index(min_rows=INDEX_MIN_ROWS)


def switch_model(database: Database, provider: EmbeddingProvider, collection: str) -> int:
    """Move the collection to the provider's model; returns how many rows wait to be embedded anew.

    Search goes on: rows are found by the vector they have until the next backfill replaces it.
    """
    work = Collection(database, collection)
    return work.set_collection_model(work.register_embedding_model(provider.spec).name)


def backfill(
    database: Database,
    provider: EmbeddingProvider,
    options: BackfillOptions,
    *,
    stop: threading.Event | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    run_id: str | None = None,
) -> BackfillOutcome:
    """Embed what is pending in the collection and report it.

    Setting `stop` ends the run after the requests under way; rows not yet sent are given back. Waits for
    rows that another worker holds, unless `limit` is set or `wait_for_others` is not. The run is recorded under
    `run_id`, or under an id of its own. Raises AppError only for what is wrong before
    the first row: an unknown collection, another model, an unreachable database.
    """
    work = Collection(database, options.collection)
    registered = work.register_embedding_model(provider.spec, use=True)
    return _Run(work, provider.with_spec(registered), options, stop or threading.Event(), on_progress).run(run_id)


class _Run:
    def __init__(
        self,
        work: Collection,
        provider: EmbeddingProvider,
        options: BackfillOptions,
        stop: threading.Event,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self._work = work
        # A wait for the provider ends when the run is stopped, or when another thread has failed for good.
        self._halt = _Either(stop)
        self._provider = provider.with_retrier(provider.retrier.replace(stop=self._halt))
        self._options = options
        self._stop = stop
        self._on_progress = on_progress or (lambda _: None)
        self._retry = Retrier(DATABASE_RETRIES)
        # What is not claimed yet need not be waited for when the run ends; what is embedded must be saved.
        self._retry_claim = Retrier(DATABASE_RETRIES, stop=self._halt)
        # One batch in each worker, one waiting for it, and some on their way to the database.
        self._leases = Leases(options.batch_size * (2 * options.workers + SAVERS))
        self._tally = Tally(
            options.collection,
            provider.model,
            price_per_million_tokens=provider.price_per_million_tokens,
            max_cost=options.max_cost,
        )
        self._to_embed: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._to_save: queue.SimpleQueue[_Embedded | None] = queue.SimpleQueue()
        self._error: AppError | None = None
        self._crash: BaseException | None = None
        self._over_budget = False
        self._waiting_for_others = 0
        self._run_id: str | None = None

    def run(self, run_id: str | None = None) -> BackfillOutcome:
        model = self._provider.model
        expected = self._work.embedding_queue().pending
        self._run_id = run_id
        # A run that finds nothing and that nobody asks after leaves no record: a schedule makes one after the other.
        if run_id is not None or expected:
            self._run_id = self._work.record_embedding_run(run_id, model, "running", {})
        claimer = threading.Thread(target=self._guard, args=(self._claim,), name="claim", daemon=True)
        embedders = [
            threading.Thread(target=self._guard, args=(self._embed,), name=f"embed-{number}", daemon=True)
            for number in range(self._options.workers)
        ]
        savers = [
            threading.Thread(target=self._guard, args=(self._save,), name=f"save-{number}", daemon=True)
            for number in range(SAVERS)
        ]
        for thread in (claimer, *embedders, *savers):
            thread.start()

        self._watch(claimer, expected)
        for _ in embedders:
            self._to_embed.put(None)
        for thread in embedders:
            self._watch(thread, expected)
        for _ in savers:
            self._to_save.put(None)
        for thread in savers:
            self._watch(thread, expected)
        self._give_back(self._leases.held())
        return self._finish()

    def _watch(self, thread: threading.Thread, expected: int) -> None:
        """Wait for a thread; meanwhile show progress, renew the leases and record the run."""
        renew_every = self._options.lease_seconds / 3
        renewed = recorded = time.monotonic()
        while thread.is_alive():
            thread.join(0.1)
            report = self._tally.report()
            self._on_progress(Progress(report, max(expected, report.processed), self._waiting_for_others))
            now = time.monotonic()
            try:
                if now - renewed >= renew_every:
                    renewed = now
                    self._work.renew_embeddings(self._leases.held(), self._options.lease_seconds)
                if now - recorded >= REPORT_SECONDS:
                    recorded = now
                    self._record("running", report)
            except AppError as error:
                # The next round tries again; a database that stays away ends the run where rows are saved.
                log.warning("could not renew leases: %s", error.message)

    def _finish(self) -> BackfillOutcome:
        report = self._tally.report()
        if self._crash is not None:
            with suppress(AppError):
                self._record("failed", report, error=f"a bug: {type(self._crash).__name__}")
            raise self._crash
        interrupted = self._stop.is_set()
        status = "interrupted" if interrupted else "failed" if self._error else "completed"
        left = QueueState(0, 0, 0, 0)
        try:
            # Where the database has just been given up on, it is not waited for once more.
            read = self._work.embedding_queue
            left = read() if isinstance(self._error, DatabaseError) else self._retry.call(read)
            self._retry.call(self._work.retire_models)
            self._record(status, report, error=self._error.message if self._error else None)
        except AppError as error:
            self._error = self._error or error
        return BackfillOutcome(report, left, interrupted, self._over_budget, self._error)

    def _record(self, status: str, report: BackfillReport, *, error: str | None = None) -> None:
        if self._run_id is None and not report.processed and error is None:
            return
        counts = {**asdict(report), "calls": self._tally.calls, "error": error}
        self._run_id = self._work.record_embedding_run(self._run_id, self._provider.model, status, counts)

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except AppError as error:
            self._end_early(error)
        except BaseException as error:  # noqa: BLE001 - a bug: raised again in the caller's thread
            self._crash = error
            self._halt.set()

    def _end_early(self, error: AppError) -> None:
        if not isinstance(error, Interrupted) and self._error is None:
            self._error = error
        self._halt.set()

    # Claiming

    def _claim(self) -> None:
        options = self._options
        left = options.limit
        while not self._halt.is_set() and left != 0:
            size = options.batch_size if left is None else min(options.batch_size, left)
            if not self._leases.wait_for_room(size, 0.2):
                continue
            # As of before the claim: what is let go while it looks around is missed by it, and is to be looked for again.
            held = self._leases.held()
            rows = self._retry_claim.call(lambda size=size: self._work.claim_embeddings(size, options.lease_seconds))  # type: ignore[misc]
            if not rows:
                if held:
                    # What is under way may come back: stale rows wait for their new text.
                    self._leases.wait_for_change(held, 0.5)
                    continue
                if left is None and options.wait_for_others and self._others_are_at_work():
                    continue
                return
            if left is not None:
                left -= len(rows)
            self._leases.hold(rows)
            self._tally.add(processed=len(rows))
            if not self._dispatch(rows):
                return

    def _others_are_at_work(self) -> bool:
        state = self._retry_claim.call(self._work.embedding_queue)
        self._waiting_for_others = state.leased
        if state.leased or state.ready:
            self._halt.wait(0.5 if state.leased else 0.05)
            return True
        return False

    def _dispatch(self, rows: list[ClaimedRow]) -> bool:
        """Send on what has to be embedded; False where that would pass the budget."""
        new = [row for row in rows if not self._leases.follow(row)]
        if not new:
            return True
        model = self._provider.model
        reused = self._retry_claim.call(lambda: self._work.reuse_embeddings(model, new))
        done = [row for row in new if row.row_id in reused]
        self._leases.settle(done)
        self._tally.add(embedded=len(done), reused=len(done))

        leaders: list[ClaimedRow] = []
        for row in new:
            # Again: an equal text may stand further up in this very batch.
            if row.row_id not in reused and not self._leases.follow(row):
                self._leases.lead(row)
                leaders.append(row)
        if not leaders:
            return True
        counts_money = self._options.max_cost is not None and self._provider.price_per_million_tokens
        reserved = sum(self._provider.count_tokens([row.text for row in leaders])) if counts_money else 0
        if not self._tally.reserve(reserved):
            self._over_budget = True
            self._release(leaders)
            return False
        self._to_embed.put(_Batch(leaders, reserved))
        return True

    # Embedding

    def _embed(self) -> None:
        while (batch := self._to_embed.get()) is not None:
            if self._halt.is_set():
                self._release(batch.rows)
                continue
            try:
                answer = self._provider.embed([row.text for row in batch.rows], isolate=True)
            except AppError as error:
                # Not about one text: nothing is wrong with these rows, so nobody counts it against them.
                self._end_early(error)
                self._tally.spend(batch.reserved, 0)
                self._release(batch.rows)
                continue
            self._tally.spend(batch.reserved, answer.tokens, answer.calls)
            self._tally.add(truncated=answer.truncated)
            self._to_save.put(_Embedded(batch.rows, answer))

    # Saving

    def _save(self) -> None:
        while (embedded := self._to_save.get()) is not None:
            rows, answer = embedded.rows, embedded.answer
            good = [index for index in range(len(rows)) if index not in answer.errors]
            if good:
                self._store([rows[index] for index in good], answer.vectors[good], reused=False)
            if answer.errors:
                self._fail([(rows[index], error) for index, error in answer.errors.items()])

    def _store(self, rows: list[ClaimedRow], vectors: np.ndarray, *, reused: bool) -> None:
        # A batch and its followers; then those that came to follow while this was being saved.
        while rows:
            saved, stale = self._retry.call(
                lambda rows=rows, vectors=vectors: self._work.save_embeddings(self._provider.model, rows, vectors)  # type: ignore[misc]
            )
            self._tally.add(embedded=saved, stale=stale, reused=saved if reused else 0)
            self._leases.settle(rows)
            following = [
                (row, vector)
                for lead, vector in zip(rows, vectors, strict=True)
                for row in self._leases.take_followers(lead)
            ]
            rows = [row for row, _ in following]
            vectors = np.array([vector for _, vector in following], dtype=np.float32)
            reused = True

    def _fail(self, failures: Sequence[tuple[ClaimedRow, AppError]]) -> None:
        everyone = [(row, error) for lead, error in failures for row in (lead, *self._leases.dismiss_followers(lead))]
        report = [(row.row_id, error.message, isinstance(error, ProviderInputRejected)) for row, error in everyone]
        self._retry.call(lambda: self._work.fail_embeddings(report))
        self._tally.add(failed=len(everyone))
        self._leases.settle(row for row, _ in everyone)

    # Giving back

    def _release(self, rows: Sequence[ClaimedRow]) -> None:
        everyone = [*rows, *(row for lead in rows for row in self._leases.dismiss_followers(lead))]
        self._give_back([row.row_id for row in everyone])
        self._leases.settle(everyone)

    def _give_back(self, row_ids: list[str]) -> None:
        if not row_ids:
            return
        self._tally.add(processed=-len(row_ids))
        try:
            self._work.release_embeddings(row_ids)
        except AppError as error:
            log.warning("could not give rows back, their lease runs out by itself: %s", error.message)


class _Either(threading.Event):
    """Set by itself, or when the outer event is; a wait notices either."""

    def __init__(self, outer: threading.Event) -> None:
        super().__init__()
        self._outer = outer

    def is_set(self) -> bool:
        return super().is_set() or self._outer.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.is_set():
            left = 0.1 if deadline is None else min(0.1, deadline - time.monotonic())
            if left <= 0:
                break
            super().wait(left)
        return self.is_set()
