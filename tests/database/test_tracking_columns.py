"""Tests the columns and texts of a tracked table: any name, any language, any length."""

import psycopg
import pytest

from shared.embedded.transfer import REFRESH_FULL_TEXT
from shared.embedding.collection import Collection, vector_text
from shared.errors import DatabaseRejected
from tests.database.rows import Connection, embed_all, queued
from tests.database.tracked_tables import insert, make
from tests.fake_provider import FakeProvider


def test_the_text_after_the_tables_before_triggers_is_embedded(
    owner: Connection, work: Collection, provider: FakeProvider
) -> None:
    owner.execute("create table shouts (id int primary key, body text)")
    owner.execute(
        "create function shout() returns trigger language plpgsql as $$ begin new.body := upper(new.body); return new; end $$"
    )
    owner.execute("create trigger shout before insert or update on shouts for each row execute function shout()")
    owner.execute("create function embedding.document_text(t shouts) returns text language sql immutable return t.body")
    owner.execute("select track_embeddings('shouts')")
    owner.execute("insert into shouts values (1, 'forte')")
    own = Collection(work.database, "shouts")
    rows = own.claim_embeddings(10, 60)
    assert [row.text for row in rows] == ["FORTE"]
    own.release_embeddings(["1"])
    assert embed_all(own, provider) == 1
    owner.execute("update shouts set body = 'Forte'")
    assert queued(owner, "shouts") == set(), "the text is the same again when the trigger is done with it"
    assert owner.execute("select fts @@ 'fort' from shouts").fetchone() == (True,)


def test_a_trigger_computes_fts_for_a_table_without_that_column(
    owner: Connection, work: Collection, provider: FakeProvider
) -> None:
    make(owner, "notes")
    insert(owner, "notes", "running chords")
    read = "select fts::text from notes"
    assert owner.execute(read).fetchone() == ("'chord':2 'run':1",)
    owner.execute("update notes set body = 'slow scales'")
    assert owner.execute(read).fetchone() == ("'scale':2 'slow':1",)
    embed_all(Collection(work.database, "notes"), provider)
    assert owner.execute(read).fetchone() == ("'scale':2 'slow':1",)
    owner.execute("update notes set fts = ''::tsvector")
    assert owner.execute(read).fetchone() == ("'scale':2 'slow':1",), "fts cannot be written directly"


def test_fts_uses_the_given_language(owner: Connection) -> None:
    owner.execute("create table chansons (id int primary key, body text)")
    owner.execute(
        "create function embedding.document_text(t chansons) returns text language sql immutable return t.body"
    )
    owner.execute("insert into chansons values (1, 'les chansons tristes')")
    owner.execute("select track_embeddings('chansons', text_config => 'french')")
    owner.execute("insert into chansons values (2, 'les chansons tristes')")
    assert owner.execute("select distinct fts::text from chansons").fetchall() == [("'chanson':2 'le':1 'trist':3",)]


def test_columns_may_be_dropped_and_added_on_a_tracked_table(
    owner: Connection, work: Collection, provider: FakeProvider
) -> None:
    owner.execute("create table wide (a int, id int primary key, b text, body text, c jsonb)")
    owner.execute("create function embedding.document_text(t wide) returns text language sql immutable return t.body")
    owner.execute("select track_embeddings('wide')")
    owner.execute("alter table wide drop column a, drop column b, drop column c, add column d text default 'd'")
    owner.execute("insert into wide (id, body) values (1, 'one')")
    own = Collection(work.database, "wide")
    assert embed_all(own, provider) == 1
    owner.execute("alter table wide drop column d")
    owner.execute("update wide set body = 'two'")
    assert embed_all(own, provider) == 1
    assert own.verify_embeddings() == 0
    owner.execute("delete from wide")
    assert queued(owner, "wide") == set()


# Present and former aliases in the functions that read rows.
COLUMNS = ("s", "n", "o", "t", "q", "d", "h", "l", "i", "m", "fix", "key", "document", "text")


@pytest.mark.parametrize("column", COLUMNS)
def test_a_column_of_any_name_is_a_column_and_not_the_row(
    owner: Connection, work: Collection, provider: FakeProvider, column: str
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
    own = Collection(work.database, "named")
    assert [row.text for row in own.claim_embeddings(10, 60)] == ["the first"]
    owner.execute("delete from embedding.queue; select embedding.queue_pending_rows(embedding.get_collection('named'))")
    assert embed_all(own, provider) == 1
    assert own.verify_embeddings() == 0


# More words than a tsvector can contain.
LONG = " ".join(f"word{number}" for number in range(110_000))


def test_a_text_with_too_many_words_is_stored_and_found_by_its_beginning(
    owner: Connection, work: Collection, provider: FakeProvider
) -> None:
    owner.execute("create table long (id int primary key, body text)")
    owner.execute("insert into long values (1, %s)", [LONG])
    owner.execute("create function embedding.document_text(t long) returns text language sql immutable return t.body")
    owner.execute("select track_embeddings('long')")
    owner.execute("insert into long values (2, 'short'), (3, %s)", [LONG])
    owner.execute("update long set body = %s where id = 2", [LONG])
    found = owner.execute("select id, fts @@ 'word7', fts @@ 'word109999' from long order by id").fetchall()
    assert found == [(1, True, False), (2, True, False), (3, True, False)]
    own = Collection(work.database, "long")
    assert {row.text for row in own.claim_embeddings(10, 60)} == {LONG}, "the vector is of the whole text"
    owner.execute("update long set body = left(body, 600000)")
    assert owner.execute("select bool_and(fts = to_tsvector('english', body)) from long").fetchone() == (True,)


def test_a_generated_fts_of_several_languages_indexes_the_words_that_fit(owner: Connection) -> None:
    owner.execute(
        "create table long (id int primary key, body text,"
        " fts tsvector generated always as (embedding.lexemes(body, 'english', 'french')) stored)"
    )
    owner.execute("insert into long values (1, %s)", [LONG])
    assert owner.execute("select fts @@ 'word7', fts @@ 'word109999' from long").fetchone() == (True, False)


def test_a_shipped_table_accepts_a_long_text_or_names_the_column_that_is_too_long(
    owner: Connection, work: Collection
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


def test_fts_is_computed_again_after_a_copy_also_of_long_texts(owner: Connection) -> None:
    owner.execute("create table long (id int primary key, d text, body text)")
    owner.execute("create function embedding.document_text(t long) returns text language sql immutable return t.body")
    owner.execute("select track_embeddings('long')")
    owner.execute("insert into long values (1, 'other', %s), (2, 'other', 'a text')", [LONG])
    # This simulates lexemes of another server's stemmer.
    owner.execute("set session_replication_role = replica; update long set fts = 'cut'; reset session_replication_role")
    owner.execute(REFRESH_FULL_TEXT.read_text(encoding="utf-8"))
    assert owner.execute("select fts @@ 'word7', fts @@ 'other' from long where id = 1").fetchone() == (True, False)
    assert owner.execute("select fts::text from long where id = 2").fetchone() == ("'text':2",)
