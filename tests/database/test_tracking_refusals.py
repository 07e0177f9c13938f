"""Tests tables that cannot be tracked: the error says why."""

import psycopg
import pytest

from shared.embedding.collection import Collection
from shared.errors import DatabaseRejected, NotFound
from tests.database.rows import Connection


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
            "takes part in table inheritance",
        ),
        (
            "create table parent (body text); create table bad (id int primary key) inherits (parent)",
            "takes part in table inheritance",
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
            "public.bad belongs to service_role",
        ),
        ("create table bad (id int primary key, body text)", r"there is no embedding\.document_text\(public\.bad\)"),
    ],
)
def test_tracking_an_unsuitable_table_raises_an_error_with_the_reason(
    owner: Connection, table: str, message: str
) -> None:
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
    assert owner.execute(attributes).fetchone() == before, "the table was changed although tracking failed"


def test_an_unregistered_model_is_refused_before_anything_is_added(owner: Connection, work: Collection) -> None:
    owner.execute("create table late (id int primary key, body text)")
    owner.execute("create function embedding.document_text(t late) returns text language sql immutable return t.body")
    with pytest.raises(DatabaseRejected, match='"unheard-of" is not registered'):
        work.database.call("track_embeddings", {"source": "late", "model": "unheard-of"})
    assert work.database.call("track_embeddings", {"source": "late", "model": "fake"}) == ["late"]


def test_an_unknown_collection_is_named_and_the_tracked_ones_are_listed(work: Collection) -> None:
    with pytest.raises(NotFound, match=r'"no_such" is not tracked.*Tracked collections: .*music_knowledge'):
        Collection(work.database, "no_such").claim_embeddings(10, 60)


def test_a_temporary_text_search_configuration_is_refused(owner: Connection) -> None:
    owner.execute(
        "create text search configuration pg_temp.passing (copy = english); create table late (id int primary key)"
    )
    owner.execute("create function embedding.document_text(t late) returns text language sql immutable return 'x'")
    with pytest.raises(psycopg.errors.WrongObjectType, match="is temporary"):
        owner.execute("select track_embeddings('late', text_config => 'pg_temp.passing')")
