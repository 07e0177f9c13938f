"""The search core in SQL: scores that can be recomputed, for any input, over the rows that the caller may see."""

import json
import math
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.database.rows import Connection

WORDS = ["piano", "drum", "bass", "flute", "harp", "lute", "viola", "cello", "oboe", "horn"]
EAST, NORTH, UP = "[1,0,0]", "[0,1,0]", "[0,0,1]"
CASTS = {"source": "regclass", "query_embedding": "extensions.vector", "filter": "jsonb", "query_embeddings": "jsonb"}

HOSTILE = {
    "one quote": "'",
    "two quotes": "''",
    "backslash": "\\",
    "operators": "a & b | !c <-> d:* ((((",
    "a prefix": "piano:*",
    "a URL": "http://x.y/z?q='1'&b=\\2",
    "a URL with operators": "http://x.y:8080/z'!(a|b)&c:*<->d",
    "emoji": "🎹" * 500,
    "one long word": "x" * 5000,
    "Japanese": "日本語の音楽",
    "Arabic": "موسيقى هادئة",
    "white space": " \t\n ",
    "nothing": "",
    "stop words": "the of and",
    "format": "%s %I %1$L $1 {}",
    "an escape string": "E'\\'' --",
    "an injection": "'; drop table notes; --",
    "numbers": "-1.5e10 v1.2.3 a@b.c",
    "markup": "<b>x</b>",
    "invisible": "\u200b\ufeff",
    "null": "null",
    "many hyphens": "a-" * 12_000,
    "many quotes": "'" * 40_000,
    "a wall of addresses": "a-b.c/d@" * 5_000,
}


@pytest.fixture
def notes(owner: Connection) -> Connection:
    """An empty tracked table that anon may read, and two models of three dimensions."""
    owner.execute("""
        create table public.notes (id bigint primary key, body text, kind text, n int,
          fts tsvector generated always as (to_tsvector('english', body)) stored);
        create function embedding.document_text(t public.notes) returns text language sql immutable return t.body;
        select register_embedding_model('tiny', 'test', 3), register_embedding_model('other', 'test', 3);
        select track_embeddings('notes', model => 'tiny');
        grant select on public.notes to anon;
    """)
    return owner


def add_notes(connection: Connection, *rows: tuple[Any, ...]) -> None:
    """Rows of (id, body, kind, n, vector, model)."""
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


def add_up(found: list[dict[str, Any]], words: float = 0.3, meaning: float = 0.7) -> None:
    for hit in found:
        assert hit["score"] == pytest.approx(
            words * hit["full_text_score"] + meaning * hit["semantic_score"], abs=1e-12
        )
    assert [(-hit["score"], int(hit["row_id"])) for hit in found] == sorted(
        (-hit["score"], int(hit["row_id"])) for hit in found
    )


def orchestra(count: int, seed: int = 1) -> list[str]:
    chosen = random.Random(seed)
    return [
        " ".join(chosen.choice(WORDS[: chosen.randint(2, 10)]) for _ in range(chosen.randint(1, 400)))
        for _ in range(count)
    ]


def bm25(bodies: dict[int, str], query: list[str]) -> dict[int, float]:
    """k1 = 1.2, b = 0.75; a row's length is its number of distinct words."""
    counts = {row: Counter(body.split()) for row, body in bodies.items()}
    mean = sum(map(len, counts.values())) / len(counts)
    scores: dict[int, float] = {}
    for word in query:
        held = sum(word in count for count in counts.values())
        weight = math.log(1 + (len(counts) - held + 0.5) / (held + 0.5))
        for row, count in counts.items():
            if word in count:
                tf = count[word]
                part = weight * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * len(count) / mean))
                scores[row] = scores.get(row, 0) + part
    return scores


# Words


@pytest.mark.parametrize("analyzed", [False, True], ids=["no statistics", "statistics"])
@pytest.mark.parametrize("caller", ["owner", "all rows visible", "half the rows visible"])
def test_the_score_of_words_is_bm25_over_the_rows_that_the_caller_sees(
    notes: Connection, role: Callable[..., Any], caller: str, analyzed: bool
) -> None:
    bodies = dict(enumerate(orchestra(300)))
    add_notes(notes, *((row, body, "open" if row % 2 else "shut", row, None, None) for row, body in bodies.items()))
    if analyzed:
        notes.execute("analyze notes")
    if caller == "owner":
        found = hits(notes, "lutes oboe", match_count=200)
    else:
        notes.execute("alter table notes enable row level security")
        policy = "true" if caller == "all rows visible" else "kind = 'open'"
        notes.execute(f"create policy p on notes for select to anon using ({policy})")
        if policy != "true":
            bodies = {row: body for row, body in bodies.items() if row % 2}
        with role("anon") as anon:
            found = hits(anon, "lutes oboe", match_count=200)
    expected = bm25(bodies, ["lute", "oboe"])
    assert len(found) == min(200, len(expected))
    for hit in found:
        assert hit["bm25"] == pytest.approx(expected[int(hit["row_id"])], rel=1e-4)
    assert found[0]["bm25"] == pytest.approx(max(expected.values()), rel=1e-4)
    assert found[0]["full_text_score"] == 1


def test_a_word_that_statistics_do_not_know_is_counted(notes: Connection) -> None:
    # 1,200 words, each in one row: none is common enough for the statistics to keep, but "drum" is.
    bodies = {row: f"drum {'bass ' * (row % 3)} tune{row}x" for row in range(1200)}
    add_notes(notes, *((row, body, None, None, None, None) for row, body in bodies.items()))
    notes.execute("alter table notes alter column fts set statistics 1; analyze notes")
    row = notes.execute("select frequencies from embedding.lexeme_statistics('notes', '{drum,tune7x}')").fetchone()
    assert row is not None
    assert row[0][0] == pytest.approx(1, abs=0.01)
    assert row[0][1] is None
    terms = notes.execute(
        "select terms, counts from embedding.query_terms('notes', 'drum tune7x', 'english')"
    ).fetchone()
    assert terms == (["'tune7x'", "'drum'"], [1, pytest.approx(1200, rel=0.01)])
    assert ids(hits(notes, "tune7x drum"))[0] == 7


def test_a_question_needs_not_all_of_its_words(notes: Connection) -> None:
    add_notes(notes, (1, "a piano sonata", None, 1, None, None), (2, "drums and bass", None, 1, None, None))
    assert ids(hits(notes, "which zither plays a sonata in the opera house?")) == [1]


@given(
    text=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=300)
    | st.lists(
        st.sampled_from(
            [
                *"'\\&|!()-/é \"<>%$",
                ":*",
                "<->",
                "piano",
                " zither ",
                "http://",
                "a@b.c",
                "🎹",
                "日本",
                "null",
                "''",
                " or ",
            ]
        ),
        max_size=60,
    ).map("".join),
    vector=st.sampled_from([None, EAST, "[-1e-30,0,0]", "[1e18,3,-2]"]),
    fusion=st.sampled_from(["weighted", "rrf"]),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_answered_and_scores_add_up(notes: Connection, text: str, vector: str | None, fusion: str) -> None:
    if notes.execute("select count(*) from notes").fetchone() == (0,):
        add_notes(
            notes,
            (1, "a piano sonata", "x", 1, EAST, "tiny"),
            (2, "the quiet piano", "y", 2, NORTH, "tiny"),
            (3, "piano or piano, piano/null", "y", 4, None, None),
            (4, None, "y", 5, None, None),
            (5, "back\\slash quo'te a@b.c 🎹 日本", "x", 6, "[1,1,0]", "tiny"),
        )
    found = hits(notes, text, vector, fusion=fusion)
    add_up(found)
    assert len({hit["row_id"] for hit in found}) == len(found)
    assert vector is None or len(found) >= 3


@pytest.mark.parametrize("analyzed", [False, True], ids=["no statistics", "statistics"])
def test_hostile_texts_raise_nothing(notes: Connection, role: Callable[..., Any], analyzed: bool) -> None:
    add_notes(notes, (1, "a piano sonata by quo'te \\ slash 日本語 🎹", None, 1, EAST, "tiny"))
    if analyzed:
        notes.execute("analyze notes")
    with role("anon") as anon:
        for text in HOSTILE.values():
            add_up(hits(anon, text, EAST))
        for text in ("piano:*", "'sonata'", "slash", "quo'te", "sonata'; drop table notes; --"):
            assert ids(hits(anon, text)) == [1]
        assert hits(anon, "the of and") == hits(anon, "") == hits(anon, "日本") == []


@pytest.mark.parametrize("analyzed", [False, True], ids=["no statistics", "statistics"])
def test_three_thousand_words_are_answered_within_a_second(notes: Connection, analyzed: bool) -> None:
    # A word of its own in each row, and a hundred that are everywhere.
    add_notes(notes, *((row, f"word{row}q common{row % 100}q", None, 1, EAST, "tiny") for row in range(2000)))
    if analyzed:
        notes.execute("analyze notes")
    text = " ".join(f"word{row}q" if row % 2 else f"common{row % 100}q strange{row}q" for row in range(2000))
    assert len(text.split()) == 3000
    taken = []
    for _ in range(3):
        started = time.perf_counter()
        assert len(hits(notes, text, EAST)) == 10
        taken.append(time.perf_counter() - started)
    assert min(taken) < 1


# Meaning


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
    # The vector named for a model wins over the one that is not.
    assert hits(notes, None, NORTH, query_embeddings={"tiny": [1, 0, 0]})[0]["row_id"] == "3"


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
def test_what_cannot_be_asked_is_named(notes: Connection, arguments: dict[str, Any], state: str, message: str) -> None:
    with pytest.raises(psycopg.Error, match=message) as error:
        hits(notes, **arguments)
    assert error.value.sqlstate == state


# One column of each kind there is, and the name of the type as PostgreSQL says it.
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
        # The embedded server is built without ICU, whose collations may be of this kind.
        "create collation folded (provider = libc, locale = 'C');"
        "update pg_collation set collisdeterministic = false where collname = 'folded'"
    )
    columns = ", ".join(f'"{name}" {kind}' for name, kind in KINDS.items())
    owner.execute(f"create table kinds (id int primary key, body text, {columns})")
    owner.execute("create function embedding.document_text(k kinds) returns text language sql immutable return k.body")
    owner.execute("select track_embeddings('kinds'); insert into kinds (id, body) values (1, 'drum')")
    return owner


def test_a_filter_that_does_not_fit_its_column_is_the_callers_mistake(kinds: Connection) -> None:
    """In class 42 it would read like a database that is not up to date."""
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
    assert fits > 300, "most of what fits is not refused"


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


def fill_music(owner: Connection, rows: int = 4000) -> None:
    """music_knowledge with an index over its vectors; every hundredth row is rare, and far from EAST."""
    owner.execute("select register_embedding_model('tiny', 'test', 3), set_collection_model('music_knowledge', 'tiny')")
    owner.execute("select setseed(0.5)")
    # The columns as an insert of a finished row would have them; the text's hash as the triggers would.
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
def test_the_vector_index_is_used_and_a_filter_that_one_row_in_a_hundred_passes_fills_the_list(
    owner: Connection, role: Callable[..., Any], name: str
) -> None:
    fill_music(owner)
    # 4,000 rows of three dimensions are read as quickly without an index. What is asked is whether it can be used.
    with role(name) as caller, caller.transaction():
        caller.execute("set local enable_seqscan = off; set local enable_bitmapscan = off; set local enable_sort = off")
        for number, more in enumerate(("", ", query_text => 'tune 7'"), 1):
            found = caller.execute(
                f"select id from search_music_knowledge(query_embedding => '[1,0,0]', match_count => 20{more})"
            ).fetchall()
            assert (len(found), scans_of_the_index(caller)) == (20, number)
        # The core, and the function over it, which has the same setting.
        rare = hits(caller, None, EAST, source="music_knowledge", filter={"category": "rare"}, match_count=20)
        assert (len(rare), scans_of_the_index(caller)) == (20, 3)
        found = caller.execute(
            "select category from search_music_knowledge("
            "query_embedding => '[1,0,0]', filter_category => 'rare', match_count => 20)"
        ).fetchall()
        assert found == [("rare",)] * 20


def test_a_large_table_is_searched_by_its_index_unasked(owner: Connection) -> None:
    owner.execute("set maintenance_work_mem = '64MB'")
    fill_music(owner, 12_000)
    with owner.transaction():
        owner.execute("select search_music_knowledge(query_embedding => '[1,0,0]')")
        assert scans_of_the_index(owner) == 1


# Both


def chorus(connection: Connection, exact: str) -> None:
    """500 rows about the query (cosine 0.5), none with its word; row 777 holds `exact` (cosine 0.3)."""
    add_notes(
        connection,
        *(
            (row, f"a song about number{row}q on a long road at night by a band", None, 1, "[0.5,0.8660254,0]", "tiny")
            for row in range(500)
        ),
        (777, f"{exact} song, song, song", "exact", 1, "[0.3,0.953939,0]", "tiny"),
    )
    connection.execute("analyze notes")


def test_a_query_of_one_exact_word_is_not_drowned_by_meaning(notes: Connection) -> None:
    chorus(notes, "shoegaze")
    (first, second, *_) = hits(notes, "shoegaze", EAST)
    assert first["row_id"] == "777"
    assert first["semantic_score"] < second["semantic_score"]


def test_one_frequent_word_of_a_question_does_not_overrule_meaning(notes: Connection) -> None:
    chorus(notes, "shoegaze")
    found = hits(notes, "what makes such songs sound so warm and distant to us listeners", EAST, match_count=200)
    # Every row holds "song", and row 777 little else: by words alone it is far ahead. But they tell next to nothing.
    assert found[0]["row_id"] != "777"
    assert max(hit["full_text_trust"] or 0 for hit in found) < 0.05


def test_words_are_trusted_by_their_rarity_and_by_how_many_a_row_holds(notes: Connection) -> None:
    chorus(notes, "shoegaze dreampop")

    def trust(query: str) -> float:
        return float(hits(notes, query, EAST, filter={"kind": "exact"})[0]["full_text_trust"])

    assert trust("shoegaze") > 10 * trust("song")
    assert trust("shoegaze dreampop") > trust("shoegaze zither")
    # Without vectors there is nothing to weigh against.
    assert hits(notes, "song")[0]["full_text_trust"] == 1


def test_a_row_that_is_not_embedded_yet_is_found_by_its_words_among_rows_that_are(notes: Connection) -> None:
    chorus(notes, "dreampop")
    add_notes(notes, (888, "shoegaze", "new", 0, None, None), (999, "a song", "new", 0, None, None))
    notes.execute("analyze notes")
    found = hits(notes, "shoegaze", EAST, match_count=200)
    add_up(found)
    assert found[0]["row_id"] == "888"
    assert (found[0]["semantic_rank"], found[0]["cosine"]) == (None, None)
    # Every row holds "song": of what 999 means its words tell nothing, and it is guessed to be like the least like.
    (new,) = [hit for hit in hits(notes, "song", EAST, match_count=200) if hit["row_id"] == "999"]
    worst = min(hit["semantic_score"] for hit in hits(notes, None, EAST, match_count=200))
    assert new["semantic_score"] == pytest.approx(worst, abs=0.01)
    # By place alone nothing is guessed: it has none.
    (new,) = [hit for hit in hits(notes, "shoegaze", EAST, fusion="rrf", match_count=200) if hit["row_id"] == "888"]
    assert new["semantic_score"] == 0


def trio(connection: Connection) -> None:
    add_notes(
        connection,
        (1, "a piano sonata", "x", 1, EAST, "tiny"),
        (2, "the quiet piano", "y", 2, NORTH, "tiny"),
        (3, "drums and bass", "x", 3, UP, "tiny"),
    )


def test_either_leg_works_alone_and_a_row_of_one_leg_is_scored_by_both(notes: Connection) -> None:
    trio(notes)
    assert ids(hits(notes, "piano")) == [1, 2]
    assert {hit["semantic_rank"] for hit in hits(notes, "piano")} == {None}
    assert ids(hits(notes, None, UP)) == [3, 1, 2]
    assert {hit["full_text_rank"] for hit in hits(notes, None, UP)} == {None}
    assert ids(hits(notes, "the", UP)) == [3, 1, 2]
    assert hits(notes) == []
    mixed = hits(notes, "sonata", NORTH)
    add_up(mixed)
    assert {hit["row_id"]: hit["cosine"] for hit in mixed} == {"1": 0, "2": 1, "3": 0}
    assert {hit["row_id"]: hit["full_text_rank"] for hit in mixed} == {"1": 1, "2": None, "3": None}


def test_a_leg_of_weight_zero_is_not_asked(notes: Connection) -> None:
    trio(notes)
    assert ids(hits(notes, "sonata", UP, full_text_weight=0.0)) == [3, 1, 2]
    assert ids(hits(notes, None, UP, full_text_weight=0.0, semantic_weight=1.0)) == [3, 1, 2]
    assert ids(hits(notes, "sonata", UP, semantic_weight=0.0)) == [1]
    assert ids(hits(notes, "sonata", None, semantic_weight=0.0, full_text_weight=2.0)) == [1]
    assert hits(notes, "sonata", UP, full_text_weight=0.0, semantic_weight=0.0) == []


def test_weights_decide_and_scores_add_up_under_them(notes: Connection) -> None:
    trio(notes)
    for words, meaning in ((0.9, 0.1), (0.0, 1.0), (0.5, 0.5), (2.0, 3.0)):
        add_up(hits(notes, "sonata", UP, full_text_weight=words, semantic_weight=meaning), words, meaning)
    assert ids(hits(notes, "sonata", UP, full_text_weight=0.9, semantic_weight=0.1))[0] == 1
    assert ids(hits(notes, "sonata", UP, full_text_weight=0.1, semantic_weight=0.9))[0] == 3
    given_null = hits(notes, "sonata", UP, full_text_weight=None, semantic_weight=None, fusion=None, match_count=None)
    assert given_null == hits(notes, "sonata", UP)


def test_reciprocal_rank_fusion_scores_by_place(notes: Connection) -> None:
    trio(notes)
    found = hits(notes, "piano", UP, fusion="rrf")
    add_up(found)
    for hit in found:
        assert hit["full_text_score"] == (1 / (60 + hit["full_text_rank"]) if hit["full_text_rank"] else 0)
        assert hit["semantic_score"] == 1 / (60 + hit["semantic_rank"])
    assert found[0]["row_id"] == "1"


def test_ties_break_by_id_as_a_number(notes: Connection) -> None:
    add_notes(notes, *((row, "piano", None, 1, EAST, "tiny") for row in (10, 9, 100, 1)))
    for arguments in ({"text": "piano"}, {"vector": EAST}, {"text": "piano", "vector": EAST}):
        for fusion in ("weighted", "rrf"):
            found = hits(notes, fusion=fusion, **arguments)  # type: ignore[arg-type]
            assert ids(found) == [1, 9, 10, 100]


def test_filters_compare_columns_and_null_filters_nothing(notes: Connection) -> None:
    trio(notes)
    assert ids(hits(notes, "piano drums", UP, filter={"kind": "x"})) == [3, 1]
    assert ids(hits(notes, "piano drums", filter={"n": 2, "kind": None})) == [2]
    assert ids(hits(notes, "piano", filter={"kind": "x' or true --"})) == []


def test_a_filter_reaches_rows_behind_thousands_that_hold_the_same_words(notes: Connection) -> None:
    add_notes(notes, *((row, "piano drum", "rare" if row > 2980 else "frequent", 1, None, None) for row in range(3000)))
    notes.execute("analyze notes")
    assert len(hits(notes, "piano drum", filter={"kind": "rare"}, match_count=10)) == 10
    assert len(hits(notes, "piano", filter={"kind": "rare"}, match_count=100)) == 19


def test_operators_inside_a_word_are_letters_of_it(notes: Connection) -> None:
    add_notes(notes, (1, "see http://example.com/a&b", "k", 1, None, None), (2, "see example.com", "k", 1, None, None))
    whole, host = hits(notes, "http://example.com/a&b")
    assert (whole["row_id"], host["row_id"]) == ("1", "2")
    assert whole["bm25"] > 3 * host["bm25"], "the path and the address as a whole count besides the host"


def test_a_row_that_holds_rare_and_frequent_words_is_one_hit(notes: Connection) -> None:
    """More rows than are scored, so that each way of finding rows has its turn, and finds what others found."""
    add_notes(
        notes,
        *(
            (number, "song" + " chorus" * (number % 2) + " zither" * (number % 400 == 1), "k", 1, None, None)
            for number in range(1, 2001)
        ),
    )
    found = ids(hits(notes, "zither chorus song", match_count=200))
    assert len(found) == len(set(found)) == 200
    assert set(found[:5]) == {1, 401, 801, 1201, 1601}


def test_match_count_is_kept_within_bounds(notes: Connection) -> None:
    add_notes(notes, *((row, "piano", None, 1, None, None) for row in range(300)))
    assert [len(hits(notes, "piano", match_count=count)) for count in (-5, 0, 1, 10**9, None)] == [1, 1, 1, 200, 10]


# What a caller may not see


def test_hidden_rows_move_neither_hits_nor_scores(notes: Connection, role: Callable[..., Any]) -> None:
    trio(notes)
    notes.execute("alter table notes enable row level security")
    notes.execute("create policy p on notes for select to anon using (kind <> 'secret')")

    def asked() -> list[Any]:
        with role("anon") as anon:
            return [
                hits(anon, text, vector, fusion=fusion)
                for text in ("piano", "piano sonata zither", "zither", "quiet drums")
                for vector in (None, EAST)
                for fusion in ("weighted", "rrf")
            ]

    notes.execute("analyze notes")
    before = asked()
    add_notes(
        notes,
        *((100 + row, "zither piano sonata quiet quiet", "secret", 1, "[1,0.1,0]", "tiny") for row in range(2500)),
    )
    assert asked() == before
    notes.execute("analyze notes")
    assert asked() == before


def test_statistics_are_told_only_to_who_sees_every_row(notes: Connection, role: Callable[..., Any]) -> None:
    trio(notes)
    notes.execute("analyze notes")

    def told(name: str) -> bool:
        with role(name) as caller:
            found = caller.execute("select * from embedding.lexeme_statistics('notes', '{piano}')").fetchall()
        return bool(found)

    assert told("anon")
    notes.execute("alter table notes enable row level security")
    assert not told("anon")
    assert told("service_role")
    notes.execute("create policy part on notes for select to anon using (kind <> 'secret')")
    assert not told("anon")
    notes.execute("create policy whole on notes for select to anon using (true)")
    assert told("anon")
    notes.execute("create policy less on notes as restrictive for select to anon using (kind <> 'secret')")
    assert not told("anon")
    notes.execute("drop policy less on notes; revoke select on notes from anon")
    assert not told("anon")
