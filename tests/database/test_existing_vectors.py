"""Tests tables that had vectors before they were tracked: their width, their model, and the clients that write them."""

import psycopg
import pytest

from shared.database.postgres import PostgresDatabase
from shared.embedding.backfill import BackfillOptions, backfill
from shared.embedding.estimate import estimate
from shared.embedding.model_switch import switch_model
from shared.errors import DatabaseRejected
from tests.database.rows import Connection, coverage_of
from tests.fake_provider import DIMENSIONS, FakeProvider

DOCUMENTS = """
    create table documents (id bigint generated always as identity primary key, content text, metadata jsonb,
      embedding extensions.vector({width}));
    create function embedding.document_text(d documents) returns text language sql immutable as $$ select d.content $$;
"""


def vector(*values: float) -> str:
    return str([*values, *[0.0] * (DIMENSIONS - len(values))])


@pytest.fixture
def documents(owner: Connection) -> Connection:
    """The table of LangChain's quickstart, tracked with the model of the vectors that LangChain writes."""
    owner.execute(DOCUMENTS.format(width=DIMENSIONS))
    owner.execute("select register_embedding_model('fake', 'fake', %s)", [DIMENSIONS])
    owner.execute("select track_embeddings('documents', model => 'fake')")
    return owner


def add(owner: Connection, content: str, embedding: str | None = None) -> int:
    found = owner.execute(
        "insert into documents (content, metadata, embedding) values (%s, '{}', %s) returning id", [content, embedding]
    ).fetchone()
    assert found is not None
    return int(found[0])


def models(owner: Connection) -> dict[str, str | None]:
    return dict(owner.execute("select content, embedding_model from documents").fetchall())


def test_a_column_of_another_width_is_refused_before_a_provider_is_asked(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    owner.execute(DOCUMENTS.format(width=24))
    owner.execute("select track_embeddings('documents')")
    add(owner, "a text")
    expected = (
        r'embedding of table public\.documents holds vectors of 24 dimensions, but model "fake" makes 16 dimensions\. '
        r"Use a model of 24 dimensions, or .* alter table public\.documents alter column embedding type extensions\.vector;"
    )
    for _ in range(2):
        with pytest.raises(DatabaseRejected, match=expected):
            backfill(database, provider, BackfillOptions("documents"))
    with pytest.raises(DatabaseRejected, match=expected):
        switch_model(database, provider, "documents")
    with pytest.raises(DatabaseRejected, match=expected):
        estimate(database, provider, "documents")
    assert provider.wire.requests == []
    assert owner.execute("select count(*) from embedding.models").fetchone() == (0,)
    assert owner.execute("select model from embedding.collections where name = 'documents'").fetchone() == (None,)
    owner.execute("select register_embedding_model('fake', 'fake', %s)", [DIMENSIONS])
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="24 dimensions"):
        owner.execute("select track_embeddings('documents', model => 'fake')")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="24 dimensions"):
        owner.execute("select * from claim_embeddings('documents', model => 'fake')")
    owner.execute("alter table documents alter column embedding type extensions.vector")
    assert backfill(database, provider, BackfillOptions("documents")).report.embedded == 1


def test_a_client_that_writes_vectors_needs_not_name_their_model(
    documents: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    add(documents, "theirs", vector(1))
    add(documents, "ours")
    assert models(documents) == {"theirs": "fake", "ours": None}
    assert backfill(database, provider, BackfillOptions("documents")).report.embedded == 1
    assert provider.wire.texts == ["ours"]
    assert coverage_of(database, "documents").embedded == 2
    assert documents.execute("select verify_embeddings('documents')").fetchone() == (0,)


def test_a_client_may_write_the_vector_of_a_pending_row(documents: Connection) -> None:
    pending = add(documents, "first")
    documents.execute(
        """insert into documents (id, content, embedding) overriding system value values (%s, 'second', %s)
        on conflict (id) do update set content = excluded.content, embedding = excluded.embedding""",
        [pending, vector(0, 1)],
    )
    assert models(documents) == {"second": "fake"}
    assert documents.execute("select verify_embeddings('documents')").fetchone() == (0,)
    assert documents.execute("select count(*) from embedding.queue").fetchone() == (0,)


def test_a_model_whose_name_has_quotes_may_be_left_out(owner: Connection) -> None:
    owner.execute(DOCUMENTS.format(width=DIMENSIONS))
    name = "it's 'it'"
    owner.execute("select register_embedding_model(%s, 'fake', %s)", [name, DIMENSIONS])
    owner.execute("select track_embeddings('documents', model => %s)", [name])
    pending = add(owner, "first")
    owner.execute("update documents set embedding = %s where id = %s", [vector(1), pending])
    assert models(owner) == {"first": name}


def test_an_untracked_table_has_no_default_model(documents: Connection) -> None:
    documents.execute("select untrack_embeddings('documents')")
    add(documents, "later", vector(1))
    assert models(documents) == {"later": None}


def test_tracking_grants_execute_on_document_text(owner: Connection) -> None:
    owner.execute(DOCUMENTS.format(width=DIMENSIONS))
    owner.execute("revoke execute on function embedding.document_text(documents) from public")
    owner.execute("select track_embeddings('documents')")
    granted = "select has_function_privilege('service_role', 'embedding.document_text(documents)', 'execute')"
    assert owner.execute(granted).fetchone() == (True,)


def test_tracking_prints_no_notice(owner: Connection) -> None:
    notices: list[str | None] = []
    owner.add_notice_handler(lambda diagnostic: notices.append(diagnostic.message_primary))
    owner.execute(DOCUMENTS.format(width=DIMENSIONS))
    for _ in range(2):
        owner.execute("select track_embeddings('documents')")
    assert notices == []


def test_a_search_by_vector_finds_rows_while_the_collection_has_no_model(owner: Connection) -> None:
    owner.execute(DOCUMENTS.format(width=DIMENSIONS))
    owner.execute("select register_embedding_model(m, 'fake', %s) from unnest(array['fake', 'other']) m", [DIMENSIONS])
    owner.execute("select track_embeddings('documents')")
    write = "insert into documents (content, embedding, embedding_model) values ('x', %s, %s)"
    search = "select row_id from embedding.search_hits('documents', query_embedding => %s)"
    assert owner.execute(search, [vector(1)]).fetchall() == []
    owner.execute(write, [vector(1), "fake"])
    assert owner.execute(search, [vector(1)]).fetchall() == [("1",)]
    owner.execute(write, [vector(0, 1), "other"])
    with pytest.raises(psycopg.DataError, match="vectors of several models: fake, other"):
        owner.execute(search, [vector(1)])
