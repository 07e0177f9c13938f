"""The backfill over a real database, with a provider whose wire is a function."""

import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from shared.database.base import Database
from shared.database.postgres import PostgresDatabase
from shared.database.queue import EmbeddingQueue
from shared.errors import (
    ConfigurationError,
    DatabaseRejected,
    DatabaseUnavailable,
    NotFound,
    ProviderQuotaExceeded,
    ProviderUnavailable,
)
from shared.models import BackfillReport, EmbeddingModel
from shared.retry import RetryPolicy
from shared.services import backfill as service
from shared.services.backfill import BackfillOptions, BackfillOutcome, Progress, backfill, estimate
from tests.database.rows import MUSIC, Connection, InThread, add, edit, embed_all, end_leases, entry, queued, vector_of
from tests.fake_provider import FakeProvider
from tests.postgres_cluster import Cluster

Run = Callable[..., BackfillOutcome]


@pytest.fixture
def run(database: PostgresDatabase, provider: FakeProvider) -> Run:
    """Backfill music_knowledge with the test's provider."""

    def start(
        *, stop: threading.Event | None = None, on_progress: Callable[[Progress], None] | None = None, **options: object
    ) -> BackfillOutcome:
        chosen = {"batch_size": 10, "workers": 2, **options}
        return backfill(database, provider, BackfillOptions(MUSIC, **chosen), stop=stop, on_progress=on_progress)  # type: ignore[arg-type]

    return start


def texts(count: int, prefix: str = "text") -> list[str]:
    return [f"{prefix} {number}" for number in range(count)]


def held(owner: Connection) -> int:
    found = owner.execute("select count(*) from embedding.queue where leased_at is not null").fetchone()
    assert found
    return int(found[0])


def embedded(owner: Connection) -> int:
    found = owner.execute("select count(embedding) from music_knowledge").fetchone()
    assert found
    return int(found[0])


def test_everything_pending_is_embedded(
    owner: Connection, run: Run, provider: FakeProvider, work: EmbeddingQueue
) -> None:
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


def test_a_second_run_has_nothing_to_do_and_calls_nobody(owner: Connection, run: Run, provider: FakeProvider) -> None:
    add(owner, *texts(5))
    run()
    calls = len(provider.wire.requests)
    outcome = run()
    assert (outcome.complete, outcome.report.processed) == (True, 0)
    assert len(provider.wire.requests) == calls


def test_a_limit_is_kept_to_the_row(owner: Connection, run: Run) -> None:
    add(owner, *texts(50))
    outcome = run(limit=23)
    assert (outcome.report.processed, outcome.report.embedded) == (23, 23)
    assert (embedded(owner), outcome.left.ready, held(owner)) == (23, 27, 0)


@pytest.mark.parametrize("workers", [1, 4])
def test_as_many_requests_are_under_way_as_there_are_workers(
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
    # Ahead of them: a batch for each, and room for what is being saved. Not the whole queue.
    assert held(owner) <= 10 * (2 * workers + 2)
    provider.wire.gate.set()
    assert running.result().report.embedded == 100


def test_equal_texts_are_embedded_once(
    owner: Connection, run: Run, provider: FakeProvider, work: EmbeddingQueue
) -> None:
    """Within a batch, across batches under way at once, and after the first was saved."""
    add(owner, *["same"] * 35, *texts(20), *["same"] * 40)
    provider.wire.delay = 0.02
    report = run().report
    assert Counter(provider.wire.texts)["same"] == 1
    assert (report.embedded, report.reused) == (95, 74)
    assert embedded(owner) == 95
    assert work.verify_embeddings() == 0


def test_texts_that_the_table_holds_cost_nothing(owner: Connection, run: Run, provider: FakeProvider) -> None:
    add(owner, *texts(10))
    run()
    add(owner, *texts(10), "a new one")
    report = run().report
    assert (report.embedded, report.reused, report.tokens) == (11, 10, 3)
    assert provider.wire.requests[-1] == ["a new one"]


def test_refused_rows_are_parked_and_the_others_saved(
    owner: Connection, run: Run, provider: FakeProvider, work: EmbeddingQueue
) -> None:
    ids = add(owner, *texts(7), "poison one", *texts(7, "more"), "poison two", "poison two")
    provider.wire.refuses = {"poison"}
    outcome = run()
    assert not outcome.complete
    assert (outcome.report.embedded, outcome.report.failed, outcome.left.failed) == (14, 3, 3)
    assert outcome.error is None
    parked = {row["row_id"]: row["error"] for row in work.list_failed_embeddings()}
    assert set(parked) == {ids[7], ids[15], ids[16]}
    assert set(parked.values()) == {"the provider refused the text"}
    calls = len(provider.wire.requests)
    assert run().report.processed == 0
    assert len(provider.wire.requests) == calls, "parked rows cost nothing"
    provider.wire.refuses = set()
    assert work.retry_failed_embeddings() == 3
    assert run().report.embedded == 3


def test_rows_with_a_useless_vector_are_tried_again_later(
    owner: Connection, run: Run, provider: FakeProvider, work: EmbeddingQueue
) -> None:
    ids = add(owner, *texts(5), "sick", "well")
    provider.wire.spoils = {"sick"}
    outcome = run()
    assert (outcome.report.embedded, outcome.report.failed) == (6, 1)
    assert (outcome.left.waiting, outcome.left.failed) == (1, 0)
    found = entry(owner, ids[5])
    assert found is not None
    assert found["wait"] > 20
    assert "not finite" in found["error"]
    assert work.verify_embeddings() == 0


def test_a_provider_that_is_gone_ends_the_run_and_nothing_is_held_against_the_rows(
    owner: Connection, run: Run, provider: FakeProvider
) -> None:
    add(owner, *texts(40))
    provider.wire.down = ProviderUnavailable("nobody is there")
    outcome = run()
    assert outcome.error is provider.wire.down
    assert (outcome.report.processed, outcome.report.embedded, outcome.report.failed) == (0, 0, 0)
    assert (outcome.left.ready, outcome.left.leased, outcome.left.failed) == (40, 0, 0)
    attempts = owner.execute("select max(attempts), count(error) from embedding.queue").fetchone()
    assert attempts == (0, 0)
    provider.wire.down = None
    assert run().report.embedded == 40


def test_a_provider_that_goes_away_in_mid_run_keeps_what_was_saved(
    owner: Connection, run: Run, provider: FakeProvider
) -> None:
    add(owner, *texts(60))

    def progress(moment: Progress) -> None:
        if moment.report.embedded >= 10:
            provider.wire.down = ProviderQuotaExceeded("no money left")

    provider.wire.delay = 0.15
    outcome = run(workers=1, on_progress=progress)
    assert isinstance(outcome.error, ProviderQuotaExceeded)
    done = outcome.report.embedded
    assert 10 <= done < 60
    assert (embedded(owner), outcome.left.ready, held(owner)) == (done, 60 - done, 0)
    assert outcome.report.processed == done


def test_a_stop_finishes_what_is_under_way_and_gives_back_the_rest(
    owner: Connection, run: Run, provider: FakeProvider
) -> None:
    add(owner, *texts(100))
    provider.wire.gate = threading.Event()
    stop = threading.Event()
    running = InThread(lambda: run(stop=stop))
    deadline = time.monotonic() + 10
    while len(provider.wire.requests) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    stop.set()
    time.sleep(0.1)
    assert running.running, "the requests under way are waited for: they are paid"
    provider.wire.gate.set()
    outcome = running.result()
    assert outcome.interrupted
    assert (outcome.report.processed, outcome.report.embedded) == (20, 20)
    assert (embedded(owner), outcome.left.ready, outcome.left.leased, held(owner)) == (20, 80, 0, 0)
    assert len(provider.wire.requests) == 2
    attempts = owner.execute("select max(attempts) from embedding.queue").fetchone()
    assert attempts == (0,), "given back untried"


def test_a_stop_ends_a_wait_for_the_provider_at_once(owner: Connection, run: Run, provider: FakeProvider) -> None:
    add(owner, *texts(10))
    provider.wire.down = ProviderUnavailable("come again", retry_after=4.0)
    stop = threading.Event()
    running = InThread(lambda: run(stop=stop))
    provider.wire.arrived.wait(10)
    started = time.monotonic()
    stop.set()
    outcome = running.result()
    assert time.monotonic() - started < 2
    assert (outcome.interrupted, outcome.error, outcome.left.ready) == (True, None, 10)


def test_a_text_changed_while_it_is_embedded_is_embedded_again(
    owner: Connection, run: Run, provider: FakeProvider, work: EmbeddingQueue
) -> None:
    (row_id, *_) = add(owner, *texts(5))
    provider.wire.gate = threading.Event()
    running = InThread(run)
    assert provider.wire.arrived.wait(10)
    edit(owner, row_id, "changed in the meantime")
    provider.wire.gate.set()
    report = running.result().report
    assert (report.processed, report.embedded, report.stale) == (6, 5, 1)
    assert "changed in the meantime" in provider.wire.texts
    assert queued(owner) == set()
    assert work.verify_embeddings() == 0


class _Between(Database):
    """A database in which something happens after the first claim that found nothing, before its caller knows."""

    def __init__(self, database: Database, happen: Callable[[], object]) -> None:
        self._database, self._happen = database, happen
        self._happened = False
        self.saved = threading.Event()

    def _call(self, function: str, arguments: dict[str, Any]) -> list[Any]:
        rows = self._database.call(function, arguments)
        if function == "save_embeddings":
            self.saved.set()
        if function == "claim_embeddings" and not rows and not self._happened:
            self._happened = True
            self._happen()
        return rows

    def close(self) -> None: ...


def test_a_row_that_comes_back_between_a_claim_and_its_answer_is_not_left_behind(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    (row_id,) = add(owner, "a text")
    provider.wire.gate = threading.Event()

    def come_back() -> None:
        assert provider.wire.arrived.wait(10)
        edit(owner, row_id, "another text")
        assert provider.wire.gate is not None
        provider.wire.gate.set()
        assert between.saved.wait(10)
        # The thread that saved lets go of the row.
        time.sleep(0.2)

    between = _Between(database, come_back)
    # With a limit nobody else's rows are waited for, which would find it as well.
    outcome = backfill(between, provider, BackfillOptions(MUSIC, workers=1, limit=10))
    assert (outcome.report.stale, outcome.report.embedded, outcome.left.pending) == (1, 1, 0)


def test_a_row_deleted_while_it_is_embedded_is_stale(owner: Connection, run: Run, provider: FakeProvider) -> None:
    (row_id, *_) = add(owner, *texts(5))
    provider.wire.gate = threading.Event()
    running = InThread(run)
    assert provider.wire.arrived.wait(10)
    owner.execute("delete from music_knowledge where id = %s", [row_id])
    provider.wire.gate.set()
    outcome = running.result()
    assert (outcome.report.embedded, outcome.report.stale, outcome.complete) == (4, 1, True)


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


def test_an_estimate_counts_each_text_once_and_calls_nobody(
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
    owner: Connection, database_url: SecretStr, provider: FakeProvider, work: EmbeddingQueue
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


def test_a_run_waits_for_the_rows_of_a_worker_that_died(owner: Connection, run: Run, work: EmbeddingQueue) -> None:
    add(owner, *texts(20))
    assert len(work.claim_embeddings(15, 1)) == 15
    seen: set[int] = set()
    outcome = run(on_progress=lambda moment: seen.add(moment.waiting_for_others))
    assert (outcome.report.embedded, outcome.complete) == (20, True)
    assert 15 in seen


def test_leases_are_renewed_for_as_long_as_the_provider_takes(
    owner: Connection, run: Run, provider: FakeProvider, work: EmbeddingQueue
) -> None:
    add(owner, *texts(10))
    provider.wire.gate = threading.Event()
    running = InThread(lambda: run(lease_seconds=2))
    assert provider.wire.arrived.wait(10)
    time.sleep(3)
    assert work.claim_embeddings(10, 60) == []
    provider.wire.gate.set()
    assert running.result().report.embedded == 10


def test_a_restart_of_the_database_in_mid_run_is_survived(
    cluster: Cluster, database_url: SecretStr, provider: FakeProvider
) -> None:
    with psycopg.connect(database_url.get_secret_value(), autocommit=True) as owner:
        add(owner, *texts(120))
    provider.wire.delay = 0.05
    with PostgresDatabase(database_url) as database:
        running = InThread(
            lambda: backfill(database, provider, BackfillOptions(MUSIC, batch_size=5, workers=2, lease_seconds=2))
        )
        assert provider.wire.arrived.wait(10)
        time.sleep(0.2)
        cluster.restart()
        outcome = running.result()
    assert outcome.error is None
    assert (outcome.report.embedded, outcome.complete) == (120, True)
    assert outcome.left.pending == 0
    with psycopg.connect(database_url.get_secret_value(), autocommit=True) as owner:
        assert owner.execute("select count(embedding), count(*) from music_knowledge").fetchone() == (120, 120)


def test_a_database_that_stays_away_ends_the_run_with_its_reason(
    cluster: Cluster,
    owner: Connection,
    database: PostgresDatabase,
    run: Run,
    provider: FakeProvider,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    database._pool.timeout = 0.5
    monkeypatch.setattr(
        service, "DATABASE_RETRIES", RetryPolicy(max_attempts=3, max_seconds=3, base_wait=0.05, max_wait=0.1)
    )
    add(owner, *texts(30))
    provider.wire.gate = threading.Event()
    running = InThread(run)
    assert provider.wire.arrived.wait(10)
    name = owner.info.dbname
    with cluster.admin() as admin:
        admin.execute(f"alter database {name} with allow_connections false")
        admin.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s and application_name = 'tonnetz'",
            [name],
        )
    provider.wire.gate.set()
    started = time.monotonic()
    outcome = running.result(60)
    assert time.monotonic() - started < 10
    with cluster.admin() as admin:
        admin.execute(f"alter database {name} with allow_connections true")
    assert isinstance(outcome.error, DatabaseUnavailable)
    end_leases(owner)
    provider.wire.gate = None
    assert embedded(owner) == 0


def test_a_run_is_recorded(owner: Connection, run: Run, provider: FakeProvider) -> None:
    add(owner, *texts(12), "poison")
    provider.wire.refuses = {"poison"}
    run()
    provider.wire.down = ProviderUnavailable("nobody is there")
    add(owner, "one more")
    run()
    rows = owner.execute(
        "select c.name, r.model, r.status, r.processed, r.embedded, r.failed, r.tokens, r.error, r.finished_at is not null"
        " from embedding.runs r join embedding.collections c on c.id = r.collection_id order by r.started_at"
    ).fetchall()
    assert rows == [
        (MUSIC, "fake", "completed", 13, 12, 1, 24, None, True),
        (MUSIC, "fake", "failed", 0, 0, 0, 0, "nobody is there", True),
    ]


def test_a_run_that_finds_nothing_leaves_a_record_only_under_an_id_that_somebody_has(
    owner: Connection, run: Run, database: PostgresDatabase, provider: FakeProvider
) -> None:
    assert run().complete
    assert owner.execute("select count(*) from embedding.runs").fetchall() == [(0,)]
    asked = str(uuid.uuid4())
    backfill(database, provider, BackfillOptions(MUSIC), run_id=asked)
    assert owner.execute("select id::text, status from embedding.runs").fetchall() == [(asked, "completed")]


def test_a_run_to_which_rows_come_is_recorded_though_it_found_none(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    class Late(_Between):
        def _call(self, function: str, arguments: dict[str, Any]) -> list[Any]:
            if function == "claim_embeddings" and not self._happened:
                self._happened = True
                self._happen()
            return self._database.call(function, arguments)

    late = Late(database, lambda: add(owner, "a text"))
    assert backfill(late, provider, BackfillOptions(MUSIC)).report.embedded == 1
    assert owner.execute("select status, embedded from embedding.runs").fetchall() == [("completed", 1)]


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


def test_prefixes_of_the_models_row_decide(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider, work: EmbeddingQueue
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


def test_a_bug_in_a_thread_is_raised_and_nothing_stays_leased(
    owner: Connection, run: Run, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(owner, *texts(30))
    monkeypatch.setattr(FakeProvider, "_request", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run()
    assert held(owner) == 0
    recorded = owner.execute("select status, error, finished_at is not null from embedding.runs").fetchall()
    assert recorded == [("failed", "a bug: ZeroDivisionError", True)]


def test_rows_written_while_the_run_goes_on_are_embedded_too(
    owner: Connection, run: Run, provider: FakeProvider, work: EmbeddingQueue
) -> None:
    add(owner, *texts(20))
    provider.wire.delay = 0.3
    late: list[str] = []

    def progress(_: Progress) -> None:
        if not late:
            late.extend(add(owner, *texts(15, "late")))

    assert run(on_progress=progress).report.embedded == 35
    assert vector_of(owner, late[0])[1] == "fake"
    assert embed_all(work, provider) == 0
