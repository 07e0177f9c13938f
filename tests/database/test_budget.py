"""Tests what a day has cost, as it is counted in the database, and backfills that end for the budget."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from shared.database.postgres import PostgresDatabase
from shared.embedding.backfill import BackfillOptions, BackfillOutcome, backfill
from shared.embedding.collection import Collection
from shared.embedding.embedding_job import EmbeddingJob
from shared.embedding.model_providers import ModelProviders
from shared.embedding.runs import Runs, record_run
from shared.errors import BudgetSpent, DatabaseRejected
from shared.providers import budget as module
from shared.providers.budget import DailyBudget
from shared.settings import Settings
from shared.wiring import get_budget, get_search
from tests.database.rows import MUSIC, Connection, add, entry
from tests.database.spending import next_day, spend, spent
from tests.fake_provider import FakeProvider

DOLLAR_A_TOKEN = 1_000_000.0
MakeBudget = Callable[[float], DailyBudget]


@pytest.fixture(autouse=True)
def exchanged_at_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SYNC_SECONDS", 0.0)


@pytest.fixture
def make_budget(database: PostgresDatabase) -> MakeBudget:
    def make(limit: float) -> DailyBudget:
        settings = Settings(_env_file=None, embedding_budget_per_day=limit)  # type: ignore[call-arg]
        made = get_budget(settings, lambda: database)
        assert made is not None
        return made

    return make


def dear(budget: DailyBudget) -> FakeProvider:
    """A provider that costs a dollar for each token."""
    provider = FakeProvider(price=DOLLAR_A_TOKEN)
    provider.budget = budget
    return provider


def costs(database: PostgresDatabase, **arguments: Any) -> dict[str, Any]:
    found: dict[str, Any] = database.call_scalar("embedding_costs", arguments)
    return found


def test_the_sum_of_a_day_grows_and_the_next_day_starts_at_zero(owner: Connection, database: PostgresDatabase) -> None:
    assert costs(database)["spent_today"] is None
    assert spent(owner) is None, "who only reads writes nothing"
    assert [costs(database, days=0, spent_usd=usd)["spent_today"] for usd in (0.0, 0.25, 1e-7)] == [0, 0.25, 0.2500001]
    next_day(owner)
    today = costs(database, days=0, spent_usd=0.5)
    assert (today["spent_today"], today["entries"]) == (0.5, [])
    (seconds,) = owner.execute(
        "select extract(epoch from date_trunc('day', now() at time zone 'UTC') + interval '1 day'"
        " - now() at time zone 'UTC')::float"
    ).fetchone() or (0,)
    assert today["resets_in"] == pytest.approx(seconds, abs=60)


def test_the_first_call_of_a_day_counts_the_runs_before_it(owner: Connection, database: PostgresDatabase) -> None:
    for collection in (MUSIC, None):
        record_run(database, None, collection, "completed", {"model": "fake", "cost_usd": 0.25})
    yesterday = record_run(database, None, MUSIC, "completed", {"model": "fake", "cost_usd": 7})
    owner.execute("update embedding.runs set started_at = started_at - interval '1 day' where id = %s", [yesterday])
    assert costs(database, spent_usd=0)["spent_today"] == 0.25
    record_run(database, None, MUSIC, "completed", {"model": "fake", "cost_usd": 1})
    assert costs(database, spent_usd=0.5)["spent_today"] == 0.75, "a run with a budget has added its cost itself"


@pytest.mark.parametrize("usd", [-1e-9, float("nan"), float("inf")])
def test_an_amount_that_is_no_cost_is_refused(owner: Connection, database: PostgresDatabase, usd: float) -> None:
    record_run(database, None, MUSIC, "completed", {"model": "fake", "cost_usd": 1})
    spend(owner, 3.0)
    with pytest.raises(DatabaseRejected):
        costs(database, spent_usd=usd)
    assert spent(owner) == 3.0


def test_a_backfill_stops_for_the_budget_and_goes_on_the_next_day(
    owner: Connection, database: PostgresDatabase, make_budget: MakeBudget
) -> None:
    ids = add(owner, *(f"text {number}" for number in range(100)))
    provider = dear(make_budget(70.0))
    run = partial(backfill, database, provider, BackfillOptions(MUSIC, batch_size=10, workers=2))
    outcome: BackfillOutcome = run()
    assert isinstance(outcome.error, BudgetSpent)
    assert (outcome.report.embedded, outcome.left.ready, outcome.left.failed) == (30, 70, 0)
    assert len(provider.wire.texts) == 30
    assert spent(owner) == 60.0
    waiting = [found for row in ids if (found := entry(owner, row))]
    assert {(found["attempts"], found["leased_at"]) for found in waiting} == {(0, None)}
    (status, error) = owner.execute("select status, error from embedding.runs").fetchone() or ("", "")
    assert status == "failed"
    assert "EMBEDDING_BUDGET_PER_DAY: $60 of $70" in error
    # A process knows midnight by its own clock, so each day has a new one here.
    for _ in range(2):
        next_day(owner)
        provider.budget = make_budget(70.0)
        assert run().report.embedded == 30
    next_day(owner)
    provider.budget = make_budget(70.0)
    assert run().complete
    assert Collection(database, MUSIC).verify_embeddings() == 0


def test_two_processes_share_the_budget(owner: Connection, database: PostgresDatabase, make_budget: MakeBudget) -> None:
    one, other = dear(make_budget(4.0)), dear(make_budget(4.0))
    one.embed(["two tokens"])
    other.embed(["two tokens"])
    for provider in (one, other):
        with pytest.raises(BudgetSpent, match=r"\$4 of \$4"):
            provider.embed(["more"])
    assert spent(owner) == 4.0


def test_a_search_service_counts_its_queries_and_obeys_the_budget(
    owner: Connection, database: PostgresDatabase
) -> None:
    provider = FakeProvider(price=DOLLAR_A_TOKEN)
    add(owner, "slow jazz")
    assert backfill(database, provider, BackfillOptions(MUSIC)).complete
    settings = Settings(_env_file=None, embedding_budget_per_day=3.0)  # type: ignore[call-arg]
    search = get_search(settings, database=database, provider=provider)
    found = [search.search(MUSIC, query).degraded for query in ("jazz", "slow")]
    assert (found, spent(owner)) == ([False, True], 3.0), "the backfill has cost 2"


def test_a_provider_that_is_passed_on_keeps_its_own_budget(make_budget: MakeBudget) -> None:
    provider = dear(make_budget(4.0))
    budget = provider.budget
    assert ModelProviders(lambda: provider).for_model() is provider
    assert provider.budget is budget


def test_equal_texts_are_embedded_without_a_budget(
    owner: Connection, database: PostgresDatabase, make_budget: MakeBudget
) -> None:
    add(owner, "one")
    assert backfill(database, FakeProvider(), BackfillOptions(MUSIC)).complete
    add(owner, "one")
    outcome = backfill(database, dear(make_budget(0.0)), BackfillOptions(MUSIC))
    assert (outcome.complete, outcome.report.reused) == (True, 1)


def test_a_run_over_all_collections_says_it_once_and_embeds_those_that_cost_nothing(
    owner: Connection, database: PostgresDatabase, make_budget: MakeBudget
) -> None:
    for table, model in (("dear_one", "dear"), ("dear_two", "dear"), ("free", "free")):
        owner.execute(
            f"create table {table} (id int primary key, body text);"
            f"create function embedding.document_text(t public.{table}) returns text language sql immutable"
            " as 'select t.body';"
            f"select register_embedding_model('{model}', 'fake', 16);"
            f"select track_embeddings('public.{table}', model => '{model}');"
            f"insert into {table} values (1, 'a text')"
        )
    paid, free = FakeProvider("dear", price=DOLLAR_A_TOKEN), FakeProvider("free")
    providers = ModelProviders(lambda: free, lambda _: paid, budget=make_budget(0.5))
    runs = Runs(database)
    outcome = runs.execute(EmbeddingJob(database, providers), runs.record_queued())
    assert (outcome.status, outcome.report.embedded) == ("failed", 1)
    assert outcome.error is not None
    assert outcome.error.startswith("dear_one, dear_two: EMBEDDING_BUDGET_PER_DAY: $0 of $0.5")
    assert outcome.error.count("EMBEDDING_BUDGET_PER_DAY") == 1
    assert (len(paid.wire.requests), len(free.wire.requests)) == (0, 1)
