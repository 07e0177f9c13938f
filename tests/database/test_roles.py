"""Invariant 9: only service_role may claim, save, track or switch; anon and authenticated search under row level security."""

import re
from collections.abc import Callable
from contextlib import AbstractContextManager

import psycopg
import pytest

from shared.embedding.collection import Collection, vector_text
from tests.database.rows import Connection, add, embed_all, queued
from tests.fake_provider import FakeProvider

Role = Callable[..., AbstractContextManager[Connection]]
CALLERS = ("anon", "authenticated")

CLOSED = (
    "select * from claim_embeddings('music_knowledge')",
    "select * from save_embeddings('music_knowledge', 'fake', '[]')",
    "select * from reuse_embeddings('music_knowledge', 'fake', '[]')",
    "select * from fail_embeddings('music_knowledge', '[]')",
    "select * from release_embeddings('music_knowledge', '{}')",
    "select * from renew_embeddings('music_knowledge', '{}')",
    "select * from reconcile_embeddings('music_knowledge')",
    "select * from retry_failed_embeddings('music_knowledge')",
    "select * from list_failed_embeddings('music_knowledge')",
    "select * from embedding_queue('music_knowledge')",
    "select * from embedding_coverage()",
    "select * from list_embedding_collections(true)",
    "select * from verify_embeddings('music_knowledge')",
    "select * from repair_embeddings('music_knowledge')",
    "select * from estimate_embeddings('music_knowledge', 'fake')",
    "select * from track_embeddings('music_knowledge')",
    "select * from untrack_embeddings('music_knowledge')",
    "select * from set_collection_model('music_knowledge', 'fake')",
    "select * from register_embedding_model('x', 'x', 3)",
    "select * from create_embedding_index('music_knowledge', 'fake')",
    "select * from record_embedding_run()",
    "select * from embedding.queue",
    "select * from embedding.models",
    "select * from embedding.collections",
    "select * from embedding.runs",
    "insert into music_knowledge (topic) values ('mine')",
    "update music_knowledge set embedding = null",
    "delete from music_knowledge",
    "truncate music_knowledge",
    "create function public.mine() returns int language sql return 1",
)


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("statement", CLOSED)
def test_api_roles_cannot_call_worker_functions(work: Collection, role: Role, caller: str, statement: str) -> None:
    function = re.match(r"select \* from (\w+)\(", statement)
    # The error must be about the function itself, and not about a function that it calls.
    closed = f"for function {function[1]}" if function else "for (table|schema)"
    with role(caller) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege, match=closed):
        connection.execute(statement)


def test_service_role_can_call_worker_functions(owner: Connection, work: Collection, role: Role) -> None:
    with role("service_role") as connection:
        for statement in CLOSED[:-2]:
            if "untrack" not in statement and "register" not in statement:
                connection.execute(statement)


def test_authenticated_writers_of_a_table_need_no_grant_on_the_queue(
    owner: Connection, work: Collection, role: Role
) -> None:
    owner.execute("grant insert, update, delete on music_knowledge to authenticated")
    owner.execute('create policy "writes" on music_knowledge to authenticated using (true) with check (true)')
    with role("authenticated") as user:
        ((row_id,),) = user.execute("insert into music_knowledge (topic) values ('mine') returning id::text").fetchall()
        assert queued(owner) == {row_id}
        user.execute("update music_knowledge set topic = 'still mine'")
        user.execute("delete from music_knowledge")
    assert queued(owner) == set()


@pytest.fixture
def selective(owner: Connection, work: Collection, provider: FakeProvider) -> list[str]:
    """Three rows: anon may read the open one, and each user also their own."""
    ids = add(owner, "a secret chord progression", "an open chord progression", "my own chord progression")
    embed_all(work, provider)
    owner.execute("alter table music_knowledge add column owned_by uuid, add column open boolean default false")
    owner.execute("update music_knowledge set open = true where id = %s", [ids[1]])
    owner.execute(
        "update music_knowledge set owned_by = '00000000-0000-0000-0000-00000000000a' where id = %s", [ids[2]]
    )
    owner.execute('drop policy "everyone reads" on music_knowledge')
    owner.execute('create policy "open rows" on music_knowledge for select to anon, authenticated using (open)')
    owner.execute(
        'create policy "own rows" on music_knowledge for select to authenticated using (owned_by = auth.uid())'
    )
    return ids


@pytest.mark.parametrize("ranking", ["full-text", "semantic", "hybrid"])
def test_a_search_returns_only_rows_that_its_caller_may_read(
    selective: list[str], provider: FakeProvider, role: Role, ranking: str
) -> None:
    words = "chord progression" if ranking != "semantic" else None
    vector = vector_text(provider.embed_query("a secret chord progression")) if ranking != "full-text" else None

    def search(connection: Connection) -> set[str]:
        found = connection.execute(
            "select id::text from search_music_knowledge(%s, %s::text::extensions.vector)", [words, vector]
        )
        return {row[0] for row in found}

    secret, open_row, own = selective
    with role("anon") as anon:
        assert search(anon) == {open_row}
    with role("authenticated", sub="00000000-0000-0000-0000-00000000000a") as user:
        assert search(user) == {open_row, own}
    with role("authenticated", sub="00000000-0000-0000-0000-00000000000b") as other:
        assert search(other) == {open_row}
    with role("service_role") as service:
        assert search(service) == {secret, open_row, own}


def test_scores_do_not_reveal_hidden_rows(owner: Connection, selective: list[str], role: Role) -> None:
    query = "select score, full_text_score, full_text_rank from search_music_knowledge('secret chord progression')"
    with role("anon") as anon:
        before = anon.execute(query).fetchall()
        add(owner, *(f"secret number {number}" for number in range(50)))
        owner.execute("analyze music_knowledge")
        assert anon.execute(query).fetchall() == before
