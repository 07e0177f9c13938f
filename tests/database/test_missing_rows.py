"""Invariant 3: a run that ends with exit code 0 has looked at the rows, not only at the queue."""

import pytest

from shared.database.postgres import PostgresDatabase
from shared.embedding.backfill import BackfillOptions, BackfillOutcome, backfill
from shared.embedding.collection import Collection, has_ready_embeddings
from tests.database.rows import MUSIC, Connection, add, coverage_of, queued
from tests.database.test_claim_cost import Connect, watch
from tests.fake_provider import FakeProvider

NOTES = """
    create table slipped (id bigint primary key, body text);
    create function embedding.document_text(s slipped) returns text language sql immutable as $$ select nullif(s.body, '') $$;
"""


def embed(database: PostgresDatabase, provider: FakeProvider, collection: str = "slipped") -> BackfillOutcome:
    return backfill(database, provider, BackfillOptions(collection))


def write_without_triggers(owner: Connection, statement: str) -> None:
    owner.execute("set session_replication_role = replica")
    owner.execute(statement)
    owner.execute("reset session_replication_role")


def test_rows_written_with_triggers_off_are_embedded_by_the_next_run(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    owner.execute(NOTES)
    owner.execute("select track_embeddings('slipped')")
    owner.execute("insert into slipped values (1, 'seen')")
    write_without_triggers(
        owner, "insert into slipped select n, 'replicated number ' || n from generate_series(2, 40) n"
    )
    write_without_triggers(owner, "insert into slipped values (41, ''), (42, null)")
    outcome = embed(database, provider)
    assert (outcome.complete, outcome.report.embedded) == (True, 40)
    assert coverage_of(database, "slipped").pending == 0
    found = owner.execute("select count(*) from embedding.search_hits('slipped', 'replicated', match_count => 100)")
    assert found.fetchone() == (39,), "their fts is filled"
    assert owner.execute("select verify_embeddings('slipped')").fetchone() == (0,)
    assert embed(database, provider).report.processed == 0


def test_rows_of_all_batches_are_found(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.embedding.missing_rows.QUEUE_AHEAD", 1500)
    owner.execute(NOTES)
    owner.execute("select track_embeddings('slipped')")
    write_without_triggers(
        owner,
        "insert into slipped select n, case when n % 3 = 0 then 'same' else '' end from generate_series(1, 7000) n",
    )
    assert embed(database, provider).report.embedded == 2333


def test_the_schedule_finds_rows_written_with_triggers_off(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    owner.execute(NOTES)
    owner.execute("select track_embeddings('slipped')")
    write_without_triggers(owner, "insert into slipped values (1, '')")
    assert not has_ready_embeddings(database), "a row without a text"
    write_without_triggers(owner, "insert into slipped values (2, 'a text')")
    assert has_ready_embeddings(database)
    embed(database, provider)
    assert not has_ready_embeddings(database)


def test_a_row_whose_text_cannot_be_read_fails_alone(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    owner.execute("create table slipped (id int primary key, body text)")
    owner.execute(
        "create function embedding.document_text(s slipped) returns text language sql stable"
        " as $$ select s.body || (1 / (s.id - 2))::text $$"
    )
    owner.execute("select track_embeddings('slipped')")
    write_without_triggers(owner, "insert into slipped select n, 'text ' || n from generate_series(1, 5) n")
    outcome = embed(database, provider)
    assert (outcome.report.embedded, outcome.left.failed) == (4, 1)


def test_pending_rows_are_found_by_their_index(owner: Connection, connect: Connect, work: Collection) -> None:
    """The index is used even if the statistics are from a time when every row was pending."""
    owner.execute("alter table music_knowledge disable trigger user")
    owner.execute(
        "insert into music_knowledge (topic, content) select '', 'text ' || n from generate_series(1, 20000) n"
    )
    owner.execute("analyze music_knowledge")
    owner.execute("select register_embedding_model('fake', 'fake', 16)")
    owner.execute(
        "update music_knowledge set embedding = array_fill(1::float4, array[16])::extensions.vector, embedding_model = 'fake'"
    )
    slipped = add(owner, "slipped past")
    owner.execute("alter table music_knowledge enable trigger user")
    worker = connect(autocommit=False)
    worker.execute("set role service_role")
    worker.execute("select * from reconcile_embeddings('music_knowledge', null, 1000)")
    worker.rollback()
    with watch(worker, MUSIC) as table:
        assert worker.execute("select has_ready_embeddings()").fetchone() == (True,)
        found = worker.execute(
            "select queued, last_id from reconcile_embeddings('music_knowledge', null, 1000)"
        ).fetchall()
    assert found == [(1, slipped[0])]
    worker.commit()
    assert queued(owner) == set(slipped)
    assert (table.sequential, table.indexed < 100) == (0, True), table.by_index


def test_a_transaction_that_holds_a_row_does_not_delay_the_other_rows(
    owner: Connection, connect: Connect, database: PostgresDatabase, provider: FakeProvider
) -> None:
    owner.execute(NOTES)
    owner.execute("select track_embeddings('slipped')")
    write_without_triggers(owner, "insert into slipped select n, 'text ' || n from generate_series(1, 5) n")
    holder = connect(autocommit=False)
    holder.execute("update slipped set body = 'another' where id = 3")
    assert embed(database, provider).report.embedded == 4
    holder.commit()
    assert queued(owner, "slipped") == {"3"}
    assert embed(database, provider).report.embedded == 1
    assert owner.execute("select count(*) from slipped where fts is null").fetchone() == (0,)


def test_has_ready_embeddings_reads_as_few_blocks_of_a_large_table(owner: Connection) -> None:
    owner.execute(NOTES)
    owner.execute("select track_embeddings('slipped'), register_embedding_model('fake', 'fake', 2)")
    read = []
    for first, last in ((1, 100), (101, 20_000)):
        owner.execute("set session_replication_role = replica")
        owner.execute(
            "insert into slipped (id, body, embedding, embedding_model)"
            " select n, 'text', '[1,2]', 'fake' from generate_series(%s::int, %s::int) n",
            [first, last],
        )
        owner.execute("update slipped set embedding = null, body = '' where mod(id, 10) = 0")
        owner.execute("reset session_replication_role")
        owner.execute("vacuum analyze slipped")
        assert owner.execute("select has_ready_embeddings()").fetchone() == (False,)
        plan = owner.execute("explain (analyze, buffers, format json) select has_ready_embeddings()").fetchone()
        assert plan is not None
        read.append(plan[0][0]["Plan"]["Shared Hit Blocks"] + plan[0][0]["Plan"]["Shared Read Blocks"])
    assert read[1] < read[0] + 20, read
