"""Invariant 10: anon and authenticated write texts, not vectors, unless the collection allows it."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import psycopg
import pytest
from pydantic import SecretStr

from tests.database.rows import Connection
from tests.postgres_cluster import Cluster

Role = Callable[..., AbstractContextManager[Connection]]


@pytest.fixture
def posts(owner: Connection) -> Connection:
    """A tracked table that users write over the API, with one embedded row."""
    owner.execute("""
        create table public.posts (id bigint primary key, body text, likes int default 0);
        create function embedding.document_text(p public.posts) returns text language sql immutable as 'select p.body';
        select register_embedding_model('tiny', 'test', 3), register_embedding_model('other', 'test', 3);
        select track_embeddings('posts', model => 'tiny');
        grant select, insert, update on public.posts to anon, authenticated, service_role;
        insert into public.posts (id, body, embedding, embedding_model) values (1, 'one', '[1, 0, 0]', 'tiny');
    """)
    return owner


WRITES = {
    "a vector in a new row": "insert into posts (id, body, embedding) values (2, 'x', '[0, 1, 0]')",
    "a vector and its model": "insert into posts (id, body, embedding, embedding_model) values (2, 'x', '[0, 1, 0]', 'tiny')",
    "a hash alone": "insert into posts (id, body, embedding_hash) values (2, 'x', '\\x00')",
    "another vector": "update posts set embedding = '[0, 1, 0]' where id = 1",
    "another vector with another text": "update posts set body = 'x', embedding = '[0, 1, 0]' where id = 1",
    "another model": "update posts set embedding_model = 'other' where id = 1",
    "another hash": "update posts set embedding_hash = '\\x00' where id = 1",
    "an upsert": "insert into posts (id, body, embedding) values (1, 'one', '[0, 1, 0]')"
    " on conflict (id) do update set embedding = excluded.embedding",
    "a merge": "merge into posts p using (values (1)) v (id) on p.id = v.id when matched then update set embedding = '[0, 1, 0]'",
    "a copy": "with v as (select '[0, 1, 0]'::extensions.vector as e) update posts set embedding = v.e from v",
}


@pytest.mark.parametrize("name", ["anon", "authenticated"])
@pytest.mark.parametrize("what", WRITES)
def test_api_roles_may_not_write_vectors(posts: Connection, role: Role, name: str, what: str) -> None:
    before = posts.execute("select p.*::text from posts p").fetchall()
    with role(name) as user, pytest.raises(psycopg.errors.InsufficientPrivilege) as caught:
        user.execute(WRITES[what])
    assert f'role "{name}" may not write the columns embedding, embedding_model and embedding_hash of' in str(
        caught.value
    )
    assert "client_vectors => true" in str(caught.value.diag.message_hint)
    assert posts.execute("select p.*::text from posts p").fetchall() == before


def test_another_role_of_a_request_may_not_write_vectors(
    posts: Connection, cluster: Cluster, database_url: SecretStr
) -> None:
    posts.execute("create role editor nologin; grant editor to authenticator; grant select, update on posts to editor")
    try:
        with psycopg.connect(cluster.url(database_url, user="authenticator"), autocommit=True) as request:
            request.execute("set role editor")
            request.execute("update posts set likes = 1, body = 'edited'")
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match='role "editor" may not write'):
                request.execute("update posts set embedding = '[0, 1, 0]', embedding_model = 'tiny'")
            request.execute("set role service_role")
            request.execute("update posts set embedding = '[0, 1, 0]', embedding_model = 'tiny'")
    finally:
        posts.execute("revoke all on posts from editor; drop role editor")


def test_api_roles_write_everything_else(posts: Connection, role: Role) -> None:
    with role("authenticated") as user:
        user.execute("insert into posts (id, body) values (2, 'two')")
        user.execute(
            "insert into posts (id, body, embedding, embedding_model, embedding_hash) values (3, 'x', null, null, null)"
        )
        user.execute("update posts set likes = likes + 1")
        user.execute("update posts set id = 11 where id = 1")
        assert user.execute("select embedding::text, likes from posts where id = 11").fetchone() == ("[1,0,0]", 1)
        # A client reads a row with its vector and writes it back.
        row = user.execute(
            "select body, embedding::text, embedding_model, embedding_hash from posts where id = 11"
        ).fetchone()
        assert row is not None
        user.execute(
            "insert into posts (id, body, embedding, embedding_model, embedding_hash, likes) values (11, %s, %s, %s, %s, 5)"
            " on conflict (id) do update set body = excluded.body, embedding = excluded.embedding,"
            " embedding_model = excluded.embedding_model, embedding_hash = excluded.embedding_hash, likes = excluded.likes",
            row,
        )
        assert user.execute("select embedding::text, likes from posts where id = 11").fetchone() == ("[1,0,0]", 5)
        user.execute("update posts set body = 'edited' where id = 11")
        assert user.execute("select embedding from posts where id = 11").fetchone() == (None,)
        # A trigger of the table may also do this on each edit.
        posts.execute("update posts set embedding = '[1, 0, 0]', embedding_model = 'tiny' where id = 11")
        user.execute("update posts set embedding = null where id = 11")


def test_vectors_of_the_owner_and_of_service_role_are_kept(posts: Connection, role: Role) -> None:
    with role("service_role") as service:
        service.execute("insert into posts (id, body, embedding) values (2, 'two', '[0, 1, 0]')")
        service.execute("update posts set embedding = '[0, 0, 1]' where id = 2")
    posts.execute("update posts set embedding = '[0, 0, 1]' where id = 1")
    assert posts.execute("select array_agg(embedding::text) from posts").fetchone() == (["[0,0,1]", "[0,0,1]"],)
    # A function of the application that runs as its owner may write vectors.
    posts.execute("""
        create function public.store_post(id bigint, vector extensions.vector) returns void language sql security definer
        set search_path = '' as $$ update public.posts p set embedding = vector where p.id = store_post.id $$
    """)
    with role("authenticated") as user:
        user.execute("select store_post(1, '[0, 1, 0]')")
    assert posts.execute("select embedding::text from posts where id = 1").fetchone() == ("[0,1,0]",)


def test_a_collection_may_allow_the_vectors_of_clients(posts: Connection, role: Role) -> None:
    posts.execute("select track_embeddings('posts', client_vectors => true)")
    posts.execute("select track_embeddings('posts')")
    with role("authenticated") as user:
        user.execute("insert into posts (id, body, embedding) values (2, 'two', '[0, 1, 0]')")
    assert posts.execute("select count(embedding) from posts").fetchone() == (2,)
    posts.execute("select track_embeddings('posts', client_vectors => false)")
    with role("authenticated") as user, pytest.raises(psycopg.errors.InsufficientPrivilege):
        user.execute("insert into posts (id, body, embedding) values (3, 'three', '[0, 1, 0]')")


def test_vectors_from_before_tracking_may_be_written_back(posts: Connection, role: Role) -> None:
    """Such a vector has no hash until a backfill has prepared a large table."""
    posts.execute(
        "set session_replication_role = replica; update posts set embedding_hash = null; reset session_replication_role"
    )
    with role("authenticated") as user:
        user.execute("update posts set likes = 1, embedding = embedding")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            user.execute("update posts set embedding = '[0, 1, 0]'")
