"""Tests full-text search in several languages: stems of each language, accents, and queries with any characters."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.database.rows import Connection


def ask(connection: Connection, expression: str, *values: Any) -> Any:
    row = connection.execute(f"select {expression}", list(values)).fetchone()
    assert row is not None
    return row[0]


@pytest.mark.parametrize(
    ("document", "query"),
    [
        ("les chansons mélancoliques", "chanson melancolique"),
        ("relaxing evenings", "relaxed evening"),
        ("musique électronique", "electroniques"),
        ("œuvre pour cœur", "coeur"),
        ("Hip-Hop", "hip hop"),
        ("R&B", "r&b"),
        ("ENTRAÎNANTE", "entrainante"),
    ],
)
def test_a_word_is_found_in_its_other_forms(owner: Connection, document: str, query: str) -> None:
    common = ask(
        owner,
        "cardinality(array(select unnest(tsvector_to_array(embedding.lexemes(%s, 'english', 'french')))"
        " intersect select unnest(tsvector_to_array(to_tsvector('simple', embedding.query_lexemes(%s, 'english', 'french'))))))",
        document,
        query,
    )
    assert common >= len(query.replace("&", " ").split())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60))
def test_any_text_can_be_a_document_and_a_query(owner: Connection, text: str) -> None:
    assert ask(owner, "embedding.lexemes(%s, 'english', 'french') is not null", text)
    query = ask(owner, "embedding.query_lexemes(%s, 'english', 'french')", text)
    assert ask(
        owner,
        "embedding.lexemes(%s, 'english', 'french')::text = embedding.lexemes(%s, 'english', 'french')::text",
        text,
        text,
    )
    assert owner.execute("select count(*) from search_mir_synonyms(%s)", [text]).fetchone() == (0,)
    assert isinstance(query, str)


def test_stop_words_of_any_language_are_dropped_unless_the_query_has_only_stop_words(owner: Connection) -> None:
    def asked(query: str) -> set[str]:
        return set(ask(owner, "embedding.query_lexemes(%s, 'english', 'french')", query).split())

    assert asked("musique douce pour la plage") == {"douc", "musiqu", "plag", "plage"}
    assert asked("the music of the sea") == asked("music sea")
    assert asked("son") == {"son"}, "a dance in Cuba"


def test_all_spellings_of_a_tag_have_the_same_key(owner: Connection) -> None:
    keys = {ask(owner, "embedding.tag_key(%s)", name) for name in ("Hip-Hop", "hip hop", "HIP_HOP!", " hip  hop ")}
    assert keys == {"hip hop"}
    assert ask(owner, "embedding.tag_key(%s)", "Électro") == "electro"
    assert ask(owner, "embedding.tag_key(%s)", "演歌") == "演歌"
    assert ask(owner, "embedding.tag_key(%s)", "!!!") == "!!!", "a name of punctuation alone is still a name"
