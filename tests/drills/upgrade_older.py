"""Makes a data directory with the embedded database of an older PostgreSQL, and reads what the move must preserve."""

import re
import subprocess
from pathlib import Path
from typing import Any

import psycopg
from pydantic import SecretStr

from shared.database.postgres import PostgresDatabase
from shared.embedded.binaries import binaries, client_binaries
from shared.embedded.migrations import migrate
from shared.embedded.server import EmbeddedServer
from shared.embedding.collection import Collection
from tests.database.rows import MUSIC, Connection, embed_all
from tests.documents import blocks
from tests.drills.inputs_rows import fill_database
from tests.drills.upgrade_data import Rows
from tests.fake_provider import FakeProvider

ROOT = Path(__file__).resolve().parents[2]
OLDEST = min(binaries())
# A trigger computes its fts; PostgreSQL 16 stems "adding" to "ad", 18 to "add".
NOTES = """
    create role reader noinherit;
    grant reader to authenticated;
    create table public.notes (
      id bigint generated always as identity (start 40) primary key, dropped int, body text, owner text default 'me',
      language regconfig default 'french', length int generated always as (length(body)) stored,
      updated_at timestamptz not null default '2020-01-01');
    create function public.touch_note() returns trigger language plpgsql as
      $$ begin new.updated_at := now(); return new; end $$;
    create trigger touch before update on public.notes for each row execute function public.touch_note();
    alter table public.notes enable row level security;
    create policy mine on public.notes to reader using (owner = 'me');
    grant select on public.notes to reader;
    create function embedding.document_text(n public.notes) returns text language sql immutable return n.body;
    select track_embeddings('public.notes');
    insert into public.notes (body) values ('adding a reverb'), ('nothing else'), (E'a tab\\t, a \\\\ and\\na line');
    alter table public.notes drop column dropped;
"""


def start(directory: Path, version: int = OLDEST) -> SecretStr:
    """Start a server of this version on the directory, which is created if it is missing; return the URL."""
    return EmbeddedServer(directory, version).use()


def stop(directory: Path, version: int = OLDEST) -> None:
    """Stop the directory's server."""
    EmbeddedServer(directory, version).leave()


def make_older(directory: Path, provider: FakeProvider) -> list[str]:
    """Fill the directory with rows in every table and state under the oldest PostgreSQL there is; ids of the music rows."""
    url = start(directory)
    migrate(url)
    with psycopg.connect(url.get_secret_value(), autocommit=True) as owner, PostgresDatabase(url) as database:
        ids = fill_database(owner, database, provider)
        owner.execute(NOTES)
        embed_all(Collection(database, "notes"), provider)
        owner.execute("select create_embedding_index(%s, %s)", [MUSIC, provider.model])
        owner.execute("analyze")
    return ids


def catalogue(url: SecretStr) -> list[str]:
    """Every role, table, function, trigger, policy, index, grant and sequence, as a dump writes them."""
    lines: list[str] = []
    for program, option in (("pg_dumpall", "--roles-only"), ("pg_dump", "--schema-only")):
        command = [str(client_binaries() / program), option, f"--dbname={url.get_secret_value()}"]
        lines += subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout.splitlines()
    # Ignore differences between versions: redundant brackets, and a key that each dump contains.
    return [re.sub("[()]", "", line) for line in lines if not line.startswith(("--", "\\"))]


def analyzed(owner: Connection) -> list[tuple[Any, ...]]:
    """The columns for which the planner has statistics. Full-text search uses these statistics."""
    return owner.execute(
        "select schemaname, tablename, attname from pg_stats where schemaname <> 'pg_catalog' order by 1, 2, 3"
    ).fetchall()


def sequences(owner: Connection) -> list[tuple[Any, ...]]:
    """The last value of each sequence."""
    return owner.execute("select schemaname, sequencename, last_value from pg_sequences order by 1, 2").fetchall()


def without_full_text(rows: Rows) -> Rows:
    """The rows without `fts`, because another PostgreSQL may stem words differently."""
    return {
        table: [{name: value for name, value in row.items() if name != "fts"} for row in found]
        for table, found in rows.items()
    }


def documented_commands() -> list[str]:
    """The lines of the section of docs/upgrade.md on an older embedded database, each a command."""
    (block,) = (one for one in blocks(ROOT / "docs" / "upgrade.md") if one.test == "tests/drills/test_upgrade.py")
    return block.text.strip().splitlines()
