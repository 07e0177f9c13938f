"""Tests the backfill over a real database with the fake provider."""

import threading
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import SecretStr

from shared.database.postgres import PostgresDatabase
from shared.embedding.backfill import BackfillOptions, backfill
from shared.embedding.collection import Collection
from shared.embedding.estimate import estimate
from shared.errors import (
    ConfigurationError,
    DatabaseRejected,
    NotFound,
    ProviderUnavailable,
)
from shared.models import BackfillReport, EmbeddingModel
from tests.database.backfill_rows import Run, embedded, held, texts
from tests.database.rows import MUSIC, Connection, InThread, add, queued
from tests.fake_provider import FakeProvider


def test_everything_pending_is_embedded(owner: Connection, run: Run, provider: FakeProvider, work: Collection) -> None:
    ids = add(owner, *texts(95))
    outcome = run()
    report = outcome.report
    assert outcome.complete
    assert (report.collection, report.model) == (MUSIC, "fake")
    assert (report.processed, report.embedded, report.failed, report.stale, report.reused) == (95, 95, 0, 0, 0)
    assert report.tokens == 2 * 95
    assert report.seconds > 0
    assert queued(owner) == set()
    assert work.verify_embeddings() == 0
    assert sorted(map(len, provider.wire.requests)) == [5, *[10] * 9], "a request for each batch"
    # Each row has the vector of its own text.
    for row_id, text in zip(ids, texts(95), strict=True):
        stored = owner.execute(
            "select embedding operator(extensions.<=>) %s::text::extensions.vector from music_knowledge where id = %s",
            [str(provider.embed_query(text).tolist()), row_id],
        ).fetchone()
        assert stored
        assert stored[0] == pytest.approx(0, abs=1e-6)


def test_a_run_of_one_row_makes_six_calls(owner: Connection, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    # A run that takes longer records its progress.
    monkeypatch.setattr("shared.embedding.backfill.REPORT_SECONDS", 600)
    called: list[str] = []
    call = PostgresDatabase.call

    def noted(database: PostgresDatabase, function: str, arguments: Mapping[str, Any] | None = None) -> list[Any]:
        called.append(function)
        return call(database, function, arguments)

    monkeypatch.setattr(PostgresDatabase, "call", noted)
    add(owner, "one row")
    assert run().complete
    assert called == [
        "register_embedding_model",
        "reconcile_embeddings",
        "claim_embeddings",
        "save_embeddings",
        "reconcile_embeddings",
        "finish_embedding_run",
    ]


def test_a_second_run_makes_no_provider_call(owner: Connection, run: Run, provider: FakeProvider) -> None:
    add(owner, *texts(5))
    run()
    calls = len(provider.wire.requests)
    outcome = run()
    assert (outcome.complete, outcome.report.processed) == (True, 0)
    assert len(provider.wire.requests) == calls


def test_a_run_with_a_limit_claims_exactly_that_many_rows(owner: Connection, run: Run) -> None:
    add(owner, *texts(50))
    outcome = run(limit=23)
    assert (outcome.report.processed, outcome.report.embedded) == (23, 23)
    assert (embedded(owner), outcome.left.ready, held(owner)) == (23, 27, 0)


@pytest.mark.parametrize("workers", [1, 4])
def test_each_worker_has_one_request_under_way(
    owner: Connection, run: Run, provider: FakeProvider, workers: int
) -> None:
    add(owner, *texts(100))
    provider.wire.gate = threading.Event()
    running = InThread(lambda: run(workers=workers))
    deadline = time.monotonic() + 10
    while len(provider.wire.requests) < workers and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    assert len(provider.wire.requests) == workers
    # A run does not hold the whole queue: only the sent batches, one more batch for each worker, and those being saved.
    assert held(owner) <= 10 * (2 * workers + 2)
    provider.wire.gate.set()
    assert running.result().report.embedded == 100


def test_equal_texts_are_embedded_once(owner: Connection, run: Run, provider: FakeProvider, work: Collection) -> None:
    """This is true within a batch, across concurrent batches, and after the first row was saved."""
    add(owner, *["same"] * 35, *texts(20), *["same"] * 40)
    provider.wire.delay = 0.02
    report = run().report
    assert Counter(provider.wire.texts)["same"] == 1
    assert (report.embedded, report.reused) == (95, 74)
    assert embedded(owner) == 95
    assert work.verify_embeddings() == 0


def test_texts_that_have_a_vector_in_the_table_cost_nothing(
    owner: Connection, run: Run, provider: FakeProvider
) -> None:
    add(owner, *texts(10))
    run()
    add(owner, *texts(10), "a new one")
    report = run().report
    assert (report.embedded, report.reused, report.tokens) == (11, 10, 3)
    assert provider.wire.requests[-1] == ["a new one"]


def test_max_cost_stops_before_it_is_passed_and_leaves_the_rest(owner: Connection, database: PostgresDatabase) -> None:
    add(owner, *texts(100))
    dear = FakeProvider(price=1_000_000.0)  # a dollar a token; each text has two
    outcome = backfill(database, dear, BackfillOptions(MUSIC, batch_size=10, workers=2, max_cost=70.0))
    assert outcome.over_budget
    assert not outcome.complete
    assert (outcome.report.embedded, outcome.report.cost_usd) == (30, 60.0)
    assert (outcome.left.ready, held(owner)) == (70, 0)
    assert len(dear.wire.texts) == 30
    assert backfill(database, dear, BackfillOptions(MUSIC, max_cost=0.0)).report.tokens == 0
    free = backfill(database, FakeProvider(), BackfillOptions(MUSIC, max_cost=0.0))
    assert (free.complete, free.report.embedded) == (True, 70), "what costs nothing passes no limit"


def test_an_estimate_counts_each_text_once_without_a_provider_call(
    owner: Connection, run: Run, database: PostgresDatabase, provider: FakeProvider
) -> None:
    add(owner, "held already")
    run()
    calls = len(provider.wire.requests)
    add(owner, "one two three", "one two three", "four five", "held already", "")
    provider.price_per_million_tokens = 2.0
    expected = estimate(database, provider, MUSIC)
    assert (expected.rows, expected.tokens) == (4, 5)
    assert expected.cost_usd == pytest.approx(10e-6)
    assert len(provider.wire.requests) == calls
    assert run().report.tokens == 5


def test_two_runs_at_once_embed_each_row_once_in_total(
    owner: Connection, database_url: SecretStr, provider: FakeProvider, work: Collection
) -> None:
    add(owner, *texts(400))
    provider.wire.delay = 0.01

    def one() -> BackfillReport:
        with PostgresDatabase(database_url) as own:
            return backfill(own, provider, BackfillOptions(MUSIC, batch_size=10, workers=2)).report

    first, second = InThread(one), InThread(one)
    reports = [first.result(), second.result()]
    assert sum(report.embedded for report in reports) == 400
    assert min(report.embedded for report in reports) > 0
    assert Counter(provider.wire.texts).most_common(1)[0][1] == 1
    assert len(provider.wire.texts) == 400
    assert work.verify_embeddings() == 0


def test_a_run_waits_for_the_rows_of_a_worker_that_died(owner: Connection, run: Run, work: Collection) -> None:
    add(owner, *texts(20))
    assert len(work.claim_embeddings(15, 1)) == 15
    seen: set[int] = set()
    outcome = run(on_progress=lambda moment: seen.add(moment.waiting_for_others))
    assert (outcome.report.embedded, outcome.complete) == (20, True)
    assert 15 in seen


def test_a_run_is_recorded(owner: Connection, run: Run, provider: FakeProvider) -> None:
    add(owner, *texts(12), "poison")
    provider.wire.refuses = {"poison"}
    run()
    provider.wire.down = ProviderUnavailable("the provider is down")
    add(owner, "one more")
    run()
    rows = owner.execute(
        "select c.name, r.model, r.status, r.processed, r.embedded, r.failed, r.tokens, r.error, r.finished_at is not null"
        " from embedding.runs r join embedding.collections c on c.id = r.collection_id order by r.started_at"
    ).fetchall()
    assert rows == [
        (MUSIC, "fake", "completed", 13, 12, 1, 24, None, True),
        (MUSIC, "fake", "failed", 0, 0, 0, 0, "the provider is down", True),
    ]


def test_a_run_without_rows_is_recorded_only_if_it_has_an_id(
    owner: Connection, run: Run, database: PostgresDatabase, provider: FakeProvider
) -> None:
    assert run().complete
    assert owner.execute("select count(*) from embedding.runs").fetchall() == [(0,)]
    asked = str(uuid.uuid4())
    backfill(database, provider, BackfillOptions(MUSIC), run_id=asked)
    assert owner.execute("select id::text, status from embedding.runs").fetchall() == [(asked, "completed")]


def test_another_model_is_refused_before_anything_is_paid(
    owner: Connection, run: Run, database: PostgresDatabase
) -> None:
    add(owner, "one")
    run()
    for other in (FakeProvider("other"), FakeProvider("wide", 24)):
        add(owner, f"for {other.model}")
        with pytest.raises(DatabaseRejected, match=rf'"fake".*"{other.model}".*set_collection_model'):
            backfill(database, other, BackfillOptions(MUSIC))
        assert other.wire.requests == []
    same_name = FakeProvider("fake", 24)
    with pytest.raises(DatabaseRejected, match="registered with 16 dimensions, not 24"):
        backfill(database, same_name, BackfillOptions(MUSIC))
    assert held(owner) == 0


def test_the_registered_prefixes_are_used(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider, work: Collection
) -> None:
    work.register_embedding_model(EmbeddingModel("prefixed", "fake", 16, "passage: ", "query: "))
    add(owner, "one")
    plain = FakeProvider("prefixed")
    backfill(database, plain, BackfillOptions(MUSIC))
    assert plain.wire.texts == ["passage: one"]


def test_an_unknown_collection_is_an_error(database: PostgresDatabase, provider: FakeProvider) -> None:
    with pytest.raises(NotFound, match='"nowhere" is not tracked'):
        backfill(database, provider, BackfillOptions("nowhere"))


@pytest.mark.parametrize(
    ("option", "value"),
    [("batch_size", 0), ("batch_size", 1001), ("workers", 0), ("lease_seconds", 1), ("limit", 0), ("max_cost", -0.1)],
)
def test_options_out_of_bounds_name_the_flag(option: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=f"--{option.replace('_', '-')} must"):
        BackfillOptions(MUSIC, **{option: value})  # type: ignore[arg-type]


def test_an_exception_in_a_thread_is_raised_and_all_rows_are_released(
    owner: Connection, run: Run, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(owner, *texts(30))
    monkeypatch.setattr(FakeProvider, "_request", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run()
    assert held(owner) == 0
    recorded = owner.execute("select status, error, finished_at is not null from embedding.runs").fetchall()
    assert recorded == [("failed", "a bug: ZeroDivisionError", True)]
