"""Scratch databases: the real migrations on an empty database, which is dropped at the end."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from psycopg import sql
from pydantic import SecretStr

from shared.database.postgres import connect
from shared.embedded.migrations import migrate
from shared.embedded.server import start_embedded

SCRATCH = Path(__file__).resolve().parents[2] / ".bench"


@contextmanager
def scratch_database(name: str, server: SecretStr | None = None) -> Iterator[SecretStr]:
    """An empty, migrated database on `server`, or on an embedded one of the benchmarks' own."""
    server = server or start_embedded(SCRATCH)
    database = f"{name}_{os.getpid()}"
    drop_database(database, server)
    try:
        yield open_database(database, server)
    finally:
        drop_database(database, server)


def open_database(name: str, server: SecretStr) -> SecretStr:
    """A database up to date with the migrations, created where it does not exist."""
    with connect(server) as owner:
        if owner.execute("select from pg_database where datname = %s", [name]).fetchone() is None:
            owner.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    url = SecretStr(urlsplit(server.get_secret_value())._replace(path=f"/{name}").geturl())
    migrate(url)
    return url


def drop_database(name: str, server: SecretStr) -> None:
    with connect(server) as owner:
        owner.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))
