"""Tests tags and synonyms in the database: valid values, changes of a tag, and the generator's queue."""

import json
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from shared.database.postgres import PostgresDatabase
from shared.embedding.collection import Collection
from shared.models import Tag
from shared.synonyms.store import SynonymStore
from tests.database.rows import Connection, InThread, embed_all, queued, wait_until_blocked
from tests.fake_provider import FakeProvider
from tests.protocol_chat import synonyms

MODEL = "ollama:llama3.2:1b"


@pytest.fixture
def store(database: PostgresDatabase) -> SynonymStore:
    return SynonymStore(database)


def add_tag(connection: Connection, name: str, tag_type: str = "genre") -> int:
    ((tag_id,),) = connection.execute(f"insert into {tag_type}_tags (name) values (%s) returning id", [name]).fetchall()
    return int(tag_id)


def add(connection: Connection, name: str, *terms: str, **columns: Any) -> int:
    """Insert a genre with manual synonyms; return the tag's id."""
    tag_id = add_tag(connection, name)
    values = {"synonyms": json.dumps({"search_terms": [name, *terms]}), **columns}
    connection.execute(
        f"insert into mir_synonyms (tag_type, tag_id, {', '.join(values)}) values ('genre', %s, {', '.join(['%s'] * len(values))})",
        [tag_id, *values.values()],
    )
    return tag_id


def state(connection: Connection, tag_id: int) -> tuple[Any, ...]:
    row = connection.execute(
        "select tag_name, is_active, renamed_from, embedding is not null, fts is not null from mir_synonyms where tag_id = %s",
        [tag_id],
    ).fetchone()
    assert row is not None
    return row


# What may be stored


@pytest.mark.parametrize(
    "wrong",
    [
        "null",
        "[]",
        "7",
        "{}",
        '{"search_terms": []}',
        '{"search_terms": "a"}',
        '{"search_terms": {"a": 1}}',
        '{"search_terms": [1]}',
        '{"search_terms": ["a", null]}',
        '{"search_terms": ["a", ""]}',
        '{"search_terms": ["a", " \\t"]}',
        '{"search_terms": ["a", "A "]}',
        '{"search_terms": [["a"]]}',
        '{"search_terms": ["a"], "surplus": 1}',
        '{"search_terms": ["a"], "related_tags": "b"}',
        '{"search_terms": ["a"], "related_tags": null}',
        '{"search_terms": ["a"], "usage_context": 7}',
        '{"search_terms": ["a"], "usage_context": null}',
        '{"search_terms": ["a"], "translations": []}',
        '{"search_terms": ["a"], "translations": {"de": ["a"]}}',
        '{"search_terms": ["a"], "translations": {"fr": "a"}}',
        '{"search_terms": ["a"], "translations": {"fr": ["a", "a"]}}',
        json.dumps({"search_terms": ["a" * 101]}),
        json.dumps({"search_terms": [f"t{n}" for n in range(51)]}),
        json.dumps({"search_terms": ["a"], "usage_context": "a" * 2001}),
    ],
)
def test_the_database_refuses_invalid_synonyms(owner: Connection, wrong: str) -> None:
    tag_id = add_tag(owner, "Zouk")
    with pytest.raises(psycopg.errors.CheckViolation):
        owner.execute("insert into mir_synonyms (tag_type, tag_id, synonyms) values ('genre', %s, %s)", [tag_id, wrong])


def test_manual_synonyms_need_one_term_and_generated_ones_five_to_ten(owner: Connection) -> None:
    add(owner, "Zouk")
    for count in (4, 11):
        with pytest.raises(psycopg.errors.CheckViolation, match="generated"):
            add(owner, f"tag {count}", *(f"t{n}" for n in range(count - 1)), source="generated")
    add(owner, "Polka", *"abcd", source="generated")


def test_each_tag_has_at_most_one_row_and_each_row_belongs_to_a_tag(owner: Connection) -> None:
    tag_id = add(owner, "Zouk")
    again = 'insert into mir_synonyms (tag_type, tag_id, synonyms) values (%s, %s, \'{"search_terms": ["a"]}\')'
    with pytest.raises(psycopg.errors.UniqueViolation):
        owner.execute(again, ["genre", tag_id])
    with pytest.raises(psycopg.errors.NoDataFound, match="no mood tag"):
        owner.execute(again, ["mood", tag_id])
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="genre or mood"):
        owner.execute(again, ["tempo", tag_id])
    owner.execute("update mir_synonyms set tag_name = 'something else'")
    assert state(owner, tag_id)[0] == "Zouk", "tag_name cannot be changed here"


# Changes of a tag


def test_inactive_synonyms_have_no_vector_and_no_fts(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    tag_id = add(owner, "Zouk", "dance")
    work = Collection(database, "mir_synonyms")
    work.register_embedding_model(provider.spec)
    embed_all(work, provider)
    assert state(owner, tag_id) == ("Zouk", True, None, True, True)
    owner.execute("update mir_synonyms set is_active = false")
    assert state(owner, tag_id) == ("Zouk", False, None, False, False)
    assert queued(owner, "mir_synonyms") == set()
    vector = str(provider.embed_query("Zouk").tolist())
    assert database.call("search_mir_synonyms", {"query_text": "zouk dance", "query_embedding": vector}) == []


def test_a_rename_deactivates_synonyms_unless_only_the_spelling_changes(owner: Connection) -> None:
    tag_id = add(owner, "Hip-Hop", "rap")

    def rename(name: str) -> tuple[Any, ...]:
        owner.execute("update genre_tags set name = %s where id = %s", [name, tag_id])
        return state(owner, tag_id)[:3]

    assert rename("hip hop") == ("hip hop", True, None)
    assert rename("Polka") == ("Polka", False, "hip hop")
    assert rename("Waltz") == ("Waltz", False, "hip hop")
    assert rename("HIP HOP!") == ("HIP HOP!", True, None), "renamed back, they fit again"
    owner.execute("update mir_synonyms set is_active = false")
    assert rename("Polka") == ("Polka", False, None), "synonyms deactivated by hand stay inactive"
    owner.execute("update mir_synonyms set is_active = true")
    assert rename("Waltz") == ("Waltz", False, "Polka")
    owner.execute("update mir_synonyms set is_active = true")
    assert state(owner, tag_id)[:3] == ("Waltz", True, None), "activating them confirms them"


@pytest.mark.parametrize("statement", ["delete from genre_tags", "truncate genre_tags"])
def test_the_synonyms_of_a_deleted_tag_are_deleted(owner: Connection, statement: str) -> None:
    tag_id = add(owner, "Zouk")
    mood_id = add_tag(owner, "Jolly", "mood")
    owner.execute(
        "insert into mir_synonyms (tag_type, tag_id, synonyms) values ('mood', %s, '{\"search_terms\": [\"a\"]}')",
        [mood_id],
    )
    assert tag_id
    owner.execute(statement)
    assert owner.execute("select tag_type from mir_synonyms").fetchall() == [("mood",)]
    assert queued(owner, "mir_synonyms") == {str(n) for (n,) in owner.execute("select id from mir_synonyms").fetchall()}


def test_a_tag_with_another_key_keeps_its_synonyms(owner: Connection) -> None:
    tag_id = add(owner, "Zouk")
    owner.execute("update genre_tags set id = 77 where id = %s", [tag_id])
    assert state(owner, 77)[:2] == ("Zouk", True)


def test_synonyms_wait_for_a_concurrent_rename_of_their_tag(
    owner: Connection, connect: Callable[..., Connection]
) -> None:
    tag_id = add_tag(owner, "Zouk")
    renaming = connect(autocommit=False)
    renaming.execute("update genre_tags set name = 'Polka' where id = %s", [tag_id])
    writer = connect()
    row = "insert into mir_synonyms (tag_type, tag_id, synonyms) values ('genre', %s, '{\"search_terms\": [\"a\"]}')"
    written = InThread(lambda: writer.execute(row, [tag_id]))
    wait_until_blocked(owner)
    renaming.commit()
    written.result()
    assert state(owner, tag_id)[0] == "Polka"


# The generator's side


def zouk(store: SynonymStore) -> Tag:
    (tag,) = store.claim_synonym_tags()
    return tag


def test_only_tags_without_synonyms_are_queued(owner: Connection, store: SynonymStore) -> None:
    add(owner, "Has some")
    off = add(owner, "Switched off")
    owner.execute("update mir_synonyms set is_active = false where tag_id = %s", [off])
    renamed = add(owner, "Before")
    owner.execute("update genre_tags set name = 'After' where id = %s", [renamed])
    bare = add_tag(owner, "Bare")
    mood = add_tag(owner, "Jolly", "mood")
    assert store.request_synonyms("mood") == 1
    assert store.request_synonyms() == 3
    assert {(tag.tag_type, tag.tag_id) for tag in store.claim_synonym_tags(10)} == {
        ("genre", renamed),
        ("genre", bare),
        ("mood", mood),
    }
    assert store.request_synonyms(force=True) == 5


def test_a_claimed_tag_comes_with_related_tags_likely_ones_first(owner: Connection, store: SynonymStore) -> None:
    for number in range(60):
        add_tag(owner, f"Genre {number}")
    add_tag(owner, "Acid jazz")
    add_tag(owner, "Jazzy mood", "mood")
    add_tag(owner, "Jazz")
    store.request_synonyms("genre", [row[0] for row in owner.execute("select id from genre_tags where name = 'Jazz'")])
    tag = zouk(store)
    assert tag.name == "Jazz"
    assert tag.related[0] == "Acid jazz"
    assert len(tag.related) == 40
    assert "Jazz" not in tag.related


def test_synonyms_for_a_former_name_are_not_stored(owner: Connection, store: SynonymStore) -> None:
    tag_id = add_tag(owner, "Zouk")
    store.request_synonyms()
    tag = zouk(store)
    owner.execute("update genre_tags set name = 'Polka'")
    assert store.store_generated_synonyms(tag, synonyms("Zouk", {}), MODEL) == ("stale", None)
    assert owner.execute("select count(*) from mir_synonyms").fetchone() == (0,)
    again = zouk(store)
    assert (again.tag_id, again.name, again.attempts) == (tag_id, "Polka", 1), (
        "it waits under its new name, with all its attempts"
    )
    owner.execute("delete from genre_tags")
    assert store.store_generated_synonyms(again, synonyms("Polka", {}), MODEL) == ("stale", None)
    assert store.claim_synonym_tags() == []


def test_synonyms_written_by_hand_during_generation_are_kept(owner: Connection, store: SynonymStore) -> None:
    tag_id = add_tag(owner, "Zouk")
    store.request_synonyms()
    tag = zouk(store)
    store.create_synonyms("genre", {"search_terms": ["mine"]}, tag_id=tag_id, tag_name=None, confidence=None)
    assert store.store_generated_synonyms(tag, synonyms("Zouk", {}), MODEL) == ("kept", None)
    assert owner.execute("select synonyms -> 'search_terms', source from mir_synonyms").fetchone() == (
        ["mine"],
        "manual",
    )
    assert store.claim_synonym_tags() == []


def test_force_replaces_manual_synonyms_and_keeps_them_in_previous(owner: Connection, store: SynonymStore) -> None:
    add(owner, "Zouk", "mine")
    store.request_synonyms(force=True)
    assert store.store_generated_synonyms(zouk(store), synonyms("Zouk", {}), MODEL)[0] == "stored"
    row = owner.execute("select source, model, confidence, previous -> 'search_terms' from mir_synonyms").fetchone()
    assert row == ("generated", MODEL, 0.8, ["Zouk", "mine"])


def test_the_database_refuses_invalid_generated_synonyms(owner: Connection, store: SynonymStore) -> None:
    from shared.errors import DatabaseRejected

    add_tag(owner, "Zouk")
    store.request_synonyms()
    with pytest.raises(DatabaseRejected):
        store.store_generated_synonyms(zouk(store), {"search_terms": ["Zouk"]}, MODEL)
    assert owner.execute("select count(*) from mir_synonyms").fetchone() == (0,)


def test_a_tag_is_leased_to_one_worker_until_the_lease_ends(owner: Connection, store: SynonymStore) -> None:
    add_tag(owner, "Zouk")
    store.request_synonyms()
    assert zouk(store).attempts == 1
    assert store.claim_synonym_tags() == []
    owner.execute("update embedding.synonym_queue set available_at = now() - interval '1 second'")
    tag = zouk(store)
    assert tag.attempts == 2
    store.release_synonym_tag(tag)
    assert zouk(store).attempts == 2, "released without an attempt"


def test_a_tag_that_fails_is_tried_again_and_failed_in_the_end(owner: Connection, store: SynonymStore) -> None:
    add_tag(owner, "Zouk")
    store.request_synonyms()
    for attempt in (1, 2, 3):
        tag = zouk(store)
        assert store.fail_synonym_tag(tag, "timed out", final=False) is (attempt == 3)
        assert store.claim_synonym_tags() == []
        owner.execute("update embedding.synonym_queue set available_at = now() - interval '1 second'")
    assert store.claim_synonym_tags() == []
    (failure,) = store.list_failed_synonyms()
    assert (failure["tag_name"], failure["attempts"], failure["error"]) == ("Zouk", 3, "timed out")
    assert store.request_synonyms() == 1
    assert zouk(store).attempts == 1


def test_a_failure_of_an_earlier_request_does_not_count_for_a_new_request(
    owner: Connection, store: SynonymStore
) -> None:
    add_tag(owner, "Zouk")
    store.request_synonyms()
    tag = zouk(store)
    owner.execute("update genre_tags set name = 'Polka'")
    store.request_synonyms(force=True)
    assert store.claim_synonym_tags() == [], "its lease stays"
    assert store.fail_synonym_tag(tag, "no", final=True) is False
    again = zouk(store)
    assert (again.name, again.attempts) == ("Polka", 1)


def test_two_workers_never_claim_the_same_tag(owner: Connection, store: SynonymStore) -> None:
    for number in range(20):
        add_tag(owner, f"tag {number}")
    store.request_synonyms()
    gate, taken = threading.Barrier(4), []

    def work() -> None:
        gate.wait()
        while tags := store.claim_synonym_tags():
            taken.extend(tag.tag_id for tag in tags)

    for one in [InThread(work) for _ in range(4)]:
        one.result()
    assert len(taken) == len(set(taken)) == 20


def test_only_service_role_writes(role: Callable[..., Any], owner: Connection) -> None:
    add(owner, "Zouk", "dance")
    with role("anon") as anon:
        assert anon.execute("select tag_name from search_mir_synonyms('dance')").fetchall() == [("Zouk",)]
        for statement in (
            "delete from mir_synonyms",
            "insert into genre_tags (name) values ('x')",
            "select request_synonyms()",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                anon.execute(statement)
