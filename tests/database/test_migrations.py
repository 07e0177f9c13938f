"""Tests migrations on a PostgreSQL without Supabase's roles and schemas."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr

from shared.database.postgres import PostgresDatabase
from shared.embedded.migrations import LOCK, MIGRATIONS, PROJECT, SEED, list_migrations, migrate, parse_collections
from shared.embedding.backfill import BackfillOptions, backfill
from shared.embedding.collection import Collection
from shared.embedding.model_providers import ModelProviders
from shared.embedding.shipped import SHIPPED
from shared.errors import ConfigurationError, DatabaseContractError
from shared.search.search import SearchService
from tests.fake_provider import FakeProvider
from tests.postgres_cluster import Cluster, make_directory

VERSIONS = [migration.version for migration in list_migrations()]


@pytest.fixture
def empty(cluster: Cluster) -> Iterator[SecretStr]:
    with cluster.empty() as url:
        yield url


@pytest.fixture
def virgin() -> Iterator[SecretStr]:
    """A database on a new server. The server does not have the API roles, which are shared by all its databases."""
    directory = make_directory("tonnetz-tests-")
    with Cluster(directory) as cluster, cluster.empty() as url:
        yield url
    shutil.rmtree(directory, ignore_errors=True)


def test_migrations_set_up_a_plain_postgresql_and_a_second_run_changes_nothing(virgin: SecretStr) -> None:
    with psycopg.connect(virgin.get_secret_value()) as connection:
        roles = connection.execute("select rolname from pg_roles where rolname ~ '^(anon|auth|service)'").fetchall()
        assert roles == []
    assert migrate(virgin) == VERSIONS
    assert migrate(virgin) == []
    with PostgresDatabase(virgin) as database:
        assert "music_knowledge" in [row["collection"] for row in database.call("embedding_coverage")]


def test_an_empty_database_raises_an_error_that_names_the_migrate_command(virgin: SecretStr) -> None:
    with pytest.raises(DatabaseContractError, match=r"service_role.*scripts/migrate\.py"):
        PostgresDatabase(virgin).call("embedding_coverage")


def test_migrations_are_recorded_as_the_supabase_cli_records_them(
    owner: psycopg.Connection[tuple[object, ...]],
) -> None:
    recorded = owner.execute(
        "select version, name, statements from supabase_migrations.schema_migrations order by version"
    ).fetchall()
    assert [(version, name) for version, name, _ in recorded] == [(m.version, m.name) for m in list_migrations()]
    for (_, _, statements), migration in zip(recorded, list_migrations(), strict=True):
        assert statements == [migration.path.read_text(encoding="utf-8")]


def test_two_programs_that_start_at_once_apply_each_migration_once(empty: SecretStr) -> None:
    with ThreadPoolExecutor(4) as pool:
        applied = list(pool.map(lambda _: migrate(empty), range(4)))
    assert sorted(version for versions in applied for version in versions) == VERSIONS


def collections_of(url: SecretStr) -> set[str]:
    with PostgresDatabase(url) as database:
        return {row["collection"] for row in database.call("embedding_coverage")}


@pytest.mark.parametrize("names", [(), ("music_knowledge",), ("mir_synonyms",), ("datasets",), ("code_chunks",)])
def test_a_database_can_be_set_up_with_some_of_the_collections(empty: SecretStr, names: tuple[str, ...]) -> None:
    assert len(migrate(empty, collections=names, seed=True)) == 1 + len(names)
    assert collections_of(empty) == set(names)
    assert migrate(empty, seed=True) == [], "it keeps those it has"


def test_a_later_run_adds_collections_and_never_removes_one(empty: SecretStr) -> None:
    migrate(empty, collections=["datasets"])
    (version,) = migrate(empty, collections=["code_chunks"])
    assert version == next(migration.version for migration in list_migrations() if migration.name == "code_chunks")
    assert collections_of(empty) == {"datasets", "code_chunks"}
    assert migrate(empty, collections=[]) == []
    assert migrate(empty, collections=["datasets", "code_chunks"]) == []
    assert len(migrate(empty, collections=SHIPPED)) == 2
    assert collections_of(empty) == set(SHIPPED)


def test_an_interrupted_setup_is_rolled_back_and_can_be_repeated(
    empty: SecretStr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the next run would treat the database as one that was set up with fewer collections."""
    for migration in list_migrations():
        shutil.copy(migration.path, tmp_path)
    last = tmp_path / list_migrations()[-1].path.name
    last.write_text("select 1/0;")
    with pytest.raises(DatabaseContractError, match=rf"{last.name} failed: division by zero"):
        migrate(empty, folder=tmp_path)
    assert migrate(empty) == VERSIONS


def test_an_unknown_collection_is_refused_with_the_list(empty: SecretStr) -> None:
    with pytest.raises(
        ConfigurationError, match="'books' is not a shipped collection; choose from music_knowledge, mir_"
    ):
        migrate(empty, collections=["books"])
    for text in ("books", "none,datasets", ",", ""):
        with pytest.raises(ConfigurationError, match=r"--collections: .*music_knowledge"):
            parse_collections(text)
    assert parse_collections("none") == []
    assert parse_collections("music_knowledge, datasets") == ["music_knowledge", "datasets"]


def test_a_database_of_the_unreleased_layout_raises_an_error_of_one_line(empty: SecretStr) -> None:
    with psycopg.connect(empty.get_secret_value(), autocommit=True) as owner:
        owner.execute(
            """create schema supabase_migrations;
            create table supabase_migrations.schema_migrations (version text primary key, statements text[], name text);
            insert into supabase_migrations.schema_migrations (version, name)
            values ('20261121090000', 'create_embedding_schema'), ('20261121090100', 'create_models')"""
        )
        with pytest.raises(
            DatabaseContractError, match=r"before the first release.*\.tonnetz.*DATABASE_URL"
        ) as refused:
            migrate(empty)
        assert "\n" not in refused.value.message
        assert owner.execute("select to_regnamespace('embedding'), to_regnamespace('extensions')").fetchone() == (
            None,
            None,
        )


def test_a_database_with_migrations_of_another_project_is_left_as_it_is(empty: SecretStr) -> None:
    """That project's next `supabase db push` would refuse a database with migrations that its folder lacks."""
    with psycopg.connect(empty.get_secret_value(), autocommit=True) as owner:
        owner.execute(
            """create schema supabase_migrations;
            create table supabase_migrations.schema_migrations (version text primary key);
            insert into supabase_migrations.schema_migrations values ('20261121090000')"""
        )
        with pytest.raises(ConfigurationError, match=r"run scripts/migrate.py --copy-to .*: supabase db push"):
            migrate(empty)
        assert owner.execute("select to_regnamespace('embedding'), to_regnamespace('extensions')").fetchone() == (
            None,
            None,
        )


def test_no_lock_outlives_a_transaction(empty: SecretStr) -> None:
    """Through a transaction pooler the next statement may run in another session."""
    text = (PROJECT / "shared" / "embedded" / "migrations.py").read_text(encoding="utf-8")
    assert "pg_advisory_lock" not in text
    for migration in list_migrations():
        statement = f"select pg_advisory_xact_lock({LOCK});"
        assert statement in migration.path.read_text(encoding="utf-8").splitlines()[:3]


def test_loading_the_seed_twice_changes_nothing(empty: SecretStr) -> None:
    migrate(empty, seed=True)
    with psycopg.connect(empty.get_secret_value(), autocommit=True) as connection:
        count = "select count(*), count(distinct id) from music_knowledge"
        (rows, ids), *_ = connection.execute(count).fetchall()
        assert rows == ids >= 60
        connection.execute("update music_knowledge set content = 'my own words' where topic = 'modal interchange'")
        migrate(empty, seed=True)
        assert connection.execute(count).fetchall() == [(rows, ids)]
        mine = connection.execute("select count(*) from music_knowledge where content = 'my own words'").fetchone()
        assert mine == (1,), "a row that exists is left alone"
    assert SEED.exists()


def test_a_migration_that_fails_is_named_and_leaves_nothing_behind(empty: SecretStr, tmp_path: Path) -> None:
    (tmp_path / "20990101000000_create_first.sql").write_text("create table first (id int);")
    (tmp_path / "20990101000100_create_second.sql").write_text("create table second (id int); select 1/0;")
    with pytest.raises(DatabaseContractError, match=r"20990101000100_create_second\.sql.*division by zero"):
        migrate(empty, folder=tmp_path)
    with psycopg.connect(empty.get_secret_value()) as connection:
        tables = "select to_regclass('public.first') is not null, to_regclass('public.second') is not null"
        assert connection.execute(tables).fetchone() == (True, False)
        done = connection.execute("select version from supabase_migrations.schema_migrations").fetchall()
        assert done == [("20990101000000",)]
    (tmp_path / "20990101000100_create_second.sql").write_text("create table second (id int);")
    assert migrate(empty, folder=tmp_path) == ["20990101000100"], "after the fix it continues with the failed migration"


def test_a_checkout_without_migrations_raises_an_error(database_url: SecretStr, tmp_path: Path) -> None:
    with pytest.raises(DatabaseContractError, match="no migrations"):
        migrate(database_url, folder=tmp_path)


def test_every_migration_file_has_a_distinct_version() -> None:
    assert len(set(VERSIONS)) == len(VERSIONS)
    assert len(VERSIONS) == len(list(MIGRATIONS.iterdir())), (
        "a file that is not <14 digits>_<name>.sql is never applied"
    )


def test_the_migrations_are_generated_from_the_schemas() -> None:
    """See CONTRIBUTING.md: edit supabase/schemas, then run `make migrations`."""
    script = PROJECT / "scripts" / "write_migrations.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def hosted(cluster: Cluster) -> Iterator[SecretStr]:
    """A database like those of Supabase: roles, extensions and auth exist, and `postgres` is not a superuser."""
    with cluster.clone():
        pass  # the roles exist already, because all databases of the server share them
    with cluster.empty() as url:
        name = url.get_secret_value().partition("@/")[2].partition("?")[0]
        with psycopg.connect(url.get_secret_value(), autocommit=True) as admin:
            admin.execute("create role builder login createrole createdb bypassrls")
            for statement in (
                "create role supabase_auth_admin",
                "grant anon, authenticated, service_role, authenticator to builder with admin option",
                f"alter database {name} owner to builder",
                "create schema extensions authorization builder",
                "create extension vector with schema extensions",
                "grant usage on schema extensions to anon, authenticated, service_role",
                "create schema auth authorization supabase_auth_admin",
                "grant usage on schema auth to anon, authenticated, service_role, builder",
                "create function auth.jwt() returns jsonb language sql stable as $$ select '{}'::jsonb $$",
                "alter function auth.jwt() owner to supabase_auth_admin",
            ):
                admin.execute(statement)
        try:
            yield SecretStr(cluster.url(url, user="builder"))
        finally:
            with psycopg.connect(url.get_secret_value(), autocommit=True) as admin:
                for role in ("builder", "supabase_auth_admin"):
                    admin.execute(f"reassign owned by {role} to postgres")
                    admin.execute(f"drop owned by {role}")
            with cluster.admin() as admin:
                admin.execute("drop role builder, supabase_auth_admin")


def test_on_supabase_no_superuser_is_needed(hosted: SecretStr) -> None:
    """Migrations and embedding (SECURITY DEFINER functions run as the owner) need no superuser."""
    assert migrate(hosted, seed=True) == VERSIONS
    provider = FakeProvider()
    with PostgresDatabase(hosted) as database:
        outcome = backfill(database, provider, BackfillOptions("music_knowledge"))
        assert outcome.complete
        assert outcome.report.embedded >= 60
        work = Collection(database, "music_knowledge")
        assert work.verify_embeddings() == 0
        assert work.create_embedding_index()
        assert SearchService(database, ModelProviders(lambda: provider)).search("music_knowledge", "reverb").hits
    with psycopg.connect(hosted.get_secret_value(), autocommit=True) as owner:
        owner.execute("create table notes (id int primary key, body text)")
        owner.execute(
            "create function embedding.document_text(n notes) returns text language sql immutable return n.body"
        )
        owner.execute("select track_embeddings('notes')")
        owner.execute("insert into notes values (1, 'a note')")
        owner.execute("update notes set body = 'another'")
        for role in ("anon", "authenticated", "service_role"):
            owner.execute(f"set role {role}")
            assert owner.execute("select count(*) from search_music_knowledge('reverb')").fetchone() != (0,)
            owner.execute("reset role")


def test_each_migration_can_be_the_first_statement_of_its_session(hosted: SecretStr, tmp_path: Path) -> None:
    """An upgrade applies a migration over a new connection, which has not loaded pgvector's settings."""
    for migration in list_migrations():
        shutil.copy(migration.path, tmp_path)
        assert migrate(hosted, collections=SHIPPED, folder=tmp_path) == [migration.version]
