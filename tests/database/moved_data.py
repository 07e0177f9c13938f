"""A small database with rows in every collection, and the checks after it has moved to another server."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
from pydantic import SecretStr

from shared.database.postgres import PostgresDatabase
from shared.embedded.binaries import client_binaries
from shared.embedded.migrations import PROJECT, migrate
from shared.embedding.backfill import BackfillOptions, backfill
from shared.embedding.collection import Collection, vector_text
from tests.database.rows import MUSIC
from tests.drills.inputs_rows import SYNONYMS
from tests.fake_provider import FakeProvider

# A trigger computes fts of this table. In the shipped collections, fts is a generated column.
NOTES = """
    create table public.notes (id bigint generated always as identity primary key, body text not null,
      updated_at timestamptz not null default '2020-01-01');
    create function public.touch_note() returns trigger language plpgsql as
      $$ begin new.updated_at := now(); return new; end $$;
    create trigger touch before update on public.notes for each row execute function public.touch_note();
    alter table public.notes enable always trigger touch;
    create function embedding.document_text(n public.notes) returns text language sql immutable as
      $$ select n.body $$;
    select track_embeddings('public.notes');
    insert into public.notes (body) values ('adding a reverb'), ('a broken string'), ('cleaning the room');
"""
# A PATH with the programs of the newest PostgreSQL, and those of the shell.
PROGRAMS = f"{client_binaries()}:/usr/bin:/bin"
COLLECTIONS = {"music_knowledge": 2, "mir_synonyms": 1, "datasets": 1, "code_chunks": 1, "notes": 3}


def fill(url: SecretStr, provider: FakeProvider) -> None:
    """Migrate the database, put rows into every collection, embed them and index one collection's vectors."""
    migrate(url)
    with psycopg.connect(url.get_secret_value(), autocommit=True) as owner, PostgresDatabase(url) as database:
        owner.execute(
            "insert into music_knowledge (topic, content) values ('', 'adding a chord'), ('', 'gain staging')"
        )
        owner.execute("insert into genre_tags (name) values ('Salsa')")
        owner.execute("insert into mir_synonyms (tag_type, tag_id, synonyms) values ('genre', 1, %s)", [SYNONYMS])
        owner.execute("insert into datasets (title, enrichment_status) values ('Drums', 'enriched')")
        owner.execute("insert into code_chunks (id, path, content) values ('c1', 'src/a.py', 'def parse(x)')")
        owner.execute(NOTES)
        for collection, rows in COLLECTIONS.items():
            assert embed(database, provider, collection) == rows
        owner.execute("select create_embedding_index(%s, %s)", [MUSIC, provider.model])


def embed(database: PostgresDatabase, provider: FakeProvider, collection: str) -> int:
    """Run a backfill; return the rows that it embedded."""
    outcome = backfill(database, provider, BackfillOptions(collection))
    assert outcome.complete, outcome
    return outcome.report.embedded


def full_text(owner: psycopg.Connection[Any], words: str) -> list[str]:
    """Return the notes that full-text search finds."""
    asked = "select n.body from embedding.search_hits('public.notes', %s) h join notes n on n.id::text = h.row_id"
    return [row[0] for row in owner.execute(asked, [words])]


def check_moved(url: SecretStr, provider: FakeProvider) -> None:
    """Assert that no row needs a new vector, and that triggers, queue, searches and migrations work."""
    assert migrate(url) == []
    with psycopg.connect(url.get_secret_value(), autocommit=True) as owner, PostgresDatabase(url) as database:
        for collection in COLLECTIONS:
            assert Collection(database, collection).verify_embeddings() == 0
            assert embed(database, provider, collection) == 0, "its vectors were copied"

        # A changed text clears its vector and is queued; a backfill embeds it.
        owner.execute("update music_knowledge set content = 'tritone substitution' where content = 'gain staging'")
        owner.execute("update notes set body = 'tritone substitution' where body = 'a broken string'")
        for collection in (MUSIC, "notes"):
            changed = f"select count(*) from {collection} where embedding is null and embedding_hash is null"
            assert owner.execute(changed).fetchone() == (1,)
            assert Collection(database, collection).embedding_queue().pending == 1
            assert embed(database, provider, collection) == 1
            assert Collection(database, collection).verify_embeddings() == 0
        # A deleted row leaves the queue.
        owner.execute("insert into notes (body) values ('not for long')")
        owner.execute("delete from notes where body = 'not for long'")
        assert Collection(database, "notes").embedding_queue().pending == 0

        assert full_text(owner, "tritone") == ["tritone substitution"]
        vector = {"query_embedding": vector_text(provider.embed_query("tritone substitution"))}
        found = database.call("search_music_knowledge", vector | {"query_text": "tritone"})
        assert found[0]["content"] == "tritone substitution"
        for query, collection in (("salsa", "mir_synonyms"), ("drums", "datasets"), ("parse", "code_chunks")):
            assert len(database.call(f"search_{collection}", {"query_text": query})) == 1
            assert len(database.call(f"search_{collection}", vector)) == 1


def refresh_full_text(url: SecretStr, folder: Path) -> None:
    """Run the commands of docs/upgrade.md that compute fts again."""
    environment = {"PATH": PROGRAMS, "DATABASE_URL": url.get_secret_value()}
    run_script(f"cd '{PROJECT}'\n{documented('Full-text search after an upgrade')}", folder, environment)


def documented(heading: str) -> str:
    """The commands of a section of docs/upgrade.md, as one script."""
    section = (PROJECT / "docs" / "upgrade.md").read_text(encoding="utf-8").split(f"\n## {heading}\n")[1]
    blocks = section.split("\n## ")[0].split("```bash\n")[1:]
    return "\n".join(block.split("```")[0] for block in blocks)


def documented_sql(heading: str, *, page: str = "upgrade.md") -> list[str]:
    """The SQL of a section of a page in docs/, one script for each block."""
    section = (PROJECT / "docs" / page).read_text(encoding="utf-8").split(f"\n## {heading}\n")[1]
    return [block.split("```")[0] for block in section.split("\n## ")[0].split("```sql\n")[1:]]


def run_script(script: str, folder: Path, environment: Mapping[str, object], *, user: str | None = None) -> str:
    """Run a script and return its output; the first failing command ends the script and the test."""
    ended = subprocess.run(
        ["/bin/bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={"PATH": os.defpath, "HOME": str(folder)} | {name: str(value) for name, value in environment.items()},
        user=user,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    return ended.stdout
