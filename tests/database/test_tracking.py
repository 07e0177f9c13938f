"""Any table with a key of one column can be tracked, by two statements."""

import psycopg
import pytest

from shared.database.queue import EmbeddingQueue, embedding_coverage, vector_text
from shared.database.transfer import REFRESH_WORDS
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
        ("create temp table bad (id int primary key, body text)", "bad is a temporary table"),
        (
            "create table bad (id int primary key, body text); create table child () inherits (bad)",
            "another inherits from it",
        ),
        (
            "create table parent (body text); create table bad (id int primary key) inherits (parent)",
            "inherits from another",
        ),
        (
            "create table whole (id int primary key, body text) partition by range (id);"
            "create table bad partition of whole for values from (1) to (9)",
            "is a partition",
        ),
        ("create table bad (id int primary key, embedding float[])", r"bad\.embedding has type double precision\[\]"),
        ("create table bad (id int primary key, embedding_model int)", r"bad\.embedding_model has type integer"),
        ("create table bad (id int primary key, embedding_hash text)", r"bad\.embedding_hash has type text"),
        ("create table bad (id int primary key, fts text)", r"bad\.fts has type text"),
        (
            "create table bad (id int primary key, embedding extensions.vector not null default '[0]')",
            r"bad\.embedding must be a plain column that may be null",
        ),
        (
            "create table bad (id int primary key, embedding_model text generated always as ('m') stored)",
            r"bad\.embedding_model must be a plain column",
        ),
        (
            "create table bad (id int primary key, body text, twice text generated always as (body || body) virtual)",
            r"bad\.twice is a virtual generated column",
        ),
        (
            "create table bad (id int primary key); alter table bad owner to service_role",
            "service_role may change the triggers",
        ),
        ("create table bad (id int primary key, body text)", r"there is no embedding\.document_text\(public\.bad\)"),
    ],
)
def test_what_cannot_be_tracked_is_refused_with_the_reason(owner: Connection, table: str, message: str) -> None:
    owner.execute(table)
    if "no embedding" not in message and "primary" not in message and "not an ordinary" not in message:
        owner.execute("create function embedding.document_text(t bad) returns text language sql immutable return 'x'")
    attributes = "select array_agg(attname order by attnum) from pg_attribute where attrelid = 'bad'::regclass"
    before = owner.execute(attributes).fetchone()
    with pytest.raises(psycopg.DatabaseError, match=message) as caught:
        owner.execute("select track_embeddings('bad')")
    assert str(caught.value.sqlstate).startswith("42") or caught.value.sqlstate == "55000"
    assert caught.value.diag.message_hint
    assert owner.execute("select count(*) from embedding.collections where name = 'bad'").fetchone() == (0,)
    assert owner.execute(attributes).fetchone() == before, "nothing is left half done"


def test_an_unregistered_model_is_refused_before_anything_is_added(owner: Connection, work: EmbeddingQueue) -> None:
    owner.execute("create table late (id int primary key, body text)")
    owner.execute("create function embedding.document_text(t late) returns text language sql immutable return t.body")
    with pytest.raises(DatabaseRejected, match='"unheard-of" is not registered'):
        work.database.call("track_embeddings", {"source": "late", "model": "unheard-of"})
    assert work.database.call("track_embeddings", {"source": "late", "model": "fake"}) == ["late"]


def test_an_unknown_collection_is_named_and_the_tracked_ones_are_listed(work: EmbeddingQueue) -> None:
    with pytest.raises(NotFound, match=r'"no_such" is not tracked.*Tracked are: .*music_knowledge'):
        EmbeddingQueue(work.database, "no_such").claim_embeddings(10, 60)


def test_a_configuration_that_ends_with_its_session_is_refused(owner: Connection) -> None:
    owner.execute(
        "create text search configuration pg_temp.passing (copy = english); create table late (id int primary key)"
    )
    owner.execute("create function embedding.document_text(t late) returns text language sql immutable return 'x'")
    with pytest.raises(psycopg.errors.WrongObjectType, match="ends with its session"):
        owner.execute("select track_embeddings('late', text_config => 'pg_temp.passing')")


# What the aliases of the functions that read rows are called, or were.
COLUMNS = ("s", "n", "o", "t", "q", "d", "h", "l", "i", "m", "fix", "key", "document", "text")


@pytest.mark.parametrize("column", COLUMNS)
def test_a_column_of_any_name_is_a_column_and_not_the_row(
    owner: Connection, work: EmbeddingQueue, provider: FakeProvider, column: str
) -> None:
    owner.execute(f"create table named (id int primary key, {column} text, body text)")
    owner.execute("create function embedding.document_text(r named) returns text language sql immutable return r.body")
    owner.execute("insert into named values (1, 'a column', 'the first'), (2, 'a column', null)")
    owner.execute("select track_embeddings('named')")
    assert owner.execute("select fts::text from named where id = 1").fetchone() == ("'first':2",)
    assert queued(owner, "named") == {"1"}
    owner.execute(
        "update named set embedding = %s, embedding_model = 'fake' where id = 1",
        [vector_text(provider.embed_query("x"))],
    )
    owner.execute("select untrack_embeddings('named'); select track_embeddings('named')")
    assert owner.execute("select count(embedding) from named").fetchone() == (1,), (
        "of the text that it is taken to be of"
    )
    owner.execute("update named set embedding_hash = null, embedding = null, embedding_model = null")
    own = EmbeddingQueue(work.database, "named")
    assert [row.text for row in own.claim_embeddings(10, 60)] == ["the first"]
    owner.execute("delete from embedding.queue; select embedding.enqueue_pending(embedding.get_collection('named'))")
    assert embed_all(own, provider) == 1
    assert own.verify_embeddings() == 0


def test_a_key_that_was_renamed_is_named_until_the_table_is_tracked_again(
    owner: Connection, work: EmbeddingQueue, provider: FakeProvider
) -> None:
    make(owner, "numbers")
    insert(owner, "numbers", "one", "two")
    own = EmbeddingQueue(work.database, "numbers")
    assert embed_all(own, provider) == 2
    owner.execute("alter table numbers rename column id to number")
    for statement in (
        "update numbers set body = 'three'",
        "insert into numbers values (3, 'x')",
        "delete from numbers",
    ):
        with pytest.raises(
            psycopg.errors.UndefinedColumn, match='with the column "id", which it no longer has'
        ) as caught:
            owner.execute(statement)
        assert "track the table again: select track_embeddings('public.numbers')" in str(caught.value.diag.message_hint)
    owner.execute("select track_embeddings('numbers')")
    owner.execute("update numbers set body = 'three' where number = 1")
    assert embed_all(own, provider) == 1
    owner.execute("alter table numbers drop column embedding_hash")
    with pytest.raises(psycopg.errors.UndefinedColumn, match='the column "embedding_hash"'):
        owner.execute("update numbers set body = 'four'")
    owner.execute("select track_embeddings('numbers')")
    owner.execute("update numbers set body = 'four'")
    assert own.verify_embeddings() == 0


# More words than one row's index of words can hold.
LONG = " ".join(f"word{number}" for number in range(110_000))


def test_a_text_of_more_words_than_can_be_indexed_is_kept_and_found_by_its_beginning(
    owner: Connection, work: EmbeddingQueue, provider: FakeProvider
) -> None:
    owner.execute("create table long (id int primary key, body text)")
    owner.execute("insert into long values (1, %s)", [LONG])
    owner.execute("create function embedding.document_text(t long) returns text language sql immutable return t.body")
    owner.execute("select track_embeddings('long')")
    owner.execute("insert into long values (2, 'short'), (3, %s)", [LONG])
    owner.execute("update long set body = %s where id = 2", [LONG])
    found = owner.execute("select id, fts @@ 'word7', fts @@ 'word109999' from long order by id").fetchall()
    assert found == [(1, True, False), (2, True, False), (3, True, False)]
    own = EmbeddingQueue(work.database, "long")
    assert {row.text for row in own.claim_embeddings(10, 60)} == {LONG}, "the vector is of the whole text"
    owner.execute("update long set body = left(body, 600000)")
    assert owner.execute("select bool_and(fts = to_tsvector('english', body)) from long").fetchone() == (True,)


def test_a_generated_fts_of_several_languages_holds_what_fits(owner: Connection) -> None:
    owner.execute(
        "create table long (id int primary key, body text,"
        " fts tsvector generated always as (embedding.words(body, 'english', 'french')) stored)"
    )
    owner.execute("insert into long values (1, %s)", [LONG])
    assert owner.execute("select fts @@ 'word7', fts @@ 'word109999' from long").fetchone() == (True, False)


def test_a_shipped_table_takes_a_text_of_any_length_or_names_what_is_too_long(
    owner: Connection, work: EmbeddingQueue
) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=r"^content holds more words than can be indexed"):
        owner.execute("insert into music_knowledge (topic, content) values ('a', %s)", [LONG])
    rows = [{"external_id": "a", "title": "a", "description": LONG, "enrichment_status": "enriched"}]
    with pytest.raises(DatabaseRejected, match=r"^description holds more words than can be indexed"):
        work.database.call("upsert_datasets", {"rows": rows})
    work.database.call("upsert_datasets", {"rows": [{**rows[0], "description": "short"}]})
    with pytest.raises(DatabaseRejected, match=r"^description holds more words"):
        work.database.call("upsert_datasets", {"rows": rows})
    with pytest.raises(psycopg.errors.ProgramLimitExceeded):
        owner.execute("update datasets set description = %s", [LONG])
    many = " ".join(["gain staging"] * 200_000)
    owner.execute("insert into music_knowledge (topic, content) values ('a', %s)", [many])
    owner.execute(
        "insert into code_chunks (id, path, content) values ('a', 'a.py', %s), ('b', 'b.py', %s)", [LONG, many]
    )
    letters = [chr(0x10400 + number) for number in range(80)]
    odd = (
        " ".join(a + b for a in letters for b in letters)
        + " "
        + " ".join(a + b + c for a in letters for b in letters for c in letters[:8])
    )
    owner.execute("insert into code_chunks (id, path, content) values ('c', 'c.py', %s)", [odd])


def test_words_are_made_anew_after_a_copy_also_of_long_texts(owner: Connection) -> None:
    owner.execute("create table long (id int primary key, d text, body text)")
    owner.execute("create function embedding.document_text(t long) returns text language sql immutable return t.body")
    owner.execute("select track_embeddings('long')")
    owner.execute("insert into long values (1, 'other', %s), (2, 'other', 'a text')", [LONG])
    # As another server's stemmer would have cut them.
    owner.execute("set session_replication_role = replica; update long set fts = 'cut'; reset session_replication_role")
    owner.execute(REFRESH_WORDS.read_text(encoding="utf-8"))
    assert owner.execute("select fts @@ 'word7', fts @@ 'other' from long where id = 1").fetchone() == (True, False)
    assert owner.execute("select fts::text from long where id = 2").fetchone() == ("'text':2",)


def test_untracking_leaves_the_tables_own_triggers(owner: Connection) -> None:
    owner.execute("select untrack_embeddings('datasets')")
    left = owner.execute(
        "select array_agg(tgname order by 1) from pg_trigger where tgrelid = 'datasets'::regclass and not tgisinternal"
    ).fetchone()
    assert left == (["check_word_count", "touch_updated_at"],)
