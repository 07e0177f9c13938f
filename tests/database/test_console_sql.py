"""Tests the SQL functions of the console: runs, costs, failed rows and columns."""

from typing import Any

import pytest

from shared.database.postgres import PostgresDatabase
from shared.embedding.backfill import BackfillOptions, backfill
from shared.embedding.collection import Collection, describe_collections
from shared.embedding.coverage import list_collections, list_failures
from shared.embedding.estimate import estimate
from shared.embedding.run_history import list_costs, list_runs, running_by_collection
from shared.embedding.runs import record_run
from shared.errors import NotFound
from tests.database.rows import MUSIC, Connection, add, entry
from tests.fake_provider import FakeProvider


def age(owner: Connection, run_id: str, **columns: str) -> None:
    """Move the times in these columns into the past."""
    changes = ", ".join(f"{name} = clock_timestamp() - interval '{interval}'" for name, interval in columns.items())
    owner.execute(f"update embedding.runs set {changes} where id = %s", [run_id])


def begin(database: PostgresDatabase, status: str = "running", collection: str | None = MUSIC, **report: Any) -> str:
    return record_run(database, None, collection, status, {"model": "fake", **report})


# Runs


def test_runs_are_listed_latest_first_with_their_counts(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    provider.price_per_million_tokens = 1e6
    add(owner, "one two", "one two", "three")
    backfill(database, provider, BackfillOptions(MUSIC, batch_size=1, workers=1))
    begin(database, "failed", "datasets", error="no")
    latest, first = list_runs(database, None, 10)
    assert (latest["collection"], latest["status"], latest["error"]) == ("datasets", "failed", "no")
    assert (first["collection"], first["status"], first["model"], first["kind"]) == (
        MUSIC,
        "finished",
        "fake",
        "embedding",
    )
    assert (first["processed"], first["embedded"], first["reused"], first["tokens"], first["cost"]) == (3, 3, 1, 3, 3.0)
    assert first["calls"] == len(provider.wire.requests) == 2
    assert first["seconds"] > 0
    assert [run["run_id"] for run in list_runs(database, MUSIC, 10)] == [first["run_id"]]
    assert [run["run_id"] for run in list_runs(database, None, 1)] == [latest["run_id"]]
    with pytest.raises(NotFound):
        list_runs(database, "nothing", 10)


def test_a_task_keeps_the_number_of_calls_that_its_backfill_reported(database: PostgresDatabase) -> None:
    run_id = begin(database, "completed", calls=7)
    record_run(database, run_id, MUSIC, "completed", {"embedded": 3})
    assert list_runs(database, MUSIC, 1)[0]["calls"] == 7


def test_a_run_without_reports_is_crashed_since_its_last_report(owner: Connection, database: PostgresDatabase) -> None:
    run_id = begin(database)
    age(owner, run_id, started_at="10 minutes", begun_at="10 minutes", reported_at="4 minutes")
    (run,) = list_runs(database, None, 10)
    assert run["status"] == "crashed"
    assert run["seconds"] == pytest.approx(360, abs=5)
    assert run["ended_at"] is not None
    age(owner, run_id, reported_at="1 minute")
    assert list_runs(database, None, 10)[0]["status"] == "running"


def test_time_in_the_queue_does_not_count_as_run_time(owner: Connection, database: PostgresDatabase) -> None:
    run_id = begin(database, "queued")
    age(owner, run_id, started_at="1 hour")
    assert list_runs(database, None, 1)[0]["seconds"] == pytest.approx(3600, abs=5)
    record_run(database, run_id, MUSIC, "running", {"embedded": 10})
    assert list_runs(database, None, 1)[0]["seconds"] < 5
    record_run(database, run_id, MUSIC, "completed", {"embedded": 10})
    assert list_runs(database, None, 1)[0]["seconds"] < 5


def test_the_rate_is_the_sum_of_all_runs_of_a_collection(owner: Connection, database: PostgresDatabase) -> None:
    for embedded, failed in ((90, 10), (40, 0)):
        run_id = begin(database, embedded=embedded, failed=failed)
        age(owner, run_id, begun_at="11 seconds", reported_at="1 second")
    silent = begin(database, embedded=1000)
    age(owner, silent, begun_at="5 minutes", reported_at="1 minute")
    begin(database, "completed", embedded=1000)
    begin(database, collection=None, embedded=1000)
    running = running_by_collection(database, {MUSIC: 280})
    assert list(running) == [MUSIC]
    assert (running[MUSIC].done, running[MUSIC].remaining) == (140, 280)
    assert running[MUSIC].rows_per_second == pytest.approx(14, rel=0.01)
    assert running[MUSIC].seconds_left == pytest.approx(20, rel=0.01)


def test_before_its_first_report_a_run_has_no_rate(database: PostgresDatabase) -> None:
    begin(database)
    (running,) = running_by_collection(database, {MUSIC: 5}).values()
    assert (running.done, running.rows_per_second, running.seconds_left) == (0, None, None)


# Costs


def test_costs_are_by_day_and_model_and_count_nothing_twice(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    for days in ("0 days", "0 days", "40 hours", "29 days", "31 days"):
        run_id = begin(database, "completed", tokens=100, cost_usd=0.25, embedded=10)
        age(owner, run_id, started_at=days)
    begin(database, "completed", None, tokens=200, cost_usd=0.5)
    database.call(
        "record_embedding_run",
        {"kind": "generation", "model": "writer", "status": "completed", "report": {"tokens": 7}},
    )
    costs = list_costs(database, 30)
    today = [entry for entry in costs.entries if entry["day"] == costs.entries[0]["day"]]
    assert [(one["model"], one["runs"], one["embedded"], one["tokens"], one["cost"]) for one in today] == [
        ("fake", 2, 20, 200, 0.5),
        ("writer", 1, 0, 7, 0.0),
    ]
    assert len(costs.entries) == 4
    assert (costs.tokens, costs.cost) == (407, 1.0)
    assert len(list_costs(database, 1).entries) == 2
    assert len(list_costs(database, 366).entries) == 5


def test_an_unknown_price_gives_no_cost_instead_of_zero(database: PostgresDatabase) -> None:
    for name, provider in (("unheard-of", "openai"), ("text-embedding-3-small@512", "openai"), ("local", "ollama")):
        spec = {"name": name, "provider": provider, "dimensions": 8}
        database.call("register_embedding_model", spec)
        record_run(database, None, MUSIC, "completed", {"model": name, "tokens": 20, "cost_usd": 0})
    costs = {entry["model"]: entry["cost"] for entry in list_costs(database, 1).entries}
    assert costs == {"unheard-of": None, "text-embedding-3-small@512": 0.0, "local": 0.0}
    assert {run["model"]: run["cost"] for run in list_runs(database, None, 9)} == costs


def test_an_estimate_says_how_it_was_counted(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.price_per_million_tokens = 2.0
    add(owner, *(f"text number {number}" for number in range(1001)))
    guess = estimate(database, provider, MUSIC)
    assert (guess.rows, guess.counted) == (1001, "estimated")
    assert guess.tokens == pytest.approx(3003, rel=0.05)
    assert guess.cost_usd == pytest.approx(guess.tokens * 2e-6)
    assert "1,000 of 1,001 texts" in guess.method
    owner.execute("delete from music_knowledge where content = 'text number 7'")
    assert estimate(database, provider, MUSIC).counted == "estimated"
    monkeypatch.setattr(FakeProvider, "counts_exactly", True)
    exact = estimate(database, provider, MUSIC)
    assert (exact.tokens, exact.counted) == (3000, "exact")
    provider.price_per_million_tokens = 0.0
    assert estimate(database, provider, MUSIC).cost_usd == 0.0
    provider.price_is_known = False
    assert estimate(database, provider, MUSIC).cost_usd is None


# Failed rows


def test_only_the_named_failed_rows_are_queued_again(
    owner: Connection, database: PostgresDatabase, work: Collection
) -> None:
    one, two, three, four = add(owner, "one", "two", "three", "four")
    work.claim_embeddings(10, 60)
    work.fail_embeddings([(row_id, "no", True) for row_id in (one, two, three)])
    assert Collection(database, MUSIC).retry_failed_embeddings([one, four, "nonsense"]) == 1
    leased, retried = entry(owner, four), entry(owner, one)
    assert leased is not None
    assert leased["leased_at"] is not None, "a row at work is left alone"
    assert retried is not None
    assert (retried["attempts"], retried["failed_at"]) == (0, None)
    assert [row.row_id for row in work.claim_embeddings(10, 60)] == [one]
    failures, total = list_failures(database, MUSIC, 1)
    assert (len(failures), total) == (1, 2)
    assert Collection(database, MUSIC).retry_failed_embeddings([]) == 0
    assert Collection(database, MUSIC).retry_failed_embeddings(None) == 2
    untracked = Collection(database, "nothing")
    for read in (lambda: list_failures(database, "nothing", 1), lambda: untracked.retry_failed_embeddings([one])):
        with pytest.raises(NotFound):
            read()


def columns(database: PostgresDatabase, collection: str) -> tuple[str | None, list[str]]:
    (found,) = [one for one in list_collections(database) if one.coverage.collection == collection]
    return found.label_column, list(found.category_columns)


# Columns


@pytest.mark.parametrize("analyzed", [False, True], ids=["new", "analyzed"])
def test_the_label_column_is_the_title_and_categories_have_few_values(
    owner: Connection, database: PostgresDatabase, analyzed: bool
) -> None:
    owner.execute("create type colour as enum ('red', 'blue')")
    owner.execute(
        'create table things (id text primary key, kind text, url text, "Odd ""name" colour, tags text[], flag boolean,'
        " mostly_null text, one_value text, title text, body text)"
    )
    owner.execute(
        "create function embedding.document_text(t public.things) returns text language sql stable return t.body"
    )
    owner.execute("select track_embeddings('public.things')")
    assert columns(database, "things") == ("title", [])
    owner.execute(
        "insert into things select 'k' || n, 'kind ' || n % 7, 'u' || n, case when n % 2 = 0 then 'red' else 'blue' end::colour,"
        " '{a}', n % 3 = 0, case when n < 3 then 'rare ' || n end, 'same', 'title ' || n % 5, 'body ' || n"
        " from generate_series(1, 400) n"
    )
    if analyzed:
        owner.execute("analyze things")
    assert columns(database, "things") == ("title", ["kind", 'Odd "name', "flag"])
    owner.execute("alter table things drop column title")
    assert columns(database, "things")[0] == "url"
    sample = database.call_scalar(
        "sample_embeddings", {"collection": "things", "model": "m", "category_column": 'Odd "name'}
    )
    assert sample["ids"] == []


def test_a_column_of_distinct_texts_is_no_category(owner: Connection, database: PostgresDatabase) -> None:
    add(owner, "one", "two", "three")
    assert columns(database, MUSIC) == ("topic", [])
    # A dropped table is skipped.
    owner.execute("drop table music_knowledge cascade")
    assert MUSIC not in [row["collection"] for row in describe_collections(database)]


def test_the_statistics_of_other_tables_are_not_read(owner: Connection, database: PostgresDatabase) -> None:
    describe_collections(database)  # so that the catalogue is in memory
    explained = owner.execute("explain (analyze, buffers, format json) select public.list_embedding_collections(true)")
    plan: Any = explained.fetchall()[0][0]
    # It would be 100,000 if pg_stats were joined by a name that the query computes.
    assert plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"] < 10_000
