"""Tests the retry rule of the queue: the wait doubles with each failed attempt, up to an hour."""

from collections.abc import Callable

import pytest

from shared.database.postgres import PostgresDatabase
from shared.embedding.collection import Collection
from shared.models import ClaimedRow
from tests.database.rows import Connection, end_waits, save
from tests.database.tracked_songs import track
from tests.fake_provider import FakeProvider

Fail = Callable[[ClaimedRow], object]
# The waits, in seconds, before the second to fifth attempt.
DOUBLING = [30, 60, 120, 240]
AN_HOUR = 3600


@pytest.fixture
def work(owner: Connection, database: PostgresDatabase, provider: FakeProvider) -> Collection:
    """The queue of a table with one row and a higher max_attempts."""
    track(owner, "body text", "t.body")
    owner.execute("insert into songs values (1, 'a text')")
    owner.execute("update embedding.collections set max_attempts = 30 where name = 'songs'")
    queue = Collection(database, "songs")
    queue.register_embedding_model(provider.spec)
    return queue


def waits(owner: Connection, work: Collection, fail: Fail, attempts: int) -> list[float]:
    """Claim the row and fail it, this number of times; returns the wait after each failure."""
    found: list[float] = []
    for _ in range(attempts):
        end_waits(owner)
        before = owner.execute("select clock_timestamp()").fetchone()
        (row,) = work.claim_embeddings(1, 60)
        fail(row)
        wait = owner.execute(
            "select extract(epoch from available_at - %s)::float from embedding.queue", before
        ).fetchone()
        assert wait
        found.append(wait[0])
    return found


def test_the_wait_doubles_with_each_reported_failure(owner: Connection, work: Collection) -> None:
    found = waits(owner, work, lambda row: work.fail_embeddings([(row.row_id, "refused", False)]), 4)
    # A statement may take seconds on a busy machine; the waits differ by more.
    assert found == pytest.approx(DOUBLING, abs=14)


def test_a_wait_requested_by_the_provider_doubles_too(owner: Connection, work: Collection) -> None:
    found = waits(owner, work, lambda row: work.fail_embeddings([(row.row_id, "refused", False)], 100), 3)
    assert found == pytest.approx([100, 200, 400], abs=40)


def test_the_wait_doubles_each_time_a_trigger_removes_the_vector(
    owner: Connection, work: Collection, provider: FakeProvider
) -> None:
    forget_vectors(owner)
    found = waits(owner, work, lambda row: save(work, provider, [row]), 4)
    assert found == pytest.approx(DOUBLING, abs=14)


@pytest.mark.parametrize("way", ["reported", "not kept"])
def test_a_wait_is_at_most_an_hour(owner: Connection, work: Collection, provider: FakeProvider, way: str) -> None:
    if way == "not kept":
        forget_vectors(owner)
    owner.execute("update embedding.queue set attempts = 15")

    def fail(row: ClaimedRow) -> object:
        if way == "reported":
            return work.fail_embeddings([(row.row_id, "refused", False)])
        return save(work, provider, [row])

    assert waits(owner, work, fail, 1) == pytest.approx([AN_HOUR], abs=60)


def forget_vectors(owner: Connection) -> None:
    """Create a trigger that clears the vector of each row that is written."""
    owner.execute(
        "create function forget() returns trigger language plpgsql as $$ begin"
        " new.embedding := null; new.embedding_model := null; new.embedding_hash := null; return new; end $$;"
        "create trigger forget before update on songs for each row execute function forget()"
    )
