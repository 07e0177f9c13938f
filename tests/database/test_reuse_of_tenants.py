"""Invariants 8 and 10: a vector is copied only from a row that a worker embedded, and only within a tenant."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import psycopg
import pytest

from shared.database.postgres import PostgresDatabase
from shared.embedding.backfill import BackfillOptions, backfill
from shared.embedding.collection import Collection
from shared.embedding.model_providers import ModelProviders
from shared.embedding.rows import RowEmbedder, RowToEmbed
from tests.database.rows import Connection
from tests.fake_provider import FakeProvider

Role = Callable[..., AbstractContextManager[Connection]]
POISON = "array_fill(0.25::float4, array[16])::extensions.vector"


@pytest.fixture
def posts(owner: Connection, database: PostgresDatabase, provider: FakeProvider) -> Connection:
    owner.execute("""
        create table public.posts (id bigint generated always as identity primary key, owner text, body text);
        create function embedding.document_text(p public.posts) returns text language sql immutable as 'select p.body';
        grant select, insert, update on public.posts to authenticated;
    """)
    Collection(database, "music_knowledge").register_embedding_model(provider.spec)
    return owner


def track(owner: Connection, options: str = "") -> None:
    owner.execute(f"select track_embeddings('posts', model => 'fake'{options})")


def write(owner: Connection, tenant: str | None, *bodies: str) -> None:
    for body in bodies:
        owner.execute("insert into posts (owner, body) values (%s, %s)", [tenant, body])


def embed(database: PostgresDatabase, provider: FakeProvider) -> int:
    """Embed all pending rows; returns how many texts the provider was sent."""
    sent = len(provider.wire.texts)
    outcome = backfill(database, provider, BackfillOptions("posts"))
    assert outcome.complete
    return len(provider.wire.texts) - sent


def vectors(owner: Connection) -> dict[str, set[str]]:
    rows = owner.execute("select body, embedding::text from posts where embedding is not null").fetchall()
    return {body: {vector for text, vector in rows if text == body} for body, _ in rows}


def reused(database: PostgresDatabase) -> int:
    """How many pending rows a claim fills without a provider."""
    return sum(row.reused for row in Collection(database, "posts").claim_embeddings(100, 60, "fake"))


def test_a_vector_that_was_there_before_tracking_is_not_copied(
    posts: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    posts.execute("alter table posts add column embedding extensions.vector, add column embedding_hash bytea")
    write(posts, "anna", "report")
    posts.execute(f"update posts set embedding = {POISON}, embedding_hash = embedding.text_hash(body)")
    track(posts)
    write(posts, "bert", "report")
    assert embed(database, provider) == 1
    assert len(vectors(posts)["report"]) == 2


@pytest.mark.parametrize("name", ["service_role", "authenticated"])
def test_the_vector_of_a_client_is_not_copied(
    posts: Connection, database: PostgresDatabase, provider: FakeProvider, role: Role, name: str
) -> None:
    track(posts, ", client_vectors => true")
    posts.execute("grant insert, select on posts to service_role")
    with role(name) as client:
        client.execute(f"insert into posts (owner, body, embedding) values ('anna', 'report', {POISON})")
    write(posts, "bert", "report")
    assert reused(database) == 0
    posts.execute("update embedding.queue set leased_at = null, available_at = now()")
    embed(database, provider)
    assert len(vectors(posts)["report"]) == 2


def test_a_client_cannot_copy_the_mark_of_a_worker(
    posts: Connection, database: PostgresDatabase, provider: FakeProvider, role: Role
) -> None:
    """If clients may write vectors, no vector is reused. Their vectors are also not reused after this right is removed."""
    track(posts, ", client_vectors => true")
    write(posts, "anna", "report", "diary")
    embed(database, provider)
    with role("authenticated") as anna:
        anna.execute(f"update posts set embedding = {POISON} where body = 'report'")
        anna.execute(
            f"insert into posts (owner, body, embedding, embedding_hash) select 'anna', 'memo', {POISON},"
            " sha256('memo') || substring(embedding_hash from 33) from posts where body = 'diary'"
        )
    write(posts, "bert", "report", "memo")
    assert reused(database) == 0
    track(posts, ", client_vectors => false")
    posts.execute("update embedding.queue set leased_at = null, available_at = now()")
    assert embed(database, provider) == 2
    assert (len(vectors(posts)["report"]), len(vectors(posts)["memo"])) == (2, 2)


def test_a_hash_from_before_a_table_was_tracked_again_is_no_mark(
    posts: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    track(posts)
    write(posts, "anna", "report")
    embed(database, provider)
    posts.execute("select untrack_embeddings('posts')")
    posts.execute(f"update posts set embedding = {POISON}")
    track(posts)
    write(posts, "bert", "report")
    assert embed(database, provider) == 1


def test_equal_texts_of_one_tenant_share_and_those_of_two_do_not(
    posts: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    track(posts, ", reuse => 'owner'")
    write(posts, "anna", "report")
    assert embed(database, provider) == 1
    write(posts, "bert", "report")
    write(posts, "anna", "report")
    write(posts, None, "report", "report")
    claimed = Collection(database, "posts").claim_embeddings(100, 60, "fake")
    owners = dict(posts.execute("select id::text, owner from posts").fetchall())
    assert {owners[row.row_id] for row in claimed if row.reused} == {"anna"}
    assert len({row.text_hash for row in claimed}) == 4, "rows without a tenant share with no other"
    assert Collection(database, "posts").verify_embeddings() == 0


def test_a_provider_that_is_down_does_not_show_that_another_tenant_holds_a_text(
    posts: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    track(posts, ", reuse => 'owner'")
    write(posts, "anna", "report")
    embed(database, provider)
    write(posts, "carl", "report", "a text of his own")
    assert reused(database) == 0
    assert posts.execute("select count(embedding) from posts where owner = 'carl'").fetchone() == (0,)


def test_a_row_that_moved_to_another_tenant_gives_its_vector_to_neither(
    posts: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    track(posts, ", reuse => 'owner'")
    write(posts, "anna", "report")
    embed(database, provider)
    posts.execute("update posts set owner = 'bert'")
    write(posts, "anna", "report")
    write(posts, "bert", "report")
    assert reused(database) == 0


def test_without_reuse_each_row_is_sent(posts: Connection, database: PostgresDatabase, provider: FakeProvider) -> None:
    track(posts, ", reuse => 'none'")
    write(posts, "anna", "report", "report")
    assert embed(database, provider) == 2
    write(posts, "anna", "report")
    assert embed(database, provider) == 1


def test_texts_of_two_tenants_are_sent_apart_and_estimated_so(
    posts: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    track(posts, ", reuse => 'owner'")
    write(posts, "anna", "report", "report")
    write(posts, "bert", "report")
    estimate = "select rows, texts from estimate_embeddings('posts', 'fake')"
    assert posts.execute(estimate).fetchone() == (3, 2)
    assert embed(database, provider) == 2
    write(posts, "anna", "report")
    write(posts, "carl", "report")
    assert posts.execute(estimate).fetchone() == (2, 1)
    ids = [row[0] for row in posts.execute("select id::text from posts where embedding is null order by id").fetchall()]
    sent = len(provider.wire.texts)
    embedder = RowEmbedder(database, ModelProviders(lambda: provider))
    assert embedder.embed_rows("posts", [RowToEmbed(row_id) for row_id in ids], "b").updated == 2
    assert len(provider.wire.texts) - sent == 1


def test_reuse_is_kept_when_a_table_is_tracked_again(posts: Connection) -> None:
    track(posts, ", reuse => 'owner'")
    track(posts)
    assert posts.execute("select reuse from embedding.collections where name = 'posts'").fetchone() == ("owner",)
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="reuse must be all, none or a column"):
        track(posts, ", reuse => 'tenant'")
