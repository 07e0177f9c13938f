"""Bring a database up to date: the bootstrap, then supabase/migrations in order, recorded as the Supabase CLI does."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from pydantic import SecretStr

from shared.database.postgres import connect, translate
from shared.errors import DatabaseContractError

PROJECT = Path(__file__).resolve().parents[2]
MIGRATIONS = PROJECT / "supabase" / "migrations"
SCHEMAS = PROJECT / "supabase" / "schemas"
SEED = PROJECT / "supabase" / "seed.sql"
# As in supabase/config.toml.
SEEDS = (SEED, SEED.with_name("seed_tags.sql"), SEED.with_name("seed_datasets.sql"))
BOOTSTRAP = Path(__file__).with_name("bootstrap.sql")

# "tonnetz" in ASCII: two programs that start at once migrate one after the other.
LOCK = 0x746F6E6E65747A


@dataclass(frozen=True, slots=True)
class Migration:
    version: str
    name: str
    path: Path


def list_migrations(folder: Path = MIGRATIONS) -> list[Migration]:
    """The files `<timestamp>_<name>.sql`, oldest first. Raises DatabaseContractError where there are none."""
    found = []
    for path in sorted(folder.glob("*.sql")):
        match = re.fullmatch(r"(\d{14})_(\w+)", path.stem)
        if match:
            found.append(Migration(match[1], match[2], path))
    if not found:
        raise DatabaseContractError(f"there are no migrations in {folder.name}/; run from a full checkout")
    return found


def migrate(url: SecretStr, *, seed: bool = False, folder: Path = MIGRATIONS) -> list[str]:
    """Apply what is missing, each file in one transaction; return the versions applied.

    On an up-to-date database this is one query. Raises DatabaseError naming the file that failed.
    """
    migrations = list_migrations(folder)
    with connect(url, application_name="tonnetz-migrate") as connection:
        applied: list[str] = []
        if missing(connection, migrations):
            connection.execute("select pg_advisory_lock(%s)", [LOCK])
            try:
                _run(connection, BOOTSTRAP)
                # Again under the lock: another program may have been quicker.
                for migration in missing(connection, migrations):
                    _apply(connection, migration)
                    applied.append(migration.version)
            finally:
                connection.execute("select pg_advisory_unlock(%s)", [LOCK])
            # Ask a PostgREST that listens to read the schema again.
            connection.execute("notify pgrst, 'reload schema'")
        if seed:
            for path in SEEDS:
                _run(connection, path)
        return applied


def missing(connection: psycopg.Connection[Any], migrations: list[Migration]) -> list[Migration]:
    """The migrations that the database has not recorded."""
    if connection.execute("select to_regclass('supabase_migrations.schema_migrations')").fetchone() == (None,):
        return migrations
    done = {row[0] for row in connection.execute("select version from supabase_migrations.schema_migrations")}
    return [migration for migration in migrations if migration.version not in done]


def _apply(connection: psycopg.Connection[Any], migration: Migration) -> None:
    with connection.transaction():
        script = _run(connection, migration.path)
        connection.execute(
            "insert into supabase_migrations.schema_migrations (version, name, statements) values (%s, %s, %s)",
            [migration.version, migration.name, [script]],
        )


def _run(connection: psycopg.Connection[Any], path: Path) -> str:
    script = path.read_text(encoding="utf-8")
    try:
        # No parameters: psycopg sends the file as it is, all statements at once.
        connection.execute(script)
    except psycopg.Error as error:
        if error.sqlstate is None:
            raise translate(error) from None
        # Not translated: the advice to run the migrations would be of no use here.
        raise DatabaseContractError(f"{path.name} failed: {error.diag.message_primary}") from None
    return script
