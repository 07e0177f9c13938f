"""Tests the budget of a day in one process, with a clock and a sum of all processes that the tests set."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from shared.embedding.background import in_background
from shared.errors import BudgetSpent, ConfigurationError, DatabaseUnavailable, ProviderTimeout
from shared.models import EmbeddingModel, InputKind
from shared.providers import budget as module
from shared.providers.answers import WireAnswer
from shared.providers.budget import SYNC_SECONDS, DailyBudget
from tests.fake_provider import DIMENSIONS, FakeProvider

DAY = 86_400.0
DOLLAR_A_TOKEN = 1_000_000.0


class Shared:
    """The sum of all processes in the database, and the clock; `down` makes every call fail.

    A call takes `delay` seconds of the clock, and waits for the `gate`.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.midnight = self.now + 3600.0
        self.total = 0.0
        self.calls = 0
        self.down = False
        self.delay = 0.0
        self.gate: threading.Event | None = None
        self.arrived = threading.Event()

    def clock(self) -> float:
        return self.now

    def record(self, usd: float) -> Mapping[str, float]:
        self.calls += 1
        self.now += self.delay
        if self.gate is not None:
            self.arrived.set()
            assert self.gate.wait(30)
        if self.down:
            raise DatabaseUnavailable("gone")
        while self.now >= self.midnight:
            self.midnight += DAY
            self.total = 0.0
        self.total += usd
        return {"spent_today": self.total, "resets_in": self.midnight - self.now}

    def budget(self, limit: float, *, at_once: bool = False) -> DailyBudget:
        return DailyBudget(limit, self.record, at_once=at_once, clock=self.clock)

    def provider(self, limit: float, *, price: float = DOLLAR_A_TOKEN, at_once: bool = False) -> FakeProvider:
        made = FakeProvider(price=price)
        made.budget = self.budget(limit, at_once=at_once)
        return made


@pytest.fixture
def shared() -> Shared:
    return Shared()


def test_a_call_that_would_exceed_the_limit_is_not_sent_and_the_error_says_all(shared: Shared) -> None:
    provider = shared.provider(5.0)
    provider.embed(["one two three"])
    with pytest.raises(BudgetSpent) as caught:
        provider.embed(["one two three"])
    assert len(provider.wire.requests) == 1
    for part in ("EMBEDDING_BUDGET_PER_DAY", "$3 of $5", "00:00 UTC", "raise the setting"):
        assert part in caught.value.message
    assert "\n" not in caught.value.message
    assert (caught.value.retry_after, caught.value.status, caught.value.retryable) == (3600.0, 429, False)
    provider.embed(["one two"])
    assert len(provider.wire.requests) == 2, "a smaller call fits"


def test_calls_that_have_not_ended_count_with_their_estimate(shared: Shared) -> None:
    budget = shared.budget(5.0)
    with budget.spending(3.0, lambda: 1.0), pytest.raises(BudgetSpent), budget.spending(3.0, lambda: 3.0):
        pass
    with budget.spending(4.0, lambda: 4.0):
        pass
    assert budget.state().spent == 5.0


def test_a_provider_that_costs_nothing_never_asks(shared: Shared) -> None:
    provider = shared.provider(0.0, price=0.0)
    provider.embed(["one"])
    assert (shared.calls, len(provider.wire.requests)) == (0, 1)


def test_a_provider_without_a_known_price_is_refused_by_the_name_of_the_setting(shared: Shared) -> None:
    provider = shared.provider(5.0, price=0.0)
    provider.price_is_known = False
    with pytest.raises(ConfigurationError, match=r"price of fake is not known.*EMBEDDING_PRICE_PER_MILLION"):
        provider.embed(["one"])
    assert provider.wire.requests == []


def test_the_database_is_asked_once_in_fifteen_seconds(shared: Shared) -> None:
    provider = shared.provider(100.0)
    for _ in range(10):
        provider.embed(["one"])
    assert shared.calls == 1
    shared.now += SYNC_SECONDS
    provider.embed(["one"])
    assert (shared.calls, shared.total) == (2, 10.0)


def test_a_function_that_may_never_be_called_again_records_at_once(shared: Shared) -> None:
    provider = shared.provider(100.0, at_once=True)
    for number in (1, 2, 3):
        provider.embed(["one"])
        assert (shared.calls, shared.total) == (number + 1, float(number))


def test_the_end_of_a_process_records_the_rest(shared: Shared) -> None:
    provider = shared.provider(100.0)
    provider.embed(["one two"])
    assert shared.total == 0.0
    assert provider.budget is not None
    provider.budget.flush()
    assert shared.total == 2.0
    provider.budget.flush()
    assert (shared.calls, shared.total) == (2, 2.0), "nothing is left to record"


def test_what_another_process_spends_is_known_after_fifteen_seconds(shared: Shared) -> None:
    provider = shared.provider(5.0)
    provider.embed(["one"])
    shared.total += 5.0
    provider.embed(["one"])
    shared.now += SYNC_SECONDS
    with pytest.raises(BudgetSpent, match=r"\$7 of \$5"):
        provider.embed(["one"])


def test_after_midnight_it_starts_again_at_once(shared: Shared) -> None:
    provider = shared.provider(2.0)
    shared.now = shared.midnight - 1.0
    provider.embed(["one two"])
    with pytest.raises(BudgetSpent):
        provider.embed(["one"])
    assert provider.budget is not None
    provider.budget.flush()
    shared.now = shared.midnight
    provider.embed(["one two"])
    assert provider.budget.state().spent == 2.0
    assert provider.budget.state().resets_in == DAY


def test_during_an_outage_of_the_database_the_last_sum_of_the_day_counts(shared: Shared) -> None:
    provider = shared.provider(3.0)
    provider.embed(["one"])
    shared.down = True
    shared.now += SYNC_SECONDS
    provider.embed(["one"])
    provider.embed(["one"])
    with pytest.raises(BudgetSpent):
        provider.embed(["one"])
    shared.down = False
    shared.now += SYNC_SECONDS
    with pytest.raises(BudgetSpent):
        provider.embed(["one"])
    assert shared.total == 3.0, "nothing was forgotten, and nothing recorded twice"


def test_a_process_that_does_not_know_the_sum_of_the_day_spends_nothing(shared: Shared) -> None:
    provider = shared.provider(3.0)
    shared.down = True
    with pytest.raises(DatabaseUnavailable):
        provider.embed(["one"])
    assert provider.wire.requests == []


def test_a_failed_record_does_not_lose_the_answer(shared: Shared) -> None:
    provider = shared.provider(3.0, at_once=True)
    assert provider.budget is not None
    assert provider.budget.state().spent == 0.0
    shared.down = True
    assert provider.embed(["one"]).vectors.shape[0] == 1
    assert provider.budget.state().spent == 1.0


def test_a_failed_call_counts_what_it_cost(shared: Shared) -> None:
    provider = shared.provider(10.0)
    provider.wire.down = ProviderTimeout("no answer")
    with pytest.raises(ProviderTimeout):
        provider.embed(["one"])
    assert provider.budget is not None
    assert provider.budget.state().spent == 2.0, "two requests timed out, and both may be billed"


class OfUnknownWidth(FakeProvider):
    """Only its server knows the width."""

    def __init__(self, *, price: float = 0.0) -> None:
        super().__init__(price=price)
        self.declared = EmbeddingModel("fake", "fake", 0)

    def _request(self, inputs: Sequence[str], timeout: float | None = None, kind: InputKind = "document") -> WireAnswer:
        self.wire.requests.append(list(inputs))
        return WireAnswer(np.ones((len(inputs), DIMENSIONS)), tokens=sum(self.count_tokens(inputs)))


def test_the_word_for_an_unknown_width_obeys_the_budget_and_is_counted_once(shared: Shared) -> None:
    provider = OfUnknownWidth(price=DOLLAR_A_TOKEN)
    provider.budget = shared.budget(3.0)
    shared.total = 3.0
    with pytest.raises(BudgetSpent):
        provider.describe()
    assert provider.wire.requests == []
    shared.total, shared.now = 0.0, shared.now + SYNC_SECONDS
    provider.embed(["two words"])
    assert provider.budget.state().spent == 3.0, "the word for the width, and the text"


def test_the_word_for_an_unknown_width_needs_a_known_price(shared: Shared) -> None:
    provider = OfUnknownWidth()
    provider.budget, provider.price_is_known = shared.budget(3.0), False
    with pytest.raises(ConfigurationError, match="EMBEDDING_PRICE_PER_MILLION"):
        provider.describe()
    assert provider.wire.requests == []


def test_only_the_part_of_a_text_that_the_model_reads_is_reserved(shared: Shared) -> None:
    provider = shared.provider(5.0)
    provider.declared = EmbeddingModel("fake", "fake", 16, max_tokens=5)
    provider.embed(["one two three four five six"])
    assert len(provider.wire.requests) == 1


# A process that falls idle, and a database that is slow or dead


def timers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "budget"]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_process_that_falls_idle_records_what_it_spent(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SYNC_SECONDS", 0.2)
    provider = shared.provider(100.0)
    before = len(timers())
    for _ in range(3):
        provider.embed(["one"])
    shared.down = True
    assert len(timers()) <= before + 1
    wait_until(lambda: shared.calls >= 3)
    shared.down = False
    wait_until(lambda: shared.total == 3.0)


def test_the_end_of_a_process_ends_its_timer(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SYNC_SECONDS", 3600.0)
    provider = shared.provider(100.0)
    others = set(timers())
    provider.embed(["one"])
    (timer,) = set(timers()) - others
    assert timer.daemon
    assert provider.budget is not None
    provider.budget.flush()
    timer.join(10)
    assert not timer.is_alive()


def test_an_attempt_that_failed_after_long_is_not_repeated_at_once(shared: Shared) -> None:
    provider = shared.provider(100.0)
    provider.embed(["one"])
    shared.down, shared.delay = True, 2 * SYNC_SECONDS
    shared.now += SYNC_SECONDS
    for _ in range(3):
        provider.embed(["one"])
    assert shared.calls == 2


def test_a_call_does_not_wait_while_another_thread_reads_the_sum(shared: Shared) -> None:
    provider = shared.provider(100.0)
    provider.embed(["one"])
    shared.now += SYNC_SECONDS
    shared.gate = threading.Event()
    reading = in_background(lambda: provider.embed(["one"]), "reads")
    assert shared.arrived.wait(10)
    shared.now += SYNC_SECONDS
    in_background(lambda: provider.embed(["one"]), "goes-on").result(10)
    shared.gate.set()
    reading.result(10)
    assert shared.calls == 2


def test_a_function_does_not_wait_for_a_dead_database_in_each_call(shared: Shared) -> None:
    provider = shared.provider(100.0, at_once=True)
    provider.embed(["one"])
    shared.down = True
    for _ in range(3):
        provider.embed(["one"])
    assert (shared.calls, shared.total) == (3, 1.0)
    shared.down = False
    shared.now += SYNC_SECONDS
    provider.embed(["one"])
    assert shared.total == 5.0, "nothing was forgotten"
