"""Counts the rows, tokens and cost of a backfill, and enforces its cost limit."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from shared.models import BackfillReport, Spent


@dataclass(slots=True)
class Tally:
    """The counts of a run. `price` is in USD per million tokens, `max_cost` in USD."""

    counts: BackfillReport
    price: float
    max_cost: float | None
    reserved: int = 0
    # The number of requests to the provider.
    calls: int = 0
    started: float = field(default_factory=time.monotonic)

    def reserve(self, texts: Sequence[str], count_tokens: Callable[[Sequence[str]], Sequence[int]]) -> int | None:
        """Reserve the cost of a request and return its tokens; None if the run would exceed `max_cost`."""
        if self.max_cost is None or not self.price:
            return 0
        tokens = sum(count_tokens(texts))
        if (self.counts.tokens + self.reserved + tokens) * self.price / 1e6 > self.max_cost:
            return None
        self.reserved += tokens
        return tokens

    def add(self, *, reserved: int = 0, spent: Spent | None = None, **counts: int) -> None:
        """Add to the counts. `processed` is the sum of embedded, failed and stale rows.

        The tokens that a batch has `spent` replace its `reserved` tokens, even if it brought no vector.
        """
        self.reserved -= reserved
        if spent is not None:
            self.calls += spent.calls
            counts["tokens"] = spent.tokens
        counts["processed"] = sum(counts.get(name, 0) for name in ("embedded", "failed", "stale"))
        self.counts = replace(self.counts, **{name: getattr(self.counts, name) + more for name, more in counts.items()})

    @property
    def report(self) -> BackfillReport:
        """The current counts."""
        cost = self.counts.tokens * self.price / 1e6
        return replace(self.counts, cost_usd=cost, seconds=round(time.monotonic() - self.started, 3))
