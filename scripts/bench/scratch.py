"""What the benchmarks share: scratch databases with the real migrations, environments of other engines, words."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from psycopg import sql
from pydantic import SecretStr

from shared.database.postgres import connect
from shared.embedded.migrations import migrate
from shared.embedded.server import start_embedded

PROJECT = Path(__file__).resolve().parents[2]
SCRATCH = PROJECT / ".bench"


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


def environment_with(name: str, packages: Sequence[str]) -> Path:
    """The Python of .bench/NAME, an environment with these packages, which is made at the first run."""
    python = SCRATCH / name / "bin" / "python"
    finished = SCRATCH / name / "installed"
    if not finished.exists():
        print(f"installing {', '.join(packages)} into .bench/{name} (once; some minutes)", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", SCRATCH / name], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        finished.touch()
    return python


def seed_words() -> list[str]:
    """The words of the sample rows, from which the benchmarks make texts."""
    return (PROJECT / "supabase" / "seed.sql").read_text(encoding="utf-8").replace("'", " ").split()
