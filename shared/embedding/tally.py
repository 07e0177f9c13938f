"""The running counts of a backfill, and the money it may spend."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from shared.models import BackfillReport, Embeddings


@dataclass(slots=True)
class Tally:
    """Counts what a run does. `price` is in USD per million tokens, `max_cost` in USD."""

    counts: BackfillReport
    price: float
    max_cost: float | None
    reserved: int = 0
    # Requests made to the provider.
    calls: int = 0
    started: float = field(default_factory=time.monotonic)

    def reserve(self, texts: Sequence[str], count_tokens: Callable[[Sequence[str]], Sequence[int]]) -> int | None:
        """Reserve the price of a request and return its tokens; None where the run would cost more than it may."""
        if self.max_cost is None or not self.price:
            return 0
        tokens = sum(count_tokens(texts))
        if (self.counts.tokens + self.reserved + tokens) * self.price / 1e6 > self.max_cost:
            return None
        self.reserved += tokens
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
        report = self.counts
        self.reserved -= reserved
        spent = report.tokens + (answer.tokens if answer else 0)
        self.calls += answer.calls if answer else 0
        self.counts = replace(
            report,
            processed=report.processed + embedded + failed + stale,
            embedded=report.embedded + embedded,
            failed=report.failed + failed,
            stale=report.stale + stale,
            reused=report.reused + reused,
            truncated=report.truncated + (answer.truncated if answer else 0),
            tokens=spent,
            cost_usd=spent * self.price / 1e6,
        )

    @property
    def report(self) -> BackfillReport:
        """The counts as they stand."""
        return replace(self.counts, seconds=round(time.monotonic() - self.started, 3))
