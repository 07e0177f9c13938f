"""The running counts of a backfill, and the money it may spend."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from shared.models import BackfillReport, Embeddings


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

    def reserve(self, texts: Sequence[str], count_tokens: Callable[[Sequence[str]], Sequence[int]]) -> int | None:
        """Reserve the price of a request and return its tokens; None where the run would cost more than it may."""
        if self._max_cost is None or not self._price:
            return 0
        tokens = sum(count_tokens(texts))
        if (self._report.tokens + self._reserved + tokens) * self._price / 1e6 > self._max_cost:
            return None
        self._reserved += tokens
        return tokens

    def add(
        self,
        *,
        embedded: int = 0,
        failed: int = 0,
        stale: int = 0,
        reused: int = 0,
        reserved: int = 0,
        answer: Embeddings | None = None,
    ) -> None:
        """Add to the counts; every row that was embedded, failed or stale has been processed.

        What was `reserved` for a request is replaced by what the provider's answer counted.
        """
        report = self._report
        self._reserved -= reserved
        spent = report.tokens + (answer.tokens if answer else 0)
        self.calls += answer.calls if answer else 0
        self._report = replace(
            report,
            processed=report.processed + embedded + failed + stale,
            embedded=report.embedded + embedded,
            failed=report.failed + failed,
            stale=report.stale + stale,
            reused=report.reused + reused,
            truncated=report.truncated + (answer.truncated if answer else 0),
            tokens=spent,
            cost_usd=spent * self._price / 1e6,
        )

    @property
    def report(self) -> BackfillReport:
        """The counts as they stand."""
        return replace(self._report, seconds=round(time.monotonic() - self._started, 3))
