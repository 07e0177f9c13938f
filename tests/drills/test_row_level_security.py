"""Tests that row level security of a user's table applies to search."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from shared.database.base import Database
from shared.database.postgres import PostgresDatabase
from shared.database.supabase import SupabaseDatabase
from shared.embedding.collection import Collection, vector_text
from shared.models import ANON, Caller
from tests.database.rows import Connection, embed_all
from tests.drills.privileges_callers import ANNA, BERT
from tests.fake_provider import FakeProvider
from tests.functions.conftest import token


@pytest.fixture
def as_user(request: pytest.FixtureRequest, adapter: Database) -> Callable[[str], Database]:
    """`as_user(id)`: the adapter as a signed-in user."""

    def sign_in(user_id: str) -> Database:
        claims = {"role": "authenticated", "sub": user_id}
        signed = None
        if isinstance(adapter, SupabaseDatabase):
            signed = token(secret=request.getfixturevalue("jwt_secret"), sub=user_id)
        return adapter.as_caller(Caller("authenticated", claims, signed))

    return sign_in


@dataclass
class Notes:
    """The owner of each note, by id."""

    annas: int
    berts: int
    everyones: int


@pytest.fixture
def notes(owner: Connection, database: PostgresDatabase, provider: FakeProvider) -> Notes:
    """A user's table with its own policies, tracked and published as docs/your-own-table.md says."""
    owner.execute("""
        create table public.notes (id bigint generated always as identity primary key, owner uuid, body text not null);
        create function embedding.document_text(n public.notes) returns text language sql immutable return n.body;
        select track_embeddings('public.notes');
        create function public.search_notes(query_text text default null, query_embedding extensions.vector default null,
          match_count int default 10, filter jsonb default null)
        returns table (id bigint, body text, score float, full_text_rank int, semantic_rank int)
        language sql stable security invoker set search_path = '' as $$
          select n.id, n.body, h.score, h.full_text_rank, h.semantic_rank
          from embedding.search_hits('public.notes', query_text, query_embedding, match_count, filter) h
          join public.notes n on n.id = h.row_id::bigint order by h.score desc, n.id
        $$;
        alter table public.notes enable row level security;
        create policy "own" on public.notes for select to authenticated using (owner = auth.uid());
        create policy "common" on public.notes for select to anon, authenticated using (owner is null);
        grant select on public.notes to anon, authenticated;
        grant execute on function public.search_notes to anon, authenticated, service_role;
        notify pgrst, 'reload schema'
    """)
    ids = [
        row[0]
        for row in owner.execute(
            "insert into notes (owner, body) values (%s, 'the harp of anna'), (%s, 'the harp of bert'), (null, 'the harp of all')"
            " returning id",
            [ANNA, BERT],
        )
    ]
    work = Collection(database, "notes")
    work.register_embedding_model(provider.spec)
    embed_all(work, provider)
    return Notes(*ids)


@pytest.mark.parametrize("ranking", ["full-text", "semantic", "hybrid"])
def test_row_level_security_of_a_tracked_table_holds_in_search(
    notes: Notes, adapter: Database, as_user: Callable[[str], Database], provider: FakeProvider, ranking: str
) -> None:
    arguments: dict[str, object] = {}
    if ranking != "semantic":
        arguments["query_text"] = "the harp of bert"
    if ranking != "full-text":
        # The exact vector of another user's row.
        arguments["query_embedding"] = vector_text(provider.embed_query("the harp of bert"))

    def found(caller: Database, **more: object) -> set[int]:
        return {row["id"] for row in caller.call("search_notes", {**arguments, **more})}

    for _ in range(2):
        # The callers use the same connections in turn, so that state of one caller would show in the answer of the next.
        assert found(as_user(ANNA)) == {notes.annas, notes.everyones}
        assert found(as_user(BERT)) == {notes.berts, notes.everyones}
        assert found(adapter.as_caller(ANON)) == {notes.everyones}
        assert found(as_user(NOBODY_S_ID)) == {notes.everyones}
    assert found(as_user(ANNA), filter={"owner": BERT}) == set()
    assert found(as_user(ANNA), filter={"body": {"like": "%bert%"}}) == set()
    assert found(adapter) == {notes.annas, notes.berts, notes.everyones}, (
        "service_role, which is the worker's, sees all"
    )


NOBODY_S_ID = "00000000-0000-4000-8000-00000000000c"
