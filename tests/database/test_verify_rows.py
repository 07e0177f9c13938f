"""Tests that `--verify` and `--repair` find what was written without the triggers: vectors, queue entries and fts."""

import pytest

from shared.database.postgres import PostgresDatabase
from shared.embedding.backfill import BackfillOptions, backfill
from shared.embedding.collection import Collection, has_ready_embeddings
from tests.database.rows import Connection, add, queued
from tests.fake_provider import FakeProvider


@pytest.fixture
def pages(owner: Connection, database: PostgresDatabase, provider: FakeProvider) -> Collection:
    """A tracked table whose fts a trigger computes, with three embedded rows."""
    owner.execute("create table pages (id int primary key, body text)")
    owner.execute("create function embedding.document_text(p pages) returns text language sql immutable return p.body")
    owner.execute("select track_embeddings('pages')")
    owner.execute("insert into pages values (1, 'harps'), (2, 'drums'), (3, 'organs')")
    backfill(database, provider, BackfillOptions("pages"))
    return Collection(database, "pages")


def without_triggers(owner: Connection, statement: str) -> None:
    owner.execute("set session_replication_role = replica")
    owner.execute(statement)
    owner.execute("reset session_replication_role")


def reasons(work: Collection) -> dict[str, str]:
    return {row["row_id"]: row["reason"] for row in work.mismatched_embeddings()}


def found(owner: Connection, query: str) -> list[str]:
    return [str(row[0]) for row in owner.execute("select row_id from embedding.search_hits('pages', %s)", [query])]


def test_rows_that_no_queue_lists_are_counted_and_queued(
    owner: Connection, pages: Collection, provider: FakeProvider
) -> None:
    without_triggers(owner, "insert into pages values (4, 'flutes'), (5, ''), (6, null)")
    assert reasons(pages)["4"] == "the row has no vector and no queue lists it"
    # The fts of the other rows is missing, too.
    assert pages.verify_embeddings() == 3
    assert pages.repair_embeddings() == 3
    assert queued(owner, "pages") == {"4"}
    assert pages.verify_embeddings() == 0
    assert found(owner, "flute") == ["4"]
    assert backfill(pages.database, provider, BackfillOptions("pages")).report.embedded == 1


def test_an_edit_without_triggers_is_repaired_with_its_fts(
    owner: Connection, pages: Collection, provider: FakeProvider
) -> None:
    without_triggers(owner, "update pages set body = 'flutes' where id = 1")
    assert reasons(pages) == {"1": "the vector belongs to another text"}
    assert found(owner, "harp") == ["1"]
    assert pages.repair_embeddings() == 1
    assert pages.verify_embeddings() == 0
    assert (found(owner, "harp"), found(owner, "flute")) == ([], ["1"])
    assert backfill(pages.database, provider, BackfillOptions("pages")).report.embedded == 1


@pytest.mark.parametrize("fts", ["null", "to_tsvector('other words')"])
def test_fts_of_an_embedded_row_is_repaired_and_its_vector_kept(
    owner: Connection, pages: Collection, provider: FakeProvider, fts: str
) -> None:
    sent = len(provider.wire.texts)
    without_triggers(owner, f"update pages set fts = {fts} where id = 2")
    assert reasons(pages) == {"2": "fts does not belong to the text"}
    assert pages.repair_embeddings() == 1
    assert pages.verify_embeddings() == 0
    assert found(owner, "drum") == ["2"]
    assert backfill(pages.database, provider, BackfillOptions("pages")).report.processed == 0
    assert len(provider.wire.texts) == sent


def test_rows_of_a_lost_queue_are_counted(owner: Connection, work: Collection) -> None:
    add(owner, "one", "two", "")
    owner.execute("truncate embedding.queue")
    assert work.verify_embeddings() == 2
    assert work.repair_embeddings() == 2
    assert (work.verify_embeddings(), work.embedding_queue().ready) == (0, 2)


LEASES = {
    "a lease that was renewed": "leased_at = now() + interval '1 day', available_at = now() + interval '1 day 1 minute'",
    "a lease": "leased_at = now() + interval '3 hours', available_at = now() + interval '181 minutes'",
    "a wait for the next attempt": "leased_at = null, available_at = now() + interval '1 day'",
}


@pytest.mark.parametrize("name", LEASES)
def test_a_lease_of_a_clock_that_was_ahead_has_ended(
    owner: Connection, database: PostgresDatabase, work: Collection, provider: FakeProvider, name: str
) -> None:
    add(owner, "one", "two")
    owner.execute(f"update embedding.queue set attempts = 1, {LEASES[name]}")
    assert has_ready_embeddings(database), "the schedule starts a run"
    outcome = backfill(database, provider, BackfillOptions("music_knowledge"))
    assert (outcome.report.embedded, outcome.left.pending) == (2, 0)


def test_a_long_lease_and_a_long_wait_are_kept(
    owner: Connection, database: PostgresDatabase, work: Collection, provider: FakeProvider
) -> None:
    add(owner, "one", "two")
    work.claim_embeddings(1, 80_000)
    owner.execute("update embedding.queue set available_at = now() + interval '59 minutes' where leased_at is null")
    assert not has_ready_embeddings(database)
    options = BackfillOptions("music_knowledge", wait_for_others=False)
    assert backfill(database, provider, options).report.processed == 0


def test_a_renamed_table_and_another_under_its_old_name_are_both_tracked(
    owner: Connection, database: PostgresDatabase, pages: Collection, provider: FakeProvider
) -> None:
    owner.execute("alter table pages rename to old_pages")
    owner.execute("create table pages (id int primary key, body text)")
    owner.execute("create function embedding.document_text(p pages) returns text language sql immutable return p.body")
    assert owner.execute("select track_embeddings('pages')").fetchone() == ("pages",)
    owner.execute("insert into pages values (1, 'violins')")
    owner.execute("insert into old_pages values (4, 'flutes')")
    for name in ("pages", "old_pages"):
        assert backfill(database, provider, BackfillOptions(name)).report.embedded == 1
        assert Collection(database, name).verify_embeddings() == 0
        assert owner.execute("select embedding.missing_indexes(%s)", [name]).fetchall() == []
    # They exchange their names.
    owner.execute(
        "alter table pages rename to a; alter table old_pages rename to pages; alter table a rename to old_pages"
    )
    assert owner.execute("select track_embeddings('pages')").fetchone() == ("pages",)
    named = "select name = source::text from embedding.tracked_tables where name like '%pages'"
    assert owner.execute(named).fetchall() == [(True,), (True,)]
    owner.execute("insert into pages values (5, 'bells')")
    assert backfill(database, provider, BackfillOptions("pages")).report.embedded == 1


def test_a_vector_that_was_removed_without_triggers_is_made_again(
    owner: Connection, database: PostgresDatabase, pages: Collection, provider: FakeProvider
) -> None:
    """Its hash and model are still there."""
    without_triggers(owner, "update pages set embedding = null where id = 1")
    outcome = backfill(database, provider, BackfillOptions("pages"))
    assert (outcome.report.embedded, outcome.left.failed, outcome.left.waiting) == (1, 0, 0)
    assert provider.wire.texts.count("harps") == 2
    assert pages.verify_embeddings() == 0


ENTRIES = {
    "failed": "failed_at = now(), error = 'refused', attempts = 5",
    "waiting": "available_at = now() + interval '30 minutes', attempts = 2",
    "leased": "leased_at = now(), available_at = now() + interval '20 hours'",
}


@pytest.mark.parametrize("state", ENTRIES)
def test_an_entry_of_an_old_queue_that_no_row_needs_is_removed(
    owner: Connection, database: PostgresDatabase, pages: Collection, provider: FakeProvider, state: str
) -> None:
    owner.execute("insert into pages values (4, 'flutes')")
    owner.execute(
        "insert into embedding.queue select id, n::text from embedding.collections, unnest('{1, 99}'::int[]) n"
        " where name = 'pages'"
    )
    owner.execute(f"update embedding.queue set {ENTRIES[state]}")
    too_many = "the queue lists the row as failed, waiting or leased, but it needs no vector or does not exist"
    assert reasons(pages) == {"1": too_many, "99": too_many}
    assert (pages.verify_embeddings(), pages.repair_embeddings()) == (2, 2)
    assert (pages.verify_embeddings(), queued(owner, "pages")) == (0, {"4"}), "row 4 needs its entry"
    pages.retry_failed_embeddings()
    owner.execute("update embedding.queue set leased_at = null, available_at = now()")
    outcome = backfill(database, provider, BackfillOptions("pages"))
    assert (outcome.report.embedded, outcome.left.failed) == (1, 0)


def test_an_old_entry_of_a_row_with_a_vector_of_a_former_text_does_not_hold_it_up(
    owner: Connection, database: PostgresDatabase, pages: Collection, provider: FakeProvider
) -> None:
    without_triggers(owner, "update pages set body = 'flutes' where id = 1")
    owner.execute(
        "insert into embedding.queue (collection_id, row_id, failed_at, attempts)"
        " select id, '1', now(), 5 from embedding.collections where name = 'pages'"
    )
    pages.repair_embeddings()
    assert pages.verify_embeddings() == 0
    outcome = backfill(database, provider, BackfillOptions("pages"))
    assert (outcome.report.embedded, outcome.left.failed) == (1, 0)


BROUGHT = """
    insert into pages (id, body, embedding, embedding_model)
    values (4, 'flutes', array_fill(1::float4, array[3])::extensions.vector, 'my-clip')
"""


def test_a_vector_without_a_hash_is_kept(
    owner: Connection, database: PostgresDatabase, pages: Collection, provider: FakeProvider
) -> None:
    """As when it is written with the triggers: it belongs to the text that was written with it."""
    owner.execute("select register_embedding_model('my-clip', 'mine', 3)")
    without_triggers(owner, BROUGHT)
    without_triggers(owner, "update pages set embedding_hash = null where id = 1")
    without_hash = "the vector has no hash of its text"
    assert reasons(pages) == {"1": without_hash, "4": without_hash}
    before = owner.execute("select id, embedding::text, embedding_model from pages order by id").fetchall()
    assert (pages.repair_embeddings(), pages.verify_embeddings()) == (2, 0)
    assert owner.execute("select id, embedding::text, embedding_model from pages order by id").fetchall() == before
    assert owner.execute("select count(embedding_hash) from pages").fetchone() == (4,)
    assert found(owner, "flute") == ["4"], "its fts is filled"
    assert backfill(database, provider, BackfillOptions("pages")).report.processed == 0


@pytest.mark.parametrize("first", [True, False])
def test_a_vector_of_a_model_that_is_not_registered_is_kept(
    owner: Connection, database: PostgresDatabase, pages: Collection, provider: FakeProvider, first: bool
) -> None:
    """Restored from the dump of a table of which only the rows were dumped; `first`: before any backfill."""
    if first:
        owner.execute("update pages set embedding = null; update embedding.collections set model = null")
    without_triggers(owner, BROUGHT)
    unregistered = "embedding_model is not a registered model: register it, or set embedding to null"
    assert reasons(pages)["4"] == unregistered
    pages.repair_embeddings()
    backfill(database, provider, BackfillOptions("pages"))
    assert pages.reconcile_embeddings() == 0
    # An old queue lists the row.
    owner.execute("insert into embedding.queue select id, '4' from embedding.collections where name = 'pages'")
    backfill(database, provider, BackfillOptions("pages"))
    assert reasons(pages) == {"4": unregistered}
    (named,) = database.call("claim_embedding_rows", {"collection": "pages", "row_ids": ["4"]})
    assert named["state"] == "embedded"
    assert queued(owner, "pages") == set()
    assert "flutes" not in provider.wire.texts
    owner.execute("select register_embedding_model('my-clip', 'mine', 3)")
    pages.repair_embeddings()
    assert pages.verify_embeddings() == 0
    assert owner.execute("select embedding::text, embedding_model from pages where id = 4").fetchone() == (
        "[1,1,1]",
        "my-clip",
    )
    assert backfill(database, provider, BackfillOptions("pages")).left.foreign_vectors == {"my-clip": 1}


def test_a_repair_keeps_the_vectors_of_a_table_that_is_still_being_prepared(
    owner: Connection, database: PostgresDatabase, pages: Collection
) -> None:
    """A large table that had vectors before it was tracked: they get the collection's model at the end."""
    without_triggers(owner, "update pages set embedding_model = null, embedding_hash = null")
    owner.execute("update embedding.collections set preparing = true where name = 'pages'")
    assert (pages.verify_embeddings(), pages.repair_embeddings()) == (0, 0)
    assert owner.execute("select count(embedding) from pages").fetchone() == (3,)


def test_an_entry_of_a_row_that_was_written_after_it_was_listed_stays(
    owner: Connection, database: PostgresDatabase, pages: Collection
) -> None:
    owner.execute("insert into embedding.queue select id, '1' from embedding.collections where name = 'pages'")
    owner.execute("update embedding.queue set failed_at = now()")
    assert list(reasons(pages)) == ["1"]
    remove = "select embedding.remove_entries(embedding.get_collection('pages'), '{1}')"
    owner.execute("update pages set body = 'lutes' where id = 1")
    owner.execute("update embedding.queue set leased_at = now(), available_at = now() + interval '1 minute'")
    assert owner.execute(remove).fetchone() == (0,)
    without_triggers(owner, "delete from pages where id = 1")
    assert owner.execute(remove).fetchone() == (1,)
