"""Tests Supabase's own clients with a real PostgREST: users write and search a tracked table with row level security."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shared.database.postgres import PostgresDatabase
from shared.embedding.backfill import BackfillOptions, backfill
from tests.client_programs import require_javascript, run_client
from tests.conftest import Connection
from tests.fake_provider import FakeProvider
from tests.gateway import Gateway
from tests.postgrest_server import sign_token

pytestmark = pytest.mark.postgrest

OWNERS = {"anna": "00000000-0000-4000-8000-00000000000a", "bert": "00000000-0000-4000-8000-00000000000b"}
SEEN = {
    "anna": ["the harp of all", "the harp of anna"],
    "bert": ["the harp of all", "the harp of bert"],
    "anon": ["the harp of all"],
}
# A user's table, tracked and published as docs/your-own-table.md says.
NOTES = """
    create table public.notes (
      id bigint generated always as identity primary key, owner uuid default auth.uid(), body text not null);
    create function embedding.document_text(n public.notes) returns text language sql immutable as $$ select n.body $$;
    select track_embeddings('public.notes');
    create function public.search_notes(
      query_text text default null, query_embedding extensions.vector default null, match_count int default 10)
    returns table (id bigint, body text, score float)
    language sql stable security invoker set search_path = '' as $$
      select n.id, n.body, h.score
      from embedding.search_hits('public.notes', query_text, query_embedding, match_count) h
      join public.notes n on n.id = h.row_id::bigint order by h.score desc, n.id
    $$;
    alter table public.notes enable row level security;
    create policy "own" on public.notes to authenticated using (owner = auth.uid()) with check (owner = auth.uid());
    create policy "common" on public.notes for select to anon, authenticated using (owner is null);
    grant select on public.notes to anon;
    grant select, insert, update on public.notes to authenticated;
    grant execute on function public.search_notes to anon, authenticated;
    insert into public.notes (body) values ('the harp of all');
"""

Run = Callable[[str], dict[str, Any]]


@pytest.fixture(params=["supabase_client.mjs", "supabase_client.py", "supabase_async_client.py"])
def run(
    request: pytest.FixtureRequest, owner: Connection, provider: FakeProvider, jwt_secret: str, tmp_path: Path
) -> Run:
    """Call `run("write")`, then `run("search")`. Each returns what the client's program printed."""
    if request.param.endswith(".mjs"):
        require_javascript(request)
    owner.execute(NOTES)
    # PostgREST is started only now, because it reads the schema when it starts.
    rest: Gateway = request.getfixturevalue("rest")
    tokens = {name: sign_token(jwt_secret, "authenticated", sub=user) for name, user in OWNERS.items()}
    variables = {
        "SUPABASE_URL": rest.url,
        "ANON_KEY": request.getfixturevalue("tokens")["anon"],
        "TOKENS": json.dumps({**tokens, "anon": None}),
        "OWNERS": json.dumps(OWNERS),
        # The vector of a row that only its owner may see.
        "VECTOR": json.dumps(provider.embed_query("the harp of bert").tolist()),
    }
    return lambda stage: run_client(request.param, stage, directory=tmp_path, variables=variables)


def test_users_write_and_search_their_own_rows_only(
    run: Run, owner: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    written = run("write")
    assert written["owners"] == list(OWNERS.values())
    assert (written["for another user"], written["as anon"], written["claim"]) == ("42501", "42501", "42501")
    assert backfill(database, provider, BackfillOptions("notes")).report.embedded == 3

    found = run("search")
    assert found["searches"] == dict.fromkeys(("full-text", "semantic", "hybrid"), SEEN)
    assert found["rows"] == SEEN
    assert (found["another user's row"], found["own row"]) == ([], ["a lute"])
    # The changed text has lost its vector, and is embedded again.
    pending = owner.execute("select body from notes where embedding is null").fetchall()
    assert pending == [("a lute",)]
    assert backfill(database, provider, BackfillOptions("notes")).report.embedded == 1
