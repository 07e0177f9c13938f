"""Tests psycopg through PgBouncer: no call depends on the session, and no setting or lock stays on a pooled connection."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr

from shared import wiring
from shared.database.postgres import PostgresDatabase, connect
from shared.embedded.migrations import list_migrations, migrate
from shared.embedding.backfill import BackfillOptions, BackfillOutcome, backfill
from shared.embedding.collection import Collection
from shared.embedding.model_providers import ModelProviders
from shared.errors import AppError, DatabaseBusy, Forbidden
from shared.models import ANON
from shared.retry import RetryPolicy
from shared.search.search import SearchService
from shared.settings import load_settings
from tests.database.rows import MUSIC, Connection, InThread, add, coverage_of, embed_all, wait_until_blocked
from tests.fake_provider import FakeProvider
from tests.pgbouncer import MODES, PgBouncer
from tests.postgres_cluster import Cluster

Pooler = Callable[[str], PgBouncer]


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def only_one(pooler: Pooler, cluster: Cluster) -> Iterator[PgBouncer]:
    """PgBouncer in transaction mode with a single connection to the server, which all programs use in turn."""
    with PgBouncer(cluster.url("postgres"), "transaction", default_pool_size="1") as running:
        yield running


def test_two_programs_migrate_at_once_and_apply_each_migration_once(
    cluster: Cluster, pooler: Pooler, mode: str
) -> None:
    with cluster.empty() as url:
        pooled = pooler(mode).url(url)
        programs = [InThread(lambda: migrate(pooled, seed=True)) for _ in range(2)]
        applied = [program.result() for program in programs]
        assert sorted(applied[0] + applied[1]) == [migration.version for migration in list_migrations()]
        assert migrate(pooled) == []
        with PostgresDatabase(pooled) as database:
            assert coverage_of(database).total > 50


def test_a_backfill_and_forty_searches_at_once(
    database_url: SecretStr, owner: Connection, pooler: Pooler, mode: str, provider: FakeProvider
) -> None:
    add(owner, *(f"take {number}" for number in range(400)))
    provider.wire.delay = 0.01
    with PostgresDatabase(pooler(mode).url(database_url), max_connections=8) as database:
        Collection(database, MUSIC).register_embedding_model(provider.spec, use=True)
        searches = SearchService(database, ModelProviders(lambda: provider))
        run = InThread(lambda: backfill(database, provider, BackfillOptions(MUSIC, batch_size=10, workers=8)))
        asked = [
            InThread(lambda query=f"take {number}": searches.search(MUSIC, query, caller=ANON))  # type: ignore[misc]
            for number in range(40)
        ]
        assert all(search.result().hits for search in asked)
        outcome = run.result()
        assert (outcome.error, outcome.report.embedded, outcome.left.pending) == (None, 400, 0)
        assert Collection(database, MUSIC).verify_embeddings() == 0


def test_another_client_finds_nothing_of_ours_on_the_connection(
    database_url: SecretStr, owner: Connection, only_one: PgBouncer, provider: FakeProvider
) -> None:
    pooled = only_one.url(database_url)
    add(owner, *(f"text {number}" for number in range(300)))
    with PostgresDatabase(pooled) as database:
        work = Collection(database, MUSIC)
        work.register_embedding_model(provider.spec)
        assert embed_all(work, provider) == 300
        for _ in range(10):
            assert database.as_caller(ANON).call("search_music_knowledge", {"query_text": "text"})
            with pytest.raises(AppError):
                database.call("claim_embeddings", {"collection": "no_such"})
            with pytest.raises(Forbidden):
                database.as_caller(ANON).call("claim_embeddings", {"collection": MUSIC})
        with psycopg.connect(pooled.get_secret_value(), autocommit=True) as other:
            pid = other.execute("select pg_backend_pid()").fetchone()
            assert state(other) == ("postgres", 0, "0", "off", "", 0)
            database.call("embedding_coverage")
            assert other.execute("select pg_backend_pid()").fetchone() == pid, "one connection serves both"
            assert state(other) == ("postgres", 0, "0", "off", "", 0)
            other.execute("create table public.application_own (id int)")


def test_a_repeated_statement_is_never_prepared(database_url: SecretStr, only_one: PgBouncer) -> None:
    pooled = only_one.url(database_url)
    # psycopg prepares a statement that it sends for the sixth time, and the pooler keeps it for other programs.
    with connect(pooled) as owner:
        for number in range(10):
            owner.execute("select %s::int", [number])
    with PostgresDatabase(pooled) as database:
        for number in range(10):
            # A large argument is sent as a parameter, separately from its statement.
            database.call("upsert_datasets", {"rows": [{"external_id": str(number), "title": "t" * 40_000}]})
    with psycopg.connect(pooled.get_secret_value(), autocommit=True, prepare_threshold=None) as other:
        assert state(other) == ("postgres", 0, "0", "off", "", 0)


def test_a_large_argument_sends_nothing_that_has_no_answer(database_url: SecretStr, tmp_path: Path) -> None:
    """A Flush after the last Sync gets no answer, so the pooler would reserve the server's connection for this client."""
    with (tmp_path / "trace").open("w") as trace, PostgresDatabase(database_url, max_connections=1) as database:
        with database.pool.lend("ping_embeddings", {}) as connection:
            connection.pgconn.trace(trace.fileno())
        for _ in range(3):
            database.call("upsert_datasets", {"rows": [{"external_id": "1", "title": "t" * 40_000}]})
        connection.pgconn.untrace()
    sent = [line.split("\t") for line in (tmp_path / "trace").read_text("utf-8").splitlines()]
    kinds = [message[3] for message in sent if message[1] == "F"]
    assert kinds.count("Sync") == 3
    assert "Flush" not in kinds


def state(connection: Connection) -> tuple[object, ...]:
    """The settings, locks and prepared statements that could have stayed on a connection."""
    found = connection.execute(
        "select current_user, (select count(*) from pg_prepared_statements),"
        " current_setting('statement_timeout'), current_setting('transaction_read_only'),"
        " coalesce(current_setting('request.jwt.claims', true), ''),"
        " (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid())"
    ).fetchone()
    assert found is not None
    return found


def test_a_migration_leaves_no_lock_and_no_prepared_statement(cluster: Cluster, only_one: PgBouncer) -> None:
    with cluster.empty() as url:
        migrate(only_one.url(url), seed=True)
        with connect(only_one.url(url)) as other:
            assert state(other) == ("postgres", 0, "0", "off", "", 0)
            assert other.execute("select count(*) from pg_class where relpersistence = 't'").fetchone() == (0,)


def test_a_run_survives_a_restart_of_the_pooler(
    database_url: SecretStr, owner: Connection, cluster: Cluster, pooler: Pooler, mode: str, provider: FakeProvider
) -> None:
    add(owner, *(f"take {number}" for number in range(300)))
    shown: list[int] = []

    def run(database: PostgresDatabase) -> BackfillOutcome:
        options = BackfillOptions(MUSIC, batch_size=5, workers=4, lease_seconds=5)
        return backfill(database, provider, options, on_progress=lambda now: shown.append(now.report.embedded))

    with PgBouncer(cluster.url("postgres"), mode) as pooled, PostgresDatabase(pooled.url(database_url)) as database:
        provider.wire.delay = 0.05
        running = InThread(lambda: run(database))
        restarts = 0
        while running.running and restarts < 2:
            if shown and shown[-1] > 20 * (restarts + 1):
                pooled.stop()
                pooled.start()
                restarts += 1
            time.sleep(0.01)
        assert restarts == 2
        outcome = running.result()
        assert (outcome.error, outcome.left.pending) == (None, 0)
        assert Collection(database, MUSIC).verify_embeddings() == 0
        pooled.stop()
        pooled.start()
        assert database.call("embedding_coverage"), "the first call after a restart"


def test_a_program_waits_for_a_free_connection_where_it_starts(
    database_url: SecretStr, cluster: Cluster, pooler: Pooler, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PgBouncer(cluster.url("postgres"), "transaction", max_client_conn="2") as pooled, ExitStack() as others:
        url = pooled.url(database_url)
        settings = load_settings(database_url=url)
        held = [others.enter_context(connect(url)) for _ in range(2)]
        monkeypatch.setattr(wiring, "_BUSY_RETRIES", RetryPolicy(max_attempts=3, max_seconds=15, base_wait=0.01))
        with pytest.raises(DatabaseBusy, match="no free connection"):
            wiring.get_database(settings)
        with pytest.raises(DatabaseBusy, match="no free connection"):
            wiring.migrate_database(settings)
        monkeypatch.setattr(wiring, "_BUSY_RETRIES", RetryPolicy(max_attempts=1000, max_seconds=15, max_wait=0.1))
        started = InThread(lambda: wiring.get_database(settings, max_connections=1))
        held[0].close()
        with started.result() as database:
            assert database.call("embedding_coverage")


def test_a_pool_whose_connections_are_all_in_use_says_so(
    database_url: SecretStr, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner.execute("create function public.wait() returns int language sql as 'select 1 from pg_advisory_lock(7)'")
    owner.execute("select pg_advisory_lock(7)")
    monkeypatch.setattr("shared.database.postgres.WAIT_FOR_CONNECTION", 0.2)
    with PostgresDatabase(database_url, max_connections=1) as database:
        waiting = InThread(lambda: database.call("wait"))
        wait_until_blocked(owner)
        with pytest.raises(DatabaseBusy, match="all connections to the database are in use"):
            database.call("embedding_coverage")
        owner.execute("select pg_advisory_unlock(7)")
        assert waiting.result() == [1]
