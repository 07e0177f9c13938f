"""Tests POST /embed with store, and the search of stored code below a path."""

import httpx
import pytest

from shared.database.postgres import PostgresDatabase
from shared.embedding.collection import Collection
from tests.conftest import Connection
from tests.fake_provider import FakeProvider
from tests.functions.conftest import KEYS

CHUNKS = [
    {
        "chunk_id": "c1",
        "content": "def retryPolicy(header): parse seconds",
        "path": "src/net/retry.py",
        "language": "python",
    },
    {"chunk_id": "c2", "content": "select parse from header", "path": "sql/net/retry.sql"},
    {"chunk_id": "c3", "content": "paint the fence", "path": "src/net%/fence.py"},
]


def embed(client: httpx.Client, *chunks: object, store: bool = True, **body: object) -> httpx.Response:
    given = {"batch_id": "b", "chunks": list(chunks), "store": store, **body}
    return client.post("/embed", json=given, headers=KEYS)


def found(client: httpx.Client, query: str, path: str | None = None) -> list[str]:
    body = {"query": query, "semantic_weight": 0, **({"filter": {"path": path}} if path else {})}
    answer = client.post("/api/search/code_chunks", json=body)
    assert answer.status_code == 200, answer.text
    return [hit["id"] for hit in answer.json()["hits"]]


def test_stored_chunks_have_the_vectors_that_were_answered(
    client: httpx.Client, owner: Connection, database: PostgresDatabase
) -> None:
    answer = embed(client, *CHUNKS).json()
    assert answer["stored"] == 3
    rows = owner.execute("select id, embedding::text, embedding_model from code_chunks order by id").fetchall()
    assert [row[0] for row in rows] == ["c1", "c2", "c3"]
    for (_, stored, model), vector in zip(rows, answer["vectors"], strict=True):
        assert model == "fake"
        assert [float(number) for number in str(stored)[1:-1].split(",")] == pytest.approx(vector["vector"], abs=1e-6)
    assert Collection(database, "code_chunks").embedding_queue().pending == 0
    assert Collection(database, "code_chunks").verify_embeddings() == 0


def test_without_store_nothing_is_stored(client: httpx.Client, owner: Connection) -> None:
    assert "stored" not in embed(client, *CHUNKS, store=False).json()
    assert owner.execute("select count(*) from code_chunks").fetchone() == (0,)


def test_storing_chunks_again_writes_only_changed_ones(
    client: httpx.Client, owner: Connection, database: PostgresDatabase
) -> None:
    embed(client, *CHUNKS)
    before = dict(owner.execute("select id, xmin::text from code_chunks").fetchall())
    changed = {**CHUNKS[0], "content": "def retryPolicy(header): return None"}
    assert embed(client, changed, *CHUNKS[1:]).json()["stored"] == 1
    after = dict(owner.execute("select id, xmin::text from code_chunks").fetchall())
    assert [name for name in after if after[name] != before[name]] == ["c1"]
    assert Collection(database, "code_chunks").verify_embeddings() == 0


def test_two_chunks_of_a_request_with_one_id_become_one_chunk_with_the_later_text(
    client: httpx.Client, owner: Connection
) -> None:
    embed(client, CHUNKS[0], {**CHUNKS[0], "content": "the later"})
    assert owner.execute("select content from code_chunks").fetchall() == [("the later",)]


def test_queries_cannot_be_stored(client: httpx.Client) -> None:
    assert embed(client, CHUNKS[0], input_type="query").status_code == 422
    assert embed(client, CHUNKS[0], collection="music_knowledge").status_code == 422


def test_a_collection_of_another_model_refuses_chunks(client: httpx.Client, owner: Connection) -> None:
    owner.execute("select register_embedding_model('other', 'fake', 16)")
    owner.execute("select embedding.check_model(embedding.get_collection('code_chunks'), 'other')")
    answer = embed(client, CHUNKS[0])
    assert answer.status_code == 422
    assert "other" in answer.json()["error"]["message"]
    assert owner.execute("select count(*) from code_chunks").fetchone() == (0,)


def test_code_is_found_by_the_parts_of_its_names(client: httpx.Client, provider: FakeProvider) -> None:
    embed(client, *CHUNKS)
    assert found(client, "policy") == ["c1"]
    assert found(client, "retryPolicy")[0] == "c1"
    assert found(client, "fence.py")[0] == "c3"


def test_a_path_filters_by_its_beginning_or_by_a_pattern(client: httpx.Client) -> None:
    embed(client, *CHUNKS)
    assert found(client, "parse header", "src/net/") == ["c1"]
    assert found(client, "parse header", "sql/net/retry.sql") == ["c2"]
    assert found(client, "parse header", "*.sql") == ["c2"]
    assert set(found(client, "parse header", "*/net/retry.*")) == {"c1", "c2"}
    assert found(client, "paint fence", "src/net%") == ["c3"], "a wildcard of LIKE is an ordinary character here"
    assert found(client, "parse header paint", "src/_et/*") == []


def test_chunks_that_are_written_by_sql_are_embedded_like_any_rows(
    client: httpx.Client, owner: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    embed(client, CHUNKS[0])
    owner.execute("insert into code_chunks (id, path, content) values ('d1', 'x.py', 'new'), ('d2', 'y.py', '')")
    owner.execute("update code_chunks set content = 'edited' where id = 'c1'")
    work = Collection(database, "code_chunks")
    assert {row.row_id for row in work.claim_embeddings(10, 60)} == {"c1", "d1"}
    assert owner.execute("select embedding from code_chunks where id = 'c1'").fetchone() == (None,)
