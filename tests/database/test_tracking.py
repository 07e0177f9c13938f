"""Tests that any table with a key of one column can be tracked with two statements."""

import psycopg
import pytest

from shared.embedding.collection import Collection, embedding_coverage, vector_text
from shared.errors import NotFound
from tests.database.rows import Connection, coverage_of, embed_all, queued
from tests.database.tracked_tables import TABLES, insert, make
from tests.fake_provider import FakeProvider


@pytest.mark.parametrize("table", TABLES)
def test_a_row_is_tracked_embedded_searched_and_changed(
    owner: Connection, work: Collection, provider: FakeProvider, table: str
) -> None:
    name = make(owner, table)
    own = Collection(work.database, name)
    insert(owner, table, "one", "two", "", "one")
    assert own.embedding_queue().ready == 3
    # Two of the texts are equal, so one row gets the vector of the other.
    assert embed_all(own, provider) == 3
    assert queued(owner, name) == set()
    owner.execute(f"update {table} set body = 'changed' where body = 'two'")
    assert len(queued(owner, name)) == 1
    owner.execute(f"update {table} set body = 'two' where body = 'changed'")
    rows = own.claim_embeddings(10, 60)
    assert own.fail_embeddings([(row.row_id, "no", True) for row in rows]) == 1
    assert own.retry_failed_embeddings() == 1
    assert own.reconcile_embeddings() == 0
    rows = own.claim_embeddings(10, 60)
    assert own.reuse_embeddings(provider.model, rows) == set()
    assert own.renew_embeddings([row.row_id for row in rows], 60) == 1
    assert own.release_embeddings([row.row_id for row in rows]) == 1
    assert embed_all(own, provider) == 1
    assert own.verify_embeddings() == 0
    assert own.repair_embeddings() == 0
    assert own.create_embedding_index()
    owner.execute(f"delete from {table} where body = 'one'")
    coverage = coverage_of(work.database, name)
    assert (coverage.total, coverage.embedded, coverage.models) == (1, 1, {provider.model: 1})
    owner.execute(f"truncate {table}")


def test_tracking_queues_existing_rows(owner: Connection, work: Collection, provider: FakeProvider) -> None:
    owner.execute("create table old (id int primary key, body text)")
    owner.execute("insert into old select n, 'text ' || n from generate_series(1, 10) n")
    owner.execute("create function embedding.document_text(t old) returns text language sql immutable return t.body")
    owner.execute("select track_embeddings('old')")
    own = Collection(work.database, "old")
    assert own.embedding_queue().ready == 10
    assert owner.execute("select count(*) from old where fts @@ 'text'").fetchone() == (10,)
    assert embed_all(own, provider) == 10


def test_tracking_twice_changes_nothing(owner: Connection, work: Collection, provider: FakeProvider) -> None:
    name = make(owner, "notes")
    insert(owner, "notes", "one", "two")
    own = Collection(work.database, name)
    rows = own.claim_embeddings(1, 60)
    before = (vectors := owner.execute("select * from embedding.queue order by row_id")).fetchall()
    assert vectors.rowcount == 2
    owner.execute("select track_embeddings('notes')")
    assert owner.execute("select * from embedding.queue order by row_id").fetchall() == before
    own.release_embeddings([row.row_id for row in rows])
    assert embed_all(own, provider) == 2
    owner.execute("select track_embeddings('notes')")
    assert queued(owner, name) == set()
    assert own.verify_embeddings() == 0
    triggers = owner.execute("select count(*) from pg_trigger where tgrelid = 'notes'::regclass").fetchone()
    assert triggers == (7,)


def test_an_untracked_table_keeps_its_vectors_and_has_no_triggers(
    owner: Connection, work: Collection, provider: FakeProvider
) -> None:
    name = make(owner, "notes")
    insert(owner, "notes", "one", "two")
    embed_all(Collection(work.database, name), provider)
    insert(owner, "notes", "three")
    owner.execute("select untrack_embeddings('notes')")
    assert owner.execute("select count(embedding), count(*) from notes").fetchone() == (2, 3)
    assert owner.execute("select count(*) from embedding.queue").fetchone() == (0,)
    owner.execute("update notes set body = 'edited' where body = 'one'")
    owner.execute("delete from notes where body = 'two'")
    with pytest.raises(NotFound, match='"notes" is not tracked'):
        Collection(work.database, name).claim_embeddings(10, 60)


def test_tracking_again_clears_vectors_of_texts_edited_in_between(
    owner: Connection, work: Collection, provider: FakeProvider
) -> None:
    name = make(owner, "notes")
    insert(owner, "notes", "one", "two")
    embed_all(Collection(work.database, name), provider)
    owner.execute("select untrack_embeddings('notes')")
    owner.execute("update notes set body = 'edited' where body = 'one'")
    owner.execute("select track_embeddings('notes')")
    own = Collection(work.database, name)
    assert own.verify_embeddings() == 0
    assert [row.text for row in own.claim_embeddings(10, 60)] == ["edited"]
    assert owner.execute("select count(embedding) from notes").fetchone() == (1,)


@pytest.mark.parametrize("named", [False, True])
def test_existing_vectors_of_a_table_are_adopted(
    owner: Connection, work: Collection, provider: FakeProvider, named: bool
) -> None:
    owner.execute(
        "create table brought (id int primary key, body text, embedding extensions.vector, embedding_model text)"
    )
    owner.execute(
        "create function embedding.document_text(t brought) returns text language sql immutable return t.body"
    )
    owner.execute(
        "insert into brought values (1, 'one', %s, %s), (2, 'two', null, null)",
        [vector_text(provider.embed_query("one")), provider.model if named else None],
    )
    if not named:
        with pytest.raises(psycopg.DataError, match="has vectors without an embedding_model"):
            owner.execute("select track_embeddings('brought')")
    owner.execute("select track_embeddings('brought', model => %s)", [provider.model])
    own = Collection(work.database, "brought")
    assert queued(owner, "brought") == {"2"}
    assert own.verify_embeddings() == 0
    owner.execute("alter table brought add column other int")
    owner.execute("update brought set other = 1")
    assert owner.execute("select count(embedding) from brought").fetchone() == (1,), "an unrelated change keeps it"
    assert owner.execute("select count(embedding_hash) from brought").fetchone() == (1,)


def test_existing_vectors_of_an_unknown_model_or_width_are_an_error_and_stay(
    owner: Connection, work: Collection
) -> None:
    owner.execute(
        "create table brought (id int primary key, body text, embedding extensions.vector, embedding_model text)"
    )
    owner.execute(
        "create function embedding.document_text(t brought) returns text language sql immutable return t.body"
    )
    for model, message in (("unheard-of", "is not registered"), ("fake", 'has 3 dimensions, model "fake"')):
        owner.execute("truncate brought")
        owner.execute("insert into brought values (1, 'one', '[1,2,3]', %s)", [model])
        with pytest.raises(psycopg.DataError, match=message):
            owner.execute("select track_embeddings('brought')")
        assert owner.execute("select count(embedding) from brought").fetchone() == (1,)


def test_dropping_a_tracked_table_does_not_affect_other_tables(owner: Connection, work: Collection) -> None:
    make(owner, "notes")
    insert(owner, "notes", "one")
    owner.execute("drop table notes cascade")
    assert "notes" not in [one.collection for one in embedding_coverage(work.database)]
    with pytest.raises(NotFound, match='"notes"'):
        Collection(work.database, "notes").claim_embeddings(10, 60)
    assert make(owner, "notes") == "notes"
    assert Collection(work.database, "notes").embedding_queue().pending == 0


def test_a_renamed_table_stays_tracked(owner: Connection, work: Collection, provider: FakeProvider) -> None:
    make(owner, "notes")
    owner.execute("alter table notes rename to jottings")
    owner.execute("insert into jottings (body) values ('one')")
    assert embed_all(Collection(work.database, "notes"), provider) == 1
    assert owner.execute("select track_embeddings('jottings')").fetchone() == ("jottings",)
    assert Collection(work.database, "jottings").verify_embeddings() == 0


def test_a_renamed_key_column_is_an_error_until_the_table_is_tracked_again(
    owner: Connection, work: Collection, provider: FakeProvider
) -> None:
    make(owner, "numbers")
    insert(owner, "numbers", "one", "two")
    own = Collection(work.database, "numbers")
    assert embed_all(own, provider) == 2
    owner.execute("alter table numbers rename column id to number")
    for statement in (
        "update numbers set body = 'three'",
        "insert into numbers values (3, 'x')",
        "delete from numbers",
    ):
        with pytest.raises(psycopg.errors.UndefinedColumn, match='no longer has the column "id"') as caught:
            owner.execute(statement)
        assert "select track_embeddings('public.numbers')" in str(caught.value.diag.message_hint)
    owner.execute("select track_embeddings('numbers')")
    owner.execute("update numbers set body = 'three' where number = 1")
    assert embed_all(own, provider) == 1
    owner.execute("alter table numbers drop column embedding_hash")
    with pytest.raises(psycopg.errors.UndefinedColumn, match='the column "embedding_hash"'):
        owner.execute("update numbers set body = 'four'")
    owner.execute("select track_embeddings('numbers')")
    owner.execute("update numbers set body = 'four'")
    assert own.verify_embeddings() == 0


def test_untracking_keeps_the_tables_own_triggers(owner: Connection) -> None:
    owner.execute("select untrack_embeddings('datasets')")
    left = owner.execute(
        "select array_agg(tgname order by 1) from pg_trigger where tgrelid = 'datasets'::regclass and not tgisinternal"
    ).fetchone()
    assert left == (["check_lexeme_count", "touch_updated_at"],)


def test_another_primary_key_replaces_the_keys_in_the_queue(
    owner: Connection, work: Collection, provider: FakeProvider
) -> None:
    owner.execute("create table slugs (slug text primary key, number bigint not null, body text)")
    owner.execute("create function embedding.document_text(s slugs) returns text language sql immutable return s.body")
    owner.execute("select track_embeddings('slugs')")
    owner.execute("insert into slugs values ('a', 1, 'harps'), ('b', 2, 'drums')")
    owner.execute("update embedding.queue set failed_at = now() where row_id = 'a'")
    owner.execute("alter table slugs drop constraint slugs_pkey, add primary key (number)")
    owner.execute("select track_embeddings('slugs')")
    assert queued(owner, "slugs") == {"1", "2"}
    own = Collection(work.database, "slugs")
    assert embed_all(own, provider) == 2
    assert own.verify_embeddings() == 0
