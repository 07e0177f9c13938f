"""Tests that SQL in names and values is never executed."""

import json

import pytest
from psycopg import sql

from shared.database.base import Database
from shared.database.postgres import PostgresDatabase
from shared.embedding.collection import Collection, vector_text
from shared.errors import AppError, NotFound
from shared.models import ANON, EmbeddingModel
from tests.database.rows import Connection, embed_all
from tests.drills.inputs_hostile import SQL
from tests.drills.inputs_rows import fill_database, fingerprint
from tests.fake_provider import DIMENSIONS, FakeProvider


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


# The longest name that PostgreSQL allows.
NAME = "x'; drop table public.victim; -- \" %s %I $1"
LANGUAGE = "l'); drop table public.victim; -- \" %L"


def test_names_that_contain_sql_stay_names(owner: Connection, adapter: Database, provider: FakeProvider) -> None:
    owner.execute("create table public.victim (id int)")
    table, key, column = quoted(NAME), quoted(f"k {NAME}"[:60]), quoted(f"c {NAME}"[:60])
    owner.execute(f"create table public.{table} ({key} text primary key, {column} text)")
    owner.execute(
        f"create function embedding.document_text(r public.{table}) returns text language sql immutable return r.{column}"
    )
    owner.execute(f"create text search configuration public.{quoted(LANGUAGE)} (copy = english)")
    owner.execute("select track_embeddings(%s, text_config => %s)", [f"public.{table}", f"public.{quoted(LANGUAGE)}"])
    model = "m'; drop table public.victim; -- %s"
    work = Collection(adapter, NAME)
    hostile_provider = FakeProvider(model)
    work.register_embedding_model(EmbeddingModel(model, SQL[0], DIMENSIONS, SQL[1], SQL[2]))
    for row_id in (*SQL, NAME):
        insert = sql.SQL("insert into public.{} values ({}, {})")
        owner.execute(insert.format(sql.Identifier(NAME), sql.Literal(row_id), sql.Literal(f"a drum kit {row_id}")))
    assert embed_all(work, hostile_provider) == len(SQL) + 1
    work.create_embedding_index()

    vector = vector_text(hostile_provider.embed_query("drum kit"))
    search = (
        "select row_id from embedding.search_hits(%s::regclass, 'drum kits', %s, 50, %s,"
        " query_embeddings => %s, embedding_model => %s)"
    )
    column_name, models = f"c {NAME}"[:60], json.dumps({model: vector})
    for wanted in (*SQL, NAME):
        for test in (
            f"a drum kit {wanted}",
            {"like": f"a drum kit {wanted}".replace("\\", "\\\\").replace("%", "\\%")},
        ):
            found = owner.execute(
                search, [f"public.{table}", vector, json.dumps({column_name: test}), models, model]
            ).fetchall()
            assert wanted in {row[0] for row in found}
            assert isinstance(test, dict) or len(found) == 1
    assert work.verify_embeddings() == 0
    work.register_embedding_model(provider.spec)
    assert work.set_collection_model(provider.model) == len(SQL) + 1
    assert embed_all(work, provider) == len(SQL) + 1
    work.finish_embedding_run(None, provider.model, "completed", {})
    retiring = owner.execute("select retiring_models from embedding.collections where name = %s", [NAME]).fetchone()
    assert retiring == ([],)
    adapter.call("untrack_embeddings", {"collection": NAME})
    with pytest.raises(NotFound):
        work.verify_embeddings()
    assert owner.execute("select to_regclass('public.victim') is not null").fetchone() == (True,)


@pytest.mark.parametrize("payload", SQL)
def test_sql_in_a_filter_is_a_value(
    owner: Connection, adapter: Database, database: PostgresDatabase, provider: FakeProvider, payload: str
) -> None:
    fill_database(owner, database, provider)
    owner.execute("insert into music_knowledge (topic, category, content) values ('', %s, 'drum kit')", [payload])
    owner.execute("insert into code_chunks (id, path, content) values (%s, %s, 'drum kit')", [payload, payload])
    rows = [{"external_id": payload, "title": "drum kit", "tags": [payload], "enrichment_status": "enriched"}]
    database.call("upsert_datasets", {"rows": rows})
    before = fingerprint(owner)
    anon = adapter.as_caller(ANON)
    for function, name, count in (
        ("search_music_knowledge", "filter_category", 1),
        ("search_code_chunks", "filter_path", 1),
        ("search_datasets", "filter_tag", 1),
        ("search_mir_synonyms", "filter_tag_type", 0),
    ):
        assert len(anon.call(function, {"query_text": "drum kit", name: payload})) == count, function
        assert anon.call(function, {"query_text": payload, name: "nothing has this"}) == []
        for argument in ("embedding_model", "fusion"):
            given = {"query_text": "drum", "query_embedding": "[1]", argument: payload}
            with pytest.raises(AppError) as refused:
                anon.call(function, given)
            assert refused.value.status == 422
    assert fingerprint(owner) == before
