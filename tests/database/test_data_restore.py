"""Only the rows are dumped, and restored with `--disable-triggers` into a database that has the tracked table."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr

from shared.database.postgres import PostgresDatabase
from shared.embedding.backfill import BackfillOptions, backfill
from shared.embedding.collection import Collection
from tests.database.moved_data import PROGRAMS, run_script
from tests.database.rows import Connection, queued
from tests.database.test_verify_rows import found, reasons
from tests.fake_provider import FakeProvider
from tests.postgres_cluster import Cluster

TABLE = "create table public.pages (id int primary key, body text);"
TRACK = """
    create function embedding.document_text(p pages) returns text language sql immutable return p.body;
    select track_embeddings('pages');
"""
DUMP = 'pg_dump --dbname "$FROM" --format custom --data-only --table public.pages --file pages.dump'
RESTORE = """
    psql --no-psqlrc --quiet --dbname "$TO" --command 'truncate pages'
    pg_restore --dbname "$TO" --data-only --disable-triggers --single-transaction --exit-on-error pages.dump
"""
MISSING = "the row has no vector and no queue lists it"


@pytest.fixture
def pages(owner: Connection, database: PostgresDatabase) -> Collection:
    """The tracked table that the rows are restored into, with a row that is not in the dump."""
    owner.execute(TABLE + TRACK)
    owner.execute("insert into pages values (9, 'bells')")
    return Collection(database, "pages")


@pytest.fixture
def source(cluster: Cluster) -> Iterator[Connection]:
    with cluster.clone() as url, psycopg.connect(url.get_secret_value(), autocommit=True) as connection:
        connection.execute(TABLE)
        connection.execute("insert into pages values (1, 'harps'), (2, 'drums'), (3, 'organs'), (4, 'harps'), (5, '')")
        yield connection


def restore(cluster: Cluster, source: Connection, target: SecretStr, folder: Path) -> None:
    environment = {"PATH": PROGRAMS, "FROM": cluster.url(source.info.dbname), "TO": target.get_secret_value()}
    assert run_script(DUMP + RESTORE, folder, environment) == "", "a warning was printed"


def test_rows_without_vectors_are_found_repaired_and_embedded_once(
    cluster: Cluster,
    source: Connection,
    owner: Connection,
    database_url: SecretStr,
    pages: Collection,
    provider: FakeProvider,
    tmp_path: Path,
) -> None:
    """The dump of an application's table from before it was tracked."""
    restore(cluster, source, database_url, tmp_path)
    assert reasons(pages) == dict.fromkeys("1234", MISSING) | {"5": "fts does not belong to the text"}
    assert (queued(owner, "pages"), found(owner, "harp")) == (set(), [])
    assert pages.repair_embeddings() == 5
    assert (pages.verify_embeddings(), queued(owner, "pages")) == (0, set("1234"))
    assert set(found(owner, "harp")) == {"1", "4"}
    assert backfill(pages.database, provider, BackfillOptions("pages")).report.embedded == 4
    assert Counter(provider.wire.texts) == Counter(["harps", "drums", "organs"])
    assert (pages.verify_embeddings(), queued(owner, "pages")) == (0, set())


@pytest.mark.parametrize("repaired_first", [True, False])
def test_restored_vectors_are_kept_and_only_pending_rows_are_paid(
    cluster: Cluster,
    source: Connection,
    owner: Connection,
    database_url: SecretStr,
    pages: Collection,
    provider: FakeProvider,
    tmp_path: Path,
    repaired_first: bool,
) -> None:
    """The dump of a tracked table; no model is registered in the new database."""
    source.execute(TRACK)
    with PostgresDatabase(SecretStr(cluster.url(source.info.dbname))) as database:
        assert backfill(database, FakeProvider(), BackfillOptions("pages")).report.embedded == 4
    source.execute("update pages set body = 'flutes' where id = 2")
    before = source.execute("select id, embedding::text, fts::text from pages order by id").fetchall()

    restore(cluster, source, database_url, tmp_path)
    assert owner.execute("select id, embedding::text, fts::text from pages order by id").fetchall() == before
    assert reasons(pages)["2"] == MISSING
    if repaired_first:
        assert pages.repair_embeddings() == 1
        assert queued(owner, "pages") == {"2"}
    assert backfill(pages.database, provider, BackfillOptions("pages")).report.embedded == 1
    assert provider.wire.texts == ["flutes"]
    kept = "select id, embedding::text, fts::text from pages where id <> 2 order by id"
    assert owner.execute(kept).fetchall() == [row for row in before if row[0] != 2]
    assert (pages.verify_embeddings(), queued(owner, "pages")) == (0, set())
