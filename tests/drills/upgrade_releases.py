"""Databases as released versions left them, and what their programs may go on relying on."""

import io
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from shared.database.migrations import list_migrations, migrate
from tests.database.rows import Connection

ROOT = Path(__file__).resolve().parents[2]
SNAPSHOTS = Path(__file__).with_name("snapshots")


@dataclass(frozen=True)
class Release:
    """`last` is its last migration, `commit` where its program is found in the history."""

    name: str
    last: str
    commit: str


# Oldest first. A new release is one more line; its file in snapshots/ is written with --update-snapshots.
RELEASES = (Release("0.1.0", "20261121092900", "ef8877a"),)


def migrate_to(url: SecretStr, last: str, folder: Path) -> None:
    """Bring an empty database to the state after the migration `last`; the folder holds the files until then."""
    for migration in list_migrations():
        if migration.version <= last:
            shutil.copy(migration.path, folder)
    migrate(url, folder=folder)


def unpack_program(release: Release, folder: Path) -> str | None:
    """Lay the release's program out in the folder; why not, where this checkout has no such history."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        return "needs git and the history: run from a clone"
    archive = subprocess.run(
        [git, "archive", release.commit, "shared", "scripts", "supabase"], cwd=ROOT, capture_output=True, check=False
    )
    if archive.returncode:
        return f"the history does not reach back to {release.commit}: git fetch --unshallow"
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return None


@dataclass(frozen=True)
class Interface:
    """How a function is called: its arguments with their types in order, how many have no default, and what comes back."""

    arguments: Mapping[str, str]
    required: int
    columns: Mapping[str, str]

    def __str__(self) -> str:
        given = [
            f"{name} {kind}{'' if place < self.required else ' = ...'}"
            for place, (name, kind) in enumerate(self.arguments.items())
        ]
        return f"({', '.join(given)}) -> {', '.join(f'{name} {kind}' for name, kind in self.columns.items())}"


def interfaces(connection: Connection) -> dict[str, Interface]:
    """Every function that clients call, by name: schema public is the whole of what the program knows of the database."""
    rows = connection.execute(
        """
        with called as (
          select p.oid, p.proname, p.pronargs - p.pronargdefaults as required, p.proargnames, p.proallargtypes, p.proargmodes,
            p.proargtypes::oid[] as kinds, format_type(p.prorettype, null) as result
          from pg_proc p
          where p.pronamespace = 'public'::regnamespace and p.prorettype <> 'trigger'::regtype
            and not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e'))
        select c.proname, c.required,
          array(select c.proargnames[a.place] from unnest(c.kinds) with ordinality a (kind, place) order by a.place),
          array(select format_type(a.kind, null) from unnest(c.kinds) with ordinality a (kind, place) order by a.place),
          array(select c.proargnames[m.place] from unnest(c.proargmodes) with ordinality m (mode, place)
                where m.mode in ('t', 'o') order by m.place),
          array(select format_type(c.proallargtypes[m.place], null) from unnest(c.proargmodes) with ordinality m (mode, place)
                where m.mode in ('t', 'o') order by m.place),
          c.result
        from called c order by 1
        """
    ).fetchall()
    found = {}
    for name, required, names, kinds, columns, column_kinds, result in rows:
        assert name not in found, f"{name} is overloaded: PostgREST could not tell which is meant"
        answer = dict(zip(columns, column_kinds, strict=True)) or {"": result}
        found[str(name)] = Interface(dict(zip(names, kinds, strict=True)), required, answer)
    return found
