"""Tests coverage and estimates of a large table: they read a sample, say so, and are close to the exact counts."""

from collections.abc import Iterator

import numpy as np
import psycopg
import pytest
from pydantic import SecretStr

from shared.database.postgres import PostgresDatabase
from shared.embedding.collection import Collection
from shared.embedding.estimate import estimate
from shared.errors import DatabaseRejected
from shared.models import Coverage
from tests.database.rows import Connection, coverage_of
from tests.database.test_claim_cost import Connect, watch
from tests.fake_provider import FakeProvider
from tests.postgres_cluster import Cluster

ROWS = 100_000
CLOSE = 0.1
EMBED = (
    "update big set embedding_model = 'fake', embedding_hash = embedding.text_hash(embedding.document_text(big.*))"
    " || (select c.reuse_mark from embedding.collections c where c.name = 'big'),"
    " embedding = array_fill(1::float4, array[16])::extensions.vector"
)


@pytest.fixture(scope="module")  # it is made once, and each test gets a copy
def filled(cluster: Cluster) -> Iterator[SecretStr]:
    """A database with a table of 100,000 pending rows of 31 to 50 characters, and few rows in each block."""
    with cluster.clone() as url:
        with psycopg.connect(url.get_secret_value(), autocommit=True) as owner:
            owner.execute("create table big (id bigint primary key, body text) with (fillfactor = 10)")
            owner.execute(
                "create function embedding.document_text(b big) returns text language sql immutable as 'select b.body'"
            )
            owner.execute("select track_embeddings('big')")
            owner.execute("select register_embedding_model('fake', 'fake', 16, made_here => true)")
            owner.execute("select embedding.check_model(embedding.get_collection('big'), 'fake')")
            owner.execute("alter table big disable trigger user")
            owner.execute(
                "insert into big select n, 'a song, number ' || lpad(n::text, 15 + mod(n, 20)::int, '0')"
                " from generate_series(1, %s) n",
                [ROWS],
            )
            owner.execute(
                "insert into embedding.queue (collection_id, row_id) select c.id, b.id from big b,"
                " embedding.get_collection('big') c"
            )
        yield url


@pytest.fixture
def database_url(cluster: Cluster, filled: SecretStr) -> Iterator[SecretStr]:
    with cluster.copy(filled) as url:
        yield url


def close(number: float) -> object:
    return pytest.approx(number, rel=CLOSE)


def exact(owner: Connection, statement: str) -> int:
    found = owner.execute(statement).fetchone()
    assert found is not None
    return int(found[0])


def covered(database: PostgresDatabase) -> Coverage:
    found = coverage_of(database, "big")
    assert found.estimated
    assert found.total == found.embedded + found.pending + found.failed
    return found


def test_the_queue_is_counted_and_the_vectors_are_estimated(owner: Connection, database: PostgresDatabase) -> None:
    owner.execute(f"{EMBED} where id <= 30000")
    owner.execute("delete from embedding.queue where row_id::int <= 30000")
    owner.execute("update embedding.queue set failed_at = now() where row_id::int > 99900")
    found = covered(database)
    assert (found.pending, found.failed) == (69_900, 100)
    assert found.embedded == close(30_000)
    assert found.models == {"fake": found.embedded}
    assert covered(database) == found, "the same blocks are read each time"


def test_a_few_pending_rows_of_a_large_table_are_counted_exactly(owner: Connection, database: PostgresDatabase) -> None:
    owner.execute(f"{EMBED} where id > 7")
    owner.execute("delete from embedding.queue where row_id::int > 7")
    found = covered(database)
    assert (found.pending, found.embedded) == (7, close(ROWS))
    owner.execute("analyze big")
    assert covered(database).total == pytest.approx(ROWS, rel=0.0005), "as ANALYZE counted"


def test_rows_that_the_queue_lacks_are_estimated(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    """Such rows exist after a load with triggers off. Rows without a text are not pending."""
    owner.execute("update big set body = null where mod(id, 4) = 0")
    owner.execute("delete from embedding.queue where mod(row_id::int, 4) = 0 or row_id::int > 40000")
    assert covered(database).pending == close(75_000)
    found = estimate(database, provider, "big")
    assert (found.rows, found.texts) == (close(75_000), close(75_000))
    assert found.tokens == close(75_000 * 4)


def test_an_estimate_says_that_rows_were_sampled(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeProvider, "counts_exactly", True)
    found = estimate(database, provider, "big")
    assert (found.rows, found.rows_estimated, found.counted) == (ROWS, True, "estimated")
    assert (found.texts, found.tokens) == (close(ROWS), close(4 * ROWS))
    assert f"1,000 of about {found.texts:,} texts" in found.method
    row = database.call_scalar("estimate_embeddings", {"collection": "big", "model": "fake"})
    assert row["characters"] == close(exact(owner, "select sum(char_length(body)) from big"))


def test_a_long_queue_of_a_small_table_is_estimated_too(owner: Connection, database: PostgresDatabase) -> None:
    owner.execute("delete from big where id > 25000")
    owner.execute("delete from embedding.queue where row_id::int > 25000")
    owner.execute("alter table big set (fillfactor = 100)")
    owner.execute("vacuum full big")
    ask = {"collection": "big", "model": "fake"}
    assert not coverage_of(database, "big").estimated
    found = database.call_scalar("estimate_embeddings", ask)
    assert (found["rows"], found["texts"], found["estimated"]) == (25_000, 25_000, True)
    owner.execute("delete from big where id > 19000")
    owner.execute("delete from embedding.queue where row_id::int > 19000")
    found = database.call_scalar("estimate_embeddings", ask)
    assert (found["rows"], found["texts"], found["estimated"]) == (19_000, 19_000, False)


def test_texts_that_have_a_vector_already_are_not_estimated(owner: Connection, database: PostgresDatabase) -> None:
    owner.execute("update big set body = 'song ' || mod(id, 50000) where mod(id, 5) > 0")
    owner.execute(f"{EMBED} where id <= 50000")
    owner.execute("delete from embedding.queue where row_id::int <= 50000")
    found = database.call_scalar("estimate_embeddings", {"collection": "big", "model": "fake"})
    assert (found["rows"], found["texts"]) == (50_000, close(10_000))
    assert all(text.startswith("a song, number") for text in found["sample"])


def test_a_switch_of_a_large_table_is_estimated(owner: Connection, database: PostgresDatabase) -> None:
    owner.execute(EMBED)
    owner.execute("delete from embedding.queue")
    found = estimate(database, FakeProvider("other"), "big", switching=True)
    assert (found.rows, found.texts, found.tokens) == (close(ROWS), close(ROWS), close(4 * ROWS))
    assert covered(database).pending == 0


def test_coverage_and_estimate_do_not_read_the_whole_table(owner: Connection, connect: Connect) -> None:
    owner.execute("delete from embedding.queue where mod(row_id::int, 2) = 0")
    worker = connect(autocommit=False)
    worker.execute("set role service_role")
    for call in ("embedding_coverage()", "estimate_embeddings('big', 'fake')"):
        with watch(worker, "big") as table:
            worker.execute(f"select * from {call}")
        assert 0 < table.sequential + table.indexed < 0.8 * ROWS, (call, table.sequential, table.by_index)
        worker.commit()


def test_a_large_table_that_cannot_be_read_is_named_with_the_fix(owner: Connection, database: PostgresDatabase) -> None:
    owner.execute(f"{EMBED} where id <= 50000")
    owner.execute("alter table big drop column body cascade")
    with pytest.raises(DatabaseRejected, match="track_embeddings"):
        database.call("estimate_embeddings", {"collection": "big", "model": "fake"})
    found = covered(database)
    assert (found.embedded, found.pending) == (close(50_000), ROWS)
    owner.execute("alter table big drop column embedding_model cascade")
    assert (covered(database).embedded, covered(database).pending) == (0, ROWS)
    with pytest.raises(DatabaseRejected, match="track_embeddings"):
        database.call("estimate_embeddings", {"collection": "big", "model": "fake"})
    assert Collection(database, "big").embedding_queue().pending == ROWS


TABLE = 1_000_000
NUMBERS = np.arange(TABLE)
RANDOM = np.random.default_rng(7)
TEXTS = {
    "unique": NUMBERS,
    "equal": np.zeros(TABLE, int),
    "pairs side by side": NUMBERS // 2,
    "pairs": RANDOM.permutation(NUMBERS // 2),
    "ten of each": RANDOM.permutation(NUMBERS // 10),
    "three hundred of each": RANDOM.permutation(NUMBERS // 300),
    "half of them equal": np.where(NUMBERS % 2 == 0, 0, NUMBERS),
    "half of them one of 1,000": np.where(RANDOM.random(TABLE) < 0.5, RANDOM.integers(0, 1000, TABLE), NUMBERS),
}


@pytest.mark.parametrize(
    ("kind", "sample"), [*((kind, 1000) for kind in TEXTS), ("unique", 200), ("half of them one of 1,000", 200)]
)
def test_the_number_of_distinct_texts_is_estimated_from_a_sample(owner: Connection, kind: str, sample: int) -> None:
    texts = TEXTS[kind].reshape(-1, 50)
    sampled = np.random.default_rng(1).choice(len(texts), sample, replace=False)
    in_blocks = np.concatenate([np.unique(texts[block]) for block in sampled])
    _, blocks = np.unique(in_blocks, return_counts=True)
    estimated = owner.execute(
        "select embedding.distinct_texts(%s, %s)", [blocks.tolist(), len(texts) / sample]
    ).fetchone()
    assert estimated is not None
    assert estimated[0] == pytest.approx(len(np.unique(texts)), rel=0.15)
