"""A clock that was ahead and has been set back: times from the future neither hold up work nor show a dead run as alive.

tests/database/test_verify_rows.py has the leases of rows.
"""

import pytest

from shared.database.postgres import PostgresDatabase
from shared.embedding.run_history import list_runs, running_by_collection
from shared.embedding.runs import record_run
from shared.synonyms.store import SynonymStore
from tests.database.rows import MUSIC, Connection


@pytest.fixture
def store(database: PostgresDatabase) -> SynonymStore:
    return SynonymStore(database)


def test_a_run_that_reported_in_the_future_is_not_shown_as_running(
    owner: Connection, database: PostgresDatabase
) -> None:
    run_id = record_run(database, None, MUSIC, "running", {"embedded": 5})
    assert list_runs(database, MUSIC, 1)[0]["status"] == "running"
    owner.execute("update embedding.runs set started_at = now() + interval '10 years'")
    owner.execute("update embedding.runs set begun_at = started_at, reported_at = started_at")
    (run,) = list_runs(database, MUSIC, 1)
    assert (run["status"], run["seconds"]) == ("crashed", 0)
    assert running_by_collection(database, {}) == {}
    # It is alive, and reports with the clock as it is now.
    record_run(database, run_id, MUSIC, "running", {"embedded": 10})
    (run,) = list_runs(database, MUSIC, 1)
    assert (run["status"], run["seconds"]) == ("running", 0)
    running = running_by_collection(database, {MUSIC: 7})[MUSIC]
    assert (running.done, running.rows_per_second, running.seconds_left) == (10, None, None)


FUTURE = {
    "a lease": "leased_at = now() + interval '10 years', available_at = now() + interval '10 years 15 minutes'",
    "a lease of the same day": "leased_at = now() + interval '3 hours', available_at = now() + interval '4 hours'",
    "a wait": "leased_at = null, available_at = now() + interval '2 days'",
}


@pytest.mark.parametrize("name", FUTURE)
def test_a_tag_that_was_claimed_in_the_future_is_claimed_again(
    owner: Connection, store: SynonymStore, name: str
) -> None:
    owner.execute("insert into genre_tags (name) values ('Zouk')")
    store.request_synonyms()
    assert len(store.claim_synonym_tags()) == 1
    owner.execute(f"update embedding.synonym_queue set {FUTURE[name]}")
    assert [row["ready"] for row in store.synonym_coverage() if row["tag_type"] == "genre"] == [1], "a run is started"
    assert [tag.name for tag in store.claim_synonym_tags()] == ["Zouk"]
    assert store.claim_synonym_tags() == []


def test_a_long_lease_and_a_long_wait_of_a_tag_are_kept(owner: Connection, store: SynonymStore) -> None:
    owner.execute("insert into genre_tags (name) values ('Zouk')")
    store.request_synonyms()
    owner.execute("select * from claim_synonym_tags(lease_seconds => 80000)")
    assert store.claim_synonym_tags() == []
    owner.execute(
        "update embedding.synonym_queue set leased_at = null, available_at = now() + interval '23 hours 59 minutes'"
    )
    assert store.claim_synonym_tags() == []
