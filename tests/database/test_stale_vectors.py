"""Invariant 1: when a text changes, its vector is removed."""

from collections.abc import Callable

import pytest
from psycopg.types.json import Jsonb

from shared.embedding.collection import Collection, vector_text
from tests.database.rows import (
    Connection,
    InThread,
    add,
    edit,
    embed_all,
    entry,
    queued,
    save,
    vector_of,
    wait_until_blocked,
)
from tests.fake_provider import FakeProvider

Connect = Callable[..., Connection]
GONE = (None, None, None)


@pytest.fixture
def embedded(owner: Connection, work: Collection, provider: FakeProvider) -> str:
    """A row that has its vector."""
    (row_id,) = add(owner, "the dominant seventh wants to resolve")
    assert embed_all(work, provider) == 1
    assert vector_of(owner, row_id) != GONE
    assert queued(owner) == set()
    return row_id


def test_a_changed_text_clears_its_vector_and_is_pending(owner: Connection, work: Collection, embedded: str) -> None:
    edit(owner, embedded, "something else")
    assert vector_of(owner, embedded) == GONE
    assert queued(owner) == {embedded}
    assert work.verify_embeddings() == 0


@pytest.mark.parametrize(
    "statement",
    [
        "insert into music_knowledge (id, topic, content) values (%(id)s, '', 'else')"
        " on conflict (id) do update set content = excluded.content",
        "merge into music_knowledge m using (select %(id)s::uuid as id) n on m.id = n.id"
        " when matched then update set content = 'else'",
        "with edited as (update music_knowledge set content = 'else' where id = %(id)s returning id) select count(*) from edited",
        "update music_knowledge set content = 'else', metadata = '{}', updated_at = now() where id = %(id)s",
        "update music_knowledge set topic = 'else' where id = %(id)s",
        "update music_knowledge set category = 'else' where id = %(id)s",
        "update music_knowledge set id = gen_random_uuid(), content = 'else' where id = %(id)s",
    ],
)
def test_every_kind_of_statement_that_changes_a_text_clears_its_vector(
    owner: Connection, work: Collection, embedded: str, statement: str
) -> None:
    owner.execute(statement, {"id": embedded})
    assert owner.execute("select count(embedding) from music_knowledge").fetchone() == (0,)
    assert len(queued(owner)) == 1
    (row,) = work.claim_embeddings(10, 60)
    assert "else" in row.text.split("\n")


@pytest.mark.parametrize(
    "change",
    [
        "metadata = '{\"seen\": true}'",
        "confidence = 0.5",
        "content = content",
        "updated_at = now()",
        "id = gen_random_uuid()",
    ],
)
def test_a_change_that_leaves_the_text_keeps_the_vector_and_nothing_is_pending(
    owner: Connection, work: Collection, embedded: str, change: str
) -> None:
    before = vector_of(owner, embedded)
    owner.execute(f"update music_knowledge set {change}")
    ((row_id,),) = owner.execute("select id::text from music_knowledge").fetchall()
    assert vector_of(owner, row_id) == before
    assert queued(owner) == set()
    assert work.verify_embeddings() == 0


def test_an_emptied_text_clears_its_vector_and_is_not_pending(
    owner: Connection, work: Collection, embedded: str
) -> None:
    edit(owner, embedded, "")
    assert vector_of(owner, embedded) == GONE
    assert queued(owner) == set()
    assert work.claim_embeddings(10, 60) == []


def test_a_vector_without_a_text_is_cleared(owner: Connection, work: Collection, provider: FakeProvider) -> None:
    owner.execute(
        "insert into music_knowledge (topic, embedding, embedding_model) values ('', %s, %s)",
        [vector_text(provider.embed_query("x")), provider.model],
    )
    assert owner.execute("select count(embedding) from music_knowledge").fetchone() == (0,)
    assert work.verify_embeddings() == 0


def test_text_changed_between_claim_and_save_drops_the_vector(
    owner: Connection, work: Collection, provider: FakeProvider
) -> None:
    changed, kept = add(owner, "one", "two")
    rows = work.claim_embeddings(10, 60)
    edit(owner, changed, "another one")
    assert save(work, provider, rows) == (1, 1)
    assert vector_of(owner, changed) == GONE
    assert vector_of(owner, kept) != GONE
    # The stale row can be claimed at once, with all of its attempts.
    again = work.claim_embeddings(10, 60)
    assert [(row.row_id, row.text, row.attempts) for row in again] == [(changed, "another one", 1)]
    assert save(work, provider, again) == (1, 0)
    assert work.verify_embeddings() == 0


def test_text_changed_and_changed_back_is_not_stale(
    owner: Connection, work: Collection, provider: FakeProvider
) -> None:
    (row_id,) = add(owner, "one")
    rows = work.claim_embeddings(10, 60)
    edit(owner, row_id, "two")
    edit(owner, row_id, "one")
    assert save(work, provider, rows) == (1, 0)
    assert queued(owner) == set()


@pytest.mark.parametrize(("end", "expected"), [("commit", (0, 1)), ("rollback", (1, 0))])
def test_a_save_waits_for_a_concurrent_update_and_compares_the_new_text(
    owner: Connection,
    connect: Connect,
    work: Collection,
    provider: FakeProvider,
    end: str,
    expected: tuple[int, int],
) -> None:
    (row_id,) = add(owner, "one")
    rows = work.claim_embeddings(10, 60)
    user = connect(autocommit=False)
    edit(user, row_id, "another one")
    saving = InThread(lambda: save(work, provider, rows))
    wait_until_blocked(owner)
    assert saving.running
    getattr(user, end)()
    assert saving.result() == expected
    assert work.verify_embeddings() == 0
    assert queued(owner) == ({row_id} if end == "commit" else set())
    assert (vector_of(owner, row_id) == GONE) == (end == "commit")


def test_an_update_that_waited_for_a_save_clears_the_saved_vector(
    owner: Connection, connect: Connect, work: Collection, provider: FakeProvider
) -> None:
    (row_id,) = add(owner, "one")
    (row,) = work.claim_embeddings(10, 60)
    saver = connect(autocommit=False)
    vector = vector_text(provider.embed_query(row.text))
    payload = [{"row_id": row.row_id, "text_hash": row.text_hash, "embedding": vector}]
    saver.execute("select * from save_embeddings('music_knowledge', %s, %s)", [provider.model, Jsonb(payload)])
    user = connect()
    editing = InThread(lambda: edit(user, row_id, "another one"))
    wait_until_blocked(owner)
    saver.commit()
    editing.result()
    assert vector_of(owner, row_id) == GONE
    assert queued(owner) == {row_id}


def test_a_row_deleted_during_its_provider_call_is_stale_and_leaves_the_queue(
    owner: Connection, connect: Connect, work: Collection, provider: FakeProvider
) -> None:
    (row_id,) = add(owner, "one")
    rows = work.claim_embeddings(10, 60)
    user = connect(autocommit=False)
    user.execute("delete from music_knowledge where id = %s", [row_id])
    saving = InThread(lambda: save(work, provider, rows))
    wait_until_blocked(owner)
    user.commit()
    assert saving.result() == (0, 1)
    assert queued(owner) == set()


def test_a_row_with_a_changed_key_is_stale_and_pending_under_the_new_key(
    owner: Connection, work: Collection, provider: FakeProvider
) -> None:
    add(owner, "one")
    rows = work.claim_embeddings(10, 60)
    ((moved,),) = owner.execute("update music_knowledge set id = gen_random_uuid() returning id::text").fetchall()
    assert save(work, provider, rows) == (0, 1)
    assert queued(owner) == {moved}
    assert embed_all(work, provider) == 1


def test_a_failure_of_the_old_text_does_not_count_for_the_new_text(
    owner: Connection, work: Collection, provider: FakeProvider
) -> None:
    (row_id,) = add(owner, "a text that no provider takes")
    (row,) = work.claim_embeddings(10, 60)
    edit(owner, row_id, "a better text")
    assert work.fail_embeddings([(row.row_id, "refused", True)]) == 0
    found = entry(owner, row_id)
    assert found is not None
    assert (found["failed_at"], found["error"], found["leased_at"]) == (None, None, None)
    assert embed_all(work, provider) == 1


def test_a_vector_written_with_its_text_is_adopted(
    owner: Connection, work: Collection, provider: FakeProvider, embedded: str
) -> None:
    vector = vector_text(provider.embed_query("brought along"))
    owner.execute(
        "update music_knowledge set content = 'brought along', embedding = %s where id = %s", [vector, embedded]
    )
    embedding, model, _ = vector_of(owner, embedded)
    assert (embedding is not None, model) == (True, provider.model)
    assert queued(owner) == set()
    assert work.verify_embeddings() == 0
    owner.execute(
        "insert into music_knowledge (topic, content, embedding, embedding_model) values ('', 'inserted', %s, %s)",
        [vector, provider.model],
    )
    assert queued(owner) == set()
    assert work.verify_embeddings() == 0


def test_a_vector_written_with_the_hash_of_another_text_is_cleared(
    owner: Connection, work: Collection, provider: FakeProvider
) -> None:
    owner.execute(
        "insert into music_knowledge (topic, content, embedding, embedding_model, embedding_hash)"
        " values ('', 'present text', %s, %s, embedding.text_hash('some other text'))",
        [vector_text(provider.embed_query("x")), provider.model],
    )
    assert owner.execute("select count(embedding), count(embedding_hash) from music_knowledge").fetchone() == (0, 0)
    assert len(queued(owner)) == 1


def test_a_vector_written_by_hand_for_a_former_text_is_cleared(
    owner: Connection, work: Collection, embedded: str
) -> None:
    """Many guides save a vector with a plain `update ... where id`. The hash shows that the text has changed."""
    old = owner.execute("select embedding::text, embedding_model, embedding_hash from music_knowledge").fetchone()
    assert old
    edit(owner, embedded, "changed in between")
    owner.execute(
        "update music_knowledge set embedding = %s, embedding_model = %s, embedding_hash = %s where id = %s",
        [*old, embedded],
    )
    assert vector_of(owner, embedded) == GONE
    assert work.verify_embeddings() == 0


def test_stale_vectors_written_with_triggers_disabled_are_counted_and_repaired(
    owner: Connection, work: Collection, provider: FakeProvider, embedded: str
) -> None:
    owner.execute("alter table music_knowledge disable trigger user")
    edit(owner, embedded, "edited with triggers off")
    owner.execute("alter table music_knowledge enable trigger user")
    assert work.verify_embeddings() == 1
    assert work.mismatched_embeddings() == [{"row_id": embedded, "reason": "the vector belongs to another text"}]
    assert work.repair_embeddings() == 1
    assert work.verify_embeddings() == 0
    assert embed_all(work, provider) == 1
    assert work.verify_embeddings() == 0


def test_only_edits_set_updated_at(owner: Connection, work: Collection, provider: FakeProvider) -> None:
    (row_id,) = add(owner, "one")
    read = "select updated_at from music_knowledge"
    inserted = owner.execute(read).fetchone()
    embed_all(work, provider)
    assert owner.execute(read).fetchone() == inserted, "a vector that arrives is no edit"
    owner.execute("update music_knowledge set content = content")
    assert owner.execute(read).fetchone() == inserted
    edit(owner, row_id, "two")
    edited = owner.execute(read).fetchone()
    assert edited != inserted
    owner.execute("update music_knowledge set confidence = 0.1, updated_at = '2020-01-01'")
    assert owner.execute("select updated_at < '2020-01-02' from music_knowledge").fetchone() == (True,), (
        "said by the edit"
    )
