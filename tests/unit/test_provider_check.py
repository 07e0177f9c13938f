"""Tests the check of the provider: it is cached and has a short timeout."""

import threading

import pytest

from shared.embedding import provider_check
from shared.embedding.provider_check import BAD_SECONDS, GOOD_SECONDS, SPENT_SECONDS, ProviderCheck
from shared.errors import BudgetSpent, ConfigurationError, ProviderUnavailable
from tests.fake_provider import DIMENSIONS, FakeProvider


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_successful_check_is_not_repeated_for_a_long_time() -> None:
    provider, clock = FakeProvider(), Clock()
    check = ProviderCheck(lambda: provider, clock=clock)
    for _ in range(3):
        state = check.state()
        assert (state.model, state.dimensions, state.error) == ("fake", DIMENSIONS, None)
    clock.now = GOOD_SECONDS - 1
    check.state()
    assert provider.wire.texts == ["music"]
    clock.now = GOOD_SECONDS + 1
    check.state()
    assert provider.wire.texts == ["music", "music"]


def test_a_failed_check_is_one_try_and_repeated_soon() -> None:
    provider, clock = FakeProvider(), Clock()
    provider.wire.down = ProviderUnavailable("gone")
    check = ProviderCheck(lambda: provider, clock=clock)
    error = check.state().error
    assert isinstance(error, ProviderUnavailable)
    check.state()
    assert len(provider.wire.requests) == 1, "no retries, and not one for each who asks"
    provider.wire.down = None
    clock.now = BAD_SECONDS + 0.1
    assert check.state().error is None


def test_an_unconfigured_provider_is_reported() -> None:
    def make() -> FakeProvider:
        raise ConfigurationError("OPENAI_API_KEY: is needed")

    check = ProviderCheck(make)
    error = check.state().error
    assert error is not None
    assert error.message == "OPENAI_API_KEY: is needed"


def test_an_unexpected_error_of_the_check_is_reported_as_a_state() -> None:
    def make() -> FakeProvider:
        raise RuntimeError("a bug")

    check = ProviderCheck(make)
    error = check.state().error
    assert error is not None
    assert "a bug" not in error.message


def test_a_slow_provider_is_checked_once_for_all_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = FakeProvider()
    provider.wire.gate = threading.Event()
    check = ProviderCheck(lambda: provider)
    monkeypatch.setattr(provider_check, "WAIT_SECONDS", 0.05)
    assert [check.state().model for _ in range(4)] == [None] * 4
    assert provider.wire.arrived.wait(10)
    provider.wire.gate.set()
    monkeypatch.setattr(provider_check, "WAIT_SECONDS", 10)
    assert check.state().model == "fake"
    assert len(provider.wire.requests) == 1


def test_a_check_can_be_started_without_waiting_for_a_silent_provider() -> None:
    provider = FakeProvider()
    provider.wire.gate = threading.Event()
    check = ProviderCheck(lambda: provider)
    started = check.start()
    assert started is not None
    assert not started.done()
    assert check.start() is started
    assert check.latest().model is None
    provider.wire.gate.set()
    assert started.result(10).model == "fake"


def test_a_failed_call_ends_a_success_and_the_next_question_checks_again() -> None:
    provider, clock = FakeProvider(), Clock()
    check = ProviderCheck(lambda: provider, clock=clock)
    assert check.state().error is None
    check.fail(ProviderUnavailable("gone"))
    assert isinstance(check.latest().error, ProviderUnavailable)
    assert isinstance(check.known().error, ProviderUnavailable), "a failure is reported for a while"
    assert len(provider.wire.requests) == 1
    assert check.state().error is None
    assert len(provider.wire.requests) == 2
    check.fail(ProviderUnavailable("gone"))
    clock.now = BAD_SECONDS + 0.1
    assert check.known().error is None, "it may be over"
    assert len(provider.wire.requests) == 3


@pytest.mark.parametrize(("left", "seconds"), [(3600.0, SPENT_SECONDS), (60.0, 60.0)])
def test_a_spent_budget_is_reported_without_a_word_that_costs_money(left: float, seconds: float) -> None:
    provider, clock = FakeProvider(), Clock()
    check = ProviderCheck(lambda: provider, clock=clock)
    check.fail(BudgetSpent(retry_after=left))
    for clock.now in (0.0, BAD_SECONDS + 0.1, seconds - 0.1):
        assert isinstance(check.known().error, BudgetSpent)
        assert isinstance(check.state().error, BudgetSpent)
    assert provider.wire.requests == []
    clock.now = seconds + 0.1
    assert check.known().error is None


def test_a_check_that_the_budget_refuses_is_not_repeated_soon() -> None:
    provider, clock = FakeProvider(), Clock()
    provider.wire.down = BudgetSpent(retry_after=3600.0)
    check = ProviderCheck(lambda: provider, clock=clock)
    assert isinstance(check.state().error, BudgetSpent)
    clock.now = SPENT_SECONDS - 0.1
    assert isinstance(check.state().error, BudgetSpent)
    assert len(provider.wire.requests) == 1
