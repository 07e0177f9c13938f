#!/usr/bin/env python3
"""Writes supabase/migrations from supabase/schemas: the core, then one file for each shipped collection."""

import sys
from pathlib import Path

import command

from shared.embedded.migrations import LOCK, MIGRATIONS, SCHEMAS

# For each migration its version, its name, and the first and the last number of the schema files that it contains.
PARTS = (
    ("20261128000000", "tonnetz", 0, 59),
    ("20261128000100", "music_knowledge", 60, 69),
    ("20261128000200", "mir_synonyms", 70, 79),
    ("20261128000300", "datasets", 80, 89),
    ("20261128000400", "code_chunks", 90, 99),
)


def render(schemas: Path = SCHEMAS) -> dict[str, str]:
    """The migrations by file name. Every schema file is in exactly one of them."""
    sources = sorted(schemas.glob("*.sql"))
    migrations = {}
    for version, name, first, last in PARTS:
        parts = [path for path in sources if first <= int(path.name[:2]) <= last]
        text = "-- Generated from supabase/schemas by `make migrations`; do not edit.\n"
        # With this lock, programs that migrate at the same time do so one after the other.
        text += f"select pg_advisory_xact_lock({LOCK});\n"
        for path in parts:
            text += f"\n-- {path.name}\n\n{path.read_text(encoding='utf-8').strip()}\n"
        migrations[f"{version}_{name}.sql"] = text
    return migrations


def main() -> int:
    parser = command.parser(__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file differs")
    check = parser.parse_args().check
    wanted = render()
    present = {path.name: path.read_text(encoding="utf-8") for path in MIGRATIONS.glob("*.sql")}
    differing = sorted(name for name in wanted | present if wanted.get(name) != present.get(name))
    if check:
        for name in differing:
            print(f"supabase/migrations/{name} differs from supabase/schemas; run: make migrations", file=sys.stderr)
        return 1 if differing else 0
    for name in differing:
        path = MIGRATIONS / name
        if name in wanted:
            path.write_text(wanted[name], encoding="utf-8")
            print(f"wrote supabase/migrations/{name}")
        else:
            path.unlink()
            print(f"removed supabase/migrations/{name}")
    return 0


if __name__ == "__main__":
    command.run(main)
