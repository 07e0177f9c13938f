"""Invariant 9: a vector that no provider here made is never replaced unless the user asks for it by name."""

import pytest

from shared.database.postgres import PostgresDatabase
from shared.embedding.backfill import BackfillOptions, backfill
from shared.embedding.collection import Collection, has_ready_embeddings
from shared.embedding.embedding_job import EmbeddingJob
from shared.embedding.estimate import estimate
from shared.embedding.model_providers import ModelProviders
from shared.embedding.model_switch import switch_model
from shared.embedding.runs import Runs
from tests.database.rows import Connection, coverage_of, queued
from tests.database.test_your_own_table import OWN_VECTORS, rows
from tests.fake_provider import FakeProvider

FOUND = """
    select count(*) from embedding.search_hits('public.pictures', query_embedding => '[0.9, 0.1, 0]', embedding_model => 'my-clip')
"""


@pytest.fixture
def pictures(owner: Connection) -> Connection:
    """A table as on the page "Vectors of your own", but tracked without the model, which a reader may leave out."""
    assert "model => 'my-clip'" in OWN_VECTORS
    rows(owner, OWN_VECTORS.replace(", model => 'my-clip'", "", 1))
    return owner


def held(owner: Connection) -> list[tuple[object, ...]]:
    return owner.execute(
        "select caption, embedding_model, embedding::text from pictures where embedding is not null order by caption"
    ).fetchall()


BROUGHT = [("a blue boat", "my-clip", "[0,1,0]"), ("a red bicycle", "my-clip", "[1,0,0]")]


def test_a_backfill_keeps_and_reports_vectors_of_a_model_that_it_does_not_make(
    pictures: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    for _ in range(2):
        outcome = backfill(database, provider, BackfillOptions("pictures"))
        assert (outcome.complete, outcome.report.processed) == (True, 0)
        assert outcome.left.foreign_vectors == {"my-clip": 2}
    assert held(pictures) == BROUGHT
    assert pictures.execute(FOUND).fetchone() == (2,)
    assert queued(pictures, "pictures") == set()
    assert Collection(database, "pictures").reconcile_embeddings() == 0
    assert not has_ready_embeddings(database)
    assert estimate(database, provider, "pictures").rows == 0
    coverage = coverage_of(database, "pictures")
    assert (coverage.total, coverage.embedded, coverage.pending) == (2, 2, 0)
    assert pictures.execute("select verify_embeddings('pictures')").fetchone() == (0,)


def test_new_rows_and_changed_texts_are_embedded_beside_foreign_vectors(
    pictures: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    backfill(database, provider, BackfillOptions("pictures"))
    pictures.execute(
        "insert into pictures (caption, embedding, embedding_model) values ('a green car', '[0, 0, 1]', 'my-clip')"
    )
    pictures.execute("insert into pictures (caption) values ('a new row')")
    pictures.execute("update pictures set caption = 'a yellow boat' where caption = 'a blue boat'")
    assert backfill(database, provider, BackfillOptions("pictures")).report.embedded == 2
    assert sorted(provider.wire.texts) == ["a new row", "a yellow boat"]
    assert {row[0] for row in held(pictures) if row[1] == "my-clip"} == {"a red bicycle", "a green car"}


def test_a_schedule_keeps_and_reports_foreign_vectors(
    pictures: Connection, database: PostgresDatabase, provider: FakeProvider, caplog: pytest.LogCaptureFixture
) -> None:
    pictures.execute("insert into pictures (caption) values ('a new row')")
    assert has_ready_embeddings(database)
    runs = Runs(database)
    outcome = runs.execute(EmbeddingJob(database, ModelProviders(lambda: provider)), runs.record_queued())
    assert (outcome.status, outcome.report.embedded) == ("completed", 1)
    assert "pictures: 2 rows keep vectors of my-clip, which no provider here makes" in caplog.text
    assert [row for row in held(pictures) if row[1] == "my-clip"] == BROUGHT


def test_a_switch_of_the_model_keeps_foreign_vectors(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    rows(owner, OWN_VECTORS)
    assert switch_model(database, provider, "pictures") == 0
    assert backfill(database, provider, BackfillOptions("pictures")).left.foreign_vectors == {"my-clip": 2}
    assert held(owner) == BROUGHT
    other = FakeProvider("fake-2")
    assert switch_model(database, other, "pictures") == 0
    assert held(owner) == BROUGHT


def test_replace_foreign_replaces_foreign_vectors(
    pictures: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    backfill(database, provider, BackfillOptions("pictures"))
    assert switch_model(database, provider, "pictures", replace_foreign=True) == 2
    assert coverage_of(database, "pictures").pending == 2
    outcome = backfill(database, provider, BackfillOptions("pictures"))
    assert (outcome.report.embedded, outcome.left.foreign_vectors) == (2, {})
    assert {row[1] for row in held(pictures)} == {"fake"}


def test_vectors_that_a_backfill_made_are_replaced_by_a_switch(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    rows(owner, OWN_VECTORS)
    owner.execute("update pictures set embedding = null")
    switch_model(database, provider, "pictures")
    backfill(database, provider, BackfillOptions("pictures"))
    other = FakeProvider("fake-2")
    assert switch_model(database, other, "pictures") == 2
    assert backfill(database, other, BackfillOptions("pictures")).report.embedded == 2


def test_a_save_keeps_a_vector_that_another_program_wrote_during_the_lease(
    pictures: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    backfill(database, provider, BackfillOptions("pictures"))
    pictures.execute("insert into pictures (caption) values ('a green tram')")
    (row,) = database.call("claim_embeddings", {"collection": "pictures"})
    pictures.execute(
        "update pictures set embedding = '[0,0,1]', embedding_model = 'my-clip' where caption = 'a green tram'"
    )
    vector = provider.embed_documents([row["text"]])[0]
    made = [{"row_id": row["row_id"], "text_hash": row["text_hash"], "embedding": str([float(one) for one in vector])}]
    arguments = {"collection": "pictures", "model": provider.describe().name, "rows": made}
    assert database.call("save_embeddings", arguments) == [{"saved": 0, "stale": 1}]
    assert ("a green tram", "my-clip", "[0,0,1]") in held(pictures)
    assert queued(pictures, "pictures") == set()
