"""Invariant 10: the owner of a tracked table gains nothing from the functions that run with the rights of their owner."""

from collections.abc import Iterator

import psycopg
import pytest
from pydantic import SecretStr

from shared.database.postgres import PostgresDatabase
from shared.embedding.collection import broken_embedding_collections, embedding_coverage, has_ready_embeddings
from tests.database.rows import Connection
from tests.postgres_cluster import Cluster

OWNER = "app_owner"
DOCUMENT_TEXT = (
    "create function embedding.document_text(d app.docs) returns text language sql stable as 'select d.body'"
)
# This statement tries to make the app's role a superuser, with the rights of the role that runs it.
RISE = f"begin execute 'alter role {OWNER} superuser'; exception when others then null; end"


@pytest.fixture
def app(owner: Connection, cluster: Cluster, database_url: SecretStr) -> Iterator[Connection]:
    """A connection of a role that owns a schema and nothing else."""
    owner.execute(
        f"create role {OWNER} login; create schema app authorization {OWNER}; grant usage on schema app to service_role"
    )
    with psycopg.connect(cluster.url(database_url, user=OWNER), autocommit=True) as connection:
        connection.execute("create table app.docs (id int primary key, body text)")
        yield connection
    with cluster.admin() as admin:
        admin.execute(f"alter role {OWNER} nosuperuser")
    owner.execute("select untrack_embeddings(name) from embedding.collections where name ~ '^app'")
    owner.execute("drop schema app cascade")
    owner.execute(f"drop owned by {OWNER}; drop role {OWNER}")


def make_trap(app: Connection) -> None:
    """Create a trigger with this statement. It runs as the role that writes the table."""
    app.execute(f"create function app.rise() returns trigger language plpgsql as $$ begin {RISE}; return new; end $$")
    app.execute("create trigger rise before update on app.docs for each row execute function app.rise()")


def is_superuser(owner: Connection) -> bool:
    found = owner.execute(f"select rolsuper from pg_roles where rolname = '{OWNER}'").fetchone()
    return bool(found and found[0])


def test_a_table_of_another_owner_is_refused_at_tracking(owner: Connection, app: Connection) -> None:
    owner.execute(DOCUMENT_TEXT)
    # The table has more than 1 MB, so tracking itself reads none of its rows.
    app.execute("insert into app.docs select n, repeat(md5(n::text), 40) from generate_series(1, 2000) n")
    make_trap(app)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as caught:
        owner.execute("set role service_role; select track_embeddings('app.docs')")
    owner.execute("reset role")
    assert "app.docs belongs to app_owner" in str(caught.value)
    assert "alter table app.docs owner to postgres" in str(caught.value)
    assert not is_superuser(owner)
    # The statement in the message solves the problem.
    owner.execute("alter table app.docs owner to postgres; drop trigger rise on app.docs")
    owner.execute("select track_embeddings('app.docs')")


def test_a_table_whose_owner_changed_after_tracking_refuses_writes(owner: Connection, app: Connection) -> None:
    owner.execute("alter table app.docs owner to postgres; " + DOCUMENT_TEXT)
    owner.execute("select register_embedding_model('tiny', 'test', 3)")
    owner.execute("select track_embeddings('app.docs', model => 'tiny')")
    owner.execute("insert into app.docs values (1, 'hello')")
    owner.execute(f"alter table app.docs owner to {OWNER}")
    make_trap(app)
    # A hash without a vector makes check_vectors update the row, as the owner of the functions.
    for statement in (
        "update app.docs set embedding_model = 'tiny', embedding_hash = '\\x00' where id = 1",
        "insert into app.docs (id, body, embedding_model) values (2, 'b', 'tiny')",
    ):
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="belongs to app_owner"):
            app.execute(statement)
        assert not is_superuser(owner)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        owner.execute("select create_embedding_index('app.docs')")
    owner.execute("select untrack_embeddings('app.docs')")
    app.execute("update app.docs set body = 'free again'")


def test_a_document_text_of_another_owner_is_refused_at_tracking(owner: Connection, app: Connection) -> None:
    owner.execute("alter table app.docs owner to postgres; " + DOCUMENT_TEXT)
    owner.execute(f"grant create on schema embedding to {OWNER}")
    owner.execute(f"alter function embedding.document_text(app.docs) owner to {OWNER}")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as caught:
        owner.execute("select track_embeddings('app.docs')")
    assert "alter function embedding.document_text(app.docs) owner to postgres" in str(caught.value)


@pytest.mark.parametrize(
    "fts", ["", ", add column fts tsvector generated always as (to_tsvector('english', body)) stored"]
)
def test_a_document_text_that_changed_hands_after_tracking_gains_nothing(
    owner: Connection, app: Connection, fts: str
) -> None:
    owner.execute(
        f"alter table app.docs owner to postgres; alter table app.docs add column n int{fts}; " + DOCUMENT_TEXT
    )
    owner.execute("select track_embeddings('app.docs')")
    owner.execute(f"grant create, usage on schema embedding to {OWNER}; grant insert, select on app.docs to {OWNER}")
    # A rollback does not undo the use of a sequence, unlike a change of a role.
    owner.execute("create sequence app.ran_as_postgres")
    owner.execute(f"alter function embedding.document_text(app.docs) owner to {OWNER}")
    app.execute(
        "create or replace function embedding.document_text(d app.docs) returns text language plpgsql as $$"
        " begin perform nextval('app.ran_as_postgres'); return d.body; end $$"
    )
    with pytest.raises(
        psycopg.errors.ObjectNotInPrerequisiteState, match=r"document_text\(app.docs\) belongs to app_owner"
    ):
        app.execute("insert into app.docs (id, body) values (1, 'hello')")
    assert owner.execute("select is_called from app.ran_as_postgres").fetchone() == (False,)


def test_workers_do_not_run_the_code_of_another_owner(
    owner: Connection, app: Connection, database: PostgresDatabase
) -> None:
    owner.execute("alter table app.docs owner to postgres; " + DOCUMENT_TEXT)
    owner.execute("select track_embeddings('app.docs')")
    owner.execute("insert into app.docs values (1, 'hello')")
    owner.execute(
        "create sequence app.ran; grant usage on sequence app.ran to public; grant usage on schema app to public"
    )
    owner.execute(f"grant create, usage on schema embedding to {OWNER}")
    owner.execute(
        f"alter function embedding.document_text(app.docs) owner to {OWNER}; alter table app.docs owner to {OWNER}"
    )
    app.execute(
        "create or replace function embedding.document_text(d app.docs) returns text language plpgsql as $$"
        " begin perform nextval('app.ran'); return d.body; end $$"
    )
    assert "app.docs belongs to app_owner" in broken_embedding_collections(database)["app.docs"]
    assert {one.collection: one.pending for one in embedding_coverage(database)}["app.docs"] == 1
    has_ready_embeddings(database)
    for call in (
        "claim_embeddings('app.docs')",
        "claim_embedding_rows('app.docs', '{1}')",
        "reconcile_embeddings('app.docs')",
        "reconcile_embeddings('app.docs', null, 10)",
        "verify_embeddings('app.docs')",
        "estimate_embeddings('app.docs', 'x')",
    ):
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="belongs to app_owner"):
            owner.execute(f"set role service_role; select {call}")
        owner.execute("reset role")
    assert owner.execute("select is_called from app.ran").fetchone() == (False,)


def test_an_owner_who_has_the_rights_already_is_accepted(owner: Connection, app: Connection) -> None:
    """Such an owner is a member of the role that owns the functions, for example if several people share this role."""
    owner.execute(DOCUMENT_TEXT)
    owner.execute(f"grant postgres to {OWNER}")
    owner.execute("select track_embeddings('app.docs')")
    app.execute("insert into app.docs values (1, 'hello')")
