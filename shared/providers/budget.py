"""The budget of a day (EMBEDDING_BUDGET_PER_DAY), which all processes share through the database."""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from shared.errors import AppError, BudgetSpent

log = logging.getLogger(__name__)

# How often a process records what it has spent, and reads what all processes have spent.
SYNC_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class BudgetState:
    """The budget of today (UTC) in USD: its limit, and what all processes have spent. `resets_in` is in seconds."""

    limit: float
    spent: float
    resets_in: float


class DailyBudget:
    """Counts the cost of calls by day (UTC) and refuses a call that would exceed the limit.

    `record` adds USD to what today has cost, for all processes; it returns the sum (`spent_today`) and the seconds until
    midnight (`resets_in`). It is called at most every SYNC_SECONDS, or with `at_once` after each call, for a process that
    may never get another request. In between, a process knows what it has spent itself, but not what the others spend.
    """

    def __init__(
        self,
        limit: float,
        record: Callable[[float], Mapping[str, float]],
        *,
        at_once: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = limit
        self._record = record
        self._record_after = 0.0 if at_once else SYNC_SECONDS
        self._clock = clock
        # One thread at a time exchanges sums with the database; `lock` is never held during that call.
        self._syncing = threading.Lock()
        self._lock = threading.Lock()
        # `spent` includes what is not recorded yet; calls that have not ended have `reserved` their estimated cost.
        self._spent = self._unrecorded = self._reserved = 0.0
        self._synced = self._midnight = -math.inf

    @contextmanager
    def spending(self, estimate: float, actual: Callable[[], float]) -> Iterator[None]:
        """Reserve the estimated cost of a call and, when it has ended, count the actual one. Raises BudgetSpent.

        Raises DatabaseError if nothing is known yet of what today has cost.
        """
        self._refresh()
        with self._lock:
            if self._spent + self._reserved + estimate > self._limit:
                used = _usd(self._spent + self._reserved)
                raise BudgetSpent(
                    f"EMBEDDING_BUDGET_PER_DAY: {used} of {_usd(self._limit)} is spent or reserved today, and the next call "
                    "would exceed the limit. The budget starts again at 00:00 UTC; to go on before, raise the setting",
                    retry_after=self._midnight - self._clock(),
                )
            self._reserved += estimate
        try:
            yield
        finally:
            cost = actual()
            with self._lock:
                self._reserved -= estimate
                self._spent += cost
                self._unrecorded += cost
            if self._clock() >= self._synced + self._record_after:
                self.flush()

    def state(self) -> BudgetState:
        """What today has cost. Raises DatabaseError if that is not known."""
        self._refresh()
        return BudgetState(self._limit, self._spent, max(self._midnight - self._clock(), 0.0))

    def flush(self) -> None:
        """Record what was spent and is not recorded yet; if the database fails, the next call tries again."""
        with self._syncing:
            try:
                if self._unrecorded:
                    self._sync()
            except AppError as error:
                log.warning("could not record what was spent: %s", error.message)

    @property
    def _is_fresh(self) -> bool:
        now = self._clock()
        return now < self._midnight and now < self._synced + SYNC_SECONDS

    def _refresh(self) -> None:
        """Read what today has cost, unless it was read a moment ago."""
        if self._is_fresh:
            return
        with self._syncing:
            # Another thread may have read it while this one waited.
            if self._is_fresh:
                return
            try:
                self._sync()
            except AppError as error:
                if self._clock() >= self._midnight:
                    raise
                log.warning("could not read what the other processes spend: %s", error.message)

    def _sync(self) -> None:
        with self._lock:
            # Set before the call: other threads go on with the last sum and do not wait for the database.
            self._synced = self._clock()
            amount, self._unrecorded = self._unrecorded, 0.0
        try:
            today = self._record(amount)
        except BaseException:
            with self._lock:
                self._unrecorded += amount
            raise
        with self._lock:
            # Other threads may have spent more during the call.
            self._spent = float(today["spent_today"]) + self._unrecorded
            self._midnight = self._clock() + float(today["resets_in"])


def _usd(amount: float) -> str:
    return "$" + f"{amount:,.6f}".rstrip("0").rstrip(".")
