"""Tests full-text search in SQL: the score is BM25, for any text."""

import math
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.database.rows import Connection
from tests.database.search_rows import EAST, NORTH, add_notes, add_up, hits, ids

WORDS = ["piano", "drum", "bass", "flute", "harp", "lute", "viola", "cello", "oboe", "horn"]
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


@pytest.mark.parametrize("analyzed", [False, True], ids=["no statistics", "statistics"])
@pytest.mark.parametrize("caller", ["owner", "all rows visible", "half the rows visible"])
def test_the_full_text_score_is_bm25_over_the_rows_that_the_caller_sees(
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


def test_a_word_missing_from_the_statistics_is_counted(notes: Connection) -> None:
    # There are 1,200 words that occur in one row each. The statistics contain "drum", but none of these.
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


def test_a_row_matches_without_all_words_of_the_query(notes: Connection) -> None:
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
    # Each row has one unique word and a hundred common ones.
    add_notes(notes, *((row, f"word{row}q common{row % 100}q", None, 1, EAST, "tiny") for row in range(2000)))
    if analyzed:
        notes.execute("analyze notes")
    text = " ".join(f"word{row}q" if row % 2 else f"common{row % 100}q strange{row}q" for row in range(2000))
    assert len(text.split()) == 3000
    taken: list[float] = []
    # Use the fastest of several runs, because other jobs may use the processor.
    while not taken or (min(taken) >= 1 and len(taken) < 20):
        started = time.perf_counter()
        assert len(hits(notes, text, EAST)) == 10
        taken.append(time.perf_counter() - started)
    assert min(taken) < 1
