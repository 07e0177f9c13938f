"""Tests LangChain's stores (Python and JavaScript) with Tonnetz on the table of LangChain's quickstart and a real PostgREST.

LangChain gets its vectors from POST /v1/embeddings; Tonnetz embeds what other programs write into the table.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.database.postgres import PostgresDatabase
from shared.embedding.backfill import BackfillOptions, backfill
from shared.embedding.collection import Collection
from tests.client_programs import require_javascript, run_client
from tests.conftest import Connection
from tests.documents import ROOT, blocks
from tests.fake_provider import DIMENSIONS, FakeProvider
from tests.functions.conftest import API_KEY
from tests.gateway import Gateway

pytestmark = pytest.mark.postgrest

# The grants of tables in a Supabase project, the search path of the SQL editor, and the SQL of the quickstart with another
# width.
QUICKSTART = f"""
    alter default privileges in schema public grant all on tables to service_role;
    alter default privileges in schema public grant all on sequences to service_role;
    set search_path = "$user", public, extensions;
    create table documents (
      id bigserial primary key,
      content text, -- corresponds to Document.pageContent
      metadata jsonb, -- corresponds to Document.metadata
      embedding vector({DIMENSIONS})
    );
    create function match_documents (
      query_embedding vector({DIMENSIONS}),
      match_count int default null,
      filter jsonb DEFAULT '{{}}'
    ) returns table (
      id bigint,
      content text,
      metadata jsonb,
      similarity float
    )
    language plpgsql
    as $$
    #variable_conflict use_column
    begin
      return query
      select
        id,
        content,
        metadata,
        1 - (documents.embedding <=> query_embedding) as similarity
      from documents
      where metadata @> filter
      order by documents.embedding <=> query_embedding
      limit match_count;
    end;
    $$;
"""
# What docs/openai.md says, with the model of the tests.
(TRACK,) = (block.text for block in blocks(ROOT / "docs/openai.md") if block.test)
TRACK = TRACK.replace("'onnx', 384", f"'fake', {DIMENSIONS}").replace("all-MiniLM-L6-v2", "fake")
TEXTS = ["a harp, played slowly", "a viola", "a trumpet", "an organ", "a clarinet"]

Run = Callable[[str], dict[str, Any]]


@pytest.fixture(params=["langchain_store.py", "langchain_store.mjs"])
def run(
    request: pytest.FixtureRequest, owner: Connection, client: httpx.Client, tokens: dict[str, str], tmp_path: Path
) -> Run:
    """Call `run("write")`, then `run("search")`. Each returns what LangChain's program printed."""
    if request.param.endswith(".mjs"):
        require_javascript(request)
    owner.execute(QUICKSTART)
    owner.execute(TRACK)
    # PostgREST is started only now, because it reads the schema when it starts.
    rest: Gateway = request.getfixturevalue("rest")
    variables = {
        "SUPABASE_URL": rest.url,
        "SERVICE_KEY": tokens["service_role"],
        "BASE_URL": f"{client.base_url}/v1",
        "API_KEY": API_KEY,
        "MODEL": "fake",
        "TEXTS": json.dumps(TEXTS),
    }
    return lambda stage: run_client(request.param, stage, directory=tmp_path, variables=variables)


def test_langchain_writes_and_finds_and_tonnetz_embeds_the_rest(
    run: Run, owner: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    ids = run("write")["ids"]
    assert len(ids) == len(TEXTS)
    rows = dict(owner.execute("select content, embedding_model from documents").fetchall())
    assert rows == dict.fromkeys(["a harp, played slowly", "a viola", "a trumpet, muted", "a clarinet"], "fake")
    work = Collection(database, "documents")
    assert (work.embedding_queue().pending, work.verify_embeddings()) == (0, 0)

    # Other programs do not write vectors: one adds a row, another changes a text that LangChain has written.
    owner.execute("insert into documents (content, metadata) values ('a bassoon from elsewhere', '{\"number\": 9}')")
    owner.execute("update documents set content = 'an oboe' where content = 'a clarinet'")
    provider.wire.requests.clear()
    assert backfill(database, provider, BackfillOptions("documents")).report.embedded == 2
    assert sorted(provider.wire.texts) == ["a bassoon from elsewhere", "an oboe"]

    assert run("search") == {
        "best": ["a trumpet, muted", {"number": 2}, 1],
        "theirs": ["a harp, played slowly"],
        "changed": ["an oboe"],
        "ours": ["a bassoon from elsewhere"],
        "filtered": ["a trumpet, muted"],
    }
    assert work.verify_embeddings() == 0
    hits = owner.execute("select row_id from embedding.search_hits('documents', 'trumpet')").fetchall()
    assert hits == [(ids[2],)]
