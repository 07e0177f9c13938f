"""Tests a user's table that cannot be read: the error names it with the fix, and other tables continue."""

from collections.abc import Callable

import pytest

from shared.database.postgres import PostgresDatabase
from shared.embedding.collection import Collection, broken_embedding_collections, list_embedding_collections
from shared.embedding.coverage import list_collections
from shared.embedding.model_providers import ModelProviders
from shared.embedding.rows import RowEmbedder, RowToEmbed
from shared.errors import DatabaseContractError, DatabaseRejected, NotFound
from tests.database.rows import Connection, add, coverage_of, queued
from tests.database.tracked_songs import run, track
from tests.fake_provider import FakeProvider

LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
WORDS = ["source", "document", "row", "key", "old_rows", "new_rows", "head", "text", "reason", "model", "collection"]


# Names


@pytest.mark.parametrize("kind", ["text", "int"])
def test_a_column_may_have_the_name_of_any_alias(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider, kind: str
) -> None:
    columns = ", ".join(f'"{name}" {kind} default 7' for name in [*LETTERS, *WORDS])
    owner.execute(f"create table songs (id int primary key, body text, {columns})")
    owner.execute(
        "create function embedding.document_text(t songs) returns text language sql immutable return (t).body"
    )
    owner.execute("insert into songs (id, body) values (0, 'there before')")
    owner.execute("select track_embeddings('songs')")
    owner.execute("insert into songs (id, body) select n, 'body ' || n from generate_series(1, 20) n")
    owner.execute("alter table songs disable trigger user")
    owner.execute("insert into songs (id, body) values (21, 'slipped past'), (22, 'asked for by name')")
    owner.execute("alter table songs enable trigger user")
    bodies = {"there before", "slipped past", "asked for by name", *(f"body {n}" for n in range(1, 21))}
    work = Collection(database, "songs")
    assert coverage_of(database, "songs").pending == 23
    work.register_embedding_model(provider.spec)
    estimate = database.call_scalar("estimate_embeddings", {"collection": "songs", "model": "fake"})
    assert set(estimate["sample"]) == bodies
    assert (
        RowEmbedder(database, ModelProviders(lambda: provider))
        .embed_rows("songs", [RowToEmbed("22", "asked for by name")], "b")
        .updated
        == 1
    )
    assert work.reconcile_embeddings() == 1

    outcome = run(database, provider)
    assert outcome.complete
    assert sorted(provider.wire.texts) == sorted(bodies)
    coverage = coverage_of(database, "songs")
    assert (coverage.total, coverage.embedded, coverage.pending) == (23, 23, 0)
    assert work.verify_embeddings() == work.repair_embeddings() == 0
    sample = database.call_scalar("sample_embeddings", {"collection": "songs", "model": "fake"})
    assert sample["total"] == 23
    if kind == "int":
        assert set(sample["labels"]) == bodies
    owner.execute("update songs set body = 'another' where id = 3")
    assert queued(owner, "songs") == {"3"}
    assert run(database, provider).report.embedded == 1


BREAKS = {
    "a column of the text is dropped": "alter table songs drop column body",
    "a column of the vector is dropped": "alter table songs drop column embedding_hash cascade",
    "the key is renamed": "alter table songs rename id to number",
    "document_text is dropped": "drop function embedding.document_text(songs)",
    "a grant is gone": "revoke select on songs from service_role",
}


@pytest.fixture(params=BREAKS)
def broken(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider, request: pytest.FixtureRequest
) -> str:
    """A tracked table that can no longer be read. It has an embedded, a failed and a pending row."""
    track(owner, "body text", "t.body")
    owner.execute("insert into songs values (1, 'one')")
    run(database, provider)
    owner.execute("insert into songs values (2, 'two'), (3, 'three')")
    work = Collection(database, "songs")
    rows = work.claim_embeddings(1, 60)
    work.fail_embeddings([(row.row_id, "refused", True) for row in rows])
    owner.execute(BREAKS[request.param])
    return str(request.param)


# Tables that cannot be read


def test_a_broken_table_is_named_with_the_fix_and_the_others_are_counted(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider, broken: str
) -> None:
    add(owner, "music")
    ((name, error),) = broken_embedding_collections(database).items()
    assert name == "songs"
    assert "select track_embeddings('public.songs')" in error
    assert "select untrack_embeddings('songs')" in error
    assert "migrate.py" not in error
    assert coverage_of(database).pending == 1
    coverage = coverage_of(database, "songs")
    vectors = 0 if broken == "a grant is gone" else 1
    assert (coverage.embedded, coverage.pending, coverage.failed) == (vectors, 1, 1)
    statuses = {status.coverage.collection: status for status in list_collections(database)}
    assert statuses["songs"].error == error
    assert [failure["error"] for failure in statuses["songs"].failures] == ["refused"]
    assert statuses["music_knowledge"].error is None


def test_a_run_over_a_broken_table_ends_with_the_fix_and_fails_no_row(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider, broken: str
) -> None:
    sent = len(provider.wire.texts)
    outcome = run(database, provider)
    assert isinstance(outcome.error, DatabaseRejected)
    assert 'collection "songs" cannot be read' in outcome.error.message
    assert "track_embeddings('public.songs')" in outcome.error.message
    assert (outcome.left.pending, outcome.left.failed) == (1, 1)
    assert len(provider.wire.texts) == sent
    work = Collection(database, "songs")
    calls: list[Callable[[], object]] = [
        work.verify_embeddings,
        work.repair_embeddings,
        lambda: database.call("estimate_embeddings", {"collection": "songs", "model": "fake"}),
    ]
    if broken != "a column of the vector is dropped":  # which these do not ask for
        calls += [work.reconcile_embeddings, lambda: work.claim_embedding_rows(["2"], 60)]
    for call in calls:
        with pytest.raises(DatabaseRejected, match="track_embeddings"):
            call()


def test_a_repaired_table_continues_and_an_untracked_one_is_not_listed(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    track(owner, "body text", "t.body")
    owner.execute("insert into songs values (1, 'one')")
    owner.execute("alter table songs drop column body")
    assert broken_embedding_collections(database).keys() == {"songs"}
    owner.execute("alter table songs add column body text")
    owner.execute("update songs set body = 'one again'")
    owner.execute("select track_embeddings('songs')")
    assert broken_embedding_collections(database) == {}
    assert run(database, provider).report.embedded == 1
    owner.execute("alter table songs drop column body")
    owner.execute("select untrack_embeddings('songs')")
    assert broken_embedding_collections(database) == {}


def test_a_missing_column_of_a_users_table_does_not_suggest_a_migration(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    """A function that does not read texts raises PostgreSQL's own error, which the adapter translates."""
    track(owner, "body text", "t.body")
    owner.execute("alter table songs drop column embedding_model cascade")
    owner.execute("update embedding.collections set retiring_models = '{fake}' where name = 'songs'")
    with pytest.raises(DatabaseContractError, match="track_embeddings") as raised:
        Collection(database, "songs").finish_embedding_run(None, "fake", "completed", {})
    assert "migrate.py" not in raised.value.message


def test_a_dropped_table_is_not_listed(owner: Connection, database: PostgresDatabase) -> None:
    track(owner, "body text", "t.body")
    owner.execute("drop table songs cascade")
    with pytest.raises(NotFound, match='"songs" is not tracked') as raised:
        Collection(database, "songs").claim_embeddings(10, 60)
    assert "music_knowledge" in raised.value.message
    assert "songs." not in raised.value.message.partition("Tracked collections")[2]
    assert "songs" not in list_embedding_collections(database)
