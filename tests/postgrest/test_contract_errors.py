"""Tests that both adapters raise the same errors."""

import time
import traceback
from collections.abc import Callable

import pytest

from shared.database.base import Database
from shared.database.supabase import SupabaseDatabase
from shared.embedding.backfill import BackfillOptions, backfill
from shared.embedding.collection import Collection
from shared.embedding.coverage import list_collections
from shared.embedding.run_history import list_costs, list_runs
from shared.errors import (
    AppError,
    DatabaseContractError,
    DatabaseRejected,
    DatabaseTimeout,
    NotFound,
)
from shared.models import EmbeddingModel
from shared.search.map import MapService
from tests.database.rows import MUSIC, Connection, add, edit
from tests.fake_provider import DIMENSIONS, FakeProvider
from tests.postgrest.contract import register

pytestmark = pytest.mark.postgrest


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.node.callspec.params["database"])


def test_both_adapters_return_the_same_to_the_console(
    owner: Connection, database: Database, provider: FakeProvider
) -> None:
    provider.price_per_million_tokens = 1e6
    assert list_runs(database, None, 10) == []
    assert list_costs(database, 30).entries == []
    assert MapService(database).get(MUSIC)["points"] == []
    # There are more rows than the 1,000 that Supabase returns for a call.
    add(owner, *(f"text {number}" for number in range(1200)))
    backfill(database, provider, BackfillOptions(MUSIC, batch_size=400, workers=2))
    (run,) = list_runs(database, MUSIC, 10)
    assert (run["status"], run["embedded"], run["tokens"], run["cost"]) == ("finished", 1200, 2400, 2400.0)
    (cost,) = list_costs(database, 30).entries
    assert (cost["model"], cost["runs"], cost["tokens"], cost["cost"]) == ("fake", 1, 2400, 2400.0)
    drawn = MapService(database).get(MUSIC, category="category")
    assert (drawn["total"], drawn["sampled"], len({point["id"] for point in drawn["points"]})) == (1200, 1200, 1200)
    assert {point["label"] for point in drawn["points"]} == {f"text {number}" for number in range(1200)}

    edit(owner, drawn["points"][0]["id"], "bad")
    (row,) = (work := Collection(database, MUSIC)).claim_embeddings(1, 60)
    work.record_embedding_run(None, "fake", "running", {"embedded": 3})
    work.fail_embeddings([(row.row_id, "no", True)])
    (status,) = [one for one in list_collections(database) if one.coverage.collection == MUSIC]
    assert (status.label_column, status.category_columns) == ("topic", [])
    assert status.running is not None
    assert status.running.done == 3
    assert [failure["row_id"] for failure in status.failures] == [row.row_id]
    assert Collection(database, MUSIC).retry_failed_embeddings(["nonsense"]) == 0
    assert Collection(database, MUSIC).retry_failed_embeddings([row.row_id]) == 1


def test_an_unknown_collection_is_not_found(database: Database) -> None:
    with pytest.raises(NotFound, match=r'"no_such" is not tracked.*Tracked collections: .*music_knowledge'):
        Collection(database, "no_such").claim_embeddings(10, 60)


def test_a_violated_constraint_is_rejected_with_its_sentence(database: Database) -> None:
    with pytest.raises(DatabaseRejected) as caught:
        database.call("upsert_datasets", {"rows": [{"external_id": "1", "title": " "}]})
    assert caught.value.message == "title must not be empty"


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
    work.register_embedding_model(provider.spec, use=True)
    with pytest.raises(DatabaseRejected, match=r'"fake", not "other".*set_collection_model'):
        work.register_embedding_model(EmbeddingModel("other", "fake", DIMENSIONS), use=True)


def test_a_missing_function_names_the_command(database: Database, kind: str) -> None:
    fix = "supabase db push" if kind == "supabase" else r"scripts/migrate\.py"
    with pytest.raises(DatabaseContractError, match=rf"no_such_function.*{fix}"):
        database.call("no_such_function", {"collection": MUSIC})
    with pytest.raises(DatabaseContractError, match=rf"claim_embeddings.*{fix}"):
        database.call("claim_embeddings", {"no_such_argument": 1})


@pytest.mark.parametrize("text", ["a\0b", "half of a pair \ud800"])
def test_a_text_that_postgresql_cannot_store_is_rejected(database: Database, text: str) -> None:
    with pytest.raises(DatabaseRejected):
        database.call("search_music_knowledge", {"query_text": text})
    with pytest.raises(DatabaseRejected):
        Collection(database, MUSIC).fail_embeddings([("x", text, True)])


@pytest.fixture
def impatient(owner: Connection) -> None:
    """Set a statement timeout of 1.5 s for the API's roles, before the adapters connect."""
    owner.execute("create function public.sleep() returns void language sql as 'select pg_sleep(5)'")
    owner.execute(f"alter database {owner.info.dbname} set statement_timeout = '1500ms'")


def test_a_statement_timeout_is_a_timeout(impatient: None, database: Database) -> None:
    with pytest.raises(DatabaseTimeout):
        database.call("sleep")


def test_a_lock_timeout_is_retryable(owner: Connection, database: Database, rest_reload: Callable[[], None]) -> None:
    # PostgREST itself retries a serialization failure without a limit.
    errors = {"deadlocked": ("40P01", "database_conflict"), "no_lock": ("55P03", "database_timeout")}
    for name, (code, _) in errors.items():
        body = f"begin raise exception 'x' using errcode = '{code}'; end"
        owner.execute(f"create function public.{name}() returns int language plpgsql as $${body}$$")
    rest_reload()
    for name, (_, expected) in errors.items():
        with pytest.raises(AppError) as caught:
            database.call(name)
        assert (caught.value.code, caught.value.retryable) == (expected, True)


def test_error_details_that_quote_a_row_are_removed(
    owner: Connection, database: Database, rest_reload: Callable[[], None]
) -> None:
    owner.execute("create table public.diary (id int primary key, secret text unique)")
    owner.execute("insert into public.diary values (1, 'private text')")
    body = "insert into public.diary values (2, 'private text')"
    owner.execute(f"create function public.write_diary() returns void language sql as $${body}$$")
    rest_reload()
    with pytest.raises(AppError) as caught:
        database.call("write_diary")
    assert "private text" not in "".join(traceback.format_exception(caught.value))


@pytest.fixture
def rest_reload(request: pytest.FixtureRequest, database: Database, owner: Connection) -> Callable[[], None]:
    """Make PostgREST read the schema again."""

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
