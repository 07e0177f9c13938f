"""Invariant 6: to track a table that is in use does not block its readers and writers for long."""

import threading
import time

import psycopg
import pytest

from shared.database.postgres import PostgresDatabase
from shared.embedding.backfill import BackfillOptions, backfill
from shared.embedding.collection import has_ready_embeddings
from tests.database.rows import LIVE_ROWS as ROWS
from tests.database.rows import Connection, InThread, coverage_of, missing_indexes, wait_until_blocked
from tests.database.test_claim_cost import Connect
from tests.fake_provider import FakeProvider

LONGEST_WRITE = 1.0


def test_a_large_table_is_prepared_by_the_next_backfill(
    live: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    live.execute("select track_embeddings('live', model => 'fake')")
    assert live.execute("select count(*) from live where fts is not null").fetchone() == (0,), "no row was read"
    assert has_ready_embeddings(database)
    # A vector that the table had before it was tracked stays while the text stays, and is cleared when the text changes.
    live.execute("alter table live add column flag int")
    live.execute("update live set flag = 1 where id = 1")
    live.execute("update live set body = 'changed' where id = 2")
    assert live.execute("select embedding is null from live where id <= 2 order by id").fetchall() == [
        (False,),
        (True,),
    ]
    outcome = backfill(database, provider, BackfillOptions("live", batch_size=500))
    assert outcome.complete
    assert (outcome.report.embedded, coverage_of(database, "live").embedded) == (ROWS - 99, ROWS)
    assert live.execute("select count(*) from live where fts is null").fetchone() == (0,)
    assert live.execute("select verify_embeddings('live')").fetchone() == (0,)
    assert missing_indexes(live) == []
    assert not has_ready_embeddings(database)


def test_writers_go_on_while_a_large_table_is_tracked(
    live: Connection, connect: Connect, database: PostgresDatabase, provider: FakeProvider
) -> None:
    writer, done = connect(), threading.Event()

    def write() -> float:
        longest, number = 0.0, 0
        while not done.is_set():
            number += 1
            began = time.monotonic()
            writer.execute("update live set body = %s where id = %s", [f"written {number}", 200 + number % 1000])
            longest = max(longest, time.monotonic() - began)
            done.wait(0.02)
        return longest

    writing = InThread(write)
    try:
        live.execute("select track_embeddings('live', model => 'fake')")
        assert backfill(database, provider, BackfillOptions("live", batch_size=200)).complete
    finally:
        done.set()
    assert writing.result() < LONGEST_WRITE


def test_a_long_transaction_does_not_make_tracking_delay_other_statements(live: Connection, connect: Connect) -> None:
    reader, writer = connect(autocommit=False), connect()
    reader.execute("select count(*) from live")
    tracking = InThread(lambda: live.execute("select track_embeddings('live', model => 'fake')"))
    wait_until_blocked(writer)
    began = time.monotonic()
    writer.execute("update live set body = 'written meanwhile' where id = 300")
    assert time.monotonic() - began < LONGEST_WRITE
    assert tracking.running
    reader.rollback()
    tracking.result()


def test_indexes_of_an_interrupted_build_are_built_again(
    live: Connection, database: PostgresDatabase, provider: FakeProvider, connect: Connect
) -> None:
    live.execute("select track_embeddings('live', model => 'fake')")
    blocker = connect(autocommit=False)
    blocker.execute("update live set body = 'x' where id = 500")
    live.execute("set statement_timeout = '300ms'")
    with pytest.raises(psycopg.errors.QueryCanceled):
        live.execute(missing_indexes(live)[-1].encode())
    blocker.rollback()
    live.execute("reset statement_timeout")
    assert len(missing_indexes(live)) == 4
    assert backfill(database, provider, BackfillOptions("live", batch_size=500, limit=10)).complete
    assert missing_indexes(live) == []


def test_two_sessions_may_track_a_table_at_once(live: Connection, connect: Connect) -> None:
    """Without a lock, both sessions would read the table before one of them locks it."""
    live.execute("update live set embedding = null")
    sessions = [connect(), connect()]
    tracking = [
        InThread(lambda session=session: session.execute("select track_embeddings('live')").fetchone())  # type: ignore[misc]
        for session in sessions
    ]
    assert [one.result() for one in tracking] == [("live",), ("live",)]
    assert live.execute("select count(*) from embedding.collections where name = 'live'").fetchone() == (1,)


def test_a_table_is_untracked_without_a_delay_of_other_statements(live: Connection, connect: Connect) -> None:
    live.execute("select track_embeddings('live', model => 'fake')")
    reader, writer = connect(autocommit=False), connect()
    reader.execute("select count(*) from live")
    untracking = InThread(lambda: live.execute("select untrack_embeddings('live')"))
    wait_until_blocked(writer)
    began = time.monotonic()
    writer.execute("update live set body = 'written meanwhile' where id = 300")
    assert time.monotonic() - began < LONGEST_WRITE
    reader.rollback()
    untracking.result()
