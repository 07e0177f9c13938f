"""Tests rows that cannot be read or whose vector a trigger clears: other rows continue, and retries are limited."""

import pytest

from shared.database.postgres import PostgresDatabase
from shared.embedding.collection import Collection, broken_embedding_collections
from shared.embedding.model_providers import ModelProviders
from shared.embedding.rows import RowEmbedder, RowToEmbed
from tests.database.rows import Connection, coverage_of, end_waits, entry, queued, save
from tests.database.tracked_songs import run, track
from tests.fake_provider import FakeProvider

SECRET = "confidential words of row"
DROPS = "new.embedding := null; new.embedding_model := null; new.embedding_hash := null; return new;"
REWRITES = "new.body := new.body || '!'; return new;"
SKIPS = "return null;"
RAISES = "raise exception 'do not touch %', new.body;"


# Rows whose vector a trigger clears


@pytest.mark.parametrize("does", [DROPS, REWRITES, SKIPS, RAISES])
def test_a_row_whose_trigger_clears_the_vector_is_paid_for_a_limited_number_of_times(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider, does: str
) -> None:
    track(owner, "body text", "t.body")
    owner.execute(
        f"create function clear_vector() returns trigger language plpgsql as $$ begin {does} end $$;"
        "create trigger clear_vector before update on songs for each row when (new.id = 3) execute function clear_vector()"
    )
    owner.execute("insert into songs select n, 'confidential words of row ' || n from generate_series(1, 20) n")
    for round_ in range(1, 9):
        outcome = run(database, provider)
        assert outcome.error is None
        assert outcome.report.embedded == (19 if round_ == 1 else 0)
        assert outcome.left.pending == (1 if round_ < 5 else 0)
        end_waits(owner)
    assert sum(text.startswith(f"{SECRET} 3") for text in provider.wire.texts) == 5, "max_attempts"
    work = Collection(database, "songs")
    (failed,) = work.list_failed_embeddings()
    assert (failed["row_id"], failed["attempts"]) == ("3", 5)
    expected = "could not be written: do not touch ..." if does == RAISES else "removes or changes the vector"
    assert expected in failed["error"]
    assert SECRET not in failed["error"]
    coverage = coverage_of(database, "songs")
    assert (coverage.embedded, coverage.pending, coverage.failed) == (19, 0, 1)
    owner.execute("drop trigger clear_vector on songs")
    assert work.retry_failed_embeddings() == 1
    assert run(database, provider).report.embedded == 1
    assert queued(owner, "songs") == set()


def test_a_cleared_copy_of_a_vector_counts_as_an_attempt(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    track(owner, "body text", "t.body")
    owner.execute("insert into songs values (1, 'the same')")
    assert run(database, provider).report.embedded == 1
    owner.execute(
        f"create function clear_vector() returns trigger language plpgsql as $$ begin {DROPS} end $$;"
        "create trigger clear_vector before update on songs for each row execute function clear_vector()"
    )
    owner.execute("insert into songs values (2, 'the same')")
    for _ in range(8):
        assert run(database, provider).report.embedded == 0
        end_waits(owner)
    assert provider.wire.texts.count("the same") <= 6
    assert [row["row_id"] for row in Collection(database, "songs").list_failed_embeddings()] == ["2"]


def test_claiming_a_row_with_a_cleared_vector_by_key_does_not_pay_again(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    """If a trigger clears a saved vector, a webhook is sent again, and it claims the row again."""
    track(owner, "body text", "t.body")
    owner.execute(
        f"create function clear_vector() returns trigger language plpgsql as $$ begin {DROPS} end $$;"
        "create trigger clear_vector before update on songs for each row when (old.id = 1) execute function clear_vector()"
    )
    owner.execute("insert into songs values (1, 'one'), (2, 'two')")
    service = RowEmbedder(database, ModelProviders(lambda: provider))
    for _ in range(10):
        report = service.embed_rows("songs", [RowToEmbed("1"), RowToEmbed("2")], "b")
        assert [row_id for row_id, _ in report.failed] == ["1"]
    assert "removes or changes the vector" in dict(report.failed)["1"]
    assert provider.wire.texts.count("one") == 5
    owner.execute("drop trigger clear_vector on songs")
    owner.execute("update songs set body = 'one more'")
    assert service.embed_rows("songs", [RowToEmbed("1")], "b").updated == 1


def test_a_row_whose_text_changes_at_each_read_is_failed(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    owner.execute("create sequence readings")
    track(owner, "body text", "t.body || nextval('public.readings')", stable="volatile")
    owner.execute("grant usage on sequence readings to service_role")
    owner.execute("insert into songs values (1, 'read ')")
    outcome = run(database, provider)
    assert len(provider.wire.texts) == 5
    assert (outcome.report.embedded, outcome.left.pending, outcome.left.failed) == (0, 0, 1)
    (failed,) = Collection(database, "songs").list_failed_embeddings()
    assert "must return the same text for the same row" in failed["error"]


def test_an_error_of_every_row_ends_the_run_and_counts_no_attempt(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    track(owner, "body text", "t.body")
    owner.execute("insert into songs select n, 'row ' || n from generate_series(1, 30) n")
    owner.execute("create function clear_vector() returns trigger language plpgsql as $$ begin raise 'closed'; end $$")
    owner.execute("create trigger clear_vector before update on songs for each row execute function clear_vector()")
    outcome = run(database, provider)
    assert outcome.error is not None
    assert "closed" in outcome.error.message
    assert len(provider.wire.texts) < 30
    assert (outcome.left.pending, outcome.left.failed) == (30, 0)


@pytest.fixture
def raising(owner: Connection) -> None:
    """30 rows whose text is read from another table. After they were queued, reading it raises an error for two of them."""
    owner.execute("create table words (song int primary key, word text)")
    track(owner, "body text", "t.body || (select 100 / w.word::int from public.words w where w.song = t.id)")
    owner.execute("insert into words select n, n from generate_series(1, 30) n")
    owner.execute("insert into songs select n, 'confidential words of row ' || n || ': ' from generate_series(1, 30) n")
    owner.execute("update words set word = '0' where song = 11")
    owner.execute("update words set word = 'confidential words of row 17' where song = 17")
    owner.execute("grant select on words to service_role")


# Rows that cannot be read


def test_a_row_whose_text_raises_fails_and_the_others_are_embedded(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider, raising: None
) -> None:
    outcome = run(database, provider)
    assert (outcome.error, outcome.report.embedded) == (None, 28)
    assert (outcome.left.pending, outcome.left.failed) == (0, 2)
    work = Collection(database, "songs")
    errors = {row["row_id"]: row["error"] for row in work.list_failed_embeddings()}
    assert errors == {
        "11": "embedding.document_text: division by zero (SQLSTATE 22012)",
        "17": 'embedding.document_text: invalid input syntax for type integer: "..." (SQLSTATE 22P02)',
    }
    coverage = coverage_of(database, "songs")
    assert (coverage.total, coverage.embedded, coverage.pending, coverage.failed) == (30, 28, 0, 2)
    assert work.reconcile_embeddings() == 0, "it stays failed"
    owner.execute("update words set word = '5' where song in (11, 17)")
    assert work.retry_failed_embeddings() == 2
    assert run(database, provider).complete


def test_a_claim_returns_only_rows_that_it_leased(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider, raising: None
) -> None:
    """The rows that were read before the one that raises are claimed once, not twice."""
    work = Collection(database, "songs")
    rows = work.claim_embeddings(30, 60)
    assert sorted(int(row.row_id) for row in rows) == [n for n in range(1, 31) if n not in (11, 17)]
    assert {row.attempts for row in rows} == {1}
    assert work.claim_embeddings(30, 60) == []


def test_a_claim_fails_a_limited_number_of_rows_and_the_next_one_continues(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    track(owner, "body text", "case when t.id > 60 then t.body else (1 / (t.id - t.id))::text end")
    owner.execute("alter table songs disable trigger user")
    owner.execute("insert into songs select n, 'good' || n from generate_series(1, 61) n")
    owner.execute("alter table songs enable trigger user")
    work = Collection(database, "songs")
    assert work.reconcile_embeddings() == 61
    owner.execute(
        "update embedding.queue set available_at = now() - interval '1 hour' + make_interval(secs => row_id::int)"
    )
    assert work.claim_embeddings(1, 60) == []
    state = work.embedding_queue()
    assert (state.ready, state.failed) == (41, 20)
    outcome = run(database, provider)
    assert (outcome.report.embedded, outcome.left.failed) == (1, 60)


def test_coverage_verify_and_estimate_work_with_a_row_whose_text_raises(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider, raising: None
) -> None:
    coverage = coverage_of(database, "songs")
    assert (coverage.total, coverage.pending, coverage.failed) == (30, 30, 0)
    work = Collection(database, "songs")
    work.register_embedding_model(provider.spec)
    estimate = database.call_scalar("estimate_embeddings", {"collection": "songs", "model": "fake"})
    assert (estimate["rows"], estimate["texts"]) == (28, 28)
    run(database, provider)
    owner.execute("update words set word = '0' where song = 5")
    assert work.verify_embeddings() == 1
    (wrong,) = work.mismatched_embeddings()
    assert wrong["row_id"] == "5"
    assert "cannot be compared with the text: embedding.document_text: division by zero" in wrong["reason"]
    owner.execute("update words set word = '50' where song = 6")
    assert work.verify_embeddings() == 2
    assert work.repair_embeddings() == 1, "the other one cannot be written"
    assert queued(owner, "songs") >= {"6"}
    assert set(database.call_scalar("sample_embeddings", {"collection": "songs", "model": "fake"})["ids"]) >= {"5"}
    assert work.set_collection_model(work.register_embedding_model(FakeProvider("fake-2").spec).name) > 0
    assert broken_embedding_collections(database) == {}


def test_a_row_claimed_by_key_fails_and_the_others_are_embedded(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider, raising: None
) -> None:
    service = RowEmbedder(database, ModelProviders(lambda: provider))
    report = service.embed_rows("songs", [RowToEmbed(str(n)) for n in (10, 11, 12, 99)], "b")
    assert report.updated == 2
    assert dict(report.failed).keys() == {"11", "99"}
    assert "document_text raises" in dict(report.failed)["11"]
    found = entry(owner, "11")
    assert found is not None
    assert found["error"] == "embedding.document_text: division by zero (SQLSTATE 22012)"
    assert found["failed_at"] is not None


def test_a_text_that_raises_only_when_it_is_saved_costs_an_attempt(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider, raising: None
) -> None:
    work = Collection(database, "songs")
    work.register_embedding_model(provider.spec)
    rows = work.claim_embeddings(30, 60)
    owner.execute("update words set word = '0' where song = 5")
    assert save(work, provider, rows) == (27, 1)
    found = entry(owner, "5")
    assert found is not None
    assert (found["attempts"], found["leased_at"]) == (1, None)
    assert "division by zero" in found["error"]
    end_waits(owner)
    assert work.claim_embeddings(30, 60) == []
    assert {row["row_id"] for row in work.list_failed_embeddings()} == {"5", "11", "17"}


def test_one_row_that_names_a_missing_object_does_not_break_the_table(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    track(owner, "body text, config text", "t.body || length(to_tsvector(t.config::regconfig, t.body))")
    owner.execute("alter table songs disable trigger user")
    owner.execute(
        "insert into songs select n, 'row ' || n, case n when 2 then 'klingon' else 'english' end from generate_series(1, 9) n"
    )
    owner.execute("alter table songs enable trigger user")
    work = Collection(database, "songs")
    assert work.reconcile_embeddings() == 9
    outcome = run(database, provider)
    assert (outcome.error, outcome.report.embedded, outcome.left.failed) == (None, 8, 1)
    assert broken_embedding_collections(database) == {}
    (failed,) = work.list_failed_embeddings()
    assert "SQLSTATE 42704" in failed["error"]
    assert coverage_of(database, "songs").failed == 1


def test_a_temporary_database_error_fails_no_row(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    """The rows that are being read are not the cause of a deadlock or a full disk."""
    track(owner, "body text", "case when t.body is not null then embedding.text_hash(t.body)::text end")
    owner.execute("insert into songs values (1, 'one')")
    owner.execute(
        "create or replace function embedding.document_text(t songs) returns text language plpgsql stable as "
        "$$ begin raise exception 'no space left' using errcode = '53100'; end $$"
    )
    work = Collection(database, "songs")
    with pytest.raises(Exception, match="no space left"):
        work.claim_embeddings(10, 60)
    with pytest.raises(Exception, match="no space left"):
        coverage_of(database, "songs")
    assert work.embedding_queue().ready == 1
