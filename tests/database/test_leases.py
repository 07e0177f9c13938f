"""Invariant 4: a row is leased to one worker at a time, and a killed worker loses nothing."""

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from shared.database.postgres import PostgresDatabase
from shared.embedding.collection import Collection, has_ready_embeddings
from shared.errors import DatabaseRejected
from shared.models import ClaimedRow
from tests.database.rows import (
    Connection,
    InThread,
    add,
    embed_all,
    end_leases,
    end_waits,
    entry,
    queued,
    save,
    vector_of,
)
from tests.fake_provider import FakeProvider

Connect = Callable[..., Connection]


def test_a_claim_returns_text_hash_and_attempts(owner: Connection, work: Collection) -> None:
    owner.execute("insert into music_knowledge (topic, category, content) values ('ii-V-I', 'harmony', 'Dm7 G7 Cmaj7')")
    (row,) = work.claim_embeddings(10, 60)
    assert row.text == "ii-V-I\nharmony\nDm7 G7 Cmaj7"
    # A suffix says which rows may share the vector.
    digest = row.text_hash[:64]
    assert owner.execute("select encode(sha256(%s::bytea), 'hex')", [row.text.encode()]).fetchone() == (digest,)
    assert row.attempts == 1
    assert work.claim_embeddings(10, 60) == [], "it is leased now"
    assert work.embedding_queue().leased == 1


def test_two_concurrent_claims_get_different_rows_without_waiting(owner: Connection, connect: Connect) -> None:
    add(owner, *(f"text {number}" for number in range(60)))
    first, second = connect(autocommit=False), connect(autocommit=False)
    second.execute("set lock_timeout = '2s'")
    claim = "select row_id from claim_embeddings('music_knowledge', 25)"
    taken = {row[0] for row in first.execute(claim)}
    others = {row[0] for row in second.execute(claim)}  # while the first has not committed
    assert len(taken) == len(others) == 25
    assert taken.isdisjoint(others)
    first.rollback()
    assert len(second.execute(claim).fetchall()) == 25
    second.commit()


def test_many_claimers_take_each_row_exactly_once(owner: Connection, database_url: object, work: Collection) -> None:
    ids = add(owner, *(f"text {number}" for number in range(600)))

    def drain(_: int) -> list[str]:
        mine: list[str] = []
        while rows := work.claim_embeddings(7, 60):
            mine += [row.row_id for row in rows]
        return mine

    with ThreadPoolExecutor(6) as pool:
        taken = Counter(row_id for rows in pool.map(drain, range(6)) for row_id in rows)
    assert set(taken) <= set(ids)
    assert set(taken.values()) == {1}
    # The last worker may skip a row that another claim has locked; a later claim gets it.
    assert len(taken) + len(drain(0)) == 600


def test_a_claim_skips_a_row_that_another_transaction_has_locked(
    owner: Connection, connect: Connect, work: Collection
) -> None:
    busy, free = add(owner, "busy", "free")
    user = connect(autocommit=False)
    user.execute("update music_knowledge set content = 'being edited' where id = %s", [busy])
    assert [row.row_id for row in work.claim_embeddings(10, 60)] == [free]
    user.commit()
    assert [row.text for row in work.claim_embeddings(10, 60)] == ["being edited"]


def test_a_row_with_an_expired_lease_is_claimed_again_and_the_late_save_changes_nothing(
    owner: Connection, work: Collection, provider: FakeProvider
) -> None:
    (row_id,) = add(owner, "one")
    slow = work.claim_embeddings(10, 60)
    end_leases(owner)
    quick = work.claim_embeddings(10, 60)
    assert [row.row_id for row in quick] == [row_id]
    assert quick[0].attempts == 2
    assert save(work, provider, quick) == (1, 0)
    stored = owner.execute("select xmin::text from music_knowledge").fetchone()
    assert save(work, provider, slow) == (1, 0), "idempotent: the row holds its vector"
    assert owner.execute("select xmin::text from music_knowledge").fetchone() == stored, "and is not written again"
    assert queued(owner) == set()


def test_a_late_save_that_comes_first_ends_the_other_lease_too(
    owner: Connection, work: Collection, provider: FakeProvider
) -> None:
    add(owner, "one")
    slow = work.claim_embeddings(10, 60)
    end_leases(owner)
    quick = work.claim_embeddings(10, 60)
    assert save(work, provider, slow) == (1, 0)
    assert queued(owner) == set()
    assert save(work, provider, quick) == (1, 0)
    assert work.verify_embeddings() == 0


def test_a_changed_text_keeps_the_lease_of_its_worker(owner: Connection, work: Collection) -> None:
    (row_id,) = add(owner, "one")
    work.claim_embeddings(10, 60)
    owner.execute("update music_knowledge set content = 'two'")
    assert work.claim_embeddings(10, 60) == [], "two workers would pay for two texts of one row"
    found = entry(owner, row_id)
    assert found is not None
    assert found["leased_at"] is not None
    assert 50 < found["wait"] <= 60


def test_ready_is_what_a_claim_would_find(
    owner: Connection, database: PostgresDatabase, work: Collection, provider: FakeProvider
) -> None:
    def ready() -> bool:
        return has_ready_embeddings(database)

    assert not ready()
    add(owner, "a harp")
    assert ready()
    (row,) = work.claim_embeddings(10, 60)
    assert not ready(), "leased"
    end_leases(owner)
    assert ready(), "the lease is over"
    work.claim_embeddings(10, 60)
    work.fail_embeddings([(row.row_id, "out of luck", False)])
    assert not ready(), "it waits for its next attempt"
    end_waits(owner)
    assert ready()
    work.fail_embeddings([(row.row_id, "refused", True)])
    end_waits(owner)
    assert not ready(), "failed"
    work.retry_failed_embeddings()
    embed_all(work, provider)
    assert not ready(), "embedded"


def test_released_rows_can_be_claimed_at_once_and_count_no_attempt(owner: Connection, work: Collection) -> None:
    (row_id,) = add(owner, "one")
    work.claim_embeddings(10, 60)
    assert work.release_embeddings([row_id]) == 1
    assert work.release_embeddings([row_id]) == 0
    assert [(row.row_id, row.attempts) for row in work.claim_embeddings(10, 60)] == [(row_id, 1)]


def test_a_lease_can_be_renewed_until_it_is_lost(owner: Connection, work: Collection, provider: FakeProvider) -> None:
    kept, saved = add(owner, "one", "two")
    rows = work.claim_embeddings(10, 2)
    save(work, provider, [row for row in rows if row.row_id == saved])
    assert work.renew_embeddings([kept, saved], 500) == 1
    found = entry(owner, kept)
    assert found is not None
    assert found["wait"] > 400


def test_no_transaction_stays_open_between_claim_and_save(owner: Connection, work: Collection) -> None:
    add(owner, "one")
    work.claim_embeddings(10, 60)
    open_ones = owner.execute(
        "select count(*) from pg_stat_activity where datname = current_database() and state like 'idle in transaction%' "
    ).fetchone()
    assert open_ones == (0,)


@pytest.mark.parametrize(("batch", "lease"), [(0, 60), (1001, 60), (50, 0), (50, 86_401)])
def test_claim_arguments_out_of_bounds_are_refused(work: Collection, batch: int, lease: int) -> None:
    with pytest.raises(DatabaseRejected, match="must be between"):
        work.claim_embeddings(batch, lease)


def test_a_run_that_renews_its_leases_while_it_saves_fails_and_releases_never_deadlocks(
    owner: Connection, work: Collection, provider: FakeProvider
) -> None:
    texts = [f"text {number}" for number in range(240)]
    ids = add(owner, *texts)
    vectors = {text: provider.embed_query(text) for text in texts}
    shuffled = sorted(ids, key=lambda row_id: row_id[::-1])
    stop = threading.Event()

    def renew(order: list[str]) -> None:
        while not stop.is_set():
            work.renew_embeddings(order, 60)

    def settle(rows: list[ClaimedRow]) -> None:
        saved, failed, released = rows[:80], rows[80:160], [row.row_id for row in rows[160:]]
        parts = [
            InThread(
                lambda: work.save_embeddings(provider.model, saved, np.array([vectors[row.text] for row in saved]))
            ),
            InThread(lambda: work.fail_embeddings([(row.row_id, "x", False) for row in failed], 0)),
            InThread(lambda: work.release_embeddings(released)),
        ]
        for part in parts:
            part.result()

    renewers = [
        InThread(lambda: renew(ids)),
        InThread(lambda: renew(shuffled)),
        InThread(lambda: renew(shuffled[::-1])),
    ]
    try:
        for _ in range(10):
            if rows := work.claim_embeddings(240, 60):
                settle(sorted(rows, key=lambda row: row.text_hash))
    finally:
        stop.set()
    for renewer in renewers:
        renewer.result()


def test_two_workers_that_save_the_same_rows_in_opposite_order_do_not_deadlock(
    owner: Connection, database: PostgresDatabase, work: Collection, provider: FakeProvider
) -> None:
    add(owner, *(f"text {number}" for number in range(300)))
    rows = work.claim_embeddings(300, 60)
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda order: save(work, provider, order), [rows, rows[::-1]]))
    assert results == [(300, 0), (300, 0)]
    assert embed_all(work, provider) == 0
    assert vector_of(owner, rows[0].row_id)[0] is not None
