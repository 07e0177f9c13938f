"""Rows of a real subscription: the triggers do not see them, `--verify` finds them and `--repair` mends them."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from pydantic import SecretStr

from shared.database.postgres import PostgresDatabase
from shared.embedding.backfill import BackfillOptions, backfill
from shared.embedding.collection import Collection
from tests.database.rows import Connection, queued
from tests.database.test_verify_rows import found, reasons
from tests.drills.harness import wait_until
from tests.fake_provider import FakeProvider
from tests.postgres_cluster import Cluster, make_directory, remove

TABLE = "create table pages (id int primary key, body text)"
TRACKED = f"""
    {TABLE};
    create function embedding.document_text(p pages) returns text language sql immutable return p.body;
    select track_embeddings('pages');
"""
MISSING = "the row has no vector and no queue lists it"
STALE = "the vector belongs to another text"


@pytest.fixture(scope="module")
def logical() -> Iterator[Cluster]:
    """A server that decodes its log for subscribers."""
    directory = make_directory("tonnetz-logical-")
    try:
        with Cluster(directory) as running:
            with running.admin() as connection:
                connection.execute("alter system set wal_level = logical")
            running.restart("fast")
            yield running
    finally:
        remove(directory)


@pytest.fixture
def subscriber_url(logical: Cluster) -> Iterator[SecretStr]:
    """A migrated database with the tracked table `pages`."""
    with logical.clone() as url:
        with psycopg.connect(url.get_secret_value(), autocommit=True) as owner:
            owner.execute(TRACKED)
        yield url


@pytest.fixture
def subscriber(subscriber_url: SecretStr) -> Iterator[Connection]:
    with psycopg.connect(subscriber_url.get_secret_value(), autocommit=True) as connection:
        yield connection


@pytest.fixture
def pages(subscriber_url: SecretStr) -> Iterator[Collection]:
    with PostgresDatabase(subscriber_url) as database:
        yield Collection(database, "pages")


@pytest.fixture
def publisher(logical: Cluster) -> Iterator[Connection]:
    """A database of the application, without Tonnetz."""
    with logical.empty() as url, psycopg.connect(url.get_secret_value(), autocommit=True) as connection:
        connection.execute(TABLE)
        connection.execute("insert into pages values (1, 'harps'), (2, 'drums'), (3, 'organs'), (4, 'lutes'), (5, '')")
        yield connection


@contextmanager
def subscription(logical: Cluster, publisher: Connection, subscriber: Connection) -> Iterator[None]:
    """Replicate `pages`, first the rows that are there."""
    publisher.execute("create publication app for table pages")
    # On one server a subscription that makes its own slot would wait for itself.
    publisher.execute("select pg_create_logical_replication_slot('app', 'pgoutput')")
    source = logical.url(publisher.info.dbname)
    subscriber.execute(f"create subscription app connection '{source}' publication app with (create_slot = false)")
    try:
        wait_until_equal(publisher, subscriber)
        yield
    finally:
        # Its slot would keep the publisher's database from being dropped.
        subscriber.execute("drop subscription app")


def wait_until_equal(publisher: Connection, subscriber: Connection) -> None:
    """Wait until every change has arrived."""
    rows = "select id, body from pages order by id"

    def arrived() -> bool:
        return subscriber.execute(rows).fetchall() == publisher.execute(rows).fetchall()

    assert wait_until(arrived, 120), subscriber.execute(rows).fetchall()


def test_replicated_rows_are_found_repaired_and_embedded_once(
    logical: Cluster, publisher: Connection, subscriber: Connection, pages: Collection, provider: FakeProvider
) -> None:
    with subscription(logical, publisher, subscriber):
        # The first copy.
        assert reasons(pages) == dict.fromkeys("1234", MISSING) | {"5": "fts does not belong to the text"}
        assert (queued(subscriber, "pages"), found(subscriber, "harp")) == (set(), [])
        assert pages.repair_embeddings() == 5
        assert (pages.verify_embeddings(), queued(subscriber, "pages")) == (0, set("1234"))
        assert found(subscriber, "harp") == ["1"]
        pages.fail_embeddings([("4", "refused", True)])
        assert backfill(pages.database, provider, BackfillOptions("pages")).report.embedded == 3

        # Changes, which a worker of the subscriber applies.
        publisher.execute("update pages set body = 'flutes' where id = 1")
        publisher.execute("update pages set id = 20 where id = 2")
        publisher.execute("delete from pages where id = 4")
        publisher.execute("insert into pages values (6, 'violins'), (7, 'drums')")
        wait_until_equal(publisher, subscriber)
        assert (found(subscriber, "harp"), found(subscriber, "flute")) == (["1"], [])
        assert reasons(pages) == {
            "1": STALE,
            "4": "the queue lists the row as failed, waiting or leased, but it needs no vector or does not exist",
            "6": MISSING,
            "7": MISSING,
        }
        assert pages.repair_embeddings() == 4
        assert (pages.verify_embeddings(), queued(subscriber, "pages")) == (0, {"1", "6", "7"})
        assert (found(subscriber, "harp"), found(subscriber, "flute")) == ([], ["1"])
        outcome = backfill(pages.database, provider, BackfillOptions("pages"))
        assert (outcome.report.embedded, outcome.report.reused, outcome.left.failed) == (3, 1, 0)
        assert Counter(provider.wire.texts) == Counter(["harps", "drums", "organs", "flutes", "violins"])
        assert (pages.verify_embeddings(), queued(subscriber, "pages")) == (0, set())


def test_a_run_finds_replicated_rows_without_a_repair(
    logical: Cluster, publisher: Connection, subscriber: Connection, pages: Collection, provider: FakeProvider
) -> None:
    with subscription(logical, publisher, subscriber):
        assert backfill(pages.database, provider, BackfillOptions("pages")).report.embedded == 4
        publisher.execute("insert into pages values (6, 'violins')")
        wait_until_equal(publisher, subscriber)
        assert backfill(pages.database, provider, BackfillOptions("pages")).report.embedded == 1
        assert found(subscriber, "violin") == ["6"]


def test_triggers_that_are_enabled_always_do_not_see_replicated_changes_of_texts(
    logical: Cluster, publisher: Connection, subscriber: Connection, pages: Collection, provider: FakeProvider
) -> None:
    """PostgreSQL fires no statement triggers for them: only fts follows."""
    for (name,) in subscriber.execute(
        "select tgname from pg_trigger where tgrelid = 'pages'::regclass and not tgisinternal"
    ).fetchall():
        subscriber.execute(f"alter table pages enable always trigger {name}")
    with subscription(logical, publisher, subscriber):
        assert backfill(pages.database, provider, BackfillOptions("pages")).report.embedded == 4
        publisher.execute("update pages set body = 'flutes' where id = 1")
        wait_until_equal(publisher, subscriber)
        assert reasons(pages) == {"1": STALE}
        assert found(subscriber, "flute") == ["1"]
        assert pages.repair_embeddings() == 1
        assert backfill(pages.database, provider, BackfillOptions("pages")).report.embedded == 1
        assert pages.verify_embeddings() == 0


def test_replicated_vectors_are_kept(
    logical: Cluster, subscriber: Connection, pages: Collection, provider: FakeProvider
) -> None:
    """The publisher embeds its rows, too, and all columns are replicated."""
    with logical.clone() as url, psycopg.connect(url.get_secret_value(), autocommit=True) as publisher:
        publisher.execute(TRACKED)
        publisher.execute("insert into pages values (1, 'harps'), (2, 'drums')")
        with PostgresDatabase(url) as database:
            assert backfill(database, provider, BackfillOptions("pages")).report.embedded == 2
        with subscription(logical, publisher, subscriber):
            paid = len(provider.wire.texts)
            pages.repair_embeddings()
            assert backfill(pages.database, provider, BackfillOptions("pages")).report.processed == 0
            assert (pages.verify_embeddings(), found(subscriber, "harp")) == (0, ["1"])
            publisher.execute("update pages set body = 'flutes' where id = 1")
            wait_until_equal(publisher, subscriber)
            assert reasons(pages) == {"1": MISSING}
            assert backfill(pages.database, provider, BackfillOptions("pages")).report.embedded == 1
            assert (pages.verify_embeddings(), len(provider.wire.texts)) == (0, paid + 1)
