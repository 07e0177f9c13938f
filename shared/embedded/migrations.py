"""Applies bootstrap.sql and the missing files of supabase/migrations, and records these as the Supabase CLI does."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import psycopg
from pydantic import SecretStr

from shared.database.postgres import connect, translate
from shared.embedded.history import read_history, record, settle
from shared.embedded.requirements import require_server
from shared.embedding.shipped import SHIPPED
from shared.errors import AppError, ConfigurationError, DatabaseContractError

PROJECT = Path(__file__).resolve().parents[2]
# An installed wheel contains the files as the package shared.migrations.
_PACKAGED = PROJECT / "shared" / "migrations"
MIGRATIONS = _PACKAGED if _PACKAGED.is_dir() else PROJECT / "supabase" / "migrations"
SCHEMAS = PROJECT / "supabase" / "schemas"
SEED = PROJECT / "supabase" / "seed.sql"
# The files with sample rows, as in supabase/config.toml.
SEEDS: Mapping[str, Path] = {
    "music_knowledge": SEED,
    "mir_synonyms": SEED.with_name("seed_tags.sql"),
    "datasets": SEED.with_name("seed_datasets.sql"),
}
BOOTSTRAP = Path(__file__).with_name("bootstrap.sql")

# The key of the advisory lock for migrations ("tonnetz" in ASCII). Programs that start at the same time wait here, so
# that only one migrates at a time.
LOCK = 0x746F6E6E65747A
_TAKE_LOCK = f"select pg_advisory_xact_lock({LOCK})"


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of supabase/migrations. `collection` is the name of its shipped collection, None for the core."""

    version: str
    name: str
    path: Path
    collection: str | None

    @property
    def copied_name(self) -> str:
        """The name of the migration in a project to which it was copied (see copies.py). The copy has another version."""
        return self.name if self.name == "tonnetz" else f"tonnetz_{self.name}"


def list_migrations(folder: Path = MIGRATIONS) -> list[Migration]:
    """List the files `<timestamp>_<name>.sql`, oldest first. Raises DatabaseContractError if there are none."""
    found = []
    for path in sorted(folder.glob("*.sql")):
        if match := re.fullmatch(r"(\d{14})_(\w+)", path.stem):
            collection = next((name for name in SHIPPED if f"{match[2]}_".startswith(f"{name}_")), None)
            found.append(Migration(match[1], match[2], path, collection))
    if not found:
        raise DatabaseContractError(
            f"there are no migrations in {folder.name}/; reinstall the program, or run a full checkout"
        )
    return found


def parse_collections(text: str) -> list[str]:
    """The shipped collections of a list such as `music_knowledge,datasets`; `none` is the empty list.

    Raises ConfigurationError for any other name.
    """
    names = [name for name in (part.strip() for part in text.split(",")) if name]
    if names == ["none"]:
        return []
    _check_collections(names)
    if not names:
        raise ConfigurationError(f"--collections: the list is empty; choose from {', '.join(SHIPPED)}, or none")
    return names


def migrate(
    url: SecretStr, *, collections: Sequence[str] | None = None, seed: bool = False, folder: Path = MIGRATIONS
) -> list[str]:
    """Apply the missing migrations and return their versions.

    `collections` are the shipped collections to add; existing ones are always upgraded. Without it, a new database gets
    all of them, and an existing database gets no new ones. A database that is up to date is not locked.
    Raises DatabaseError, which names the file that failed, and ConfigurationError for an unknown collection or for
    a requirement that the server does not meet.
    """
    if collections:
        _check_collections(collections)
    migrations = list_migrations(folder)
    with connect(url, application_name="tonnetz-migrate") as connection:
        try:
            require_server(connection)
            applied = _apply_missing(connection, migrations, collections)
            if seed:
                recorded = read_history(connection, migrations).recorded
                present = {migration.collection for migration in migrations if migration.version in recorded}
                for collection, path in SEEDS.items():
                    if collection in present:
                        _run(connection, path)
        except psycopg.Error as error:
            raise _failure(error, "the migration") from None
        return applied


def _apply_missing(
    connection: psycopg.Connection[Any], migrations: list[Migration], collections: Sequence[str] | None
) -> list[str]:
    applied: list[str] = []
    if missing(connection, migrations, collections):
        with connection.transaction():
            connection.execute(_TAKE_LOCK)
            _run(connection, BOOTSTRAP)
            settle(connection, migrations)
        while step := _apply_next(connection, migrations, collections):
            applied += step
        # This makes PostgREST read the schema again.
        connection.execute("notify pgrst, 'reload schema'")
    return applied


def missing(
    connection: psycopg.Connection[Any], migrations: list[Migration], collections: Sequence[str] | None = None
) -> list[Migration]:
    """The migrations that the database needs and that are not in its record."""
    return choose(migrations, read_history(connection, migrations).recorded, collections)


def choose(migrations: list[Migration], present: Collection[str], collections: Sequence[str] | None) -> list[Migration]:
    """The migrations to add. `present` has the versions of those that are applied already.

    `collections` are the shipped collections to add. If it is None, a new database gets all of them, and an existing
    database gets no new ones.
    """
    # The migration of the core has the collection None.
    kept = {migration.collection for migration in migrations if migration.version in present}
    added = SHIPPED if collections is None and not kept else collections or ()
    wanted = {None, *kept, *added}
    return [one for one in migrations if one.version not in present and one.collection in wanted]


def _check_collections(names: Iterable[str]) -> None:
    for name in names:
        if name not in SHIPPED:
            raise ConfigurationError(
                f"--collections: {name!r} is not a shipped collection; choose from {', '.join(SHIPPED)}, or none"
            )


def _apply_next(
    connection: psycopg.Connection[Any], migrations: list[Migration], collections: Sequence[str] | None
) -> list[str]:
    """Apply the next migration in one transaction and return its version; an empty list if all are applied.

    A new database gets the core and its collections in one transaction. Otherwise an interrupted set-up would look
    like a database that was set up with fewer collections.
    """
    with connection.transaction():
        connection.execute(_TAKE_LOCK)
        # Read the record again under the lock, because another program may have applied some migrations.
        todo = missing(connection, migrations, collections)
        step = todo[:1]
        if step and step[0].collection is None:
            step += takewhile(lambda migration: migration.collection is not None, todo[1:])
        for migration in step:
            _run(connection, migration.path)
            record(connection, migration)
    return [migration.version for migration in step]


def _run(connection: psycopg.Connection[Any], path: Path) -> None:
    script = path.read_text(encoding="utf-8")
    try:
        # Without parameters psycopg sends all statements of the file at once.
        connection.execute(script)
    except psycopg.Error as error:
        raise _failure(error, path.name) from None


def _failure(error: psycopg.Error, what: str) -> AppError:
    if error.sqlstate is None:
        return translate(error)
    # This error is not translated: the translation would advise the user to run the migrations.
    return DatabaseContractError(f"{what} failed: {error.diag.message_primary}")
