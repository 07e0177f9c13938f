"""Tests filters of a search: any column and value; an invalid filter is named."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.database.rows import Connection
from tests.database.search_rows import EAST, UP, add_notes, hits, ids, trio

# Semantic ranking


@pytest.mark.parametrize(
    ("arguments", "state", "message"),
    [
        ({"vector": "[1,0]"}, "22023", 'query_embedding has 2 dimensions, but model "tiny" .* has 3'),
        ({"query_embeddings": {"other": [1, 0]}}, "22023", r"query_embeddings\[other\] has 2 dimensions"),
        ({"vector": "[0,0,0]"}, "22023", "zero vector"),
        ({"vector": EAST, "embedding_model": "nope"}, "22023", 'model "nope" is not registered'),
        ({"vector": EAST, "query_embeddings": [1]}, "22023", "query_embeddings must be an object"),
        ({"text": "piano", "filter": {"nope": 1}}, "22023", 'column "nope"'),
        ({"text": "piano", "filter": [1]}, "22023", "filter must be an object"),
        ({"text": "piano", "fusion": "sum"}, "22023", 'fusion must be weighted or rrf, not "sum"'),
        ({"text": "piano", "source": "embedding.models"}, "42704", "is not tracked"),
    ],
)
def test_an_invalid_filter_is_named(notes: Connection, arguments: dict[str, Any], state: str, message: str) -> None:
    with pytest.raises(psycopg.Error, match=message) as error:
        hits(notes, **arguments)
    assert error.value.sqlstate == state


# One column of each kind of type, and PostgreSQL's name of the type.
KINDS = {
    "bool": "boolean", "int2": "smallint", "int4": "integer", "int8": "bigint", "float4": "real",
    "float8": "double precision", "numeric": "numeric", "money": "money", "varchar": "character varying(9)",
    "bpchar": "character(3)", "bytea": "bytea", "date": "date", "time": "time", "timetz": "time with time zone",
    "stamp": "timestamp", "stamptz": "timestamp with time zone", "span": "interval", "uuid": "uuid", "json": "json",
    "jsonb": "jsonb", "xml": "xml", "inet": "inet", "mac": "macaddr", "bits": "bit(3)", "point": "point",
    "box": "box", "circle": "circle", "range": "int4range", "spans": "tstzmultirange", "words": "tsvector",
    "query": "tsquery", "texts": "text[]", "numbers": "int[]", "times": "timestamptz[]", "jsons": "jsonb[]",
    "vectors": "extensions.vector[]", "vec": "extensions.vector(3)", "half": "extensions.halfvec",
    "sparse": "extensions.sparsevec", "relation": "regclass", "config": "regconfig", "oid": "oid", "name": "name",
    "path": "jsonpath", "mood": "public.mood", "pair": "public.pair", "short": "public.short",
    "folded": "text collate public.folded",
}  # fmt: skip


@pytest.fixture
def kinds(owner: Connection) -> Connection:
    """A tracked table with a column of every kind of type."""
    owner.execute(
        "create type mood as enum ('calm', 'wild'); create type pair as (a int, b text);"
        "create domain short as text check (length(value) < 5);"
        # ICU collations can be of this kind, but the embedded server is built without ICU.
        "create collation folded (provider = libc, locale = 'C');"
        "update pg_collation set collisdeterministic = false where collname = 'folded'"
    )
    columns = ", ".join(f'"{name}" {kind}' for name, kind in KINDS.items())
    owner.execute(f"create table kinds (id int primary key, body text, {columns})")
    owner.execute("create function embedding.document_text(k kinds) returns text language sql immutable return k.body")
    owner.execute("select track_embeddings('kinds'); insert into kinds (id, body) values (1, 'drum')")
    return owner


def test_a_filter_value_of_the_wrong_type_is_an_error_of_the_caller(kinds: Connection) -> None:
    """An SQLSTATE of class 42 would be reported as a missing migration."""
    values = (
        "x",
        "'",
        "(1",
        "{",
        "{x}",
        "[1]",
        "1",
        "",
        "infinity",
        "pg_class",
        "\\",
        True,
        1e400,
        -1,
        ["a", ["b"]],
        {"a": 1},
        {},
    )
    wrong, fits = [], 0
    for column in (*KINDS, "body", "fts", "embedding", "embedding_hash", "id"):
        for operator in ("equals", "prefix", "like", "contains"):
            for value in values:
                try:
                    hits(kinds, "drum", source="kinds", filter={column: {operator: value}})
                    fits += 1
                except psycopg.Error as error:
                    if not str(error.sqlstate).startswith("22"):
                        wrong.append(f"{column} {operator} {value!r}: {error.sqlstate} {error.diag.message_primary}")
    assert not wrong, "\n".join(wrong)
    assert fits > 300, "most valid filters are accepted"


@pytest.mark.parametrize(
    ("filter_", "message"),
    [
        ({"stamptz": {"prefix": "x"}}, 'prefix .* the column "stamptz", whose type is timestamp with time zone'),
        ({"body": {"contains": "x"}}, 'contains .* "body", whose type is text'),
        ({"fts": "'"}, 'equals .* "fts", whose type is tsvector'),
        ({"json": "1"}, 'equals .* "json", whose type is json'),
        ({"point": "(1,2)"}, 'equals .* "point", whose type is point'),
        ({"folded": {"prefix": "x"}}, 'prefix .* "folded", whose type is text'),
    ],
)
def test_a_filter_that_does_not_fit_names_operator_column_and_type(
    kinds: Connection, filter_: dict[str, Any], message: str
) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=message) as caught:
        hits(kinds, "drum", source="kinds", filter=filter_)
    assert caught.value.diag.message_hint


def test_a_filter_on_a_column_that_is_hidden_from_the_caller_is_forbidden(
    kinds: Connection, role: Callable[..., Any]
) -> None:
    kinds.execute(
        "revoke all on kinds from anon; grant select (id, body, fts, embedding, embedding_model) on kinds to anon"
    )
    with role("anon") as anon, pytest.raises(psycopg.errors.InsufficientPrivilege):
        hits(anon, "drum", source="kinds", filter={"mood": "calm"})


# Both


def test_filters_compare_columns_and_a_null_value_filters_nothing(notes: Connection) -> None:
    trio(notes)
    assert ids(hits(notes, "piano drums", UP, filter={"kind": "x"})) == [3, 1]
    assert ids(hits(notes, "piano drums", filter={"n": 2, "kind": None})) == [2]
    assert ids(hits(notes, "piano", filter={"kind": "x' or true --"})) == []


def test_a_filter_finds_rows_among_thousands_with_the_same_words(notes: Connection) -> None:
    add_notes(notes, *((row, "piano drum", "rare" if row > 2980 else "frequent", 1, None, None) for row in range(3000)))
    notes.execute("analyze notes")
    assert len(hits(notes, "piano drum", filter={"kind": "rare"}, match_count=10)) == 10
    assert len(hits(notes, "piano", filter={"kind": "rare"}, match_count=100)) == 19


def test_operators_inside_a_word_are_ordinary_characters(notes: Connection) -> None:
    add_notes(notes, (1, "see http://example.com/a&b", "k", 1, None, None), (2, "see example.com", "k", 1, None, None))
    whole, host = hits(notes, "http://example.com/a&b")
    assert (whole["row_id"], host["row_id"]) == ("1", "2")
    assert whole["bm25"] > 3 * host["bm25"], "the path and the address as a whole count besides the host"
