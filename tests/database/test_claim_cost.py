"""Invariant 6: claiming costs the same at a thousand rows and at ten million.

Plans inside plpgsql can only be shown with auto_explain, which the embedded build lacks. These tests read
pg_stat_xact_* instead, which counts the tuples that the current transaction read from each table and index.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest
from pydantic import SecretStr

from tests.database.rows import Connection
from tests.fake_provider import DIMENSIONS
from tests.postgres_cluster import Cluster

ROWS = 50_000
BATCH = 50
Connect = Callable[..., Connection]


class Reads:
    """The tuples of a table that a block read: by sequential scans, and by each index."""

    sequential = 0
    by_index: dict[str, int]

    @property
    def indexed(self) -> int:
        return sum(self.by_index.values())


@contextmanager
def watch(connection: Connection, table: str) -> Iterator[Reads]:
    """Count the reads of a block. The session sends its counters first, which it does only outside of a transaction."""
    found = Reads()
    before = _counters(connection, table)
    yield found
    after = _counters(connection, table)
    found.sequential = after.pop("") - before.pop("")
    found.by_index = {name: count - before[name] for name, count in after.items()}


def _counters(connection: Connection, table: str) -> dict[str, int]:
    rows = connection.execute(
        """select '', pg_stat_get_xact_tuples_returned(%(table)s::regclass)
        union all
        select r.relname, pg_stat_get_xact_tuples_returned(i.indexrelid)
        from pg_index i join pg_class r on r.oid = i.indexrelid where i.indrelid = %(table)s::regclass""",
        {"table": table},
    )
    return {name: count or 0 for name, count in rows.fetchall()}


@contextmanager
def look_ups(connection: Connection, *, at_most: int) -> Iterator[Reads]:
    """Assert that the block scans neither the queue nor the table, and reads at most `at_most` of their index entries.

    A few look-ups per row are allowed: to lock it, to write it, and to skip versions that the claim left.
    """
    with watch(connection, "embedding.queue") as queue, watch(connection, "music_knowledge") as table:
        yield queue
    for name, found in (("queue", queue), ("table", table)):
        assert found.sequential == 0, f"a sequential scan of the {name}"
        assert found.indexed <= at_most, f"{name}: {found.by_index}"


@pytest.fixture(scope="module")  # it is made once, and each test gets a copy
def filled(cluster: Cluster) -> Iterator[SecretStr]:
    """A database with 50,000 pending rows and no planner statistics."""
    with cluster.clone() as url:
        with psycopg.connect(url.get_secret_value(), autocommit=True) as owner:
            owner.execute("select register_embedding_model('fake', 'fake', %s)", [DIMENSIONS])
            owner.execute("select embedding.check_model(embedding.get_collection('music_knowledge'), 'fake')")
            owner.execute(
                "insert into music_knowledge (topic, content) select '', 'text ' || n from generate_series(1, %s) n",
                [ROWS],
            )
        yield url


@pytest.fixture
def database_url(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[SecretStr]:
    """A copy of the filled database for tests marked `full`."""
    full = request.node.get_closest_marker("usefixtures")
    with cluster.copy(request.getfixturevalue("filled")) if full else cluster.clone() as url:
        yield url


full = pytest.mark.usefixtures("filled")


def claim(connection: Connection, size: int = BATCH) -> list[tuple[str, str]]:
    rows = connection.execute(
        "select row_id, text_hash from claim_embeddings('music_knowledge', %s)", [size]
    ).fetchall()
    assert len(rows) == size
    return rows


@full
@pytest.mark.parametrize("analyzed", [False, True])
def test_a_claim_reads_only_its_batch(connect: Connect, owner: Connection, analyzed: bool) -> None:
    if analyzed:
        owner.execute("analyze embedding.queue, music_knowledge")
    worker = connect(autocommit=False)
    worker.execute("set role service_role")
    with look_ups(worker, at_most=6 * BATCH) as queue:
        claim(worker)
    assert queue.by_index["queue_claimable"] == BATCH, "the head of the index, no further"
    assert queue.by_index["queue_failed"] == 0


@full
def test_a_claim_calls_only_document_text_for_each_row(connect: Connect) -> None:
    """A call of a function that sets search_path takes 5 microseconds."""
    worker = connect(autocommit=False)
    worker.execute("set track_functions = 'all'")
    claim(worker)
    calls = dict(worker.execute("select funcname, calls from pg_stat_xact_user_functions").fetchall())
    assert calls.pop("document_text") == BATCH
    assert sum(calls.values()) <= 10, calls


def test_a_claim_reads_only_its_batch_after_earlier_claims_of_an_empty_queue(
    owner: Connection, connect: Connect
) -> None:
    """A cached plan would be that for an empty queue, which is a sequential scan."""
    owner.execute(
        "vacuum analyze embedding.queue, music_knowledge"
    )  # like autovacuum: the planner then knows that they are empty
    worker = connect(autocommit=False)
    for _ in range(8):
        assert worker.execute("select * from claim_embeddings('music_knowledge')").fetchall() == []
        assert worker.execute("select has_ready_embeddings()").fetchall() == [(False,)]
        worker.execute("select * from release_embeddings('music_knowledge', '{}')")
        worker.execute("select * from renew_embeddings('music_knowledge', '{}')")
        worker.execute("select * from fail_embeddings('music_knowledge', '[]')")
    worker.commit()
    owner.execute("select register_embedding_model('fake', 'fake', %s)", [DIMENSIONS])
    for _ in range(8):
        worker.execute("select * from save_embeddings('music_knowledge', 'fake', '[]')")
    worker.commit()
    owner.execute(
        "insert into music_knowledge (topic, content) select '', 'text ' || n from generate_series(1, 20000) n"
    )
    with look_ups(worker, at_most=10):
        assert worker.execute("select has_ready_embeddings()").fetchall() == [(True,)]
    with look_ups(worker, at_most=6 * BATCH):
        rows = claim(worker)
    worker.commit()
    settle_everything(worker, rows)
    # Without a claimable row, a claim does not read the waiting rows either.
    owner.execute("update embedding.queue set leased_at = now(), available_at = now() + interval '1 hour'")
    # The first call marks dead index entries of that update. (A vacuum would invalidate the plans of every session.)
    owner.execute("select * from claim_embeddings('music_knowledge')")
    with look_ups(worker, at_most=BATCH):
        assert worker.execute("select * from claim_embeddings('music_knowledge')").fetchall() == []


@full
def test_has_ready_embeddings_reads_few_index_entries(owner: Connection, connect: Connect) -> None:
    """With all rows leased, failed or ready, it reads at most ten pending rows at each end of their index."""
    worker = connect(autocommit=False)
    worker.execute("set role service_role")
    for change in ("leased_at = now(), available_at = now() + interval '1 hour'", "failed_at = now()"):
        owner.execute(f"update embedding.queue set {change}")
        owner.execute("vacuum analyze embedding.queue")
        for _ in range(8):
            with look_ups(worker, at_most=20):
                assert worker.execute("select has_ready_embeddings()").fetchall() == [(False,)]
        worker.commit()
    owner.execute("update embedding.queue set failed_at = null, available_at = now() - interval '1 day'")
    owner.execute("vacuum embedding.queue")
    with look_ups(worker, at_most=10):
        assert worker.execute("select has_ready_embeddings()").fetchall() == [(True,)]


@full
def test_a_claim_does_not_read_failed_and_waiting_rows(owner: Connection, connect: Connect) -> None:
    owner.execute(
        "update embedding.queue set failed_at = now(), available_at = now() - interval '1 day' where row_id < '4'"
    )
    owner.execute(
        "update embedding.queue set leased_at = now(), available_at = now() + interval '1 hour' where row_id > 'c'"
    )
    owner.execute("vacuum embedding.queue")
    worker = connect(autocommit=False)
    with look_ups(worker, at_most=6 * BATCH) as queue:
        claim(worker)
    assert queue.by_index["queue_claimable"] == BATCH


@full
@pytest.mark.parametrize("analyzed", [False, True])
def test_save_fail_release_and_renew_look_up_their_rows(connect: Connect, owner: Connection, analyzed: bool) -> None:
    if analyzed:
        owner.execute("analyze embedding.queue, music_knowledge")
    worker = connect(autocommit=False)
    worker.execute("set role service_role")
    rows = claim(worker)
    worker.commit()
    settle_everything(worker, rows)


def settle_everything(worker: Connection, rows: list[tuple[str, str]]) -> None:
    """Renew, release, fail and save claimed rows, and check the reads."""
    ids = [row_id for row_id, _ in rows]
    with look_ups(worker, at_most=6 * BATCH):
        worker.execute("select * from renew_embeddings('music_knowledge', %s)", [ids])
    with look_ups(worker, at_most=6 * BATCH):
        worker.execute("select * from release_embeddings('music_knowledge', %s)", [ids[:10]])
    failed = "select jsonb_agg(jsonb_build_object('row_id', i, 'error', 'x')) from unnest(%s::text[]) i"
    with look_ups(worker, at_most=6 * BATCH):
        worker.execute(f"select * from fail_embeddings('music_knowledge', ({failed}))", [ids[10:20]])
    worker.commit()
    changed = [(row_id, "00" * 32) for row_id, _ in rows[20:25]]
    with look_ups(worker, at_most=8 * BATCH):
        found = save(worker, changed + rows[25:])
    assert found == (len(ids) - 25, 5)
    worker.commit()


@full
def test_a_save_reads_only_its_batch_while_the_statistics_know_no_vector(connect: Connect, owner: Connection) -> None:
    """The first vectors of a large table come after its last ANALYZE, which found the index on embedding_hash empty."""
    owner.execute("analyze music_knowledge")
    worker = connect(autocommit=False)
    worker.execute("set role service_role")
    for _ in range(3):
        save(worker, claim(worker, 500))
        worker.commit()
    rows = claim(worker)
    worker.commit()
    with look_ups(worker, at_most=8 * BATCH):
        assert save(worker, rows) == (BATCH, 0)


def save(worker: Connection, rows: list[tuple[str, str]]) -> tuple[int, int]:
    """Save the same vector for each of these rows."""
    found = worker.execute(
        """select saved, stale from save_embeddings('music_knowledge', 'fake', (
            select jsonb_agg(jsonb_build_object('row_id', r.id, 'text_hash', r.hash, 'embedding', v.embedding))
            from unnest(%s::text[], %s::text[]) r(id, hash),
                 (select '[' || string_agg('1', ',') || ']' as embedding from generate_series(1, %s)) v))""",
        [[row_id for row_id, _ in rows], [text_hash for _, text_hash in rows], DIMENSIONS],
    ).fetchone()
    assert found is not None
    return found


@full
def test_reuse_looks_texts_up_by_their_hash(connect: Connect, owner: Connection) -> None:
    worker = connect(autocommit=False)
    rows = claim(worker)
    worker.commit()
    settle_everything(worker, rows)
    owner.execute(
        "update music_knowledge set content = 'text 1'"
        " where id in (select id from music_knowledge where embedding is null limit 20)"
    )
    owner.execute("analyze music_knowledge")
    again = claim(worker)
    worker.commit()
    wanted = (
        "select jsonb_agg(jsonb_build_object('row_id', r.id, 'text_hash', r.hash))"
        " from unnest(%s::text[], %s::text[]) r(id, hash)"
    )
    with look_ups(worker, at_most=8 * BATCH):
        worker.execute(
            f"select * from reuse_embeddings('music_knowledge', 'fake', ({wanted}))",
            [[row_id for row_id, _ in again], [text_hash for _, text_hash in again]],
        )


def test_vector_search_uses_the_index(owner: Connection, connect: Connect) -> None:
    owner.execute("select register_embedding_model('fake', 'fake', 8)")
    owner.execute("alter table music_knowledge disable trigger user")
    owner.execute(
        """insert into music_knowledge (topic, embedding, embedding_model)
        select 'row ' || n, array(select sin(n * d) from generate_series(1, 8) d)::float4[]::extensions.vector, 'fake'
        from generate_series(1, 3000) n"""
    )
    owner.execute("alter table music_knowledge enable trigger user")
    owner.execute("select embedding.check_model(embedding.get_collection('music_knowledge'), 'fake')")
    index = owner.execute("select create_embedding_index('music_knowledge')").fetchone()
    assert index
    owner.execute("analyze music_knowledge")
    caller = connect(autocommit=False)
    caller.execute("set local enable_seqscan = off")
    caller.execute("set local role anon")
    with watch(caller, "music_knowledge") as table:
        hits = caller.execute(
            "select id from search_music_knowledge(query_embedding => '[1,0,0,0,0,0,0,1]', match_count => 5)"
        ).fetchall()
    assert len(hits) == 5
    assert table.by_index[index[0]] > 0
