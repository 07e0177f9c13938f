"""Tests that a command names what a server lacks, with the statement that fixes it (docs/configuration.md)."""

from collections.abc import Callable, Iterator

import psycopg
import pytest
from pydantic import SecretStr

from shared.database.postgres import PostgresDatabase
from shared.embedded.migrations import migrate
from shared.embedded.requirements import Lack, list_lacks
from shared.embedding.backfill import BackfillOptions, backfill
from shared.errors import ConfigurationError
from tests.commands.conftest import Command
from tests.database.moved_data import documented_sql
from tests.fake_provider import FakeProvider
from tests.postgres_cluster import Cluster, make_directory, remove

Admin = psycopg.Connection[tuple[object, ...]]
DATABASE = "shop"


@pytest.fixture
def server() -> Iterator[Cluster]:
    """A new server: it has none of the roles."""
    directory = make_directory("tonnetz-rights-")
    try:
        with Cluster(directory) as running:
            yield running
    finally:
        remove(directory)


@pytest.fixture
def app(server: Cluster) -> SecretStr:
    """The URL of a new database for its owner, who has no special rights."""
    with server.admin() as admin:
        admin.execute("create role app login")
        admin.execute(f"create database {DATABASE} owner app")
    return SecretStr(server.url(DATABASE, user="app"))


@pytest.fixture
def admin(server: Cluster, app: SecretStr) -> Iterator[Admin]:
    """A function that runs statements as the administrator in the database of `app`."""
    with psycopg.connect(server.url(DATABASE), autocommit=True) as connection:
        yield connection


def lacks(url: SecretStr) -> list[Lack]:
    with psycopg.connect(url.get_secret_value(), autocommit=True) as connection:
        return list_lacks(connection)


def fix(admin: Admin, found: list[Lack]) -> None:
    for lack in found:
        admin.execute(lack.fix)


ROLES = ["the role anon is missing", "the role authenticated is missing", "the role service_role is missing"]


def test_the_printed_statements_are_all_that_an_owner_without_rights_needs(
    app: SecretStr, admin: Admin, command_with: Callable[..., Command]
) -> None:
    admin.execute("create extension vector; create table vectors (v vector(3))")
    admin.execute("alter schema public owner to postgres; revoke create on schema public from public")
    admin.execute(f"revoke create on database {DATABASE} from app; alter database {DATABASE} owner to postgres")
    before = lacks(app)
    assert [lack.what for lack in before] == [
        "app may not create schemas in this database",
        "app may not create tables in the schema public",
        "pgvector is in the schema public, not in extensions",
        *ROLES,
    ]
    assert "alter extension vector set schema extensions" in before[2].fix
    assert "public.vector must write extensions.vector" in before[2].fix

    migrate_py = command_with(DATABASE_URL=app.get_secret_value())
    checked, stopped = migrate_py("migrate.py", "--check"), migrate_py("migrate.py")
    assert checked.code == 1
    assert checked.stdout.splitlines() == [str(lack) for lack in before]
    assert (stopped.code, stopped.stdout) == (2, "")
    assert stopped.stderr.splitlines() == [f"error: {lack}" for lack in before]
    report = migrate_py("migrate.py", "--check", "--json").report
    assert report["ready"] is False
    assert report["lacks"][3] == {"what": before[3].what, "fix": before[3].fix, "required": True}
    written = (
        "select count(*) from pg_namespace where nspname in ('extensions', 'embedding', 'auth', 'supabase_migrations')"
    )
    assert admin.execute(written).fetchone() == (0,)

    fix(admin, before)
    # The API roles still need a grant on what the administrator has created.
    (usage,) = lacks(app)
    assert usage.fix == "grant usage on schema extensions to anon, app, authenticated, service_role;"
    fix(admin, [usage])
    checked = migrate_py("migrate.py", "--check")
    assert (checked.code, checked.stdout) == (0, "ready: nothing that is required is missing\n")
    assert migrate_py("migrate.py", "--seed").code == 0
    embed(app, "music_knowledge")


def test_the_documented_statements_are_enough(app: SecretStr, server: Cluster, admin: Admin) -> None:
    (statements,) = documented_sql("An owner without special rights", page="configuration.md")
    admin.execute(statements)
    assert lacks(app) == []
    migrate(app, seed=True)
    embed(app, "music_knowledge")
    with psycopg.connect(app.get_secret_value()) as owner:
        rights = "select rolsuper, rolcreaterole, rolcreatedb, rolbypassrls from pg_roles where rolname = current_user"
        assert owner.execute(rights).fetchone() == (False, False, False, False)


def test_an_owner_who_may_create_roles_needs_no_administrator(app: SecretStr, admin: Admin) -> None:
    """Then service_role has no BYPASSRLS, but a table with row level security is embedded nevertheless."""
    admin.execute("alter role app createrole")
    # In this package, the extension is not marked as trusted, unlike in Debian's, so a superuser has to create it.
    admin.execute("set role app; create schema extensions; reset role; create extension vector with schema extensions")
    assert lacks(app) == []
    migrate(app, seed=True)
    assert [lack.required for lack in lacks(app)] == [False]
    embed(app, "music_knowledge")
    with psycopg.connect(app.get_secret_value(), autocommit=True) as owner:
        owner.execute("create table notes (id int primary key, body text)")
        owner.execute(
            "create function embedding.document_text(n notes) returns text language sql stable as 'select n.body'"
        )
        owner.execute("alter table notes enable row level security")
        owner.execute("select track_embeddings('notes')")
        owner.execute("select track_embeddings('notes')")
        owner.execute("insert into notes values (1, 'a note')")
        embed(app, "notes")
        assert owner.execute("select count(*) from notes where embedding is not null").fetchone() == (1,)
        # The same is true of every other table with row level security.
        closed = """
            select c.relname from pg_class c where c.relrowsecurity and not exists (
              select from pg_policy p where p.polrelid = c.oid and 'service_role'::regrole = any (p.polroles))"""
        assert owner.execute(closed).fetchall() == []
        # So scripts/doctor.py has nothing to report.
        seen = "select describe_installation() -> 'roles' -> 'service_role' -> 'sees_tracked_rows'"
        assert owner.execute(seen).fetchone() == (True,)


def test_a_server_of_our_own_gets_no_login_role_and_no_default_privileges(server: Cluster) -> None:
    with server.empty() as url:
        migrate(url)
        with psycopg.connect(url.get_secret_value()) as connection:
            logins = "select rolname from pg_roles where rolcanlogin"
            assert connection.execute(logins).fetchall() == [("postgres",)]
            assert connection.execute("select count(*) from pg_default_acl").fetchone() == (0,)


def test_a_user_who_is_not_the_owner_gets_one_line(
    app: SecretStr, server: Cluster, command_with: Callable[..., Command]
) -> None:
    migrate(SecretStr(server.url(DATABASE)))
    line = "the schema embedding belongs to postgres, and app may not act as that user: set DATABASE_URL to the user postgres"
    result = command_with(DATABASE_URL=app.get_secret_value())("migrate.py")
    assert (result.code, result.stdout, result.stderr) == (2, "", f"error: {line}\n")


def test_an_old_pgvector_and_no_pgvector_are_named(server: Cluster, app: SecretStr, admin: Admin) -> None:
    admin.execute("create schema extensions; create extension vector with schema extensions")
    admin.execute("update pg_extension set extversion = '0.7.4' where extname = 'vector'")
    (old,) = (lack for lack in lacks(SecretStr(server.url(DATABASE))) if "pgvector" in lack.what)
    assert (old.what, old.fix) == (
        "pgvector is 0.7.4, but Tonnetz needs 0.8 or newer",
        "alter extension vector update;",
    )


def test_a_server_that_is_too_old_is_refused_before_its_catalog_is_read() -> None:
    class Old:
        class info:
            server_version = 140009

    (lack,) = list_lacks(Old())  # type: ignore[arg-type]
    assert str(lack) == "this server is PostgreSQL 14, but Tonnetz needs PostgreSQL 15 to 18: upgrade the server"


def embed(url: SecretStr, collection: str) -> None:
    with PostgresDatabase(url) as database:
        outcome = backfill(database, FakeProvider(), BackfillOptions(collection))
    assert outcome.complete
    assert outcome.report.embedded


def test_migrate_raises_what_the_server_lacks(app: SecretStr) -> None:
    with pytest.raises(ConfigurationError, match="create role service_role nologin noinherit bypassrls"):
        migrate(app)
