"""Tests semantic search in SQL: the query vector of each row's model, and the vector index."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.database.rows import Connection
from tests.database.search_rows import EAST, NORTH, UP, add_notes, hits, ids


def test_each_row_is_compared_with_the_vector_of_its_own_model(notes: Connection) -> None:
    add_notes(
        notes,
        (1, "one", None, 1, UP, "other"),
        (2, "two", None, 1, NORTH, "tiny"),
        (3, "three", None, 1, EAST, "tiny"),
        (4, "four", None, 1, None, None),
    )
    found = hits(notes, query_embeddings={"tiny": [0, 1, 0], "other": [0, 0, 1]})
    assert {hit["row_id"]: hit["cosine"] for hit in found} == {"1": 1, "2": 1, "3": 0}
    assert ids(hits(notes, None, UP)) == [2, 3]
    assert ids(hits(notes, None, UP, embedding_model="other")) == [1]
    # A vector that is given for a model takes precedence over `query_embedding`.
    assert hits(notes, None, NORTH, query_embeddings={"tiny": [1, 0, 0]})[0]["row_id"] == "3"


def fill_music(owner: Connection, rows: int = 4000) -> None:
    """Fill music_knowledge and index its vectors. Every hundredth row has the category rare, and is far from EAST."""
    owner.execute("select register_embedding_model('tiny', 'test', 3), set_collection_model('music_knowledge', 'tiny')")
    owner.execute("select setseed(0.5)")
    # Insert complete rows, with the hash that the triggers would compute.
    owner.execute(
        r"""
        insert into music_knowledge (topic, category, content, embedding, embedding_model, embedding_hash)
        select t.*, 'tiny', embedding.text_hash(concat_ws(E'\n', t.topic, t.category, t.content))
        from (select 'tune ' || n as topic, case when rare then 'rare' else 'frequent' end as category,
                     'words of ' || n %% 50 || 'th' as content,
                     array[case when rare then -1 else 1 end, random() - 0.5, random() - 0.5]::extensions.vector as embedding
              from (select n, n %% 100 = 0 as rare from generate_series(1, %s) n) n) t
        """,
        [rows],
    )
    owner.execute("select create_embedding_index('music_knowledge')")


def scans_of_the_index(connection: Connection) -> int:
    """Scans of the vector index in this transaction."""
    row = connection.execute(
        "select pg_stat_get_xact_numscans(indexrelid) from pg_index"
        " where indrelid = 'public.music_knowledge'::regclass and pg_get_indexdef(indexrelid) like '%hnsw%'"
    ).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("name", ["service_role", "anon"])
def test_the_vector_index_returns_a_full_list_for_a_filter_that_one_percent_of_rows_pass(
    owner: Connection, role: Callable[..., Any], name: str
) -> None:
    fill_music(owner)
    # Without an index, 4,000 rows of three dimensions are read as quickly. This tests only whether the index can be
    # used.
    with role(name) as caller, caller.transaction():
        caller.execute("set local enable_seqscan = off; set local enable_bitmapscan = off; set local enable_sort = off")
        for number, more in enumerate(("", ", query_text => 'tune 7'"), 1):
            found = caller.execute(
                f"select id from search_music_knowledge(query_embedding => '[1,0,0]', match_count => 20{more})"
            ).fetchall()
            assert (len(found), scans_of_the_index(caller)) == (20, number)
        # Call search_hits, and then the function that calls it.
        rare = hits(caller, None, EAST, source="music_knowledge", filter={"category": "rare"}, match_count=20)
        assert (len(rare), scans_of_the_index(caller)) == (20, 3)
        found = caller.execute(
            "select category from search_music_knowledge("
            "query_embedding => '[1,0,0]', filter_category => 'rare', match_count => 20)"
        ).fetchall()
        assert found == [("rare",)] * 20


def test_a_large_table_is_searched_with_its_index(owner: Connection) -> None:
    owner.execute("set maintenance_work_mem = '64MB'")
    fill_music(owner, 12_000)
    with owner.transaction():
        owner.execute("select search_music_knowledge(query_embedding => '[1,0,0]')")
        assert scans_of_the_index(owner) == 1
