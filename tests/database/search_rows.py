"""Rows for the tests of search, and the scores that they must have."""

import json
from typing import Any

import pytest

from tests.database.rows import Connection

EAST, NORTH, UP = "[1,0,0]", "[0,1,0]", "[0,0,1]"


CASTS = {"source": "regclass", "query_embedding": "extensions.vector", "filter": "jsonb", "query_embeddings": "jsonb"}


def add_notes(connection: Connection, *rows: tuple[Any, ...]) -> None:
    """Insert rows, each given as (id, body, kind, n, vector, model)."""
    with connection.cursor() as cursor:
        cursor.executemany(
            "insert into notes (id, body, kind, n, embedding, embedding_model, embedding_hash)"
            " select t.*, case when t.vector is not null then embedding.text_hash(t.body) end from"
            " (select %s::bigint as id, %s::text as body, %s::text, %s::int, %s::extensions.vector as vector, %s::text) t",
            rows,
        )


def hits(
    connection: Connection, text: str | None = None, vector: str | None = None, **more: Any
) -> list[dict[str, Any]]:
    arguments = {"source": "public.notes", "query_text": text, "query_embedding": vector, **more}
    named = ", ".join(f"{name} => %({name})s::{CASTS.get(name, 'text')}" for name in arguments if name in CASTS)
    others = "".join(f", {name} => %({name})s" for name in arguments if name not in CASTS)
    cursor = connection.execute(
        f"select * from embedding.search_hits({named}{others})",
        {name: json.dumps(value) if isinstance(value, dict | list) else value for name, value in arguments.items()},
    )
    names = [column.name for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def ids(found: list[dict[str, Any]]) -> list[int]:
    return [int(hit["row_id"]) for hit in found]


def add_up(found: list[dict[str, Any]], full_text: float = 0.3, semantic: float = 0.7) -> None:
    for hit in found:
        assert hit["score"] == pytest.approx(
            full_text * hit["full_text_score"] + semantic * hit["semantic_score"], abs=1e-12
        )
    assert [(-hit["score"], int(hit["row_id"])) for hit in found] == sorted(
        (-hit["score"], int(hit["row_id"])) for hit in found
    )


def trio(connection: Connection) -> None:
    add_notes(
        connection,
        (1, "a piano sonata", "x", 1, EAST, "tiny"),
        (2, "the quiet piano", "y", 2, NORTH, "tiny"),
        (3, "drums and bass", "x", 3, UP, "tiny"),
    )
