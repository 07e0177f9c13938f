"""A table that can be broken, and a backfill over it."""

from shared.database.postgres import PostgresDatabase
from shared.embedding.backfill import BackfillOptions, BackfillOutcome, backfill
from tests.database.rows import Connection
from tests.fake_provider import FakeProvider


def run(database: PostgresDatabase, provider: FakeProvider, collection: str = "songs") -> BackfillOutcome:
    # With a limit, an endless retry ends and makes the test fail.
    return backfill(database, provider, BackfillOptions(collection, batch_size=7, workers=1, limit=100))


def track(owner: Connection, columns: str, text: str, *, stable: str = "stable") -> None:
    owner.execute(f"create table songs (id int primary key, {columns})")
    owner.execute(
        f"create function embedding.document_text(t songs) returns text language plpgsql {stable} as $$ begin return {text}; end $$"
    )
    owner.execute("select track_embeddings('songs')")
