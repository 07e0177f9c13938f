"""Tests a backfill whose rows, provider or database fail, or that is stopped."""

import threading
import time

import psycopg
import pytest
from pydantic import SecretStr

from shared.database import postgres
from shared.database.postgres import PostgresDatabase
from shared.embedding import backfill as service
from shared.embedding.backfill import BackfillOptions, Progress, backfill
from shared.embedding.collection import Collection
from shared.errors import (
    DatabaseUnavailable,
    ProviderQuotaExceeded,
    ProviderUnavailable,
)
from shared.retry import RetryPolicy
from tests.database.backfill_rows import Run, embedded, held, texts
from tests.database.rows import MUSIC, Connection, InThread, add, end_leases, entry
from tests.fake_provider import FakeProvider
from tests.postgres_cluster import Cluster


def test_refused_rows_fail_and_the_others_are_saved(
    owner: Connection, run: Run, provider: FakeProvider, work: Collection
) -> None:
    ids = add(owner, *texts(7), "poison one", *texts(7, "more"), "poison two", "poison two")
    provider.wire.refuses = {"poison"}
    outcome = run()
    assert not outcome.complete
    assert (outcome.report.embedded, outcome.report.failed, outcome.left.failed) == (14, 3, 3)
    assert outcome.error is None
    failed = {row["row_id"]: row["error"] for row in work.list_failed_embeddings()}
    assert set(failed) == {ids[7], ids[15], ids[16]}
    assert set(failed.values()) == {"the provider refused the text"}
    calls = len(provider.wire.requests)
    assert run().report.processed == 0
    assert len(provider.wire.requests) == calls, "failed rows cost nothing"
    provider.wire.refuses = set()
    assert work.retry_failed_embeddings() == 3
    assert run().report.embedded == 3


def test_rows_with_an_invalid_vector_are_tried_again_later(
    owner: Connection, run: Run, provider: FakeProvider, work: Collection
) -> None:
    ids = add(owner, *texts(5), "sick", "well")
    provider.wire.makes_invalid = {"sick"}
    outcome = run()
    assert (outcome.report.embedded, outcome.report.failed) == (6, 1)
    assert (outcome.left.waiting, outcome.left.failed) == (1, 0)
    found = entry(owner, ids[5])
    assert found is not None
    assert found["wait"] > 20
    assert "not finite" in found["error"]
    assert work.verify_embeddings() == 0


def test_an_unreachable_provider_ends_the_run_and_counts_no_attempt(
    owner: Connection, run: Run, provider: FakeProvider
) -> None:
    add(owner, *texts(40))
    provider.wire.down = ProviderUnavailable("the provider is down")
    outcome = run()
    assert outcome.error is provider.wire.down
    assert (outcome.report.processed, outcome.report.embedded, outcome.report.failed) == (0, 0, 0)
    assert (outcome.left.ready, outcome.left.leased, outcome.left.failed) == (40, 0, 0)
    attempts = owner.execute("select max(attempts), count(error) from embedding.queue").fetchone()
    assert attempts == (0, 0)
    provider.wire.down = None
    assert run().report.embedded == 40


def test_a_provider_that_fails_during_a_run_does_not_lose_saved_rows(
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


def test_a_stop_finishes_running_requests_and_releases_the_other_rows(
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
    assert running.running, "running requests are finished, because they are paid"
    provider.wire.gate.set()
    outcome = running.result()
    assert outcome.interrupted
    assert (outcome.report.processed, outcome.report.embedded) == (20, 20)
    assert (embedded(owner), outcome.left.ready, outcome.left.leased, held(owner)) == (20, 80, 0, 0)
    assert len(provider.wire.requests) == 2
    attempts = owner.execute("select max(attempts) from embedding.queue").fetchone()
    assert attempts == (0,), "released without an attempt"


def test_a_stop_ends_a_wait_for_the_provider_at_once(owner: Connection, run: Run, provider: FakeProvider) -> None:
    add(owner, *texts(10))
    provider.wire.down = ProviderUnavailable("come again", retry_after=4.0)
    stop = threading.Event()
    running = InThread(lambda: run(stop=stop))
    assert provider.wire.arrived.wait(10)
    stop.set()
    outcome = running.result()
    assert len(provider.wire.requests) == 1, "after the wait it would have asked again"
    assert (outcome.interrupted, outcome.error, outcome.left.ready) == (True, None, 10)


def test_leases_are_renewed_during_a_long_provider_call(
    owner: Connection, run: Run, provider: FakeProvider, work: Collection
) -> None:
    add(owner, *texts(10))
    provider.wire.gate = threading.Event()
    running = InThread(lambda: run(lease_seconds=6))
    assert provider.wire.arrived.wait(10)
    ends = "select min(available_at) from embedding.queue where leased_at is not null"
    first = owner.execute(ends).fetchone()
    deadline = time.monotonic() + 30
    while (renewed := owner.execute(ends).fetchone()) == first:
        assert time.monotonic() < deadline, "the leases are not renewed"
        time.sleep(0.05)
    assert renewed
    assert first
    assert renewed[0] > first[0]
    assert work.claim_embeddings(10, 60) == []
    provider.wire.gate.set()
    assert running.result().report.embedded == 10


def test_a_run_survives_a_restart_of_the_database(
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


def test_a_lasting_database_outage_ends_the_run_with_its_reason(
    cluster: Cluster,
    owner: Connection,
    run: Run,
    provider: FakeProvider,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(postgres, "WAIT_FOR_CONNECTION", 0.5)
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
    outcome = running.result(60)
    with cluster.admin() as admin:
        admin.execute(f"alter database {name} with allow_connections true")
    assert isinstance(outcome.error, DatabaseUnavailable)
    end_leases(owner)
    provider.wire.gate = None
    assert embedded(owner) == 0
