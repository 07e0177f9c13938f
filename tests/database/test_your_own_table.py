"""Tests that the SQL of docs/your-own-table.md works as printed, and with every kind of key."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shared.database.postgres import PostgresDatabase
from shared.embedding.backfill import BackfillOptions, backfill
from shared.embedding.collection import Collection
from shared.errors import DatabaseRejected
from tests.database.rows import Connection
from tests.documents import blocks
from tests.fake_provider import FakeProvider

PAGE = Path(__file__).resolve().parents[2] / "docs/your-own-table.md"
TRACK, SEARCH, FILTER, PUBLISH, OWN_VECTORS, CLIENT_VECTORS, REUSE, LANGUAGES, UNTRACK = (
    block.text for block in blocks(PAGE) if block.language == "sql"
)

KEYS = {
    "bigint": "bigint generated always as identity primary key",
    "uuid": "uuid primary key default gen_random_uuid()",
    "text": "text primary key default 'recipe ' || random()",
}


def rows(connection: Connection, script: str) -> list[tuple[Any, ...]]:
    """Run statements one by one; return the rows of the last one."""
    with connection.cursor() as cursor:
        for statement in re.split(r";\n(?=[a-z]|$)", script):
            if statement.strip():
                cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


@pytest.mark.parametrize("key", KEYS)
def test_from_create_table_to_hybrid_search(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider, role: Callable[..., Any], key: str
) -> None:
    assert KEYS["bigint"] in TRACK

    def script(text: str) -> str:
        return text.replace(KEYS["bigint"], KEYS[key]).replace("::bigint", f"::{key}").replace("id bigint", f"id {key}")

    rows(owner, script(TRACK))
    report = backfill(database, provider, BackfillOptions("recipes")).report
    assert (report.embedded, report.failed) == (2, 0)
    found = rows(owner, script(SEARCH))
    assert found[0][0] == "Plum cake"
    assert len(rows(owner, script(FILTER))) == 1
    rows(owner, script(PUBLISH))
    vector = str(provider.embed_query("sour plums on a soft dough").tolist())
    with role("anon") as anon:
        hybrid = anon.execute(
            "select title, full_text_rank, semantic_rank from search_recipes('plum', %s)", [vector]
        ).fetchall()
    assert hybrid[0] == ("Plum cake", 1, 1)
    assert len(hybrid) == 2

    owner.execute("update recipes set body = 'Now with cherries.' where title = 'Plum cake'")
    work = Collection(database, "recipes")
    assert work.embedding_queue().pending == 1
    assert backfill(database, provider, BackfillOptions("recipes")).report.embedded == 1
    assert work.verify_embeddings() == 0


def test_a_table_of_your_own_needs_less_than_fifteen_lines_of_sql() -> None:
    without_rows = TRACK[: TRACK.index("insert into")]
    assert len((without_rows + SEARCH).splitlines()) < 15


def test_a_table_can_use_its_own_vectors(owner: Connection, database: PostgresDatabase, provider: FakeProvider) -> None:
    assert [row[0] for row in rows(owner, OWN_VECTORS)] == ["a red bicycle", "a blue boat"]
    work = Collection(database, "pictures")
    assert work.embedding_queue().pending == 0
    owner.execute("update pictures set caption = 'a green boat' where caption = 'a blue boat'")
    assert work.embedding_queue().pending == 1, "the vector was of another text"
    assert work.verify_embeddings() == 0
    assert len(OWN_VECTORS.splitlines()) < 15
    # A backfill with another model does not replace them.
    with pytest.raises(DatabaseRejected, match='collection "pictures" is embedded with model "my-clip"'):
        backfill(database, provider, BackfillOptions("pictures"))
    kept = owner.execute("select embedding_model, count(*) from pictures where embedding is not null group by 1")
    assert kept.fetchall() == [("my-clip", 1)]
    rows(owner, CLIENT_VECTORS)
    rows(owner, REUSE)
    options = owner.execute("select client_vectors, reuse from embedding.collections where name = 'pictures'")
    assert options.fetchall() == [(True, "none")]


def test_a_table_in_several_languages_is_found_in_each_of_them(owner: Connection) -> None:
    assert rows(owner, LANGUAGES) == [("p2",)]
    asked = "select h.row_id from embedding.search_hits('public.places', embedding.query_lexemes(%s, 'english', 'french')) h"
    for query, expected in (("théâtres", "p2"), ("villes", "p2"), ("hall", "p1"), ("concerts", "p1"), ("towns", "p1")):
        assert owner.execute(asked, [query]).fetchall() == [(expected,)], query


def test_an_untracked_table_keeps_its_columns_and_loses_its_triggers(owner: Connection) -> None:
    rows(owner, LANGUAGES)
    rows(owner, UNTRACK)
    triggers = "select tgname from pg_trigger where tgrelid = 'places'::regclass and not tgisinternal"
    assert owner.execute(triggers).fetchall() == []
    assert owner.execute("select count(*) from places where fts is not null").fetchone() == (2,)
    assert owner.execute("select list_embedding_collections()").fetchall().count(("places",)) == 0
