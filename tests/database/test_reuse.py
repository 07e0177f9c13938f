"""Invariant 8: pay once per distinct text. (See also test_backfill.py and test_search_service.py.)"""

from collections.abc import Callable

from shared.embedding.collection import Collection
from shared.models import ClaimedRow
from tests.database.rows import Connection, add, edit, embed_all, queued, save, vector_of
from tests.fake_provider import FakeProvider


def claim_and_reuse(work: Collection, provider: FakeProvider) -> tuple[list[ClaimedRow], set[str]]:
    rows = work.claim_embeddings(100, 60, provider.model)
    return rows, {row.row_id for row in rows if row.reused}


def test_a_row_with_a_known_text_gets_its_vector_without_a_call(
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


def test_a_row_edited_back_gets_the_vector_of_an_equal_text(
    owner: Connection, work: Collection, provider: FakeProvider
) -> None:
    first, _ = add(owner, "one", "one")
    embed_all(work, provider)
    edit(owner, first, "two")
    edit(owner, first, "one")
    _, done = claim_and_reuse(work, provider)
    assert done == {first}


def test_a_claim_does_not_wait_for_a_row_that_is_locked(
    owner: Connection, connect: Callable[..., Connection], work: Collection, provider: FakeProvider
) -> None:
    """Otherwise a deadlock is possible: the transaction that holds the lock may wait for the claim's queue entry."""
    add(owner, "one")
    embed_all(work, provider)
    free, locked = add(owner, "one", "one")
    user = connect(autocommit=False)
    user.execute("select from music_knowledge where id = %s for update", [locked])
    rows, done = claim_and_reuse(work, provider)
    assert done == {free}
    assert {row.row_id for row in rows} == {free, locked}
    user.execute("update music_knowledge set content = 'two' where id = %s", [locked])
    user.commit()
    assert save(work, provider, [row for row in rows if not row.reused]) == (0, 1)


def test_rows_claimed_by_key_reuse_vectors_too(owner: Connection, work: Collection, provider: FakeProvider) -> None:
    add(owner, "one")
    embed_all(work, provider)
    (same,) = add(owner, "one")
    (named,) = work.claim_embedding_rows([same], 60)
    assert named.row is not None
    assert work.reuse_embeddings(provider.model, [named.row]) == {same}


def test_vectors_of_another_model_are_not_reused(owner: Connection, work: Collection, provider: FakeProvider) -> None:
    add(owner, "one")
    embed_all(work, provider)
    other = FakeProvider("other")
    work.register_embedding_model(other.spec)
    assert work.set_collection_model(other.model) == 1
    add(owner, "one")
    rows, done = claim_and_reuse(work, other)
    assert (len(rows), done) == (2, set())


def test_a_row_whose_text_changed_after_the_claim_gets_no_copied_vector(
    owner: Connection, work: Collection, provider: FakeProvider
) -> None:
    add(owner, "one")
    embed_all(work, provider)
    (late,) = add(owner, "one")
    work.register_embedding_model(provider.spec, use=True)
    rows = work.claim_embeddings(100, 60)
    edit(owner, late, "changed in between")
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
