"""Tests that a table that was large when it was tracked is prepared in batches, and that an interruption does no harm."""

import time
from collections.abc import Callable

import pytest
from pydantic import SecretStr

from shared.database.postgres import PostgresDatabase
from shared.embedding.backfill import BackfillOptions, BackfillOutcome, backfill
from shared.embedding.collection import Collection
from shared.errors import NotFound
from tests.database.rows import LIVE_ROWS, Connection, InThread, coverage_of, missing_indexes, wait_until_blocked
from tests.database.test_claim_cost import Connect
from tests.database.test_poolers import Pooler
from tests.fake_provider import FakeProvider


@pytest.fixture
def tracked(live: Connection) -> Connection:
    live.execute("select track_embeddings('live', model => 'fake')")
    return live


def embed(database: PostgresDatabase, provider: FakeProvider, **options: object) -> BackfillOutcome:
    return backfill(database, provider, BackfillOptions("live", batch_size=500, **options))  # type: ignore[arg-type]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def prepared_to(owner: Connection) -> tuple[object, ...] | None:
    return owner.execute("select preparing, prepared_to from embedding.collections where name = 'live'").fetchone()


def test_a_batch_starts_where_the_last_one_ended(tracked: Connection, database: PostgresDatabase) -> None:
    """This is true after a crash, and with several backfills at once."""
    one, other = Collection(database, "live"), Collection(database, "live")
    assert one.queue_missing_rows(None, 150)["last_id"] == "150"
    found = other.queue_missing_rows(None, 150)
    assert (found["last_id"], found["queued"], found["preparing"]) == ("300", 150, True)
    assert tracked.execute("select count(*) from live where fts is not null").fetchone() == (300,)
    assert tracked.execute("select count(*) from live where embedding_model = 'fake'").fetchone() == (100,)


def test_a_batch_does_not_wait_for_the_batch_of_another_backfill(
    tracked: Connection, connect: Connect, database: PostgresDatabase
) -> None:
    other = connect(autocommit=False)
    other.execute("select * from reconcile_embeddings('live', null, 150)")
    found = Collection(database, "live").queue_missing_rows(None, 150)
    assert (found["queued"], found["last_id"], found["preparing"]) == (0, None, True)
    assert prepared_to(tracked) == (True, None)
    other.commit()
    assert prepared_to(tracked) == (True, "150")


def test_tracking_again_prepares_from_the_first_row(
    tracked: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    work = Collection(database, "live")
    work.queue_missing_rows(None, 1000)
    tracked.execute("select track_embeddings('live', model => 'fake')")
    assert prepared_to(tracked) == (True, None)
    # A run that would now read pending rows after a key prepares the table first.
    assert work.queue_missing_rows("5000", 10)["last_id"] == "10"
    assert embed(database, provider).complete
    assert prepared_to(tracked) == (False, None)


def test_rows_written_while_a_table_is_prepared_are_embedded(
    tracked: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    Collection(database, "live").queue_missing_rows(None, 1000)
    tracked.execute("insert into live (id, body) values (-1, 'before the prepared rows'), (100000, 'after them')")
    tracked.execute("update live set id = -id, body = 'moved' where id = 5000")
    tracked.execute("delete from live where id = 6000")
    assert embed(database, provider).complete
    assert (coverage_of(database, "live").pending, coverage_of(database, "live").embedded) == (0, LIVE_ROWS + 1)
    assert tracked.execute("select verify_embeddings('live')").fetchone() == (0,)
    assert tracked.execute("select count(*) from live where fts is null").fetchone() == (0,)


def test_a_locked_row_delays_neither_other_writers_nor_other_rows(
    tracked: Connection, connect: Connect, database: PostgresDatabase, provider: FakeProvider
) -> None:
    holder, writer = connect(autocommit=False), connect()
    holder.execute("select from live where id = 50 for update")
    running = InThread(lambda: embed(database, provider))
    wait_until_blocked(writer)
    writer.execute("set statement_timeout = '1s'")
    writer.execute("update live set body = 'a new text' where id in (3, 700)")
    wait_until(lambda: coverage_of(database, "live").pending == LIVE_ROWS - 101)
    assert running.running, "the run waits for the locked row"
    holder.rollback()
    assert running.result().complete
    assert tracked.execute("select embedding_model from live where id = 50").fetchone() == ("fake",)
    assert tracked.execute("select verify_embeddings('live')").fetchone() == (0,)


def test_no_search_compares_a_vector_with_a_text_that_changed_while_the_table_was_untracked(
    tracked: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    embed(database, provider)
    tracked.execute("select untrack_embeddings('live')")
    tracked.execute("update live set body = 'quite another text' where id = 7")
    tracked.execute("select track_embeddings('live', model => 'fake')")
    semantic = "select row_id, cosine from embedding.search_hits('live', query_embedding => %s, match_count => 200)"
    hybrid = "select cosine from embedding.search_hits('live', 'another', %s) where row_id = '7'"
    vector = [str(provider.embed_documents(["word7 " * 40])[0].tolist())]
    assert tracked.execute(semantic, vector).fetchall() == [], "no vector was compared with its text yet"
    Collection(database, "live").queue_missing_rows(None, 50)
    found = dict(tracked.execute(semantic, vector).fetchall())
    assert found.keys() == {str(number) for number in range(1, 51) if number != 7}
    assert tracked.execute(hybrid, vector).fetchall() == [(None,)], "found by its new words"
    assert embed(database, provider).report.embedded == 1
    assert tracked.execute(semantic, vector).fetchall() != []


def test_a_row_that_cannot_be_read_does_not_end_the_preparation(
    live: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    """Row 20 has a vector, row 200 has none."""
    live.execute(
        "create or replace function embedding.document_text(t live) returns text language sql immutable"
        " as $$ select t.body || left((1 / nullif(mod(t.id - 20, 180), t.id))::text, 0) $$"
    )
    live.execute("delete from live where mod(id - 20, 180) = 0 and id > 200")
    live.execute("select track_embeddings('live', model => 'fake')")
    outcome = embed(database, provider)
    assert outcome.left.failed == 1
    assert live.execute("select array_agg(id order by id) from live where embedding_model is null").fetchone() == (
        [20, 200],
    )
    assert live.execute("select count(*) from live where fts is null").fetchone() == (1,)
    assert prepared_to(live) == (False, None)
    assert live.execute("select row_id from mismatched_embeddings('live')").fetchall() == [("20",)]


def test_a_vector_of_another_width_than_its_model_ends_the_run(
    live: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    live.execute("alter table live alter embedding type extensions.vector")
    live.execute("update live set embedding = '[1,2,3]' where id = 60")
    live.execute("select track_embeddings('live', model => 'fake')")
    outcome = embed(database, provider)
    assert outcome.error is not None
    assert 'embedding of row "60" in live has 3 dimensions, model "fake" has 16' in outcome.error.message
    assert provider.wire.requests == [], "nothing is paid before"


def test_a_table_can_be_untracked_while_it_is_prepared(
    tracked: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    running = InThread(lambda: embed(database, provider))
    wait_until(lambda: prepared_to(tracked) != (True, None))
    tracked.execute("select untrack_embeddings('live')")
    assert isinstance(running.result().error, NotFound)
    assert tracked.execute("select count(*) from embedding.queue").fetchone() == (0,)


def test_an_existing_index_with_another_name_is_not_built_again(
    live: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    live.execute("alter table live add column fts tsvector; create index words on live using gin (fts)")
    live.execute("select track_embeddings('live', model => 'fake')")
    assert [statement.split(" on ")[0] for statement in missing_indexes(live)] == [
        "create index concurrently live_embedding_pending_idx",
        "create index concurrently live_embedding_hash_idx",
    ]
    embed(database, provider)
    live.execute("alter table live rename to renamed")
    assert missing_indexes(live) == []


def test_a_long_transaction_delays_the_indexes_and_not_the_run(
    tracked: Connection,
    connect: Connect,
    database: PostgresDatabase,
    provider: FakeProvider,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shared.embedding.missing_rows.INDEX_WAIT", 0.5)
    old = connect(autocommit=False)
    old.execute("set transaction isolation level repeatable read")
    old.execute("select 1 from live limit 1")
    assert embed(database, provider).complete
    assert missing_indexes(tracked) != []
    old.rollback()
    wait_until(lambda: missing_indexes(tracked) == [])


def test_through_a_pooler_the_indexes_are_left_to_the_owner(
    tracked: Connection,
    pooler: Pooler,
    database_url: SecretStr,
    database: PostgresDatabase,
    provider: FakeProvider,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with PostgresDatabase(pooler("transaction").url(database_url)) as pooled:
        assert backfill(pooled, provider, BackfillOptions("live", batch_size=500)).complete
    assert "create index concurrently live_embedding_pending_idx on public.live" in caplog.text
    assert len(missing_indexes(tracked)) == 3
    assert coverage_of(database, "live").pending == 0
    assert tracked.execute("select count(*) from pg_locks where locktype = 'advisory'").fetchone() == (0,)
    tracked.execute("set session_replication_role = replica")
    tracked.execute("insert into live (id, body) values (100000, 'written without the triggers')")
    assert embed(database, provider).report.embedded == 1
