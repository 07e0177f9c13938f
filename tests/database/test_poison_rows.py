"""Invariant 5: one bad row never fails its batch. It is retried with backoff, then failed, listed, and can be queued again."""

import pytest

from shared.embedding.collection import Collection
from tests.database.rows import Connection, add, coverage_of, embed_all, end_leases, end_waits, entry, queued
from tests.fake_provider import FakeProvider


def fail(work: Collection, error: str = "the provider choked", *, final: bool = False, after: int = 30) -> int:
    rows = work.claim_embeddings(10, 60)
    assert rows
    return work.fail_embeddings([(row.row_id, error, final) for row in rows], after)


def test_a_failed_row_backs_off_and_the_wait_doubles(owner: Connection, work: Collection) -> None:
    (row_id,) = add(owner, "poison")
    waits = []
    for attempt in range(1, 5):
        assert fail(work, after=40) == 0
        found = entry(owner, row_id)
        assert found is not None
        assert (found["attempts"], found["failed_at"], found["error"]) == (attempt, None, "the provider choked")
        assert work.claim_embeddings(10, 60) == [], "not before the wait is over"
        waits.append(found["wait"])
        end_waits(owner)
    assert waits == pytest.approx([40, 80, 160, 320], abs=3)


def test_the_wait_is_never_longer_than_an_hour(owner: Connection, work: Collection) -> None:
    (row_id,) = add(owner, "poison")
    fail(work, after=86_400)
    found = entry(owner, row_id)
    assert found is not None
    assert found["wait"] == pytest.approx(3600, abs=3)


def test_after_max_attempts_a_row_is_failed_and_not_claimed_again(owner: Connection, work: Collection) -> None:
    (row_id,) = add(owner, "poison")
    for _ in range(4):
        assert fail(work, "first errors") == 0
        end_waits(owner)
    assert fail(work, "the last error") == 1
    owner.execute("update embedding.queue set available_at = now() - interval '1 day'")
    assert work.claim_embeddings(10, 60) == []
    (listed,) = work.list_failed_embeddings()
    assert (listed["row_id"], listed["attempts"], listed["error"]) == (row_id, 5, "the last error")
    state = work.embedding_queue()
    assert (state.ready, state.leased, state.waiting, state.failed) == (0, 0, 0, 1)
    coverage = coverage_of(work.database)
    assert (coverage.total, coverage.pending, coverage.failed) == (1, 0, 1)


def test_max_attempts_can_be_set_for_each_collection(owner: Connection, work: Collection) -> None:
    owner.execute("update embedding.collections set max_attempts = 1")
    add(owner, "poison")
    assert fail(work) == 1


def test_a_final_error_fails_the_row_at_once(owner: Connection, work: Collection) -> None:
    add(owner, "poison")
    assert fail(work, "refused for good", final=True) == 1
    assert [row["error"] for row in work.list_failed_embeddings()] == ["refused for good"]


def test_a_failed_row_does_not_delay_the_other_rows(
    owner: Connection, work: Collection, provider: FakeProvider
) -> None:
    poison, *_ = add(owner, "poison", "good", "better")
    rows = work.claim_embeddings(10, 60)
    work.fail_embeddings([(poison, "no", True)])
    work.release_embeddings([row.row_id for row in rows])
    assert embed_all(work, provider) == 2
    assert queued(owner) == {poison}


def test_failed_rows_are_retried_with_all_their_attempts(
    owner: Connection, work: Collection, provider: FakeProvider
) -> None:
    add(owner, "one", "two")
    assert fail(work, final=True) == 2
    assert work.retry_failed_embeddings() == 2
    assert work.retry_failed_embeddings() == 0
    assert work.list_failed_embeddings() == []
    assert [row.attempts for row in work.claim_embeddings(10, 60)] == [1, 1]


def test_reconcile_leaves_failed_rows_failed(owner: Connection, work: Collection) -> None:
    add(owner, "poison")
    fail(work, final=True)
    assert work.reconcile_embeddings() == 0
    assert work.claim_embeddings(10, 60) == []


def test_a_row_that_crashes_every_worker_is_failed_at_last(owner: Connection, work: Collection) -> None:
    """This takes more than max_attempts, because most rows of a crashed worker's batch did not cause the crash."""
    killer, innocent = add(owner, "killer", "innocent")
    for attempt in range(1, 21):
        rows = work.claim_embeddings(10, 60)
        assert {row.attempts for row in rows if row.row_id == killer} == {attempt}
        end_leases(owner)
        owner.execute("update embedding.queue set attempts = 1 where row_id = %s", [innocent])
    assert [row.row_id for row in work.claim_embeddings(10, 60)] == [innocent]
    (listed,) = work.list_failed_embeddings()
    assert listed["row_id"] == killer
    assert listed["error"] == "no worker finished this row in 20 attempts"
    assert work.retry_failed_embeddings() == 1


def test_abandoned_rows_alone_do_not_stop_a_claim(owner: Connection, work: Collection) -> None:
    add(owner, *(f"text {number}" for number in range(8)))
    owner.execute("update embedding.queue set attempts = 20, available_at = now() - interval '1 hour'")
    (late,) = add(owner, "a good one behind them")
    assert [row.row_id for row in work.claim_embeddings(3, 60)] == [late]
    assert work.embedding_queue().failed == 8


def test_a_stored_error_is_shortened_and_never_empty(owner: Connection, work: Collection) -> None:
    first, second = add(owner, "one", "two")
    work.claim_embeddings(10, 60)
    work.database.call(
        "fail_embeddings",
        {
            "collection": "music_knowledge",
            "rows": [{"row_id": first, "error": "x" * 9000, "final": True}, {"row_id": second, "final": True}],
        },
    )
    assert {row["row_id"]: len(row["error"]) for row in work.list_failed_embeddings()} == {
        first: 2000,
        second: len("unknown"),
    }


def test_a_row_embedded_after_failures_leaves_the_queue(
    owner: Connection, work: Collection, provider: FakeProvider
) -> None:
    add(owner, "one")
    fail(work)
    end_waits(owner)
    assert embed_all(work, provider) == 1
    assert queued(owner) == set()


def test_reports_about_deleted_rows_change_nothing(owner: Connection, work: Collection) -> None:
    (row_id,) = add(owner, "one")
    work.claim_embeddings(10, 60)
    owner.execute("delete from music_knowledge")
    assert work.fail_embeddings([(row_id, "no", True)]) == 0
    assert work.release_embeddings([row_id]) == 0
    assert work.fail_embeddings([]) == 0
    assert work.save_embeddings("fake", [], None) == (0, 0)  # type: ignore[arg-type]
    assert work.reuse_embeddings("fake", []) == set()
