"""Retries calls to providers and the database.

Each error says whether another try may succeed (`retryable`) and how long to wait before it (`retry_after`). If a server
asks for a wait, all threads that share the retrier wait before their next call.
"""

import math
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Protocol, TypeVar

import tenacity

from shared.deadline import Deadline
from shared.errors import AppError, Interrupted, ProviderRateLimited, ProviderTimeout

Result = TypeVar("Result")


class StopSignal(Protocol):
    """The part of `threading.Event` that this module uses. When the event is set, every wait ends."""

    def is_set(self) -> bool: ...

    def wait(self, timeout: float | None = None) -> bool: ...


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The most attempts, and the most seconds for all attempts and waits together.

    The n-th wait is a random time from 0 to `base_wait` * 2^(n-1), at most `max_wait` (full jitter), but never shorter
    than a server's `retry_after`.
    """

    max_attempts: int = 10
    max_seconds: float = 180.0
    base_wait: float = 0.5
    max_wait: float = 20.0


# For interactive requests: after the longest waits, enough time is left for another try.
REQUEST_RETRIES = RetryPolicy(max_attempts=3, max_seconds=15, base_wait=0.3, max_wait=3)


@dataclass(eq=False, slots=True)
class Retrier:
    """Calls a function until it succeeds, raises an error that is not retryable, or reaches the policy's bounds.

    Any number of threads share one retrier and its cooldown: the time before which nothing is sent to the server.
    """

    policy: RetryPolicy = RetryPolicy()
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _held_until: float = field(default=-math.inf, init=False, repr=False)

    def hold(self, seconds: float) -> None:
        """Start no call for `seconds` from now, or longer if an earlier call of `hold` said so."""
        with self._lock:
            self._held_until = max(self._held_until, time.monotonic() + seconds)

    @property
    def cooldown(self) -> float:
        """Seconds until the next call may start; 0 if it may start now."""
        return max(0.0, self._held_until - time.monotonic())

    def call(
        self,
        function: Callable[[], Result],
        *,
        policy: RetryPolicy | None = None,
        stop: StopSignal | None = None,
        deadline: Deadline | None = None,
        only: type[AppError] = AppError,
    ) -> Result:
        """Return what `function` returns, or raise its last error. Only retryable errors of the class `only` are retried.

        If `stop` is set, a wait ends at once with Interrupted, but a call that does not have to wait still runs. No call
        starts after the `deadline`, and a timeout becomes the deadline's error. `function` itself must end its request
        before the deadline.
        """
        policy = policy or self.policy
        seconds = policy.max_seconds
        if deadline is not None:
            seconds = min(seconds, deadline.left)
            if not seconds:
                raise deadline.error()
        pause = partial(_pause, stop)
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, only) and error.retryable),
            wait=partial(self._wait, tenacity.wait_random_exponential(policy.base_wait, policy.max_wait)),
            stop=tenacity.stop_after_attempt(policy.max_attempts) | tenacity.stop_before_delay(seconds),
            before=partial(self._await_cooldown, time.monotonic() + seconds, pause),
            sleep=pause,
            reraise=True,
        )
        try:
            return retrying(function)
        except ProviderTimeout as error:
            if deadline is None or deadline.left:
                raise
            raise deadline.error() from error
        finally:
            # tenacity keeps a reference cycle here. Clear it, so that the memory is freed at once.
            retrying.iter_state.reset()

    def _wait(self, backoff: Callable[[tenacity.RetryCallState], float], state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        seconds = backoff(state)
        asked: float | None = getattr(error, "retry_after", None)
        if asked is not None:
            seconds = max(seconds, asked)
            self.hold(asked)
        elif isinstance(error, ProviderRateLimited):
            # A rate limit applies to the whole account, so the server would refuse the other calls as well.
            self.hold(seconds)
        return seconds

    def _await_cooldown(self, until: float, pause: Callable[[float], None], _: tenacity.RetryCallState) -> None:
        while (left := self._held_until - time.monotonic()) > 0:
            if self._held_until > until:
                raise ProviderRateLimited(
                    f"the provider asked for a pause of another {left:.0f} s, longer than a call may wait",
                    retry_after=left,
                )
            pause(left)


def _pause(stop: StopSignal | None, seconds: float) -> None:
    if stop is None:
        time.sleep(seconds)
    elif stop.wait(seconds):
        raise Interrupted()


def parse_retry_after(value: str | None, now: float) -> float | None:
    """The seconds to wait according to a Retry-After header: it contains seconds or an HTTP date. None if it is neither.

    `now` is the time of day in seconds since 1970; a date that has passed means 0.
    """
    text = (value or "").strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]+)?", text):
        return float(text)
    try:
        date = parsedate_to_datetime(text)
        # Python returns a date without a time zone for "-0000". An HTTP date is always GMT.
        moment = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
    return max(0.0, moment - now)
