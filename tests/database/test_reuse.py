"""Invariant 8: pay once per distinct text. (test_backfill.py and test_search_service.py hold the rest of it.)"""

from shared.embedding.collection import Collection
from shared.models import ClaimedRow
from tests.database.rows import Connection, add, edit, embed_all, queued, vector_of
from tests.fake_provider import FakeProvider


def claim_and_reuse(work: Collection, provider: FakeProvider) -> tuple[list[ClaimedRow], set[str]]:
    work.register_embedding_model(provider.spec, use=True)
    rows = work.claim_embeddings(100, 60)
    return rows, work.reuse_embeddings(provider.model, rows)


def test_a_text_that_the_table_holds_takes_its_vector(
    owner: Connection, work: Collection, provider: FakeProvider
) -> None:
    (first,) = add(owner, "one")
    embed_all(work, provider)
    same, other = add(owner, "one", "two")
    _, done = claim_and_reuse(work, provider)
    assert done == {same}
    assert vector_of(owner, same) == vector_of(owner, first)
    assert queued(owner) == {other}
    assert work.verify_embeddings() == 0


def test_a_row_edited_and_edited_back_takes_a_neighbours_vector(
    owner: Connection, work: Collection, provider: FakeProvider
) -> None:
    first, _ = add(owner, "one", "one")
    embed_all(work, provider)
    edit(owner, first, "two")
    edit(owner, first, "one")
    _, done = claim_and_reuse(work, provider)
    assert done == {first}


def test_vectors_of_another_model_are_not_reused(owner: Connection, work: Collection, provider: FakeProvider) -> None:
    add(owner, "one")
    embed_all(work, provider)
    other = FakeProvider("other")
    work.register_embedding_model(other.spec)
    assert work.set_collection_model(other.model) == 1
    add(owner, "one")
    rows = work.claim_embeddings(100, 60)
    assert len(rows) == 2
    assert work.reuse_embeddings(other.model, rows) == set()


def test_a_row_whose_text_changed_after_the_claim_is_not_filled(
    owner: Connection, work: Collection, provider: FakeProvider
) -> None:
    add(owner, "one")
    embed_all(work, provider)
    (late,) = add(owner, "one")
    work.register_embedding_model(provider.spec, use=True)
    rows = work.claim_embeddings(100, 60)
    edit(owner, late, "changed meanwhile")
    assert work.reuse_embeddings(provider.model, rows) == set()
    assert vector_of(owner, late) == (None, None, None)
    assert queued(owner) == {late}


def test_nothing_is_written_twice_for_an_unchanged_row(
    owner: Connection, work: Collection, provider: FakeProvider
) -> None:
    add(owner, *(f"text {number}" for number in range(5)))
    embed_all(work, provider)
    calls = len(provider.wire.requests)
    owner.execute("update music_knowledge set metadata = '{\"seen\": 1}', confidence = 0.2, content = content")
    assert embed_all(work, provider) == 0
    assert len(provider.wire.requests) == calls
