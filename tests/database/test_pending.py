"""Invariant 3: a row with a text and no vector is pending, and the queue follows the table."""

import uuid

import psycopg
import pytest

from shared.embedding.collection import Collection
from tests.database.rows import Connection, add, coverage_of, edit, embed_all, entry, queued
from tests.fake_provider import FakeProvider


def test_an_inserted_row_is_pending(owner: Connection, work: Collection) -> None:
    ids = add(owner, "one", "two", "")
    assert queued(owner) == set(ids[:2]), "a row without a text is not to be embedded"
    assert work.embedding_queue().ready == 2
    edit(owner, ids[2], "now it has one")
    assert queued(owner) == set(ids)


def test_the_queue_is_empty_when_all_rows_are_embedded(
    owner: Connection, work: Collection, provider: FakeProvider
) -> None:
    add(owner, *(f"text {number}" for number in range(120)))
    assert embed_all(work, provider) == 120
    coverage = coverage_of(work.database)
    assert (coverage.total, coverage.embedded, coverage.pending, coverage.failed) == (120, 120, 0, 0)
    assert work.claim_embeddings(10, 60) == []


@pytest.mark.parametrize(
    ("off", "on"),
    [
        ("set session_replication_role = 'replica'", "reset session_replication_role"),
        ("alter table music_knowledge disable trigger user", "alter table music_knowledge enable trigger user"),
    ],
)
def test_reconcile_queues_rows_written_with_triggers_disabled(
    owner: Connection, work: Collection, provider: FakeProvider, off: str, on: str
) -> None:
    add(owner, "seen")
    owner.execute(off)
    slipped = add(owner, "slipped past", "so did this", "")
    owner.execute(on)
    assert len(queued(owner)) == 1
    coverage = coverage_of(work.database)
    assert coverage.pending == 3, "counted from the table, whatever the queue says"
    assert work.reconcile_embeddings() == 2
    assert work.reconcile_embeddings() == 0
    assert queued(owner) >= set(slipped[:2])
    assert embed_all(work, provider) == 3


def test_reconcile_rebuilds_a_lost_queue(owner: Connection, work: Collection, provider: FakeProvider) -> None:
    add(owner, "one", "two")
    embed_all(work, provider)
    add(owner, "three")
    owner.execute("truncate embedding.queue")
    assert work.reconcile_embeddings() == 1


def test_a_claim_removes_an_entry_that_needs_no_vector(
    owner: Connection, work: Collection, provider: FakeProvider
) -> None:
    done, pending = add(owner, "one", "two")
    embed_all(work, provider)
    edit(owner, pending, "changed")
    idle = [done, *(str(uuid.uuid4()) for _ in range(25))]
    owner.execute(
        "insert into embedding.queue (collection_id, row_id, available_at) select c.id, i, now() - interval '1 day'"
        " from embedding.collections c, unnest(%s::text[]) i where c.name = 'music_knowledge'",
        [idle],
    )
    # A batch with some entries that need no vector does not look like an empty queue to a worker.
    rows = work.claim_embeddings(5, 60)
    assert [row.row_id for row in rows] == [pending]
    assert queued(owner) == {pending}


def test_delete_truncate_and_key_changes_update_the_queue(owner: Connection, work: Collection) -> None:
    first, second, third = add(owner, "one", "two", "three")
    owner.execute("delete from music_knowledge where id = %s", [first])
    assert queued(owner) == {second, third}
    ((moved,),) = owner.execute(
        "update music_knowledge set id = gen_random_uuid() where id = %s returning id::text", [second]
    ).fetchall()
    assert queued(owner) == {moved, third}
    owner.execute("truncate music_knowledge")
    assert queued(owner) == set()


def test_two_rows_that_swap_their_keys_keep_their_vectors(
    owner: Connection, work: Collection, provider: FakeProvider
) -> None:
    owner.execute("create table pairs (id int primary key deferrable initially deferred, body text)")
    owner.execute("create function embedding.document_text(p pairs) returns text language sql immutable return p.body")
    owner.execute("select track_embeddings('pairs')")
    owner.execute("insert into pairs values (1, 'first'), (2, 'second')")
    pairs = Collection(work.database, "pairs")
    assert embed_all(pairs, provider) == 2
    owner.execute("update pairs set id = 3 - id")
    assert queued(owner, "pairs") == set()
    assert pairs.verify_embeddings() == 0
    assert owner.execute("select count(embedding) from pairs").fetchone() == (2,)


def test_a_rolled_back_change_does_not_change_the_queue(
    owner: Connection, work: Collection, provider: FakeProvider
) -> None:
    (row_id,) = add(owner, "one")
    embed_all(work, provider)
    with owner.transaction():
        edit(owner, row_id, "two")
        assert queued(owner) == {row_id}
        raise psycopg.Rollback
    assert queued(owner) == set()
    assert work.verify_embeddings() == 0


def test_a_changed_text_resets_the_attempts_of_a_failed_row(owner: Connection, work: Collection) -> None:
    (row_id,) = add(owner, "refused")
    work.claim_embeddings(10, 60)
    assert work.fail_embeddings([(row_id, "no", True)]) == 1
    edit(owner, row_id, "acceptable")
    found = entry(owner, row_id)
    assert found is not None
    assert (found["attempts"], found["failed_at"], found["error"]) == (0, None, None)
    assert [row.text for row in work.claim_embeddings(10, 60)] == ["acceptable"]


def test_a_failed_row_without_text_leaves_the_queue(owner: Connection, work: Collection) -> None:
    (row_id,) = add(owner, "refused")
    work.claim_embeddings(10, 60)
    work.fail_embeddings([(row_id, "no", True)])
    edit(owner, row_id, "")
    assert queued(owner) == set()
    assert work.list_failed_embeddings() == []


def test_a_bulk_insert_is_queued_by_one_statement(owner: Connection, work: Collection) -> None:
    with owner.cursor().copy("copy music_knowledge (topic, content) from stdin") as copy:
        for number in range(1000):
            copy.write_row(("", f"text {number}"))
    assert work.embedding_queue().ready == 1000
