"""Retry, back off, and stop on time: the one loop that sits under providers and database.

Errors say themselves whether waiting may help (`retryable`) and how long (`retry_after`). A wait
that a server asked for is shared: a `Cooldown` holds back every thread, also calls not yet begun.
"""

import math
import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Protocol, Self, TypeVar

import tenacity

from shared.errors import AppError, Interrupted, ProviderRateLimited

Result = TypeVar("Result")


class StopSignal(Protocol):
    """What is needed of a `threading.Event`: set once, it ends every wait."""

    def is_set(self) -> bool: ...

    def wait(self, timeout: float | None = None) -> bool: ...


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to keep trying: bounded in attempts and in seconds, all waits included.

    The n-th wait is drawn from 0 to `base_wait` * 2^(n-1), at most `max_wait` (full jitter), or is
    exactly that bound with `jitter` off. A server's own `retry_after` is the least that is waited.
    """

    max_attempts: int = 10
    max_seconds: float = 180.0
    base_wait: float = 0.5
    max_wait: float = 20.0
    jitter: bool = True


class Cooldown:
    """Until when one provider wants to be left alone; shared by all threads that call it."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._until = -math.inf

    def hold(self, seconds: float) -> None:
        """Let nobody call for `seconds` from now; a longer hold that is under way stays."""
        with self._lock:
            self._until = max(self._until, self._clock() + seconds)

    @property
    def remaining(self) -> float:
        """Seconds until calls are welcome again; 0 when they are."""
        with self._lock:
            return max(0.0, self._until - self._clock())


class Retrier:
    """Calls a function until it succeeds, fails for good, or the policy's bounds are reached.

    One object serves any number of threads. `stop` ends waits at once with `Interrupted`; a call
    that need not wait still runs, so that work in flight is finished rather than thrown away.
    """

    def __init__(
        self,
        policy: RetryPolicy | None = None,
        *,
        cooldown: Cooldown | None = None,
        stop: StopSignal | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.policy = policy or RetryPolicy()
        self.cooldown = cooldown or Cooldown(clock=clock)
        self._stop = stop
        self._clock = clock
        self._sleep = sleep

    def replace(self, *, policy: RetryPolicy | None = None, stop: StopSignal | None = None) -> Self:
        """The same cooldown under another policy or with another stop signal."""
        return type(self)(
            policy or self.policy,
            cooldown=self.cooldown,
            stop=stop if stop is not None else self._stop,
            clock=self._clock,
            sleep=self._sleep,
        )

    def call(self, function: Callable[[], Result]) -> Result:
        """Return what `function` returns; raises its last error, or `Interrupted`."""
        deadline = self._clock() + self.policy.max_seconds
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, AppError) and error.retryable),
            wait=self._wait_for,
            stop=lambda state: (
                state.attempt_number >= self.policy.max_attempts or self._clock() + state.upcoming_sleep > deadline
            ),
            before=lambda _: self._await_cooldown(deadline),
            sleep=self._pause,
            reraise=True,
        )
        try:
            return retrying(function)
        finally:
            # It refers to itself by what it was about to do, and would stay until Python looks for garbage.
            retrying.iter_state.reset()

    def _wait_for(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        bound = min(self.policy.max_wait, self.policy.base_wait * 2 ** min(state.attempt_number - 1, 60))
        seconds = random.uniform(0, bound) if self.policy.jitter else bound
        told: float | None = getattr(error, "retry_after", None)
        if told is not None:
            seconds = max(seconds, told)
            self.cooldown.hold(told)
        elif isinstance(error, ProviderRateLimited):
            # The limit is the account's, not this call's: the others would only be refused as well.
            self.cooldown.hold(seconds)
        return seconds

    def _await_cooldown(self, deadline: float) -> None:
        while remaining := self.cooldown.remaining:
            if self._clock() + remaining > deadline:
                raise ProviderRateLimited(
                    f"the provider asked to be left alone for another {remaining:.0f} s, longer than a call may wait",
                    retry_after=remaining,
                )
            self._pause(remaining)

    def _pause(self, seconds: float) -> None:
        if self._stop is None:
            self._sleep(seconds)
        elif self._stop.wait(seconds):
            raise Interrupted()


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Seconds to wait by a Retry-After header, which holds seconds or an HTTP date; None if it is neither.

    `now` is the time of day in seconds since 1970; a date that has passed means 0.
    """
    text = (value or "").strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]+)?", text):
        return float(text)
    try:
        date = parsedate_to_datetime(text)
        # "-0000" parses to a naive date; an HTTP date is always GMT.
        moment = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
    return max(0.0, moment - now)
