"""Does the provider answer? Asked of it now and then, and never waited for longer than a page may."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.errors import AppError
from shared.retry import RetryPolicy

if TYPE_CHECKING:
    from shared.providers.base import EmbeddingProvider

log = logging.getLogger(__name__)

WAIT_SECONDS = 1.0
# One word is embedded each time: a provider that answered is believed for long, one that did not may be back soon.
GOOD_SECONDS = 600.0
BAD_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class ProviderState:
    """What is known of the provider: None where it has not said, and why where it cannot."""

    model: str | None = None
    dimensions: int | None = None
    error: AppError | None = None


class ProviderCheck:
    """Embeds a word to see. However many ask, one check is under way; meanwhile the latest answer holds."""

    def __init__(
        self, provider: "Callable[[], EmbeddingProvider]", *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._provider = provider
        self._clock = clock
        self._threads: ThreadPoolExecutor | None = None
        self._check: Future[ProviderState] | None = None
        self._state = ProviderState()
        self._until = float("-inf")
        self._lock = threading.Lock()

    def state(self) -> ProviderState:
        """How the provider is, as of the latest check; nothing is known while the first one takes its time."""
        with self._lock:
            if self._clock() < self._until:
                return self._state
            if self._threads is None:
                self._threads = ThreadPoolExecutor(1, thread_name_prefix="provider-check")
            if self._check is None:
                self._check = self._threads.submit(self._ask)
            check = self._check
        try:
            state = check.result(WAIT_SECONDS)
        except FutureTimeout:
            return self._state
        with self._lock:
            if self._check is check:
                self._check = None
                self._state = state
                self._until = self._clock() + (BAD_SECONDS if state.error else GOOD_SECONDS)
            return self._state

    def _ask(self) -> ProviderState:
        try:
            provider = self._provider()
            # Somebody is looking at a page: one try says enough.
            hasty = provider.with_retrier(provider.retrier.replace(policy=RetryPolicy(max_attempts=1, max_seconds=10)))
            width = hasty.embed_query("music").shape[0]
            return ProviderState(provider.model, width)
        except AppError as error:
            log.warning("the provider does not answer: %s", error.message)
            return ProviderState(error=error)
        except Exception:
            # Whoever asks is shown a page that says what is wrong; it must not fail for the same reason.
            log.exception("the provider does not answer")
            return ProviderState(error=AppError("internal error; see the log"))

    def close(self) -> None:
        """Let go of the thread."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
