"""A scratch database for the benchmarks: the real migrations on an embedded server of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

from shared.database.embedded import start_embedded
from shared.database.migrations import migrate
from shared.database.postgres import connect

SCRATCH = Path(__file__).resolve().parents[1] / ".bench"


@contextmanager
def scratch_database(name: str) -> Iterator[SecretStr]:
    """An empty, migrated database; dropped at the end."""
    server = start_embedded(SCRATCH)
    with connect(server) as owner:
        owner.execute(f"drop database if exists {name} with (force)")
        owner.execute(f"create database {name}")
    url = SecretStr(urlsplit(server.get_secret_value())._replace(path=f"/{name}").geturl())
    migrate(url)
    try:
        yield url
    finally:
        with connect(server) as owner:
            owner.execute(f"drop database if exists {name} with (force)")
