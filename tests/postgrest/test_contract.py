"""Runs the same tests with both adapters: psycopg, and the real supabase client through PostgREST behind a gateway.

Every SQL function that the project calls returns the same values and error classes with both.
"""

import json
import logging
import time
import traceback

import psycopg
import pytest
from pydantic import SecretStr

from shared.database.base import Database
from shared.database.postgres import PostgresDatabase
from shared.database.supabase import SupabaseDatabase
from shared.embedding.backfill import BackfillOptions, backfill
from shared.embedding.collection import Collection, vector_text
from shared.errors import (
    AppError,
    DatabaseRejected,
    DatabaseUnavailable,
)
from shared.models import EmbeddingModel
from tests.database.rows import MUSIC, Connection, InThread, add, coverage_of, edit, embed_all, end_waits, queued, save
from tests.fake_provider import FakeProvider
from tests.gateway import Fault, Gateway
from tests.postgrest.contract import register

pytestmark = pytest.mark.postgrest


# Values


def test_rows_are_claimed_saved_failed_retried_and_counted(
    owner: Connection, database: Database, provider: FakeProvider
) -> None:
    work = Collection(database, MUSIC)
    assert work.register_embedding_model(provider.spec) == provider.spec
    assert work.register_embedding_model(EmbeddingModel("n", "o", 768, "d: ", "q: ", 2048)).max_tokens == 2048
    assert work.register_embedding_model(provider.spec, use=True) == provider.spec
    one, two, three = add(owner, "one", "two", "three — ünïcödé \\ \" ' %s {x}")

    rows = work.claim_embeddings(2, 60)
    assert [type(value) for value in (rows[0].row_id, rows[0].text, rows[0].text_hash, rows[0].attempts)] == [
        str,
        str,
        str,
        int,
    ]
    more = work.claim_embeddings(10, 60)
    assert {row.row_id for row in (*rows, *more)} == {one, two, three}
    assert work.claim_embeddings(10, 60) == []
    state = work.embedding_queue()
    assert (state.ready, state.leased, state.waiting, state.failed, state.pending) == (0, 3, 0, 0, 3)

    by_id = {row.row_id: row for row in (*rows, *more)}
    assert work.renew_embeddings([one, two], 600) == 2
    assert work.renew_embeddings([], 600) == 0
    assert work.release_embeddings([three]) == 1
    assert work.fail_embeddings([(two, "no", True)]) == 1
    assert work.reuse_embeddings(provider.model, [by_id[one]]) == set()
    assert save(work, provider, [by_id[one]]) == (1, 0)
    (failed,) = work.list_failed_embeddings()
    assert (failed["row_id"], failed["attempts"], failed["error"]) == (two, 1, "no")
    assert failed["failed_at"].startswith("20")

    edit(owner, two, "one")
    again = work.claim_embeddings(10, 60)
    assert {row.text for row in again} == {"one", by_id[three].text}
    assert work.reuse_embeddings(provider.model, again) == {two}
    assert save(work, provider, [row for row in again if row.row_id == three]) == (1, 0)
    coverage = coverage_of(database)
    assert (coverage.collection, coverage.model, coverage.total, coverage.embedded) == (MUSIC, "fake", 3, 3)
    assert coverage.models == {"fake": 3}

    assert work.verify_embeddings() == 0
    assert work.mismatched_embeddings() == []
    assert work.repair_embeddings() == 0
    assert work.reconcile_embeddings() == 0
    assert work.retry_failed_embeddings() == 0
    assert [spec.name for spec in work.collection_models()] == ["fake"]
    left = work.finish_embedding_run(None, "fake", "completed", {})
    assert (left.ready, left.leased, left.waiting, left.failed) == (0, 0, 0, 0)
    assert work.create_embedding_index().startswith("music_knowledge_vector_")
    run_id = work.record_embedding_run(None, "fake", "running", {})
    assert (
        work.record_embedding_run(run_id, "fake", "completed", {"embedded": 3, "cost_usd": 0.25, "error": None})
        == run_id
    )


def test_scalars_tables_and_void_have_the_same_form_in_both_adapters(database: Database) -> None:
    assert database.call("verify_embeddings", {"collection": MUSIC}) == [0]
    assert database.call_scalar("verify_embeddings", {"collection": MUSIC}) == 0
    assert database.call("claim_embeddings", {"collection": MUSIC}) == []
    assert database.call("list_failed_embeddings", {"collection": MUSIC, "max_rows": None}) == []
    registered = database.call("register_embedding_model", {"name": "m", "provider": "p", "dimensions": 3})
    assert [row["dimensions"] for row in registered] == [3]
    assert database.call("release_synonym_tag", {"tag_type": "genre", "tag_id": 1}) == []
    assert database.call_scalar("release_synonym_tag", {"tag_type": "genre", "tag_id": 1}) is None


def test_vectors_are_accepted_as_text_and_as_numbers(
    owner: Connection, database: Database, provider: FakeProvider
) -> None:
    work = Collection(database, MUSIC)
    work.register_embedding_model(provider.spec)
    add(owner, "one", "two")
    first, second = work.claim_embeddings(10, 60)
    vector = provider.embed_query("x")
    rows = [
        {"row_id": first.row_id, "text_hash": first.text_hash, "embedding": vector_text(vector)},
        {"row_id": second.row_id, "text_hash": second.text_hash, "embedding": vector.tolist()},
    ]
    (saved,) = database.call("save_embeddings", {"collection": MUSIC, "model": "fake", "rows": rows})
    assert saved == {"saved": 2, "stale": 0}
    stored = owner.execute("select distinct embedding::text from music_knowledge").fetchall()
    assert len(stored) == 1
    assert json.loads(str(stored[0][0])) == pytest.approx(vector.tolist(), abs=1e-7)


def test_a_search_returns_every_part_of_the_score(
    owner: Connection, database: Database, provider: FakeProvider
) -> None:
    work = Collection(database, MUSIC)
    work.register_embedding_model(provider.spec)
    ids = add(owner, "reverb gives space", "gain staging", "space and time")
    embed_all(work, provider)
    vector = vector_text(provider.embed_query("reverb and space"))
    for arguments in (
        {"query_text": "reverb and space", "match_count": 2, "query_embedding": vector},
        {"query_text": "reverb and space", "query_embeddings": {"fake": vector}, "fusion": "rrf"},
        {"query_text": "reverb and space", "filter_category": ""},
        {"query_embedding": vector, "embedding_model": "fake", "full_text_weight": 0.0, "semantic_weight": 1.0},
    ):
        hits = database.call("search_music_knowledge", arguments)
        assert hits[0]["id"] == ids[0]
        assert set(hits[0]) == {
            "id", "topic", "category", "content", "score",
            "full_text_score", "full_text_rank", "semantic_score", "semantic_rank",
        }  # fmt: skip
        assert len(hits) <= int(arguments.get("match_count", 10))  # type: ignore[call-overload]


def test_a_claim_of_a_thousand_rows_arrives_whole(owner: Connection, database: Database) -> None:
    """Supabase returns at most 1,000 rows of a call: further leased rows would be lost until their lease expires."""
    owner.execute("insert into music_knowledge (topic) select 'row ' || n from generate_series(1, 1500) n")
    work = Collection(database, MUSIC)
    assert len(work.claim_embeddings(1000, 60)) == 1000
    assert work.embedding_queue().leased == 1000
    with pytest.raises(DatabaseRejected, match="between 1 and 1000"):
        work.claim_embeddings(1001, 60)


def test_a_backfill_gives_the_same_result_with_both_adapters(
    owner: Connection, database: Database, provider: FakeProvider
) -> None:
    add(owner, *(f"text {number}" for number in range(90)), *["same"] * 10, "poison")
    provider.wire.refuses = {"poison"}
    outcome = backfill(database, provider, BackfillOptions(MUSIC, batch_size=10, workers=3))
    report = outcome.report
    assert (report.processed, report.embedded, report.reused, report.failed) == (101, 100, 9, 1)
    assert outcome.left.failed == 1
    # Each text is paid once: a request with the refused text got no answer and was sent again in halves.
    answered = [text for request in provider.wire.requests if "poison" not in request for text in request]
    assert answered.count("same") == 1
    assert Collection(database, MUSIC).verify_embeddings() == 0


# Secrets


def test_no_repr_error_or_log_contains_the_key_or_the_password(
    rest: Gateway, database_url: SecretStr, tokens: dict[str, str], caplog: pytest.LogCaptureFixture, owner: Connection
) -> None:
    key, password = tokens["service_role"], "hunter2-and-more"
    with_password = SecretStr(database_url.get_secret_value().replace("postgres@", f"postgres:{password}@"))
    seen: list[str] = []
    with caplog.at_level(logging.DEBUG):
        with SupabaseDatabase(rest.url, SecretStr(key)) as first, PostgresDatabase(with_password) as second:
            for database in (first, second):
                seen += [repr(database), str(database), f"{database}", repr(vars(database))]
                for function in ("embedding_coverage", "no_such_function", "claim_embeddings"):
                    try:
                        database.call(function, {"collection": "x"} if function == "claim_embeddings" else {})
                    except AppError as error:
                        seen += [repr(error), str(error), "".join(traceback.format_exception(error, chain=True))]
            rest.fault = Fault(502, "<html>")
            with pytest.raises(DatabaseUnavailable) as caught:
                first.call("embedding_coverage")
            seen.append("".join(traceback.format_exception(caught.value)))
        for url in (
            f"postgresql://user:{password}@127.0.0.1:1/x",
            f"postgresql://user:{password}/{password}@127.0.0.1/x",
            f"postgresql://user:x@127.0.0.1:{password}/x",
            f"postgresql://user:{password}@no-such-host.invalid/x",
            f"postgresql://user@127.0.0.1/x?{password}=1",
        ):
            with pytest.raises(AppError, match="DATABASE_URL") as refused:
                PostgresDatabase(SecretStr(url))
            seen += [repr(refused.value), "".join(traceback.format_exception(refused.value))]
    for record in caplog.records:
        seen += [record.getMessage(), repr(record.args), str(record.exc_text)]
    everything = "\n".join(seen)
    assert key not in everything
    assert key.split(".")[2] not in everything
    assert password not in everything


def test_a_lost_connection_is_opened_again(owner: Connection, database: Database) -> None:
    database.call("embedding_coverage")
    owner.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    )
    deadline = time.monotonic() + 10
    while True:
        try:
            assert database.call("embedding_coverage")
            break
        except DatabaseUnavailable:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_many_threads_share_one_adapter(owner: Connection, database: Database, provider: FakeProvider) -> None:
    work = register(database, provider)
    add(owner, *(f"text {number}" for number in range(200)))
    workers = [InThread(lambda: sum(1 for _ in iter(lambda: work.claim_embeddings(5, 60), []))) for _ in range(8)]
    for worker in workers:
        worker.result()
    end_waits(owner)
    assert len(queued(owner)) == 200
    assert isinstance(owner, psycopg.Connection)
