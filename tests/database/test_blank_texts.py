"""Tests that a text of white space and invisible characters is neither queued nor sent to a provider."""

import pytest

from shared.database.postgres import PostgresDatabase
from shared.embedding.backfill import BackfillOptions, backfill
from shared.embedding.collection import Collection
from shared.embedding.estimate import estimate
from tests.database.rows import Connection, coverage_of, queued
from tests.fake_provider import FakeProvider

BLANKS = ["", "   ", "\n\t\r", "\u00a0\u2003", "\u200b", "\ufeff", "\u3000" * 60, "\u2028\u0085", " " * 500, None]
TEXTS = ["real", "<p></p>", " " * 500 + "x", "é", "日本", "."]


@pytest.fixture
def blanks(owner: Connection) -> Connection:
    owner.execute("create table blanks (id int primary key, body text)")
    owner.execute("create function embedding.document_text(b blanks) returns text language sql immutable return b.body")
    owner.execute("select track_embeddings('blanks')")
    return owner


def write(owner: Connection) -> None:
    for number, text in enumerate([*TEXTS, *BLANKS], 1):
        owner.execute("insert into blanks values (%s, %s)", [number, text])


def test_only_texts_are_embedded(blanks: Connection, database: PostgresDatabase, provider: FakeProvider) -> None:
    write(blanks)
    assert queued(blanks, "blanks") == {str(number) for number in range(1, len(TEXTS) + 1)}
    assert estimate(database, provider, "blanks").rows == len(TEXTS)
    outcome = backfill(database, provider, BackfillOptions("blanks"))
    assert (outcome.report.embedded, outcome.report.failed, outcome.left.failed) == (len(TEXTS), 0, 0)
    assert sorted(provider.wire.texts) == sorted(TEXTS)
    assert coverage_of(database, "blanks").total == len(TEXTS)
    assert Collection(database, "blanks").verify_embeddings() == 0


def test_blank_texts_written_with_triggers_off_are_not_queued(
    blanks: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    blanks.execute("set session_replication_role = replica")
    write(blanks)
    blanks.execute("reset session_replication_role")
    assert backfill(database, provider, BackfillOptions("blanks")).report.embedded == len(TEXTS)
    assert sorted(provider.wire.texts) == sorted(TEXTS)


def test_a_text_that_becomes_blank_loses_its_vector(
    blanks: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    write(blanks)
    backfill(database, provider, BackfillOptions("blanks"))
    blanks.execute("update blanks set body = E'\\u00a0' where id = 1")
    assert blanks.execute("select embedding is null from blanks where id = 1").fetchone() == (True,)
    assert queued(blanks, "blanks") == set()
