"""Reads and writes the record of applied migrations, in the table that the Supabase CLI uses for all migrations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.errors import ConfigurationError, DatabaseContractError

if TYPE_CHECKING:
    from shared.database.postgres import Connection
    from shared.embedded.migrations import Migration

# The first migration of an unreleased layout, whose databases cannot be upgraded.
_UNRELEASED = ("20261121090000", "create_embedding_schema")

_COPY = "scripts/migrate.py --copy-to THE_PROJECT/supabase/migrations"


@dataclass(frozen=True, slots=True)
class History:
    """The recorded versions of Tonnetz's migrations.

    `copied` is true if some of them are copies in a project; `foreign` is true if there are migrations of another origin.
    """

    recorded: frozenset[str]
    copied: bool = False
    foreign: bool = False


def read_history(connection: Connection, migrations: list[Migration]) -> History:
    """Read the record. Raises DatabaseContractError for a database of the unreleased layout."""
    if connection.execute("select to_regclass('supabase_migrations.schema_migrations')").fetchone() == (None,):
        return History(frozenset())
    rows = connection.execute(
        "select m.version, to_jsonb(m) ->> 'name' from supabase_migrations.schema_migrations m"
    ).fetchall()
    if _UNRELEASED in rows:
        raise DatabaseContractError(
            "a version of this program before the first release made the database, and it cannot be upgraded: "
            "move the folder .tonnetz (TONNETZ_DATA_DIR) aside, or set DATABASE_URL to a new database, and run again"
        )
    own = {migration.version for migration in migrations}
    by_name = {migration.copied_name: migration.version for migration in migrations}
    others = [(version, name) for version, name in rows if version not in own]
    copied = {by_name[name] for _, name in others if name in by_name}
    foreign = any(name not in by_name for _, name in others)
    return History(frozenset(own & {version for version, _ in rows}) | copied, bool(copied), foreign)


def record(connection: Connection, migration: Migration) -> None:
    """Record a migration as applied, as the Supabase CLI does."""
    connection.execute(
        "insert into supabase_migrations.schema_migrations (version, name, statements) values (%s, %s, %s)",
        [migration.version, migration.name, [migration.path.read_text(encoding="utf-8")]],
    )


def settle(connection: Connection, migrations: list[Migration]) -> None:
    """Record migrations again that `supabase migration repair --status reverted` has removed from the record.

    Raises ConfigurationError if the database belongs to a project with migrations of its own. Then the project has to
    contain copies of the migrations; otherwise its next `supabase db push` would refuse the database.
    """
    history = read_history(connection, migrations)
    unrecorded = [one for one in migrations if one.version not in history.recorded and _exists(connection, one)]
    if unrecorded and (history.foreign or history.copied):
        raise ConfigurationError(
            "the database has the objects of Tonnetz, but its record of migrations does not name them: "
            f"run {_COPY}, then in that project: supabase migration repair --status applied VERSIONS, "
            "with the versions of the files *_tonnetz*.sql"
        )
    if history.copied or (history.foreign and not history.recorded):
        raise ConfigurationError(
            f"the database has the migrations of another project: run {_COPY}, then in that project: supabase db push"
        )
    for migration in unrecorded:
        record(connection, migration)


def _exists(connection: Connection, migration: Migration) -> bool:
    """Whether the schema or table that the migration creates exists, and is not one of the user with the same name."""
    if migration.name == "tonnetz":
        query = "select obj_description(to_regnamespace('embedding'), 'pg_namespace')"
    elif migration.name == migration.collection:
        query = f"select obj_description(to_regclass('public.{migration.name}'), 'pg_class')"
    else:
        return False
    (comment,) = connection.execute(query).fetchone() or (None,)
    quoted = (comment or "").replace("'", "''")
    return comment is not None and f"is '{quoted}';" in migration.path.read_text(encoding="utf-8")
