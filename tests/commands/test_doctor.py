"""Tests scripts/doctor.py on real servers: its checks, its message for each failure, and that no scratch row stays."""

import signal
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from tests.commands.conftest import Command, Result
from tests.conftest import Connection
from tests.gateway import Gateway
from tests.pgbouncer import PgBouncer
from tests.postgres_cluster import Cluster, make_directory, remove
from tests.protocol_server import ProtocolServer

STEPS = [
    *("settings", "database", "migrations", "roles", "collections", "anon", "provider"),
    *("row written", "row embedded", "full-text search", "semantic search", "row deleted"),
]
ALL_OF_IT = """
select (select count(*) from pg_class), (select count(*) from pg_proc), (select count(*) from embedding.models),
  (select count(*) from embedding.collections), (select count(*) from embedding.queue),
  (select count(*) from embedding.runs), to_regclass('embedding.installation_check')
"""


def of(result: Result) -> dict[str, tuple[str, str]]:
    """Status and message of each step."""
    return {step["name"]: (step["status"], step["message"]) for step in result.report["steps"]}


def failure(result: Result) -> tuple[str, str]:
    """The one step that failed, and its message."""
    assert result.code == 1, result.stderr
    assert result.report["ok"] is False
    assert [step["name"] for step in result.report["steps"]] == STEPS
    ((name, message),) = ((name, message) for name, (status, message) in of(result).items() if status == "failed")
    return name, message


@pytest.fixture
def supabase(rest: Gateway, tokens: dict[str, str], command_with: Callable[..., Command]) -> Command:
    """Commands for a Supabase project: PostgREST on the test's database, and no DATABASE_URL."""
    return command_with(
        SUPABASE_URL=rest.url, SUPABASE_SERVICE_ROLE_KEY=tokens["service_role"], SUPABASE_ANON_KEY=tokens["anon"]
    )


@pytest.fixture(params=["postgres", pytest.param("supabase", marks=pytest.mark.postgrest)])
def doctor(request: pytest.FixtureRequest) -> Callable[..., Result]:
    """Run the doctor with --json, through each adapter in turn."""
    command = request.getfixturevalue("command" if request.param == "postgres" else "supabase")
    return lambda **environment: command("doctor.py", "--json", **environment)


def test_a_complete_installation_passes_every_step_and_no_row_stays(
    doctor: Callable[..., Result], owner: Connection
) -> None:
    before = owner.execute(ALL_OF_IT).fetchone()
    result = doctor()
    assert (result.code, result.stderr) == (0, "")
    assert result.report["ok"] is True
    assert [(name, status) for name, (status, _) in of(result).items()] == [(name, "ok") for name in STEPS]
    assert owner.execute(ALL_OF_IT).fetchone() == before


def test_the_embedded_default_passes_and_each_step_is_a_line(command_with: Callable[..., Command]) -> None:
    folder = make_directory("tonnetz-doctor-")
    result = command_with(TONNETZ_DATA_DIR=str(folder / "data"))("doctor.py")
    remove(folder)
    assert (result.code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert [line[8:26].strip() for line in lines] == STEPS
    assert {line[:8].strip() for line in lines} == {"ok"}
    assert "the embedded server" in lines[1]


@pytest.mark.parametrize(
    ("mode", "means"),
    [
        (None, "a direct connection"),
        ("transaction", "in transaction mode: every command works"),
        ("session", "in session mode: every command works"),
    ],
)
def test_a_pooler_is_named_with_its_mode(
    command: Command, pooler: Callable[[str], PgBouncer], database_url: SecretStr, mode: str | None, means: str
) -> None:
    url = database_url if mode is None else pooler(mode).url(database_url)
    result = command("doctor.py", "--json", DATABASE_URL=url.get_secret_value())
    assert result.code == 0, result.stdout
    assert means in of(result)["database"][1]


def test_wrong_settings_are_named_and_nothing_else_is_tried(command: Command) -> None:
    result = command("doctor.py", "--json", EMBEDDING_PROVIDER="abacus")
    assert failure(result) == ("settings", "EMBEDDING_PROVIDER: must be onnx, ollama or openai")
    assert {status for name, (status, _) in of(result).items() if name != "settings"} == {"skipped"}


def test_an_unreachable_server_is_named_and_the_provider_is_still_checked(command: Command) -> None:
    result = command("doctor.py", "--json", DATABASE_URL="postgresql://127.0.0.1:1/none")
    name, message = failure(result)
    assert name == "database"
    assert "DATABASE_URL" in message
    assert of(result)["provider"][0] == "ok"


@pytest.mark.parametrize(
    ("statement", "step", "says"),
    [
        ("select", "migrations", "run scripts/migrate.py"),
        ("create extension vector schema public", "database", "alter extension vector set schema extensions"),
    ],
)
def test_a_database_that_is_not_set_up_gets_the_statement(
    cluster: Cluster, command_with: Callable[..., Command], statement: str, step: str, says: str
) -> None:
    with cluster.empty() as url:
        with psycopg.connect(url.get_secret_value(), autocommit=True) as owner:
            owner.execute(statement)
        name, message = failure(command_with(DATABASE_URL=url.get_secret_value())("doctor.py", "--json"))
    assert name == step
    assert says in message


@contextmanager
def without_bypassrls(owner: Connection) -> Any:
    """Remove BYPASSRLS from service_role, and restore it at the end, because other tests use the same server."""
    owner.execute("alter role service_role nobypassrls")
    try:
        yield
    finally:
        owner.execute("alter role service_role bypassrls")


def test_a_service_role_that_sees_no_rows_gets_the_statement(command: Command, owner: Connection) -> None:
    with without_bypassrls(owner):
        name, message = failure(command("doctor.py", "--json"))
    assert name == "roles"
    assert "alter role service_role bypassrls" in message


@pytest.mark.parametrize(
    ("statement", "step", "says"),
    [
        ("drop function embedding.document_text(public.datasets)", "collections", "datasets: "),
        ("grant execute on function ping_embeddings to anon", "anon", "service_role"),
        (
            "create function stop() returns event_trigger language plpgsql as $$ begin raise 'no new tables'; end $$;"
            "create event trigger stop on ddl_command_start when tag in ('CREATE TABLE') execute function stop()",
            "row written",
            "no new tables. A function, grant or setting",
        ),
        ("revoke execute on function save_embeddings from service_role", "row embedded", "save_embeddings"),
        ("revoke execute on function embedding.search_hits from anon", "full-text search", "search_hits"),
        ("revoke execute on function embedding.model_dimensions from anon", "semantic search", "model_dimensions"),
        (
            "create or replace function embedding.dequeue_deleted() returns trigger language plpgsql as "
            "$$ begin raise 'kept'; end $$",
            "row deleted",
            "kept",
        ),
    ],
)
def test_a_broken_database_fails_in_the_step_that_uses_the_broken_object(
    command: Command, owner: Connection, statement: str, step: str, says: str
) -> None:
    owner.execute(statement)
    before = owner.execute(ALL_OF_IT).fetchone()
    name, message = failure(command("doctor.py", "--json"))
    assert name == step
    assert says in message
    assert owner.execute(ALL_OF_IT).fetchone() == before


@pytest.mark.postgrest
def test_a_function_that_is_closed_to_anon_is_found_through_the_api(supabase: Command, owner: Connection) -> None:
    owner.execute("revoke execute on function embedding.search_hits from anon")
    before = owner.execute(ALL_OF_IT).fetchone()
    assert failure(supabase("doctor.py", "--json"))[0] == "full-text search"
    assert owner.execute(ALL_OF_IT).fetchone() == before


@pytest.mark.postgrest
def test_wrong_keys_of_a_project_are_named_by_their_variable(supabase: Command, tokens: dict[str, str]) -> None:
    name, message = failure(supabase("doctor.py", "--json", SUPABASE_SERVICE_ROLE_KEY="x" * 40))
    assert name == "database"
    assert "SUPABASE_SERVICE_ROLE_KEY" in message
    name, message = failure(supabase("doctor.py", "--json", SUPABASE_ANON_KEY="<unset>"))
    assert name == "anon"
    assert message.startswith("SUPABASE_ANON_KEY: ")
    name, message = failure(supabase("doctor.py", "--json", SUPABASE_ANON_KEY=tokens["service_role"]))
    assert name == "anon"
    assert "SUPABASE_ANON_KEY is not the service role key" in message


def test_a_paid_provider_is_announced_and_embeds_two_texts(command: Command) -> None:
    with ProtocolServer() as server:
        result = command(
            "doctor.py", "--json", EMBEDDING_PROVIDER="openai", OPENAI_API_KEY="sk-x", OPENAI_BASE_URL=server.openai_url
        )
        assert result.code == 0, result.stdout
        assert server.inputs == 2
    assert result.stderr == "sending two short texts to openai (text-embedding-3-small), less than $0.0001\n"


def test_an_unreachable_provider_fails_and_the_database_is_still_checked(command: Command) -> None:
    result = command(
        "doctor.py", "--json", EMBEDDING_PROVIDER="openai", OPENAI_API_KEY="k", OPENAI_BASE_URL="http://127.0.0.1:1"
    )
    name, message = failure(result)
    assert name == "provider"
    assert "OPENAI_BASE_URL" in message
    assert of(result)["anon"][0] == "ok"
    assert of(result)["row written"] == ("skipped", "needs: provider")


def test_a_provider_with_another_width_than_the_collection_fails(command: Command, owner: Connection) -> None:
    owner.execute(
        "select register_embedding_model('small-bert', 'onnx', 7, collection => 'datasets')",
    )
    name, message = failure(command("doctor.py", "--json"))
    assert name == "provider"
    assert message.startswith("datasets: the model small-bert is registered with 7 dimensions")


def test_a_collection_whose_vectors_another_program_makes_needs_no_provider(
    command: Command, owner: Connection
) -> None:
    owner.execute("select register_embedding_model('my-clip', 'mine', 7, collection => 'datasets')")
    assert command("doctor.py", "--json").code == 0


def test_an_interrupt_leaves_nothing_behind(
    command: Command, owner: Connection, connect: Callable[..., Connection], database_url: SecretStr
) -> None:
    before = owner.execute(ALL_OF_IT).fetchone()
    holder = connect(autocommit=False)
    holder.execute("lock table embedding.models in exclusive mode")
    process = command.start("doctor.py")
    waits = "select from pg_stat_activity where wait_event_type = 'Lock' and query like '%check_installation%'"
    deadline = time.monotonic() + 60
    while not owner.execute(waits).fetchall() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    result = command.finish(process)
    holder.rollback()
    assert result.code == 130, result.stderr
    assert "Traceback" not in result.stderr
    while owner.execute(waits).fetchall() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert owner.execute(ALL_OF_IT).fetchone() == before
