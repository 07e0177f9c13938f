#!/usr/bin/env python3
"""Applies the missing migrations to DATABASE_URL or the embedded database. Safe to repeat."""

from pathlib import Path

import command

from shared.embedded.migrations import parse_collections
from shared.embedding.shipped import SHIPPED
from shared.wiring import migrate_database


def main() -> int:
    parser = command.parser(__doc__)
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
    arguments = parser.parse_args()
    collections = None if arguments.collections is None else parse_collections(arguments.collections)
    applied = migrate_database(collections=collections, seed=arguments.seed, source=arguments.source)
    if arguments.source is not None:
        print(f"copied {arguments.source}, which was not changed")
    print(f"applied {len(applied)} migration{'s' * (len(applied) != 1)}" if applied else "up to date")
    return 0


if __name__ == "__main__":
    command.run(main)
