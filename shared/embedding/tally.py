"""The running counts of a backfill, and the money it may spend."""

import time
from dataclasses import replace

from shared.models import BackfillReport


class Tally:
    """Counts what a run does. Prices are in USD per million tokens."""

    def __init__(self, collection: str, model: str, *, price_per_million_tokens: float, max_cost: float | None) -> None:
        self._report = BackfillReport(collection=collection, model=model)
        self._price = price_per_million_tokens
        self._max_cost = max_cost
        self._reserved = 0
        self._started = time.monotonic()
        # Requests made to the provider.
        self.calls = 0

    @property
    def limits_cost(self) -> bool:
        """Whether tokens must be counted before they are sent."""
        return self._max_cost is not None and self._price > 0

    def reserve(self, tokens: int) -> bool:
        """Reserve the price of a request of about that many tokens; False where the run would cost more than it may."""
        total = (self._report.tokens + self._reserved + tokens) * self._price / 1e6
        if self._max_cost is not None and total > self._max_cost:
            return False
        self._reserved += tokens
        return True

    def spend(self, reserved: int, tokens: int, calls: int = 0) -> None:
        """Replace what was reserved by what the provider counted, in `calls` requests."""
        self.calls += calls
        self._reserved -= reserved
        spent = self._report.tokens + tokens
        self._report = replace(self._report, tokens=spent, cost_usd=spent * self._price / 1e6)

    def add(self, *, embedded: int = 0, failed: int = 0, stale: int = 0, reused: int = 0, truncated: int = 0) -> None:
        """Add to the counts; every row that was embedded, failed or stale has been processed."""
        report = self._report
        self._report = replace(
            report,
            processed=report.processed + embedded + failed + stale,
            embedded=report.embedded + embedded,
            failed=report.failed + failed,
            stale=report.stale + stale,
            reused=report.reused + reused,
            truncated=report.truncated + truncated,
        )

    @property
    def report(self) -> BackfillReport:
        """The counts as they stand."""
        return replace(self._report, seconds=round(time.monotonic() - self._started, 3))
