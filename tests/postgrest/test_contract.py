"""One contract, two adapters: psycopg, and the real supabase client through a real PostgREST behind a gateway.

Every SQL function the project calls gives equal values and equal error classes whichever way it is called.
"""

import json
import logging
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psycopg
import pytest
from pydantic import SecretStr

from shared.database.base import Database
from shared.database.postgres import PostgresDatabase
from shared.database.queue import EmbeddingQueue, vector_text
from shared.database.supabase import SupabaseDatabase
from shared.errors import (
    AppError,
    ConfigurationError,
    DatabaseContractError,
    DatabaseError,
    DatabaseRejected,
    DatabaseTimeout,
    DatabaseUnavailable,
    Forbidden,
    NotFound,
)
from shared.models import EmbeddingModel
from shared.services.backfill import BackfillOptions, backfill
from shared.services.coverage import list_collections, retry_failures
from shared.services.projection import MapService
from shared.services.runs import list_costs, list_runs
from tests.database.rows import MUSIC, Connection, InThread, add, coverage_of, edit, embed_all, end_waits, queued, save
from tests.fake_provider import DIMENSIONS, FakeProvider
from tests.gateway import Fault, Gateway
from tests.postgrest_server import sign_token

pytestmark = pytest.mark.postgrest
BOTH = ["postgres", "supabase"]


@pytest.fixture(params=BOTH)
def database(request: pytest.FixtureRequest, database_url: SecretStr) -> Iterator[Database]:
    """Each adapter in turn, on a database of its own."""
    if request.param == "supabase":
        yield request.getfixturevalue("supabase_database")
        return
    with PostgresDatabase(database_url) as adapter:
        yield adapter


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.node.callspec.params["database"])


# Values


def test_the_whole_life_of_rows(owner: Connection, database: Database, provider: FakeProvider) -> None:
    work = EmbeddingQueue(database, MUSIC)
    assert work.register_embedding_model(provider.spec) == provider.spec
    assert work.register_embedding_model(EmbeddingModel("n", "o", 768, "d: ", "q: ", 2048)).max_tokens == 2048
    assert work.use_collection_model(provider.model) is None  # type: ignore[func-returns-value]
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
    (parked,) = work.list_failed_embeddings()
    assert (parked["row_id"], parked["attempts"], parked["error"]) == (two, 1, "no")
    assert parked["failed_at"].startswith("20")

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
    assert work.retire_models() == []
    assert work.create_embedding_index().startswith("music_knowledge_vector_")
    run_id = work.record_embedding_run(None, "fake", "running", {})
    assert (
        work.record_embedding_run(run_id, "fake", "completed", {"embedded": 3, "cost_usd": 0.25, "error": None})
        == run_id
    )
    drop = {"collection": MUSIC, "model": "fake"}
    assert [database.call("drop_embedding_index", drop) for _ in range(2)] == [[True], [False]]


def test_scalars_tables_and_nothing_look_alike(database: Database) -> None:
    assert database.call("verify_embeddings", {"collection": MUSIC}) == [0]
    assert database.call_scalar("verify_embeddings", {"collection": MUSIC}) == 0
    assert database.call("claim_embeddings", {"collection": MUSIC}) == []
    assert database.call("list_failed_embeddings", {"collection": MUSIC, "max_rows": None}) == []
    registered = database.call("register_embedding_model", {"name": "m", "provider": "p", "dimensions": 3})
    assert [row["dimensions"] for row in registered] == [3]
    assert database.call("use_collection_model", {"collection": MUSIC, "model": "m"}) == []
    assert database.call_scalar("use_collection_model", {"collection": MUSIC, "model": "m"}) is None


def test_vectors_are_accepted_as_text_and_as_numbers(
    owner: Connection, database: Database, provider: FakeProvider
) -> None:
    work = EmbeddingQueue(database, MUSIC)
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
    work = EmbeddingQueue(database, MUSIC)
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
    """Supabase returns at most 1,000 rows of a call: what is leased beyond that would be lost until its lease ends."""
    owner.execute("insert into music_knowledge (topic) select 'row ' || n from generate_series(1, 1500) n")
    work = EmbeddingQueue(database, MUSIC)
    assert len(work.claim_embeddings(1000, 60)) == 1000
    assert work.embedding_queue().leased == 1000
    with pytest.raises(DatabaseRejected, match="between 1 and 1000"):
        work.claim_embeddings(1001, 60)


def test_a_backfill_runs_the_same_way(owner: Connection, database: Database, provider: FakeProvider) -> None:
    add(owner, *(f"text {number}" for number in range(90)), *["same"] * 10, "poison")
    provider.wire.refuses = {"poison"}
    outcome = backfill(database, provider, BackfillOptions(MUSIC, batch_size=10, workers=3))
    report = outcome.report
    assert (report.processed, report.embedded, report.reused, report.failed) == (101, 100, 9, 1)
    assert outcome.left.failed == 1
    # Paid once: a request that held the refused text was not answered, and was sent again in halves.
    answered = [text for request in provider.wire.requests if "poison" not in request for text in request]
    assert answered.count("same") == 1
    assert EmbeddingQueue(database, MUSIC).verify_embeddings() == 0


# Errors


def register(database: Database, provider: FakeProvider) -> EmbeddingQueue:
    work = EmbeddingQueue(database, MUSIC)
    work.register_embedding_model(provider.spec)
    return work


def test_the_console_is_told_the_same(owner: Connection, database: Database, provider: FakeProvider) -> None:
    provider.price_per_million_tokens = 1e6
    assert list_runs(database, None, 10) == []
    assert list_costs(database, 30).entries == []
    assert MapService(database).get(MUSIC).points == []
    # More than the thousand rows that Supabase returns of a call.
    add(owner, *(f"text {number}" for number in range(1200)))
    backfill(database, provider, BackfillOptions(MUSIC, batch_size=400, workers=2))
    (run,) = list_runs(database, MUSIC, 10)
    assert (run["status"], run["embedded"], run["tokens"], run["cost"]) == ("finished", 1200, 2400, 2400.0)
    (cost,) = list_costs(database, 30).entries
    assert (cost["model"], cost["runs"], cost["tokens"], cost["cost"]) == ("fake", 1, 2400, 2400.0)
    drawn = MapService(database).get(MUSIC, category="category")
    assert (drawn.total, drawn.sampled, len({point.id for point in drawn.points})) == (1200, 1200, 1200)
    assert {point.label for point in drawn.points} == {f"text {number}" for number in range(1200)}

    edit(owner, drawn.points[0].id, "bad")
    (row,) = (work := EmbeddingQueue(database, MUSIC)).claim_embeddings(1, 60)
    work.record_embedding_run(None, "fake", "running", {"embedded": 3})
    work.fail_embeddings([(row.row_id, "no", True)])
    (status,) = [one for one in list_collections(database) if one.coverage.collection == MUSIC]
    assert (status.label_column, status.category_columns) == ("topic", [])
    assert status.running is not None
    assert status.running.done == 3
    assert [failure["row_id"] for failure in status.failures] == [row.row_id]
    assert retry_failures(database, MUSIC, ["nonsense"]) == 0
    assert retry_failures(database, MUSIC, [row.row_id]) == 1


def test_an_unknown_collection_is_not_found(database: Database) -> None:
    with pytest.raises(NotFound, match=r'"no_such" is not tracked.*Tracked are: .*music_knowledge'):
        EmbeddingQueue(database, "no_such").claim_embeddings(10, 60)


def test_a_wrong_width_is_rejected_naming_both(owner: Connection, database: Database, provider: FakeProvider) -> None:
    work = register(database, provider)
    add(owner, "one")
    rows = work.claim_embeddings(10, 60)
    with pytest.raises(DatabaseRejected, match=rf'has 24 dimensions, model "fake" has {DIMENSIONS}'):
        work.save_embeddings("fake", rows, FakeProvider("wide", 24).embed_documents(["one"]))
    with pytest.raises(DatabaseRejected, match='"fake" is registered with 16 dimensions, not 24'):
        work.register_embedding_model(EmbeddingModel("fake", "fake", 24))


def test_another_model_is_rejected_naming_both_and_the_switch(database: Database, provider: FakeProvider) -> None:
    work = register(database, provider)
    work.use_collection_model("fake")
    work.register_embedding_model(EmbeddingModel("other", "fake", DIMENSIONS))
    with pytest.raises(DatabaseRejected, match=r'"fake", not "other".*set_collection_model'):
        work.use_collection_model("other")


def test_a_missing_function_names_the_command(database: Database, kind: str) -> None:
    fix = "supabase db push" if kind == "supabase" else r"scripts/migrate\.py"
    with pytest.raises(DatabaseContractError, match=rf"no_such_function.*{fix}"):
        database.call("no_such_function", {"collection": MUSIC})
    with pytest.raises(DatabaseContractError, match=rf"claim_embeddings.*{fix}"):
        database.call("claim_embeddings", {"no_such_argument": 1})


@pytest.mark.parametrize("text", ["a\0b", "half of a pair \ud800"])
def test_a_text_that_postgresql_cannot_hold_is_rejected(database: Database, text: str) -> None:
    with pytest.raises(DatabaseRejected):
        database.call("search_music_knowledge", {"query_text": text})
    with pytest.raises(DatabaseRejected):
        EmbeddingQueue(database, MUSIC).fail_embeddings([("x", text, True)])


@pytest.fixture
def impatient(owner: Connection) -> None:
    """The API's roles may take a second and a half for a statement. Before the adapters connect."""
    owner.execute("create function public.sleep() returns void language sql as 'select pg_sleep(5)'")
    owner.execute(f"alter database {owner.info.dbname} set statement_timeout = '1500ms'")


def test_a_statement_timeout_is_a_timeout(impatient: None, database: Database) -> None:
    with pytest.raises(DatabaseTimeout):
        database.call("sleep")


def test_a_lock_that_is_not_had_in_time_may_be_tried_again(
    owner: Connection, database: Database, rest_reload: Callable[[], None]
) -> None:
    # A serialization failure PostgREST tries again by itself, for as long as it takes.
    codes = {"deadlocked": "40P01", "no_lock": "55P03"}
    for name, code in codes.items():
        body = f"begin raise exception 'x' using errcode = '{code}'; end"
        owner.execute(f"create function public.{name}() returns int language plpgsql as $${body}$$")
    rest_reload()
    for name in codes:
        with pytest.raises(AppError) as caught:
            database.call(name)
        assert (caught.value.code, caught.value.retryable) == ("database_conflict", True)


def test_details_that_quote_a_row_are_left_behind(
    owner: Connection, database: Database, rest_reload: Callable[[], None]
) -> None:
    owner.execute("create table public.diary (id int primary key, secret text unique)")
    owner.execute("insert into public.diary values (1, 'nobody may read this')")
    body = "insert into public.diary values (2, 'nobody may read this')"
    owner.execute(f"create function public.write_diary() returns void language sql as $${body}$$")
    rest_reload()
    with pytest.raises(AppError) as caught:
        database.call("write_diary")
    assert "nobody may read" not in "".join(traceback.format_exception(caught.value))


@pytest.fixture
def rest_reload(request: pytest.FixtureRequest, database: Database, owner: Connection) -> Callable[[], None]:
    """Let PostgREST see what was just created."""

    def reload() -> None:
        if not isinstance(database, SupabaseDatabase):
            return
        owner.execute("create function public.reloaded() returns int language sql return 1")
        owner.execute("notify pgrst, 'reload schema'")
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                database.call("reloaded")
            except DatabaseContractError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError("PostgREST did not reload")

    return reload


# What only one of them can meet


def test_a_database_out_of_reach(tokens: dict[str, str]) -> None:
    with pytest.raises(DatabaseUnavailable, match=r"nothing listens there.*DATABASE_URL"):
        PostgresDatabase(SecretStr("postgresql://somebody:hunter2@127.0.0.1:1/tonnetz"))
    with (
        SupabaseDatabase("http://127.0.0.1:1", SecretStr(tokens["service_role"])) as database,
        pytest.raises(DatabaseUnavailable, match="SUPABASE_URL"),
    ):
        database.call("embedding_coverage")


def test_a_postgrest_without_its_database_is_unavailable(
    rest: Gateway, supabase_database: SupabaseDatabase, owner: Connection, cluster: Any
) -> None:
    supabase_database.call("embedding_coverage")
    name = owner.info.dbname
    with cluster.admin() as admin:
        admin.execute(f"alter database {name} with allow_connections false")
        admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name])
    try:
        with pytest.raises(DatabaseUnavailable):
            supabase_database.call("embedding_coverage")
    finally:
        with cluster.admin() as admin:
            admin.execute(f"alter database {name} with allow_connections true")


@pytest.mark.parametrize("status", [502, 503, 504, 520, 530])
def test_a_gateways_page_is_unavailable_and_its_body_is_not_shown(
    rest: Gateway, supabase_database: SupabaseDatabase, status: int
) -> None:
    rest.fault = Fault(status, "<html><h1>Bad gateway</h1><p>internal-host-7 said no</p></html>")
    with pytest.raises(DatabaseUnavailable) as caught:
        supabase_database.call("embedding_coverage")
    assert "internal-host-7" not in "".join(traceback.format_exception(caught.value))
    rest.fault = None
    assert supabase_database.call("embedding_coverage")


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault(404, "<html>no such page</html>"), DatabaseError),
        (Fault(200, "<html>a captive portal</html>"), DatabaseError),
        (Fault(404, '{"message":"no Route matched with those values"}', "application/json"), DatabaseError),
        (Fault(403, "<html>forbidden</html>"), ConfigurationError),
        (Fault(429, '{"message":"API rate limit exceeded"}', "application/json"), DatabaseUnavailable),
        (Fault(500, '{"message":"An unexpected error occurred"}', "application/json"), DatabaseUnavailable),
        (
            Fault(
                503,
                '{"code":"PGRST002","message":"Could not query the database for the schema cache. Retrying."}',
                "application/json",
            ),
            DatabaseUnavailable,
        ),
        (
            Fault(
                504,
                '{"code":"PGRST003","message":"Timed out acquiring connection from connection pool."}',
                "application/json",
            ),
            DatabaseTimeout,
        ),
        (Fault(540, '{"message":"Project paused"}', "application/json"), DatabaseUnavailable),
    ],
)
def test_other_answers_of_a_gateway(
    rest: Gateway, supabase_database: SupabaseDatabase, fault: Fault, expected: type[AppError]
) -> None:
    rest.fault = fault
    with pytest.raises(expected):
        supabase_database.call("embedding_coverage")


def test_a_supabase_that_does_not_answer_is_a_timeout(rest: Gateway, tokens: dict[str, str]) -> None:
    rest.fault = Fault(200, "[]", "application/json", delay=2)
    with (
        SupabaseDatabase(rest.url, SecretStr(tokens["service_role"]), timeout=0.2) as database,
        pytest.raises(DatabaseTimeout, match="SUPABASE_URL"),
    ):
        database.call("embedding_coverage")


def test_a_wrong_key_names_the_variable(rest: Gateway, tokens: dict[str, str]) -> None:
    """The gateway does not know it; or it does, and the signature is not the project's, or has expired."""
    forged = sign_token("another secret, as long as any of them is", "service_role")
    expired = tokens["service_role"]
    for key, known in ((forged, False), (forged, True), ("not-a-token", True)):
        rest.keys = {key} if known else {expired}
        with SupabaseDatabase(rest.url, SecretStr(key)) as database:
            with pytest.raises(ConfigurationError, match="SUPABASE_SERVICE_ROLE_KEY") as caught:
                database.call("embedding_coverage")
            assert key not in "".join(traceback.format_exception(caught.value))


def test_an_expired_key_names_the_variable(rest: Gateway, jwt_secret: str) -> None:
    key = sign_token(jwt_secret, "service_role", exp=int(time.time()) - 3600)
    rest.keys.add(key)
    with (
        SupabaseDatabase(rest.url, SecretStr(key)) as database,
        pytest.raises(ConfigurationError, match="SUPABASE_SERVICE_ROLE_KEY"),
    ):
        database.call("embedding_coverage")


@pytest.mark.parametrize("key", ["eyJhbGci••••••••", "eyJhbGci\n", " ", ""])
def test_a_key_that_was_copied_badly_names_the_variable_and_is_not_shown(rest: Gateway, key: str) -> None:
    with pytest.raises(AppError) as caught, SupabaseDatabase(rest.url, SecretStr(key)) as database:
        database.call("embedding_coverage")
    assert isinstance(caught.value, ConfigurationError)
    assert "SUPABASE_SERVICE_ROLE_KEY" in caught.value.message
    assert "eyJhbGci" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("url", ["http://", "https://exa mple.com", "http://[::1", "http://127.0.0.1:99999"])
def test_a_url_that_is_none_names_the_variable(url: str, tokens: dict[str, str]) -> None:
    with pytest.raises(AppError) as caught, SupabaseDatabase(url, SecretStr(tokens["service_role"])) as database:
        database.call("embedding_coverage")
    assert isinstance(caught.value, ConfigurationError | DatabaseUnavailable)
    assert "SUPABASE_URL" in caught.value.message


@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_the_anon_key_may_search_but_not_claim(
    rest: Gateway, owner: Connection, tokens: dict[str, str], role: str
) -> None:
    add(owner, "reverb")
    with SupabaseDatabase(rest.url, SecretStr(tokens[role])) as database:
        with pytest.raises(Forbidden, match="SUPABASE_SERVICE_ROLE_KEY"):
            database.call("claim_embeddings", {"collection": MUSIC})
        with pytest.raises(AppError):
            database.call("embedding_coverage")
        assert len(database.call("search_music_knowledge", {"query_text": "reverb"})) == 1
    assert len(queued(owner)) == 1


@pytest.mark.parametrize("path", ["queue", "models", "collections", "runs"])
def test_the_private_schema_is_not_exposed(rest: Gateway, tokens: dict[str, str], path: str) -> None:
    port = rest.upstream_port
    headers = {"authorization": f"Bearer {tokens['service_role']}"}
    assert httpx.get(f"http://127.0.0.1:{port}/{path}", headers=headers).status_code == 404
    profile = headers | {"accept-profile": "embedding"}
    assert httpx.get(f"http://127.0.0.1:{port}/{path}", headers=profile).status_code == 406


# Secrets


def test_the_key_and_the_password_are_nowhere(
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
            f"postgresql://somebody:{password}@127.0.0.1:1/x",
            f"postgresql://somebody:{password}/{password}@127.0.0.1/x",
            f"postgresql://somebody:x@127.0.0.1:{password}/x",
            f"postgresql://somebody:{password}@no-such-host.invalid/x",
            f"postgresql://somebody@127.0.0.1/x?{password}=1",
        ):
            with pytest.raises(DatabaseUnavailable, match="DATABASE_URL") as refused:
                PostgresDatabase(SecretStr(url))
            seen += [repr(refused.value), "".join(traceback.format_exception(refused.value))]
    for record in caplog.records:
        seen += [record.getMessage(), repr(record.args), str(record.exc_text)]
    everything = "\n".join(seen)
    assert key not in everything
    assert key.split(".")[2] not in everything
    assert password not in everything


def test_a_lost_connection_is_had_again(owner: Connection, database: Database) -> None:
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
