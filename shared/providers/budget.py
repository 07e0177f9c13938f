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
    midnight (`resets_in`). It is called at most every SYNC_SECONDS, also by a timer if no call follows. With `at_once` it is
    called after each call instead, for a process that may never get another request. In between, a process knows what it
    has spent itself, but not what the others spend.
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
        self._at_once = at_once
        self._clock = clock
        # One thread at a time exchanges sums with the database; `lock` is never held during that call.
        self._syncing = threading.Lock()
        self._lock = threading.Lock()
        # `spent` includes what is not recorded yet; calls that have not ended have `reserved` their estimated cost.
        self._spent = self._unrecorded = self._reserved = 0.0
        # `synced` is the start of the latest exchange while it runs, then its end.
        self._synced = self._midnight = -math.inf
        self._failed = False
        self._timer: threading.Timer | None = None

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
            self._record_or_wait()

    def state(self) -> BudgetState:
        """What today has cost. Raises DatabaseError if that is not known."""
        self._refresh()
        return BudgetState(self._limit, self._spent, max(self._midnight - self._clock(), 0.0))

    def flush(self, *, wait: bool = True) -> None:
        """Record what was spent and is not recorded yet; if the database fails, a later call tries again.

        Without `wait` this does nothing while another thread exchanges sums.
        """
        if not self._syncing.acquire(blocking=wait):
            return
        try:
            self._stop_timer()
            if self._unrecorded:
                self._sync()
        except AppError as error:
            log.warning("could not record what was spent: %s", error.message)
        finally:
            self._syncing.release()

    def _record_or_wait(self) -> None:
        """Record what was spent if it is time, else leave it to the timer, or with `at_once` to the next call."""
        # After a failure, a function on Lambda does not wait for the database in each call either.
        wait = 0.0 if self._at_once and not self._failed else SYNC_SECONDS
        if self._clock() >= self._synced + wait:
            self.flush(wait=self._at_once)
        if not self._at_once:
            self._start_timer()

    def _start_timer(self) -> None:
        with self._lock:
            if self._unrecorded and self._timer is None:
                self._timer = threading.Timer(SYNC_SECONDS, self._on_timer)
                self._timer.name, self._timer.daemon = "budget", True
                self._timer.start()

    def _stop_timer(self) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _on_timer(self) -> None:
        self.flush()
        self._start_timer()

    @property
    def _is_known(self) -> bool:
        return self._clock() < self._midnight

    @property
    def _is_fresh(self) -> bool:
        return self._is_known and self._clock() < self._synced + SYNC_SECONDS

    def _refresh(self) -> None:
        """Read what today has cost, unless it was read a moment ago."""
        if self._is_fresh:
            return
        # While another thread reads it, the last sum of today is used. Without one, this thread waits.
        if not self._syncing.acquire(blocking=not self._is_known):
            return
        try:
            # Another thread may have read it while this one waited.
            if not self._is_fresh:
                self._sync()
        except AppError as error:
            if not self._is_known:
                raise
            log.warning("could not read what the other processes spend: %s", error.message)
        finally:
            self._syncing.release()

    def _sync(self) -> None:
        with self._lock:
            self._synced = self._clock()
            amount, self._unrecorded = self._unrecorded, 0.0
        try:
            today = self._record(amount)
        except BaseException:
            with self._lock:
                self._unrecorded += amount
                # An attempt that took long is not repeated at once by those who waited.
                self._synced, self._failed = self._clock(), True
            raise
        with self._lock:
            self._synced, self._failed = self._clock(), False
            # Other threads may have spent more during the call.
            self._spent = float(today["spent_today"]) + self._unrecorded
            self._midnight = self._clock() + float(today["resets_in"])


def _usd(amount: float) -> str:
    return "$" + f"{amount:,.6f}".rstrip("0").rstrip(".")
