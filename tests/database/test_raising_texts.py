"""Invariant 5: a `document_text` that raises never fails the user's own statement; the row is marked as failed."""

import pytest

from shared.database.postgres import PostgresDatabase
from shared.embedding.backfill import BackfillOptions, backfill
from shared.embedding.collection import Collection
from tests.database.rows import Connection, queued
from tests.fake_provider import FakeProvider

ERROR = "embedding.document_text: division by zero (SQLSTATE 22012)"


@pytest.fixture(params=["computed", "generated"])
def prices(owner: Connection, request: pytest.FixtureRequest) -> Connection:
    """A tracked table whose document_text raises an error for the price 0. A trigger computes fts, or it is generated."""
    fts = (
        ", fts tsvector generated always as (to_tsvector('english', t)) stored" if request.param == "generated" else ""
    )
    owner.execute(f"""
        create table prices (id int primary key, t text, price numeric default 1, likes int default 0{fts});
        create function embedding.document_text(b prices) returns text language sql immutable
          as $$ select b.t || ' costs ' || (10 / b.price)::text $$;
        select track_embeddings('prices');
    """)
    return owner


def failures(owner: Connection) -> dict[str, str]:
    return dict(
        owner.execute("select row_id, error from list_failed_embeddings('prices')").fetchall()  # type: ignore[arg-type]
    )


def test_an_insert_stores_all_rows_and_marks_the_bad_one(
    prices: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    prices.execute("insert into prices values (3, 'fine', 2), (4, 'boom', 0), (5, 'good', 1)")
    assert failures(prices) == {"4": ERROR}
    assert queued(prices, "prices") == {"3", "4", "5"}
    outcome = backfill(database, provider, BackfillOptions("prices"))
    assert (outcome.report.embedded, outcome.left.failed, outcome.error) == (2, 1, None)
    found = prices.execute("select row_id from embedding.search_hits('prices', 'fine good')").fetchall()
    assert sorted(found) == [("3",), ("5",)]


def test_an_update_stores_the_row_clears_its_vector_and_a_new_text_is_retried(
    prices: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    prices.execute("insert into prices values (1, 'one'), (2, 'two')")
    backfill(database, provider, BackfillOptions("prices"))
    prices.execute("update prices set price = 0 where id = 1")
    assert failures(prices) == {"1": ERROR}
    state = "select id, price = 0, embedding is null from prices order by id"
    assert prices.execute(state).fetchall() == [(1, True, True), (2, False, False)]
    prices.execute("update prices set likes = 1")
    assert failures(prices) == {"1": ERROR}, "its text has not changed"
    assert backfill(database, provider, BackfillOptions("prices")).report.embedded == 0
    prices.execute("update prices set price = 5 where id = 1")
    assert failures(prices) == {}
    assert backfill(database, provider, BackfillOptions("prices")).report.embedded == 1
    assert prices.execute("select row_id from embedding.search_hits('prices', 'one')").fetchall() == [("1",)]
    assert Collection(database, "prices").verify_embeddings() == 0


def test_copy_upsert_and_a_large_statement_store_all_rows(prices: Connection) -> None:
    with prices.cursor().copy("copy prices (id, t, price) from stdin") as copy:
        for number in range(1, 2001):
            copy.write_row((number, f"text {number}", number % 1000))
    assert failures(prices) == {"1000": ERROR, "2000": ERROR}
    assert len(queued(prices, "prices")) == 2000
    prices.execute(
        "insert into prices (id, t, price) values (1000, 'a', 1), (1, 'b', 0), (3000, 'c', 2)"
        " on conflict (id) do update set t = excluded.t, price = excluded.price"
    )
    assert failures(prices) == {"1": ERROR, "2000": ERROR}
    assert prices.execute("select count(*) from prices").fetchone() == (2001,)
    prices.execute("delete from prices")
    assert queued(prices, "prices") == set()


def test_a_vector_written_with_a_text_that_raises_is_not_kept(prices: Connection) -> None:
    prices.execute("select register_embedding_model('tiny', 'test', 2)")
    prices.execute(
        "insert into prices (id, t, price, embedding, embedding_model)"
        " values (1, 'a', 0, '[1, 2]', 'tiny'), (2, 'b', 1, '[1, 2]', 'tiny')"
    )
    assert prices.execute("select id from prices where embedding is not null").fetchall() == [(2,)]
    assert failures(prices) == {"1": ERROR}


def test_a_function_that_raises_for_each_row_fails_no_statement(
    prices: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    prices.execute("create table words (w text)")
    prices.execute(
        "create or replace function embedding.document_text(b prices) returns text language plpgsql stable"
        " as $$ begin return b.t || (select count(*) from public.words); end $$; grant select on words to service_role"
    )
    prices.execute("drop table words")
    prices.execute("insert into prices values (1, 'one'), (2, 'two')")
    assert failures(prices) == {}, "the cause is not a row"
    prices.execute("create table words (w text); grant select on words to service_role")
    assert backfill(database, provider, BackfillOptions("prices")).report.embedded == 2


def test_a_lack_of_space_still_fails_the_statement(prices: Connection) -> None:
    """Its cause is not a row, and a later attempt may succeed."""
    prices.execute(
        "create or replace function embedding.document_text(b prices) returns text language plpgsql stable"
        " as $$ begin raise exception 'no space left' using errcode = '53100'; end $$"
    )
    with pytest.raises(Exception, match="no space left"):
        prices.execute("insert into prices values (1, 'one')")


def test_a_single_insert_takes_one_transaction_id(prices: Connection) -> None:
    """A PL/pgSQL block that writes would take another transaction id for each statement."""
    taken = []
    for number in range(1, 6):
        before = prices.execute("select pg_current_xact_id()::text::bigint").fetchone()
        prices.execute("insert into prices values (%s, 'one')", [number])
        after = prices.execute("select pg_current_xact_id()::text::bigint").fetchone()
        assert before
        assert after
        taken.append(int(str(after[0])) - int(str(before[0])) - 1)
    # Other sessions of the server, such as autovacuum, take some too.
    assert min(taken) == 1
