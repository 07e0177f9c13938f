"""How long a caller is kept waiting for a provider, and what they are told then.

A task in the background may wait out an outage. A caller cannot: an HTTP API of AWS hangs up after 30 seconds.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from shared.embedding.background import in_background
from shared.errors import ProviderUnavailable
from shared.retry import RetryPolicy

if TYPE_CHECKING:
    from shared.providers.base import EmbeddingProvider

Result = TypeVar("Result")

# From the request to the answer. The rest of the 30 seconds is for the database.
REQUEST_SECONDS = 25.0
# A try that follows the longest pause still has time to succeed.
REQUEST_RETRIES = RetryPolicy(max_attempts=3, max_seconds=15, base_wait=0.3, max_wait=3)
# When to come back, where the provider did not say.
RETRY_AFTER = 5.0

# Calls that nobody waits for any more end by their client's own timeout, a minute or more later.
_threads = threading.BoundedSemaphore(64)


class Deadline:
    """When a caller must have their answer: so many seconds from now."""

    def __init__(self, seconds: float = REQUEST_SECONDS) -> None:
        self._seconds = seconds
        self._until = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds until then; 0 when it has passed."""
        return max(self._until - time.monotonic(), 0.0)

    def passed(self) -> ProviderUnavailable:
        """The error for who has waited as long as they can."""
        return ProviderUnavailable(
            f"the provider did not answer within {self._seconds:.0f} s; "
            "try again, with fewer texts at once if it goes on",
            retry_after=RETRY_AFTER,
        )


def hasten(provider: "EmbeddingProvider", deadline: Deadline | None = None) -> "EmbeddingProvider":
    """The provider, cooldown shared, as somebody who waits for its answer can use it."""
    policy = REQUEST_RETRIES
    if deadline is not None:
        policy = replace(policy, max_seconds=min(policy.max_seconds, deadline.left))
    return provider.with_retrier(provider.retrier.replace(policy=policy))


def answer_within(
    work: Callable[[], Result],
    deadline: Deadline | None,
    *,
    late: Callable[[Future[Result]], None] | None = None,
) -> Result:
    """What `work` returns or raises, or ProviderUnavailable when the time is up; None: however long it takes.

    Work that outlasts its time goes on in a thread of its own, so it must be a question and no deed. `late` is
    given what will be its answer; without it nobody hears that.
    """
    if deadline is None:
        return work()
    if not _threads.acquire(timeout=deadline.left):
        raise deadline.passed()
    # The request's id goes along, for the log.
    context = copy_context()

    def run() -> Result:
        try:
            return context.run(work)
        finally:
            _threads.release()

    answer = in_background(run, "patience")
    try:
        return answer.result(deadline.left)
    except TimeoutError:
        if answer.done():
            return answer.result()
        if late is not None:
            late(answer)
        raise deadline.passed() from None
