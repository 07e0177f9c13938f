"""Tests the sample of vectors for a map, and the cache of maps."""

import base64
from typing import Any

import numpy as np
import pytest

from shared.database.postgres import PostgresDatabase
from shared.embedding.collection import Collection
from shared.errors import DatabaseRejected, NotFound
from shared.search.map import MAX_AGE_SECONDS, MapService, decode_vectors
from tests.database.rows import MUSIC, Connection, add, edit, embed_all
from tests.fake_provider import DIMENSIONS, FakeProvider


def sample_of(database: PostgresDatabase, **options: Any) -> dict[str, Any]:
    found: dict[str, Any] = database.call_scalar("sample_embeddings", {"collection": MUSIC, "model": "fake", **options})
    del found["version"]
    return found


def version_of(database: PostgresDatabase, size: int = 2000) -> tuple[str | None, str]:
    found = database.call_scalar("sample_embeddings", {"collection": MUSIC, "sample_size": size})
    asked = {"collection": MUSIC, "sample_size": size, "known_version": found["version"]}
    assert database.call_scalar("sample_embeddings", asked) == {"model": found["model"], "version": found["version"]}
    return found["model"], found["version"]


def fill(owner: Connection, provider: FakeProvider, work: Collection, count: int) -> list[str]:
    ids = add(owner, *(f"text {number}" for number in range(count)))
    embed_all(work, provider)
    return ids


# The sample


def test_the_sample_holds_the_vectors_of_its_rows(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider, work: Collection
) -> None:
    owner.execute("insert into music_knowledge (topic, category, content) values (' ', 'c', %s)", ["x" * 300])
    fill(owner, provider, work, 20)
    found = sample_of(database, category_column="category")
    assert (found["total"], len(found["ids"])) == (21, 21)
    vectors = decode_vectors(found["vectors"], 21)
    assert vectors.shape == (21, DIMENSIONS)
    texts = dict(owner.execute("select id::text, embedding.document_text(m) from music_knowledge m").fetchall())
    expected = provider.embed_documents([texts[row_id] for row_id in found["ids"]])
    assert vectors == pytest.approx(expected, abs=1e-3)
    by_id = dict(zip(found["ids"], zip(found["labels"], found["categories"], strict=True), strict=True))
    (long,) = [value for value in by_id.values() if value[1] == "c"]
    assert len(long[0]) == 120, "without a topic the label is the beginning of the text"
    assert sample_of(database)["categories"] == [None] * 21


def test_the_sample_is_independent_of_row_positions_and_changes_little_as_the_table_grows(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider, work: Collection
) -> None:
    fill(owner, provider, work, 300)
    first = sample_of(database, sample_size=100)
    assert len(first["ids"]) == 100
    assert first["total"] == 300
    owner.execute("update music_knowledge set metadata = '{}' where id = any (%s::uuid[])", [first["ids"][:50]])
    owner.execute("vacuum full music_knowledge")
    assert sample_of(database, sample_size=100) == first
    add(owner, *(f"more {number}" for number in range(100)))
    embed_all(work, provider)
    grown = set(sample_of(database, sample_size=100)["ids"])
    # When 100 rows are added to 300, a quarter of the sample of 100 is replaced by new rows.
    assert 50 < len(grown & set(first["ids"])) < 95


def test_the_cost_of_the_sample_version_does_not_grow_with_the_table(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider, work: Collection
) -> None:
    work.register_embedding_model(provider.spec, use=True)
    owner.execute(
        "insert into music_knowledge (topic, content, embedding, embedding_model) select '', 'text ' || n,"
        " array_fill(1.0 / n, array[16])::extensions.vector, 'fake' from generate_series(1, 6000) n"
    )
    owner.execute("analyze music_knowledge")

    def reads() -> tuple[int, int]:
        found = owner.execute(
            "select seq_scan, idx_tup_fetch from pg_stat_xact_user_tables where relname = 'music_knowledge'"
        ).fetchone()
        assert found is not None
        return int(str(found[0])), int(str(found[1]))

    with owner.transaction():
        known = owner.execute(
            "select sample_embeddings('music_knowledge', sample_size => 100) ->> 'version'"
        ).fetchone()
        assert known is not None
        before = reads()
        owner.execute(
            "select sample_embeddings('music_knowledge', sample_size => 100, known_version => %s)", [known[0]]
        )
        after = reads()
    assert after[0] == before[0], "the table is not scanned"
    assert 100 <= after[1] - before[1] < 500


def test_the_version_changes_with_a_row_of_the_sample_and_with_nothing_else(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider, work: Collection
) -> None:
    assert version_of(database)[0] is None
    ids = fill(owner, provider, work, 50)
    seen = {version_of(database)}
    assert version_of(database) in seen
    owner.execute("update music_knowledge set category = 'other' where id = %s", [ids[3]])
    seen.add(version_of(database))
    assert len(seen) == 2
    edit(owner, ids[4], "another text")
    seen.add(version_of(database))
    assert len(seen) == 3, "it lost its vector"
    embed_all(work, provider)
    seen.add(version_of(database))
    assert len(seen) == 4
    add(owner, "waits")
    assert version_of(database) in seen, "a row without a vector is on no map"
    owner.execute("delete from music_knowledge where id = %s", [ids[5]])
    assert version_of(database) not in seen


def test_during_a_switch_the_map_shows_the_model_of_most_vectors(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider, work: Collection
) -> None:
    fill(owner, provider, work, 60)
    wide = FakeProvider("wide", 24)
    work.register_embedding_model(wide.spec)
    work.set_collection_model("wide")
    maps = MapService(database)
    for moved, model, count in ((20, "fake", 40), (20, "wide", 40), (20, "wide", 60)):
        rows = work.claim_embeddings(moved, 60)
        work.save_embeddings("wide", rows, wide.embed_documents([row.text for row in rows]))
        drawn = maps.get(MUSIC)
        assert (drawn["model"], drawn["total"]) == (model, count)


def test_the_sample_has_a_limit_and_its_category_must_be_a_column(database: PostgresDatabase) -> None:
    for size in (0, 2001):
        with pytest.raises(DatabaseRejected, match="between 1 and 2000"):
            sample_of(database, sample_size=size)
    for column in ("nothing", "content; drop table music_knowledge", "metadata", "embedding_model"):
        with pytest.raises(DatabaseRejected, match="is not a text, enum or boolean column"):
            sample_of(database, category_column=column)
    with pytest.raises(NotFound):
        database.call_scalar("sample_embeddings", {"collection": "nothing", "model": "fake"})


def test_the_map_accepts_vectors_of_any_length(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider, work: Collection
) -> None:
    work.register_embedding_model(provider.spec, use=True)
    for number in (0.0, 1e-30, 1e30):
        owner.execute(
            "insert into music_knowledge (topic, content, embedding, embedding_model)"
            " values ('', %s, array_fill(%s::real, array[16])::extensions.vector, 'fake')",
            [f"text {number}", number],
        )
    vectors = decode_vectors(sample_of(database)["vectors"], 3)
    assert sorted(np.linalg.norm(vectors, axis=1).round(2).tolist()) == [0.0, 1.0, 1.0]
    assert len(base64.b64decode(sample_of(database)["vectors"])) == 3 * 2 * DIMENSIONS


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


# The cache of maps


def test_a_map_is_computed_again_only_after_a_change_or_ten_minutes(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider, work: Collection
) -> None:
    ids = fill(owner, provider, work, 30)
    clock = Clock()
    maps = MapService(database, clock=clock)
    first = maps.get(MUSIC)
    assert (first["sampled"], first["total"], first["model"]) == (30, 30, "fake")
    assert maps.get(MUSIC) is first
    assert maps.get(MUSIC, category="category") is not first
    assert maps.get(MUSIC, limit=10)["sampled"] == 10
    assert maps.get(MUSIC, refresh=True) is not first
    first = maps.get(MUSIC)
    clock.now = MAX_AGE_SECONDS - 1
    assert maps.get(MUSIC) is first
    clock.now = MAX_AGE_SECONDS + 1
    first, older = maps.get(MUSIC), first
    assert first is not older
    assert first["points"] == older["points"]
    edit(owner, ids[0], "renamed")
    embed_all(work, provider)
    assert "renamed" in [point["label"] for point in maps.get(MUSIC)["points"]]


def test_the_cache_is_bounded(owner: Connection, database: PostgresDatabase) -> None:
    maps = MapService(database)
    first = maps.get(MUSIC, limit=1)
    for limit in range(2, 40):
        maps.get(MUSIC, limit=limit)
    assert len(maps._maps) == 32
    assert maps.get(MUSIC, limit=1) is not first
