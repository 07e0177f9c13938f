#!/usr/bin/env python3
"""Bring DATABASE_URL, or the embedded database, up to date. Safe to repeat."""

import argparse

import command

from shared.wiring import migrate_database


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", action="store_true", help="also load the sample rows of supabase/seed.sql")
    arguments = parser.parse_args()
    applied = migrate_database(seed=arguments.seed)
    print(f"applied {len(applied)} migrations" if applied else "up to date")
    return 0


if __name__ == "__main__":
    command.run(main)
