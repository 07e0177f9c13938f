"""Invariant 2: vectors of different models are never compared, even at equal width."""

from collections.abc import Callable

import psycopg
import pytest

from shared.database.postgres import PostgresDatabase
from shared.embedding.collection import Collection, vector_text
from shared.errors import DatabaseRejected
from shared.models import EmbeddingModel
from tests.database.rows import (
    MUSIC,
    Connection,
    InThread,
    add,
    coverage_of,
    embed_all,
    queued,
    save,
    vector_of,
    wait_until_blocked,
)
from tests.fake_provider import DIMENSIONS, FakeProvider

OTHER = FakeProvider("other")  # as wide as the first
WIDE = FakeProvider("wide", 24)


@pytest.fixture
def embedded(owner: Connection, work: Collection, provider: FakeProvider) -> str:
    (row_id,) = add(owner, "a row of the first model")
    embed_all(work, provider)
    return row_id


def test_the_first_run_sets_the_model(owner: Connection, work: Collection, provider: FakeProvider) -> None:
    assert coverage_of(work.database).model is None
    work.register_embedding_model(provider.spec, use=True)
    work.register_embedding_model(provider.spec, use=True)
    assert coverage_of(work.database).model == provider.model


@pytest.mark.parametrize("provider_of_another_model", [OTHER, WIDE])
def test_another_model_is_refused_naming_both_and_the_switch(
    owner: Connection, work: Collection, embedded: str, provider_of_another_model: FakeProvider
) -> None:
    other = provider_of_another_model
    work.register_embedding_model(other.spec)
    message = rf'"fake".*"{other.model}".*set_collection_model\(\'music_knowledge\', \'{other.model}\'\)'
    with pytest.raises(DatabaseRejected, match=message):
        work.register_embedding_model(other.spec, use=True)
    before = vector_of(owner, embedded)
    add(owner, "a new row")
    rows = work.claim_embeddings(10, 60)
    with pytest.raises(DatabaseRejected, match=message):
        save(work, other, rows)
    with pytest.raises(DatabaseRejected, match=message):
        work.reuse_embeddings(other.model, rows)
    assert vector_of(owner, embedded) == before
    assert owner.execute("select count(embedding) from music_knowledge").fetchone() == (1,)


def test_only_one_of_two_concurrent_first_runs_sets_the_model(
    owner: Connection, connect: Callable[..., Connection], work: Collection, provider: FakeProvider
) -> None:
    work.register_embedding_model(OTHER.spec)
    first = connect(autocommit=False)
    first.execute("select embedding.check_model(embedding.get_collection('music_knowledge'), 'fake')")
    second = InThread(lambda: work.register_embedding_model(OTHER.spec, use=True))
    wait_until_blocked(owner)
    first.commit()
    with pytest.raises(DatabaseRejected, match=r'"fake".*"other"'):
        second.result()


def test_a_vector_of_another_width_is_refused_and_nothing_of_the_batch_is_stored(
    owner: Connection, work: Collection, provider: FakeProvider
) -> None:
    first, _ = add(owner, "one", "two")
    rows = sorted(work.claim_embeddings(10, 60), key=lambda row: row.row_id != first)
    payload = [
        {"row_id": row.row_id, "text_hash": row.text_hash, "embedding": vector_text(maker.embed_query("x"))}
        for row, maker in zip(rows, (provider, WIDE), strict=True)
    ]
    with pytest.raises(
        DatabaseRejected, match=rf'{rows[1].row_id}.*24 dimensions.*"fake" has {DIMENSIONS}.*Nothing of this batch'
    ):
        work.database.call("save_embeddings", {"collection": MUSIC, "model": provider.model, "rows": payload})
    assert owner.execute("select count(embedding) from music_knowledge").fetchone() == (0,)


def test_an_unregistered_model_is_refused_and_the_registered_ones_are_listed(work: Collection) -> None:
    with pytest.raises(DatabaseRejected, match=r'"unheard-of" is not registered.*Registered models: fake'):
        work.set_collection_model("unheard-of")


def test_a_model_keeps_its_width_and_its_prefixes(work: Collection) -> None:
    with pytest.raises(
        DatabaseRejected, match=rf'"fake" is registered with {DIMENSIONS} dimensions, not 32.*EMBEDDING_MODEL'
    ):
        work.register_embedding_model(EmbeddingModel("fake", "fake", 32))
    stored = work.register_embedding_model(
        EmbeddingModel("nomic", "ollama", 768, "search_document: ", "search_query: ", 8192)
    )
    again = work.register_embedding_model(EmbeddingModel("nomic", "ollama", 768))
    assert again == stored


@pytest.mark.parametrize(
    ("model", "vector", "message"),
    [
        ("fake", "[1,2,3]", rf'has 3 dimensions, model "fake" has {DIMENSIONS}'),
        ("unheard-of", "[1,2,3]", '"unheard-of".* is not registered'),
        (None, "[1,2,3]", '"<null>".* is not registered'),
    ],
)
def test_a_vector_written_by_hand_is_checked_too(
    owner: Connection, embedded: str, model: str | None, vector: str, message: str
) -> None:
    before = vector_of(owner, embedded)
    with pytest.raises(psycopg.DataError, match=message):
        owner.execute(
            "insert into music_knowledge (topic, embedding, embedding_model) values ('by hand', %s, %s)",
            [vector, model],
        )
    with pytest.raises(psycopg.DataError, match=message):
        owner.execute("update music_knowledge set embedding = %s, embedding_model = %s", [vector, model])
    assert vector_of(owner, embedded) == before


def test_a_vector_of_another_registered_model_is_kept_and_its_row_is_pending(
    owner: Connection, work: Collection, provider: FakeProvider, embedded: str
) -> None:
    work.register_embedding_model(OTHER.spec)
    owner.execute(
        "insert into music_knowledge (topic, content, embedding, embedding_model) values ('', 'brought along', %s, 'other')",
        [vector_text(OTHER.embed_query("brought along"))],
    )
    assert len(queued(owner)) == 1
    coverage = coverage_of(work.database)
    assert (coverage.total, coverage.embedded, coverage.pending) == (2, 1, 1)
    assert coverage.models == {"fake": 1, "other": 1}
    assert embed_all(work, provider) == 1
    coverage = coverage_of(work.database)
    assert (coverage.embedded, coverage.models) == (2, {"fake": 2})


def test_rows_of_another_model_are_pending_when_the_first_run_has_set_the_model(
    owner: Connection, work: Collection, provider: FakeProvider
) -> None:
    work.register_embedding_model(OTHER.spec)
    owner.execute(
        "insert into music_knowledge (topic, embedding, embedding_model) values ('brought along', %s, 'other')",
        [vector_text(OTHER.embed_query("brought along"))],
    )
    assert queued(owner) == set()
    work.register_embedding_model(provider.spec, use=True)
    assert len(queued(owner)) == 1
    assert embed_all(work, provider) == 1


def test_search_compares_rows_only_with_the_query_vector_of_their_model(
    owner: Connection, work: Collection, provider: FakeProvider, embedded: str, database: PostgresDatabase
) -> None:
    work.register_embedding_model(OTHER.spec)
    owner.execute(
        "insert into music_knowledge (topic, content, embedding, embedding_model) values ('', 'same text', %s, 'other')",
        [vector_text(OTHER.embed_query("same text"))],
    )
    for model, expected in (("fake", [embedded]), ("other", None)):
        hits = database.call(
            "search_music_knowledge",
            {"query_embedding": vector_text(provider.embed_query("same text")), "embedding_model": model},
        )
        ids = [hit["id"] for hit in hits]
        assert len(ids) == 1
        assert (ids == [embedded]) == (expected is not None)
    with pytest.raises(DatabaseRejected, match=rf'24 dimensions.*"fake".*{DIMENSIONS}'):
        database.call("search_music_knowledge", {"query_embedding": vector_text(WIDE.embed_query("x"))})
