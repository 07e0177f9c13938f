#!/usr/bin/env python3
"""Applies the missing migrations to DATABASE_URL or the embedded database. Safe to repeat."""

import json
from dataclasses import asdict
from pathlib import Path

import command

from shared.embedded.copies import copy_migrations
from shared.embedded.migrations import parse_collections
from shared.embedding.shipped import SHIPPED
from shared.wiring import check_database, migrate_database


def main() -> int:
    parser = command.parser(__doc__, json="with --check: print the result as JSON")
    parser.add_argument(
        "--check",
        action="store_true",
        help="change nothing: name what the database lacks, with the statement that fixes it (exit code 1 if it lacks something)",
    )
    parser.add_argument("--seed", action="store_true", help="also load the sample rows of supabase/seed*.sql")
    parser.add_argument(
        "--collections",
        metavar="NAMES",
        help=f"shipped collections to set up, with commas between: {', '.join(SHIPPED)}; or none "
        "(default: all in a new database, no further ones in an existing database)",
    )
    parser.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="FOLDER",
        help="first copy the rows of an older embedded PostgreSQL from its renamed folder into the new, empty database",
    )
    parser.add_argument(
        "--copy-to",
        type=Path,
        metavar="DIR",
        help="open no database: copy the migrations into the folder supabase/migrations of your own Supabase project",
    )
    arguments = parser.parse_args()
    if arguments.check:
        return check(as_json=arguments.json)
    collections = None if arguments.collections is None else parse_collections(arguments.collections)
    if arguments.copy_to is not None:
        for copy in copy_migrations(arguments.copy_to, collections):
            print(f"{'copied' if copy.new else 'already there:'} {copy.path}")
        return 0
    applied = migrate_database(collections=collections, seed=arguments.seed, source=arguments.source)
    if arguments.source is not None:
        print(f"copied {arguments.source}, which was not changed")
    print(f"applied {len(applied)} migration{'s' * (len(applied) != 1)}" if applied else "up to date")
    return 0


def check(*, as_json: bool) -> int:
    """Print what the database lacks, each in one line; returns the exit code."""
    lacks = check_database()
    ready = not any(lack.required for lack in lacks)
    if as_json:
        print(json.dumps({"ready": ready, "lacks": [asdict(lack) for lack in lacks]}))
        return 0 if ready else 1
    for lack in lacks:
        print(lack)
    if ready:
        print("ready: nothing that is required is missing")
    return 0 if ready else 1


if __name__ == "__main__":
    command.run(main)
