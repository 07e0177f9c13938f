"""Tests that a search sets pgvector's settings only for itself."""

from collections.abc import Callable

import psycopg
import pytest

from tests.database.rows import Connection

SETTINGS = ("hnsw.iterative_scan", "hnsw.ef_search", "hnsw.max_scan_tuples")
DEFAULTS = ("off", "40", "20000")
SEMANTIC = "select * from search_music_knowledge(query_embedding => '[1,0,0]')"
HYBRID = "select * from search_music_knowledge('piano', '[1,0,0]')"


@pytest.fixture
def music(owner: Connection) -> Connection:
    """One embedded row, and a connection that has loaded pgvector."""
    owner.execute("select register_embedding_model('tiny', 'test', 3), set_collection_model('music_knowledge', 'tiny')")
    owner.execute(
        "insert into music_knowledge (topic, embedding, embedding_model, embedding_hash)"
        " values ('piano', '[1,0,0]', 'tiny', embedding.text_hash('piano'))"
    )
    return owner


def settings_of(connection: Connection) -> tuple[str, ...]:
    return tuple(connection.execute(f"show {name}").fetchone()[0] for name in SETTINGS)  # type: ignore[index]


@pytest.mark.parametrize("search", [SEMANTIC, HYBRID], ids=["semantic", "hybrid"])
def test_a_search_leaves_the_settings_of_its_transaction_as_they_were(music: Connection, search: str) -> None:
    with music.transaction():
        assert len(music.execute(search).fetchall()) == 1
        assert settings_of(music) == DEFAULTS
        music.execute("set local hnsw.iterative_scan = 'strict_order'; set local hnsw.ef_search = 77")
        music.execute(search)
        assert settings_of(music) == ("strict_order", "77", "20000")
    assert settings_of(music) == DEFAULTS


def test_a_search_leaves_the_settings_of_its_session_as_they_were(music: Connection) -> None:
    music.execute("set hnsw.ef_search = 88")
    music.execute(HYBRID)
    assert settings_of(music) == ("off", "88", "20000")
    with music.transaction():
        music.execute("set hnsw.max_scan_tuples = 30000")
        music.execute(SEMANTIC)
    assert settings_of(music) == ("off", "88", "30000")


def test_a_search_that_fails_leaves_the_settings_as_they_were(music: Connection) -> None:
    # The weighted sum exceeds the largest float8, so the error occurs while the statement runs.
    failing = f"{HYBRID[:-1]}, full_text_weight => 1.79e308, semantic_weight => 1.79e308)"
    with music.transaction():
        music.execute("set local hnsw.ef_search = 66")
        with pytest.raises(psycopg.errors.NumericValueOutOfRange), music.transaction():
            music.execute(failing)
        assert settings_of(music) == ("off", "66", "20000")
    assert settings_of(music) == DEFAULTS


@pytest.mark.usefixtures("music")
def test_a_session_may_begin_with_a_search_in_a_read_only_transaction(connect: Callable[..., Connection]) -> None:
    fresh = connect()
    with fresh.transaction():
        fresh.execute("set transaction read only")
        assert len(fresh.execute(HYBRID).fetchall()) == 1
        assert settings_of(fresh) == DEFAULTS
