"""Tests hybrid search in SQL: how both scores are weighted and added."""

import pytest

from tests.database.rows import Connection
from tests.database.search_rows import EAST, NORTH, UP, add_notes, add_up, hits, ids, trio


def chorus(connection: Connection, exact: str) -> None:
    """Insert 500 rows that are near the query (cosine 0.5) but do not contain its word, and row 777 with `exact` (0.3)."""
    add_notes(
        connection,
        *(
            (row, f"a song about number{row}q on a long road at night by a band", None, 1, "[0.5,0.8660254,0]", "tiny")
            for row in range(500)
        ),
        (777, f"{exact} song, song, song", "exact", 1, "[0.3,0.953939,0]", "tiny"),
    )
    connection.execute("analyze notes")


def test_an_exact_word_ranks_above_semantic_hits(notes: Connection) -> None:
    chorus(notes, "shoegaze")
    (first, second, *_) = hits(notes, "shoegaze", EAST)
    assert first["row_id"] == "777"
    assert first["semantic_score"] < second["semantic_score"]


def test_one_frequent_word_does_not_outweigh_the_semantic_ranking(notes: Connection) -> None:
    chorus(notes, "shoegaze")
    found = hits(notes, "what makes such songs sound so warm and distant to us listeners", EAST, match_count=200)
    # Every row contains "song", and row 777 is short: full-text search alone ranks it first.
    assert found[0]["row_id"] != "777"
    assert max(hit["full_text_trust"] or 0 for hit in found) < 0.05


def test_full_text_trust_grows_with_the_rarity_and_number_of_matched_words(notes: Connection) -> None:
    chorus(notes, "shoegaze dreampop")

    def trust(query: str) -> float:
        return float(hits(notes, query, EAST, filter={"kind": "exact"})[0]["full_text_trust"])

    assert trust("shoegaze") > 10 * trust("song")
    assert trust("shoegaze dreampop") > trust("shoegaze zither")
    # Without vectors the full-text score has its full weight.
    assert hits(notes, "song")[0]["full_text_trust"] == 1


def test_a_row_that_is_not_embedded_yet_is_found_by_full_text_among_rows_that_are(notes: Connection) -> None:
    chorus(notes, "dreampop")
    add_notes(notes, (888, "shoegaze", "new", 0, None, None), (999, "a song", "new", 0, None, None))
    notes.execute("analyze notes")
    found = hits(notes, "shoegaze", EAST, match_count=200)
    add_up(found)
    assert found[0]["row_id"] == "888"
    assert (found[0]["semantic_rank"], found[0]["cosine"]) == (None, None)
    # Every row contains "song", so the match of row 999 counts little: its estimate is the lowest semantic share.
    (new,) = [hit for hit in hits(notes, "song", EAST, match_count=200) if hit["row_id"] == "999"]
    worst = min(hit["semantic_score"] for hit in hits(notes, None, EAST, match_count=200))
    assert new["semantic_score"] == pytest.approx(worst, abs=0.01)
    # Reciprocal rank fusion makes no estimate: the row has no semantic rank.
    (new,) = [hit for hit in hits(notes, "shoegaze", EAST, fusion="rrf", match_count=200) if hit["row_id"] == "888"]
    assert new["semantic_score"] == 0


def test_each_ranking_works_alone_and_every_hit_gets_both_scores(notes: Connection) -> None:
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


def test_a_ranking_of_weight_zero_is_left_out(notes: Connection) -> None:
    trio(notes)
    assert ids(hits(notes, "sonata", UP, full_text_weight=0.0)) == [3, 1, 2]
    assert ids(hits(notes, None, UP, full_text_weight=0.0, semantic_weight=1.0)) == [3, 1, 2]
    assert ids(hits(notes, "sonata", UP, semantic_weight=0.0)) == [1]
    assert ids(hits(notes, "sonata", None, semantic_weight=0.0, full_text_weight=2.0)) == [1]
    assert hits(notes, "sonata", UP, full_text_weight=0.0, semantic_weight=0.0) == []


def test_the_score_is_the_weighted_sum_of_its_parts(notes: Connection) -> None:
    trio(notes)
    for full_text, semantic in ((0.9, 0.1), (0.0, 1.0), (0.5, 0.5), (2.0, 3.0)):
        add_up(hits(notes, "sonata", UP, full_text_weight=full_text, semantic_weight=semantic), full_text, semantic)
    assert ids(hits(notes, "sonata", UP, full_text_weight=0.9, semantic_weight=0.1))[0] == 1
    assert ids(hits(notes, "sonata", UP, full_text_weight=0.1, semantic_weight=0.9))[0] == 3
    given_null = hits(notes, "sonata", UP, full_text_weight=None, semantic_weight=None, fusion=None, match_count=None)
    assert given_null == hits(notes, "sonata", UP)


def test_reciprocal_rank_fusion_scores_by_rank(notes: Connection) -> None:
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


def test_a_row_with_rare_and_frequent_words_is_one_hit(notes: Connection) -> None:
    """There are more rows than depth, so that all lists of candidates are used, and the lists overlap."""
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
