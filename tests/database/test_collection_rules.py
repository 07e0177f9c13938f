"""Tests the values that the shipped collections refuse, the errors, and the retry rule of their queues."""

from datetime import timedelta
from typing import Any

import psycopg
import pytest

from shared.database.postgres import PostgresDatabase
from shared.database.translate import error_from_sqlstate
from shared.errors import DatabaseRejected
from tests.database.rows import Connection

TERMS = {"search_terms": ["a"]}


@pytest.fixture
def zouk(owner: Connection) -> None:
    owner.execute("insert into genre_tags (name) values ('Zouk')")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tag_type": "tempo"}, 'tag_type must be genre or mood, not "tempo"'),
        ({"tag_type": None}, 'tag_type must be genre or mood, not "<null>"'),
        ({"synonyms": []}, "search_terms must be 1 to 50 distinct texts of 1-100 characters"),
        ({"synonyms": {"search_terms": ["a", "A"]}}, "search_terms must be 1 to 50 distinct texts of 1-100 characters"),
        ({"synonyms": {**TERMS, "more": 1}}, "synonyms must be an object without unknown fields"),
        (
            {"synonyms": {**TERMS, "related_tags": "a"}},
            "related_tags must be 0 to 50 distinct texts of 1-100 characters",
        ),
        ({"synonyms": {**TERMS, "usage_context": 1}}, "usage_context must be a text of at most 2000 characters"),
        (
            {"synonyms": {**TERMS, "translations": {"de": ["a"]}}},
            "translations must be {fr, en}, 0 to 50 distinct texts each",
        ),
        ({"confidence": 1.5}, "confidence must be between 0 and 1"),
    ],
)
def test_an_error_about_synonyms_is_a_sentence_that_names_the_field(
    zouk: None, database: PostgresDatabase, change: dict[str, Any], message: str
) -> None:
    values = {"tag_type": "genre", "tag_name": "zouk", "synonyms": TERMS, **change}
    with pytest.raises(DatabaseRejected) as caught:
        database.call("create_synonyms", values)
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"external_id": ""}, "external_id must not be empty"),
        ({"title": " "}, "title must not be empty"),
        ({"title": None}, "title must not be null"),
        ({"enrichment_status": "done"}, "enrichment_status: pending, in_progress, enriched or failed"),
        ({"published_at": "infinity"}, "published_at must be a point in time"),
        ({"static_score": 1.5}, "static_score must be between 0 and 1"),
    ],
)
def test_an_error_about_a_dataset_names_the_field_and_nothing_is_written(
    owner: Connection, database: PostgresDatabase, row: dict[str, Any], message: str
) -> None:
    rows = [{"external_id": "fine", "title": "Fine"}, {"external_id": "1", "title": "Drums", **row}]
    with pytest.raises(DatabaseRejected) as caught:
        database.call("upsert_datasets", {"rows": rows})
    assert caught.value.message.startswith(message)
    assert owner.execute("select count(*) from datasets").fetchone() == (0,)


def test_a_score_out_of_range_is_refused(owner: Connection, database: PostgresDatabase) -> None:
    owner.execute("insert into datasets (title) values ('Drums')")
    (found,) = owner.execute("select id::text from datasets").fetchall()
    with pytest.raises(DatabaseRejected, match="static_score must be between 0 and 1"):
        database.call("set_dataset_scores", {"rows": [{"id": found[0], "static_score": -0.1}]})


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (
            'new row for relation "t" violates check constraint "price must be positive"',
            "price must be positive",
        ),
        (
            'new row for relation "t" violates check constraint "t_price_check"',
            'new row for relation "t" violates check constraint "t_price_check"',
        ),
    ],
)
def test_a_constraint_that_is_named_by_a_sentence_is_shown_as_that_sentence(message: str, shown: str) -> None:
    error = error_from_sqlstate("23514", message)
    assert isinstance(error, DatabaseRejected)
    assert error.message == shown


def test_the_wait_doubles_with_each_attempt_up_to_the_longest(owner: Connection) -> None:
    waits = owner.execute(
        "select embedding.backoff(n, 30, interval '1 hour') from unnest(array[0, 1, 2, 3, 7, 8, 2000000000]) n"
    ).fetchall()
    minutes = [wait.total_seconds() / 60 for (wait,) in waits if isinstance(wait, timedelta)]
    assert minutes == [0.5, 0.5, 1, 2, 32, 60, 60]
    (longest,) = owner.execute("select embedding.backoff(20, 2147483647, interval '1 day')").fetchall()
    assert longest == (timedelta(days=1),)
    assert owner.execute("select embedding.backoff(3, -5, interval '1 day')").fetchone() == (timedelta(0),)


def test_a_tag_waits_twice_as_long_after_each_failed_generation(
    zouk: None, owner: Connection, database: PostgresDatabase
) -> None:
    database.call("request_synonyms", {})
    waits = []
    for _ in range(3):
        (tag,) = database.call("claim_synonym_tags", {})
        database.call(
            "fail_synonym_tag",
            {
                "tag_type": "genre",
                "tag_id": tag["tag_id"],
                "error": "timed out",
                "retry_after_seconds": 60,
                "max_attempts": 9,
            },
        )
        (wait,) = (
            owner.execute(
                "select extract(epoch from available_at - now())::float from embedding.synonym_queue"
            ).fetchone()
            or ()
        )
        waits.append(wait)
        owner.execute("update embedding.synonym_queue set available_at = now()")
    assert waits == [pytest.approx(60, abs=5), pytest.approx(120, abs=5), pytest.approx(240, abs=5)]


# The version of synonyms


def notes(owner: Connection) -> int:
    (count,) = owner.execute("select count(*) from embedding.synonym_changes").fetchone() or (0,)
    assert isinstance(count, int)
    return count


def test_old_notes_of_changes_are_removed_and_every_change_gives_a_new_version(owner: Connection) -> None:
    versions = set()
    for number in range(50):
        owner.execute("insert into genre_tags (name) values (%s)", [f"tag {number}"])
        versions.add(owner.execute("select public.synonyms_version()").fetchone())
    assert len(versions) == 50
    assert notes(owner) <= 2


def test_concurrent_writers_do_not_wait_and_lose_no_note(owner: Connection, connect: Any) -> None:
    one, two = connect(autocommit=False), connect(autocommit=False)
    two.execute("set lock_timeout = '2s'")
    before = owner.execute("select public.synonyms_version()").fetchone()
    one.execute("insert into genre_tags (name) values ('one')")
    two.execute("insert into genre_tags (name) values ('two')")
    assert owner.execute("select public.synonyms_version()").fetchone() == before
    two.commit()
    between = owner.execute("select public.synonyms_version()").fetchone()
    one.commit()
    after = owner.execute("select public.synonyms_version()").fetchone()
    assert len({before, between, after}) == 3


def test_a_repeatable_read_writer_is_not_failed_by_the_removal_of_notes(owner: Connection, connect: Any) -> None:
    writer = connect(autocommit=False)
    writer.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    writer.execute("select count(*) from genre_tags")
    owner.execute("insert into genre_tags (name) values ('one')")
    writer.execute("insert into genre_tags (name) values ('two')")
    writer.commit()
    assert owner.execute("select count(*) from genre_tags").fetchone() == (2,)
