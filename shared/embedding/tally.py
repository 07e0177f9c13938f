"""The running counts of a backfill, and the money it may spend."""

import threading
import time
from dataclasses import replace

from shared.models import BackfillReport


class Tally:
    """Counts what a run does; one object for all its threads. Prices are USD per million tokens."""

    def __init__(self, collection: str, model: str, *, price_per_million_tokens: float, max_cost: float | None) -> None:
        self._report = BackfillReport(collection=collection, model=model)
        self._price = price_per_million_tokens
        self._max_cost = max_cost
        self._reserved = 0
        self._calls = 0
        self._lock = threading.Lock()
        self._started = time.monotonic()

    def reserve(self, tokens: int) -> bool:
        """Set money aside for a request of about that many tokens; False where it would pass the limit."""
        with self._lock:
            total = (self._report.tokens + self._reserved + tokens) * self._price / 1e6
            if self._max_cost is not None and total > self._max_cost:
                return False
            self._reserved += tokens
            return True

    def spend(self, reserved: int, tokens: int, calls: int = 0) -> None:
        """Replace what was set aside by what the provider counted, in `calls` requests."""
        with self._lock:
            self._calls += calls
            self._reserved -= reserved
            spent = self._report.tokens + tokens
            self._report = replace(self._report, tokens=spent, cost_usd=spent * self._price / 1e6)

    def add(self, **counts: int) -> None:
        """Add to processed, embedded, failed, stale, reused or truncated."""
        with self._lock:
            sums = {name: getattr(self._report, name) + count for name, count in counts.items()}
            self._report = replace(self._report, **sums)

    @property
    def calls(self) -> int:
        """Requests made to the provider."""
        with self._lock:
            return self._calls

    def report(self) -> BackfillReport:
        """The counts as they stand."""
        with self._lock:
            return replace(self._report, seconds=round(time.monotonic() - self._started, 3))
