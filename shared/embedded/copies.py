"""Copies the migrations into the supabase/migrations of another project, which its own `supabase db push` applies."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from shared.embedded.migrations import MIGRATIONS, Migration, choose, list_migrations
from shared.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Copy:
    """A migration in the other project; `new` is true if this call wrote it."""

    path: Path
    new: bool


def copy_migrations(folder: Path, collections: Sequence[str] | None = None) -> list[Copy]:
    """Write the migrations that are not in the folder yet, with versions that sort after all existing ones.

    `collections` are the shipped collections to add. Without it, the first copy has all of them, and a later copy adds
    none.
    Raises ConfigurationError if the folder is not one of another project's migrations.
    """
    _check_folder(folder)
    files = sorted(path for path in folder.glob("*.sql") if re.match(r"\d+_", path.name))
    by_name = {path.stem.partition("_")[2]: path for path in files}
    migrations = list_migrations()
    present = {one.version for one in migrations if one.copied_name in by_name}
    copies = [Copy(by_name[one.copied_name], new=False) for one in migrations if one.version in present]
    last = max((path.name.partition("_")[0] for path in files), default="")
    for one in choose(migrations, present, collections):
        last = _version_after(last)
        path = folder / f"{last}_{one.copied_name}.sql"
        path.write_text(_render(one), encoding="utf-8")
        copies.append(Copy(path, new=True))
    return copies


def _check_folder(folder: Path) -> None:
    if folder.resolve() == MIGRATIONS:
        raise ConfigurationError("--copy-to: name the folder supabase/migrations of your own project")
    if folder.is_dir():
        return
    if folder.name != "migrations" or not folder.parent.is_dir() or folder.exists():
        raise ConfigurationError(
            f"--copy-to: {folder} is not a folder; name the folder supabase/migrations of your project "
            "(supabase init makes a project)"
        )
    folder.mkdir()


def _version_after(last: str) -> str:
    """A version for the present time, or the next one after `last` if this is later."""
    now = f"{datetime.now(UTC):%Y%m%d%H%M%S}"
    return now if now > last else str(int(last) + 1)


def _render(migration: Migration) -> str:
    script = migration.path.read_text(encoding="utf-8")
    return f"-- Tonnetz, {migration.path.name}. Copied by scripts/migrate.py --copy-to; do not edit.\n{script}"
