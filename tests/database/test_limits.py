"""Tests the time limits of calls, and that calls of one kind leave connections to the others."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from pydantic import SecretStr

from shared.database.limits import Limits, Shares
from shared.database.postgres import PostgresDatabase
from shared.embedding.collection import embedding_coverage
from shared.errors import DatabaseBusy, DatabaseTimeout
from shared.models import ANON
from tests.database.rows import Connection, add
from tests.drills.harness import wait_until

SHOWN = """
create function public.shown_limits() returns text language sql as
  $$ select current_setting('statement_timeout') || ' ' || current_setting('lock_timeout') $$;
create function public.shown_limits_beside(rows jsonb) returns text language sql as 'select public.shown_limits()';
grant execute on function public.shown_limits, public.shown_limits_beside to anon, service_role;
"""
# These limits are so long that no call reaches them while a test runs.
PATIENT = Limits("60s", "60s")


@pytest.fixture
def patient(database_url: SecretStr) -> Iterator[PostgresDatabase]:
    """A server's database whose calls wait for locks."""
    with PostgresDatabase(database_url, max_connections=16, limits=PATIENT) as database:
        yield database


def test_each_call_has_the_limits_of_its_kind(database_url: SecretStr, owner: Connection) -> None:
    owner.execute(SHOWN)
    with PostgresDatabase(database_url, limits=Limits("21s", "1s")) as database:
        assert database.call_scalar("shown_limits") == "21s 1s"
        assert database.call_scalar("shown_limits_beside", {"rows": [{"text": "x" * 50_000}]}) == "21s 1s"
        assert database.as_caller(ANON).call_scalar("shown_limits") == "8s 2s"
        assert database.for_work().call_scalar("shown_limits") == "10min 1min"
    with PostgresDatabase(database_url) as unlimited:
        assert unlimited.call_scalar("shown_limits") == "0 0"
        assert unlimited.for_work().call_scalar("shown_limits") == "0 0"


def test_a_locked_table_ends_a_call_at_its_limit(database_url: SecretStr, owner: Connection) -> None:
    with PostgresDatabase(database_url, limits=Limits("60s", "50ms")) as database, owner.transaction():
        owner.execute("lock table music_knowledge in access exclusive mode")
        with pytest.raises(DatabaseTimeout):
            embedding_coverage(database)


def test_calls_that_wait_for_a_lock_leave_connections_to_searches(patient: PostgresDatabase, owner: Connection) -> None:
    """45 calls with the key and 45 searches of the locked table wait, and a search of another table is answered."""
    add(owner, "a violin")
    callers = patient.as_caller(ANON)
    with ThreadPoolExecutor(90) as pool, owner.transaction():
        owner.execute("lock table music_knowledge in access exclusive mode")
        waiting = [pool.submit(embedding_coverage, patient) for _ in range(45)]
        waiting += [pool.submit(callers.call, "search_music_knowledge", {"query_text": "violin"}) for _ in range(45)]
        # The searches may use half of the 16 connections, and the other calls six.
        assert wait_until(lambda: blocked(owner) == 14)
        assert callers.call("search_datasets", {"query_text": "violin"}) == []
        assert patient.call_scalar("ping_embeddings") is True
        assert not any(one.done() for one in waiting[:45])
    for one in waiting[45:]:
        # The calls of a caller wait two seconds for a lock.
        assert isinstance(one.exception(), DatabaseTimeout | DatabaseBusy | None)


def blocked(owner: Connection) -> int:
    # Within a transaction the view does not change by itself.
    owner.execute("select pg_stat_clear_snapshot()")
    row = owner.execute(
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    ).fetchone()
    assert row is not None
    return int(row[0])


def test_a_kind_of_call_waits_for_its_share_and_releases_it() -> None:
    shares = Shares(16)
    held, holding = threading.Event(), threading.Semaphore(0)
    with ThreadPoolExecutor(7) as pool:

        def hold() -> None:
            with shares.share("embedding_coverage", {}, 5):
                holding.release()
                held.wait(30)

        running = [pool.submit(hold) for _ in range(6)]
        assert all(holding.acquire(timeout=30) for _ in running)
        with pytest.raises(DatabaseBusy), shares.share("list_embedding_runs", {}, 0.01):
            pass
        waiting = pool.submit(hold)
        with shares.share("search_datasets", {}, 0.01), shares.share("collection_models", {"collection": "x"}, 0.01):
            held.set()
        for one in running:
            one.result()
        waiting.result()


def test_a_name_with_its_schema_has_the_same_share() -> None:
    shares = Shares(16)
    with ExitStack() as stack:
        for name in ("songs", "public.songs") * 4:
            stack.enter_context(shares.share("collection_models", {"collection": name}, 1))
        with pytest.raises(DatabaseBusy), shares.share("collection_models", {"collection": "songs"}, 0.01):
            pass
