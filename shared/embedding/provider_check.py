"""Checks whether a provider answers, by embedding one word from time to time and by the calls that fail."""

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
from shared.errors import AppError
from shared.retry import RetryPolicy

if TYPE_CHECKING:
    from shared.providers.base import EmbeddingProvider

log = logging.getLogger(__name__)

WAIT_SECONDS = 1.0
# After a success the next check comes late, after a failure soon: the provider may have recovered.
GOOD_SECONDS = 600.0
BAD_SECONDS = 5.0
ONE_TRY = RetryPolicy(max_attempts=1, max_seconds=10)


@dataclass(frozen=True, slots=True)
class ProviderState:
    """The result of a check or of a failed call: model and width (None while unknown), and the error of the provider."""

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
    # Until then a failure is reported as it is.
    _failing_until: float = float("-inf")
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> Future[ProviderState] | None:
        """Start a check if one is due, and do not wait for it; None if the latest result still holds."""
        with self._lock:
            if self.clock() < self._until:
                return None
            if self._check is None:
                self._check = in_background(self._ask, "provider-check")
            return self._check

    def state(self) -> ProviderState:
        """The result of the latest check, starting a new one if it is due; empty while the first check is running."""
        if (check := self.start()) is not None:
            with suppress(FutureTimeout):
                check.result(WAIT_SECONDS)
        return self.latest()

    def fail(self, error: AppError) -> None:
        """Report that a call of the provider has failed. This ends an earlier success; `state` checks again at once."""
        with self._lock:
            self._state, self._until = ProviderState(error=error), float("-inf")
            self._failing_until = self.clock() + BAD_SECONDS

    def known(self) -> ProviderState:
        """The latest result. A success is not checked again; a failure is after BAD_SECONDS, because it may be over."""
        state = self.latest()
        return self.state() if state.error is not None and self.clock() >= self._failing_until else state

    def latest(self) -> ProviderState:
        """The latest result; never starts a check and never waits."""
        with self._lock:
            if self._check is not None and self._check.done():
                self._state = self._check.result()
                self._until = self.clock() + (BAD_SECONDS if self._state.error else GOOD_SECONDS)
                if self._state.error:
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
