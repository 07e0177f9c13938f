"""Does the provider answer? Asked of it now and then, and never waited for longer than a page may."""

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
# One word is embedded each time: a provider that answered is believed for long, one that did not may be back soon.
GOOD_SECONDS = 600.0
BAD_SECONDS = 5.0
ONE_TRY = RetryPolicy(max_attempts=1, max_seconds=10)


@dataclass(frozen=True, slots=True)
class ProviderState:
    """What is known of the provider: None where it has not said, and why where it cannot."""

    model: str | None = None
    dimensions: int | None = None
    error: AppError | None = None


@dataclass(slots=True)
class ProviderCheck:
    """Embeds a word to see. However many ask, one check is under way; meanwhile the latest answer holds."""

    provider: "Callable[[], EmbeddingProvider]"
    clock: Callable[[], float] = time.monotonic
    _check: Future[ProviderState] | None = None
    _state: ProviderState = ProviderState()
    _until: float = float("-inf")
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def state(self) -> ProviderState:
        """How the provider is, as of the latest check; nothing is known while the first one takes its time."""
        with self._lock:
            if self.clock() < self._until:
                return self._state
            if self._check is None:
                self._check = in_background(self._ask, "provider-check")
            check = self._check
        with suppress(FutureTimeout):
            check.result(WAIT_SECONDS)
        return self.latest()

    def latest(self) -> ProviderState:
        """How the provider was when it was last asked; asks nothing, and waits for nobody."""
        with self._lock:
            if self._check is not None and self._check.done():
                self._state = self._check.result()
                self._until = self.clock() + (BAD_SECONDS if self._state.error else GOOD_SECONDS)
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
            # Whoever asks is shown a page that says what is wrong; it must not fail for the same reason.
            log.exception("the provider does not answer")
            return ProviderState(error=AppError("internal error; see the log"))
