"""Tests the retry loop: what is retried, for how long, and that a 429 delays all workers."""

import gc
import threading
import time
from email.utils import formatdate

import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st

from shared.deadline import Deadline
from shared.errors import (
    DatabaseConflict,
    Interrupted,
    ProviderQuotaExceeded,
    ProviderRateLimited,
    ProviderTimeout,
    ProviderUnavailable,
)
from shared.retry import Retrier, RetryPolicy, parse_retry_after


class Time:
    """A clock that advances only during a sleep."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.sleeps: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    """The time of the retry loop, and no jitter."""
    time = Time()
    for module in ("shared.retry", "shared.deadline", "tenacity"):
        monkeypatch.setattr(f"{module}.time", time)
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    return time


def retrier(**policy: float) -> Retrier:
    return Retrier(RetryPolicy(**policy))  # type: ignore[arg-type]


class Failing:
    """Raises each error in turn, then answers; counts its calls."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


@pytest.mark.parametrize("error", [ProviderUnavailable(), DatabaseConflict()])
def test_a_retryable_error_is_tried_again(clock: Time, error: Exception) -> None:
    work = Failing(error, error)
    assert retrier().call(work) == "done"
    assert work.calls == 3


@pytest.mark.parametrize("error", [ProviderQuotaExceeded(), ValueError("a bug"), KeyboardInterrupt()])
def test_any_other_error_is_raised_at_once(clock: Time, error: BaseException) -> None:
    work = Failing(error)  # type: ignore[arg-type]
    with pytest.raises(type(error)):
        retrier().call(work)
    assert (work.calls, clock.sleeps) == (1, [])


def test_waits_double_up_to_the_longest(clock: Time) -> None:
    retrier(base_wait=1, max_wait=5).call(Failing(*[ProviderUnavailable()] * 5))
    assert clock.sleeps == [1, 2, 4, 5, 5]


def test_jitter_draws_each_wait_from_zero_to_its_bound(clock: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for module in ("shared.retry", "tenacity"):
        monkeypatch.setattr(f"{module}.time", clock)
    waits = retrier(max_attempts=400, max_seconds=1e9, base_wait=1, max_wait=1)
    waits.call(Failing(*[ProviderUnavailable()] * 399))
    assert max(clock.sleeps) <= 1
    assert min(clock.sleeps) < 0.1
    assert 0.4 < sum(clock.sleeps) / 399 < 0.6


def test_the_last_error_is_raised_after_the_last_attempt(clock: Time) -> None:
    work = Failing(*[ProviderUnavailable("first")] * 2, ProviderUnavailable("third"), ProviderUnavailable("fourth"))
    with pytest.raises(ProviderUnavailable, match="third"):
        retrier(max_attempts=3).call(work)
    assert work.calls == 3


def test_no_sleep_would_exceed_the_time_limit(clock: Time) -> None:
    with pytest.raises(ProviderUnavailable):
        retrier(max_attempts=99, max_seconds=10, base_wait=4, max_wait=4).call(Failing(*[ProviderUnavailable()] * 99))
    assert clock.sleeps == [4, 4]


@pytest.mark.parametrize("error", [ProviderRateLimited(retry_after=7), ProviderUnavailable(retry_after=7)])
def test_retry_after_is_the_shortest_wait(clock: Time, error: Exception) -> None:
    retrier(base_wait=0.1).call(Failing(error))
    assert sum(clock.sleeps) == 7


def test_a_retry_after_longer_than_the_time_limit_fails_at_once(clock: Time) -> None:
    with pytest.raises(ProviderRateLimited):
        retrier(max_seconds=60).call(Failing(ProviderRateLimited(retry_after=3600)))
    assert clock.sleeps == []


def test_a_new_call_waits_for_the_retry_after_of_another_call(clock: Time) -> None:
    shared = retrier()
    with pytest.raises(ProviderRateLimited):
        shared.call(Failing(ProviderRateLimited(retry_after=2)), policy=RetryPolicy(max_attempts=1))
    started: list[float] = []
    shared.call(lambda: started.append(clock.now))
    assert started == [1002.0]


def test_a_call_is_not_sent_if_the_cooldown_exceeds_its_time(clock: Time) -> None:
    shared = retrier(max_seconds=3)
    shared.hold(100)
    work = Failing()
    with pytest.raises(ProviderRateLimited, match="another 100 s"):
        shared.call(work)
    with pytest.raises(ProviderRateLimited, match="another 100 s"):
        shared.call(work, policy=RetryPolicy(), deadline=Deadline(3))
    assert (work.calls, clock.sleeps) == (0, [])


def test_a_rate_limit_without_retry_after_delays_the_other_calls(clock: Time) -> None:
    shared = retrier(max_attempts=1, base_wait=3)
    with pytest.raises(ProviderRateLimited):
        shared.call(Failing(ProviderRateLimited()))
    assert shared.cooldown == 3


def test_a_failure_without_retry_after_does_not_delay_other_calls(clock: Time) -> None:
    shared = retrier()
    shared.call(Failing(ProviderUnavailable()))
    assert shared.cooldown == 0


def test_a_shorter_cooldown_does_not_end_a_longer_one(clock: Time) -> None:
    shared = retrier()
    shared.hold(10)
    shared.hold(1)
    assert shared.cooldown == 10


def test_no_wait_starts_that_would_exceed_the_deadline(clock: Time) -> None:
    with pytest.raises(ProviderUnavailable, match="gone"):
        retrier(max_attempts=99, base_wait=4, max_wait=4).call(
            Failing(*[ProviderUnavailable("gone")] * 99), deadline=Deadline(10)
        )
    assert clock.sleeps == [4, 4]


def test_a_timeout_at_the_deadline_is_the_deadlines_error(clock: Time) -> None:
    def slow() -> None:
        clock.now += 10
        raise ProviderTimeout("the server's own")

    with pytest.raises(ProviderUnavailable, match="within 10 s") as raised:
        retrier().call(slow, deadline=Deadline(10))
    assert raised.value.retry_after
    with pytest.raises(ProviderTimeout, match="own"):
        retrier(max_attempts=1).call(slow, deadline=Deadline(20))


def test_no_thread_calls_before_the_retry_after_of_another_thread() -> None:
    told_until: list[float] = []
    early: list[float] = []
    shared = Retrier(RetryPolicy(base_wait=0.001, max_wait=0.001))
    refused = threading.Event()

    def first() -> None:
        if not told_until:
            told_until.append(time.monotonic() + 0.2)
            raise ProviderRateLimited(retry_after=0.2)

    def other() -> None:
        if time.monotonic() < told_until[0]:
            early.append(time.monotonic())

    def worker() -> None:
        refused.wait()
        for _ in range(20):
            shared.call(other)

    threads = [threading.Thread(target=worker) for _ in range(8)]
    for thread in threads:
        thread.start()
    leader = threading.Thread(target=shared.call, args=(first,))
    leader.start()
    while not shared.cooldown:
        time.sleep(0.001)
    refused.set()
    for thread in [leader, *threads]:
        thread.join()
    assert early == []
    assert time.monotonic() >= told_until[0]


def test_a_stop_wakes_a_sleeping_call_at_once() -> None:
    stop = threading.Event()
    threading.Timer(0.05, stop.set).start()
    begun = time.monotonic()
    with pytest.raises(Interrupted):
        Retrier().call(Failing(ProviderRateLimited(retry_after=60)), stop=stop)
    assert time.monotonic() - begun < 5


def test_a_stop_does_not_keep_a_call_from_being_finished() -> None:
    stop = threading.Event()
    stop.set()
    assert Retrier().call(Failing(), stop=stop) == "done"


def test_a_call_leaves_nothing_for_the_garbage_collector() -> None:
    def left() -> int:
        return sum(isinstance(thing, tenacity.BaseRetrying) for thing in gc.get_objects())

    retrier = Retrier()
    gc.collect()
    gc.disable()
    try:
        before = left()
        for _ in range(10):
            retrier.call(lambda: None)
        assert left() == before
    finally:
        gc.enable()


NOW = 1_750_000_000.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2", 2.0),
        (" 1.5 ", 1.5),
        ("0", 0.0),
        (formatdate(NOW + 30, usegmt=True), 30.0),
        (formatdate(NOW - 30, usegmt=True), 0.0),
        ("Sun, 15 Jun 2025 15:06:50 -0000", 10.0),
        (None, None),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("1_0", None),
        ("Sun, 99 Foo 2025", None),
        ("9" * 400, None),
    ],
)
def test_retry_after_is_seconds_or_a_date_or_nothing(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, NOW) == seconds


def test_a_date_without_a_zone_is_gmt_in_any_time_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert parse_retry_after("Sun, 15 Jun 2025 15:06:50 -0000", NOW) == 10.0
    finally:
        monkeypatch.undo()
        time.tzset()


@given(st.text())
def test_no_header_makes_the_parser_fail(value: str) -> None:
    seconds = parse_retry_after(value, NOW)
    assert seconds is None or seconds >= 0
