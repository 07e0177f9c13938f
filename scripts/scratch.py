"""Creates temporary databases with the real migrations for the benchmarks and the evaluation."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import command
from pydantic import SecretStr

from shared.database.base import Database
from shared.database.postgres import connect
from shared.embedded.migrations import migrate
from shared.embedded.server import start_embedded
from shared.embedding.backfill import BackfillOptions, BackfillOutcome, backfill
from shared.providers.base import EmbeddingProvider

SCRATCH = command.ROOT / ".bench"


@contextmanager
def scratch_database(name: str, server: SecretStr | None = None) -> Iterator[SecretStr]:
    """An empty, migrated database on `server`, or on a separate embedded server."""
    server = server or start_embedded(SCRATCH)
    database = f"{name}_{os.getpid()}"
    drop_database(database, server)
    try:
        yield open_database(database, server)
    finally:
        drop_database(database, server)


def open_database(name: str, server: SecretStr) -> SecretStr:
    """Create the database if it does not exist, apply all migrations, and return its URL."""
    with connect(server) as owner:
        if owner.execute("select from pg_database where datname = %s", [name]).fetchone() is None:
            owner.execute(f'create database "{name}"')
    url = SecretStr(urlsplit(server.get_secret_value())._replace(path=f"/{name}").geturl())
    migrate(url)
    return url


def drop_database(name: str, server: SecretStr) -> None:
    with connect(server) as owner:
        owner.execute(f'drop database if exists "{name}" with (force)')


def embed_pending(
    database: Database, provider: EmbeddingProvider, collection: str, workers: int, **options: Any
) -> BackfillOutcome:
    """Embed the pending rows. Raises the error that ended the run early, if any."""
    outcome = backfill(database, provider, BackfillOptions(collection, workers=workers, **options))
    if outcome.error is not None:
        raise outcome.error
    return outcome
