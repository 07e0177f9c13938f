"""Fixtures: a small searchable table, and a backfill with the fake provider."""

import threading
from collections.abc import Callable

import pytest

from shared.database.postgres import PostgresDatabase
from shared.embedding.backfill import BackfillOptions, BackfillOutcome, Progress, backfill
from tests.database.backfill_rows import Run
from tests.database.rows import MUSIC, Connection
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
def run(database: PostgresDatabase, provider: FakeProvider) -> Run:
    """Backfill music_knowledge with the test's provider."""

    def start(
        *, stop: threading.Event | None = None, on_progress: Callable[[Progress], None] | None = None, **options: object
    ) -> BackfillOutcome:
        chosen = {"batch_size": 10, "workers": 2, **options}
        return backfill(database, provider, BackfillOptions(MUSIC, **chosen), stop=stop, on_progress=on_progress)  # type: ignore[arg-type]

    return start
