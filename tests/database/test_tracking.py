"""Any table with a key of one column can be tracked, by two statements."""

import psycopg
import pytest

from shared.database.queue import EmbeddingQueue, embedding_coverage, vector_text
from shared.errors import DatabaseRejected, NotFound
from tests.database.rows import Connection, coverage_of, embed_all, queued
from tests.fake_provider import FakeProvider

# name, table, key, how the key is filled
TABLES = {
    "notes": ("create table notes (id bigint generated always as identity primary key, body text)", ""),
    "tags": ("create table tags (name text primary key, body text)", "name"),
    "codes": ("create table codes (code varchar(20) primary key, body text)", "code"),
    "small": ("create table small (id smallint primary key, body text)", "id"),
    "numbers": ("create table numbers (id integer primary key, body text)", "id"),
    "things": ("create table things (id uuid primary key default gen_random_uuid(), body text)", ""),
    "library.books": ("create schema library; create table library.books (id bigint primary key, body text)", "id"),
    '"Odd ""Name"" %s"': ('create table "Odd ""Name"" %s" ("The Key" text primary key, body text)', '"The Key"'),
}


def make(owner: Connection, table: str) -> str:
    """Create a table, say what is embedded, track it; return the collection's name."""
    statement, _ = TABLES[table]
    owner.execute(statement)
    owner.execute(
        f"create function embedding.document_text(t {table}) returns text language sql immutable return nullif(t.body, '')"
    )
    found = owner.execute("select track_embeddings(%s)", [table]).fetchone()
    assert found
    return str(found[0])


def insert(owner: Connection, table: str, *bodies: str) -> None:
    _, key = TABLES[table]
    table, key = table.replace("%", "%%"), key.replace("%", "%%")
    for number, body in enumerate(bodies, 1):
        if key:
            owner.execute(f"insert into {table} ({key}, body) values (%s, %s)", [str(number), body])
        else:
            owner.execute(f"insert into {table} (body) values (%s)", [body])


@pytest.mark.parametrize("table", TABLES)
def test_the_whole_life_of_a_row(owner: Connection, work: EmbeddingQueue, provider: FakeProvider, table: str) -> None:
    name = make(owner, table)
    own = EmbeddingQueue(work.database, name)
    insert(owner, table, "one", "two", "", "one")
    assert own.embedding_queue().ready == 3
    # One of the two equal texts takes the other's vector.
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


def test_rows_that_were_there_before_are_queued(
    owner: Connection, work: EmbeddingQueue, provider: FakeProvider
) -> None:
    owner.execute("create table old (id int primary key, body text)")
    owner.execute("insert into old select n, 'text ' || n from generate_series(1, 10) n")
    owner.execute("create function embedding.document_text(t old) returns text language sql immutable return t.body")
    owner.execute("select track_embeddings('old')")
    own = EmbeddingQueue(work.database, "old")
    assert own.embedding_queue().ready == 10
    assert owner.execute("select count(*) from old where fts @@ 'text'").fetchone() == (10,)
    assert embed_all(own, provider) == 10


def test_tracking_twice_changes_nothing(owner: Connection, work: EmbeddingQueue, provider: FakeProvider) -> None:
    name = make(owner, "notes")
    insert(owner, "notes", "one", "two")
    own = EmbeddingQueue(work.database, name)
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
    assert triggers == (5,)


def test_a_tables_own_before_trigger_decides_the_text_that_is_embedded(
    owner: Connection, work: EmbeddingQueue, provider: FakeProvider
) -> None:
    owner.execute("create table shouts (id int primary key, body text)")
    owner.execute(
        "create function shout() returns trigger language plpgsql as $$ begin new.body := upper(new.body); return new; end $$"
    )
    owner.execute("create trigger shout before insert or update on shouts for each row execute function shout()")
    owner.execute("create function embedding.document_text(t shouts) returns text language sql immutable return t.body")
    owner.execute("select track_embeddings('shouts')")
    owner.execute("insert into shouts values (1, 'forte')")
    own = EmbeddingQueue(work.database, "shouts")
    rows = own.claim_embeddings(10, 60)
    assert [row.text for row in rows] == ["FORTE"]
    own.release_embeddings(["1"])
    assert embed_all(own, provider) == 1
    owner.execute("update shouts set body = 'Forte'")
    assert queued(owner, "shouts") == set(), "the text is the same again when the trigger is done with it"
    assert owner.execute("select fts @@ 'fort' from shouts").fetchone() == (True,)


def test_words_are_kept_for_a_table_without_an_fts_column(
    owner: Connection, work: EmbeddingQueue, provider: FakeProvider
) -> None:
    make(owner, "notes")
    insert(owner, "notes", "running chords")
    read = "select fts::text from notes"
    assert owner.execute(read).fetchone() == ("'chord':2 'run':1",)
    owner.execute("update notes set body = 'slow scales'")
    assert owner.execute(read).fetchone() == ("'scale':2 'slow':1",)
    embed_all(EmbeddingQueue(work.database, "notes"), provider)
    assert owner.execute(read).fetchone() == ("'scale':2 'slow':1",)
    owner.execute("update notes set fts = ''::tsvector")
    assert owner.execute(read).fetchone() == ("'scale':2 'slow':1",), "not to be written past the text"


def test_words_are_taken_in_the_language_that_was_asked_for(owner: Connection) -> None:
    owner.execute("create table chansons (id int primary key, body text)")
    owner.execute(
        "create function embedding.document_text(t chansons) returns text language sql immutable return t.body"
    )
    owner.execute("insert into chansons values (1, 'les chansons tristes')")
    owner.execute("select track_embeddings('chansons', text_config => 'french')")
    owner.execute("insert into chansons values (2, 'les chansons tristes')")
    assert owner.execute("select distinct fts::text from chansons").fetchall() == [("'chanson':2 'le':1 'trist':3",)]


def test_columns_may_be_dropped_and_added_on_a_tracked_table(
    owner: Connection, work: EmbeddingQueue, provider: FakeProvider
) -> None:
    owner.execute("create table wide (a int, id int primary key, b text, body text, c jsonb)")
    owner.execute("create function embedding.document_text(t wide) returns text language sql immutable return t.body")
    owner.execute("select track_embeddings('wide')")
    owner.execute("alter table wide drop column a, drop column b, drop column c, add column d text default 'd'")
    owner.execute("insert into wide (id, body) values (1, 'one')")
    own = EmbeddingQueue(work.database, "wide")
    assert embed_all(own, provider) == 1
    owner.execute("alter table wide drop column d")
    owner.execute("update wide set body = 'two'")
    assert embed_all(own, provider) == 1
    assert own.verify_embeddings() == 0
    owner.execute("delete from wide")
    assert queued(owner, "wide") == set()


def test_an_untracked_table_keeps_its_vectors_and_is_left_alone(
    owner: Connection, work: EmbeddingQueue, provider: FakeProvider
) -> None:
    name = make(owner, "notes")
    insert(owner, "notes", "one", "two")
    embed_all(EmbeddingQueue(work.database, name), provider)
    insert(owner, "notes", "three")
    owner.execute("select untrack_embeddings('notes')")
    assert owner.execute("select count(embedding), count(*) from notes").fetchone() == (2, 3)
    assert owner.execute("select count(*) from embedding.queue").fetchone() == (0,)
    owner.execute("update notes set body = 'edited' where body = 'one'")
    owner.execute("delete from notes where body = 'two'")
    with pytest.raises(NotFound, match='"notes" is not tracked'):
        EmbeddingQueue(work.database, name).claim_embeddings(10, 60)


def test_tracked_again_the_vectors_of_texts_edited_meanwhile_are_dropped(
    owner: Connection, work: EmbeddingQueue, provider: FakeProvider
) -> None:
    name = make(owner, "notes")
    insert(owner, "notes", "one", "two")
    embed_all(EmbeddingQueue(work.database, name), provider)
    owner.execute("select untrack_embeddings('notes')")
    owner.execute("update notes set body = 'edited' where body = 'one'")
    owner.execute("select track_embeddings('notes')")
    own = EmbeddingQueue(work.database, name)
    assert own.verify_embeddings() == 0
    assert [row.text for row in own.claim_embeddings(10, 60)] == ["edited"]
    assert owner.execute("select count(embedding) from notes").fetchone() == (1,)


@pytest.mark.parametrize("named", [False, True])
def test_vectors_that_a_table_brings_along_are_adopted(
    owner: Connection, work: EmbeddingQueue, provider: FakeProvider, named: bool
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
        with pytest.raises(psycopg.DataError, match="no embedding_model says which model"):
            owner.execute("select track_embeddings('brought')")
    owner.execute("select track_embeddings('brought', model => %s)", [provider.model])
    own = EmbeddingQueue(work.database, "brought")
    assert queued(owner, "brought") == {"2"}
    assert own.verify_embeddings() == 0
    owner.execute("alter table brought add column other int")
    owner.execute("update brought set other = 1")
    assert owner.execute("select count(embedding) from brought").fetchone() == (1,), "an unrelated change keeps it"
    assert owner.execute("select count(embedding_hash) from brought").fetchone() == (1,)


def test_vectors_of_an_unknown_model_or_width_stop_the_tracking_and_are_not_lost(
    owner: Connection, work: EmbeddingQueue
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


def test_a_tracked_table_that_is_dropped_harms_nobody(owner: Connection, work: EmbeddingQueue) -> None:
    make(owner, "notes")
    insert(owner, "notes", "one")
    owner.execute("drop table notes cascade")
    assert "notes" not in [one.collection for one in embedding_coverage(work.database)]
    with pytest.raises(NotFound, match='"notes"'):
        EmbeddingQueue(work.database, "notes").claim_embeddings(10, 60)
    assert make(owner, "notes") == "notes"
    assert EmbeddingQueue(work.database, "notes").embedding_queue().pending == 0


def test_a_renamed_table_stays_tracked(owner: Connection, work: EmbeddingQueue, provider: FakeProvider) -> None:
    make(owner, "notes")
    owner.execute("alter table notes rename to jottings")
    owner.execute("insert into jottings (body) values ('one')")
    assert embed_all(EmbeddingQueue(work.database, "notes"), provider) == 1
    assert owner.execute("select track_embeddings('jottings')").fetchone() == ("jottings",)
    assert EmbeddingQueue(work.database, "jottings").verify_embeddings() == 0


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("create table bad (body text)", "no primary key of one column"),
        ("create table bad (a int, b int, body text, primary key (a, b))", "no primary key of one column"),
        ("create view bad as select 1 as id, 'x' as body", "not an ordinary table"),
        ("create table bad (id int, body text) partition by range (id)", "not an ordinary table"),
        ("create table bad (id date primary key, body text)", r"bad\.id has type date, which cannot be tracked"),
        ("create table bad (id int primary key, body text)", r"there is no embedding\.document_text\(public\.bad\)"),
    ],
)
def test_what_cannot_be_tracked_is_refused_with_the_reason(owner: Connection, table: str, message: str) -> None:
    owner.execute(table)
    with pytest.raises(psycopg.DatabaseError, match=message) as caught:
        owner.execute("select track_embeddings('bad')")
    assert caught.value.diag.message_hint
    assert owner.execute("select count(*) from embedding.collections where name = 'bad'").fetchone() == (0,)
    columns = owner.execute(
        "select count(*) from information_schema.columns where table_name = 'bad' and column_name like 'embedding%'"
    ).fetchone()
    assert columns == (0,), "nothing is left half done"


def test_an_unregistered_model_is_refused_before_anything_is_added(owner: Connection, work: EmbeddingQueue) -> None:
    owner.execute("create table late (id int primary key, body text)")
    owner.execute("create function embedding.document_text(t late) returns text language sql immutable return t.body")
    with pytest.raises(DatabaseRejected, match='"unheard-of" is not registered'):
        work.database.call("track_embeddings", {"source": "late", "model": "unheard-of"})
    assert work.database.call("track_embeddings", {"source": "late", "model": "fake"}) == ["late"]


def test_an_unknown_collection_is_named_and_the_tracked_ones_are_listed(work: EmbeddingQueue) -> None:
    with pytest.raises(NotFound, match=r'"no_such" is not tracked.*Tracked are: .*music_knowledge'):
        EmbeddingQueue(work.database, "no_such").claim_embeddings(10, 60)
