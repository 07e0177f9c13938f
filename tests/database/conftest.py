"""Fixtures: a small searchable table, and a backfill with the fake provider."""

import threading
from collections.abc import Callable

import pytest

from shared.database.postgres import PostgresDatabase
from shared.embedding.backfill import BackfillOptions, BackfillOutcome, Progress, backfill
from tests.database.backfill_rows import Run
from tests.database.rows import LIVE_ROWS, MUSIC, Connection
from tests.fake_provider import FakeProvider


@pytest.fixture
def notes(owner: Connection) -> Connection:
    """An empty tracked table that anon may read, and two models of three dimensions."""
    owner.execute("""
        create table public.notes (id bigint primary key, body text, kind text, n int,
          fts tsvector generated always as (to_tsvector('english', body)) stored);
        create function embedding.document_text(t public.notes) returns text language sql immutable return t.body;
        select register_embedding_model('tiny', 'test', 3), register_embedding_model('other', 'test', 3);
        select track_embeddings('notes', model => 'tiny');
        grant select on public.notes to anon;
    """)
    return owner


@pytest.fixture
def live(owner: Connection) -> Connection:
    """A table of a few megabytes that is not tracked yet; 100 of its rows have a vector without a model."""
    owner.execute("create table live (id bigint primary key, body text, embedding extensions.vector(16))")
    owner.execute(
        "create function embedding.document_text(t live) returns text language sql immutable as 'select t.body'"
    )
    owner.execute(
        "insert into live select n, repeat('word' || mod(n, 50) || ' ', 40) from generate_series(1, %s) n",
        [LIVE_ROWS],
    )
    owner.execute("select register_embedding_model('fake', 'fake', 16)")
    owner.execute("update live set embedding = array_fill(1::float4, array[16])::extensions.vector where id <= 100")
    return owner


@pytest.fixture
def run(database: PostgresDatabase, provider: FakeProvider) -> Run:
    """Backfill music_knowledge with the test's provider."""

    def start(
        *, stop: threading.Event | None = None, on_progress: Callable[[Progress], None] | None = None, **options: object
    ) -> BackfillOutcome:
        chosen = {"batch_size": 10, "workers": 2, **options}
        return backfill(database, provider, BackfillOptions(MUSIC, **chosen), stop=stop, on_progress=on_progress)  # type: ignore[arg-type]

    return start
