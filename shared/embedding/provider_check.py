"""Checks whether a provider answers: it embeds one word from time to time, and callers report calls that failed."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shared.embedding.background import in_background
from shared.errors import AppError, BudgetSpent
from shared.retry import RetryPolicy

if TYPE_CHECKING:
    from shared.providers.base import EmbeddingProvider

log = logging.getLogger(__name__)

WAIT_SECONDS = 1.0
# Seconds until the next check: many after a success, few after a failure, because the provider may have recovered.
GOOD_SECONDS = 600.0
BAD_SECONDS = 5.0
# After a refusal for the budget of the day: until midnight, but at most these seconds, since a smaller call may still fit.
SPENT_SECONDS = 300.0
ONE_TRY = RetryPolicy(max_attempts=1, max_seconds=10)


@dataclass(frozen=True, slots=True)
class ProviderState:
    """The result of a check or of a failed call: the model and width (None while unknown), and the provider's error."""

    model: str | None = None
    dimensions: int | None = None
    error: AppError | None = None


@dataclass(slots=True)
class ProviderCheck:
    """Embeds one word as a check. Concurrent callers share one check and get the previous result until it ends."""

    provider: "Callable[[], EmbeddingProvider]"
    clock: Callable[[], float] = time.monotonic
    _check: Future[ProviderState] | None = None
    _state: ProviderState = ProviderState()
    _until: float = float("-inf")
    # Until this time, `known` reports a failure without a new check.
    _failing_until: float = float("-inf")
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> Future[ProviderState] | None:
        """Start a check if one is due, and return its future without waiting; None if no check is due."""
        with self._lock:
            if self.clock() < self._until:
                return None
            if self._check is None:
                self._check = in_background(self._ask, "provider-check")
            return self._check

    def state(self) -> ProviderState:
        """Start a check if one is due, wait for it shortly, and return the latest result; before the first, an empty one."""
        if (check := self.start()) is not None:
            with suppress(FutureTimeout):
                check.result(WAIT_SECONDS)
        return self.latest()

    def fail(self, error: AppError) -> None:
        """Record that a call of the provider has failed. It replaces an earlier success.

        `state` then checks at once, unless the budget of the day is spent, because a check costs money too.
        """
        with self._lock:
            self._failing_until = self.clock() + _failing_seconds(error)
            self._state = ProviderState(error=error)
            self._until = self._failing_until if isinstance(error, BudgetSpent) else float("-inf")

    def known(self) -> ProviderState:
        """The latest result. A failure is checked again after a while, because it may be over; a success is not."""
        state = self.latest()
        return self.state() if state.error is not None and self.clock() >= self._failing_until else state

    def latest(self) -> ProviderState:
        """The latest result; never starts a check and never waits."""
        with self._lock:
            if self._check is not None and self._check.done():
                self._state = self._check.result()
                error = self._state.error
                self._until = self.clock() + (_failing_seconds(error) if error else GOOD_SECONDS)
                if error:
                    self._failing_until = self._until
                self._check = None
            return self._state

    def _ask(self) -> ProviderState:
        try:
            provider = self.provider()
            answer = provider.embed(["music"], retry=ONE_TRY)
            return ProviderState(provider.model, answer.vectors.shape[1])
        except AppError as error:
            log.warning("the provider does not answer: %s", error.message)
            return ProviderState(error=error)
        except Exception:
            # The console shows this error on its page, so the page itself must not fail.
            log.exception("the provider does not answer")
            return ProviderState(error=AppError("internal error; see the log"))


def _failing_seconds(error: AppError) -> float:
    return min(error.retry_after or 0.0, SPENT_SECONDS) if isinstance(error, BudgetSpent) else BAD_SECONDS
