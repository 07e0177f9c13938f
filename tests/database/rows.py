"""Helpers that write rows of music_knowledge and read their queue entries."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import psycopg

from shared.database.base import Database
from shared.embedding.collection import Collection, embedding_coverage
from shared.models import ClaimedRow, Coverage
from tests.fake_provider import FakeProvider

Connection = psycopg.Connection[Any]
MUSIC = "music_knowledge"
# The number of rows of the table `live`.
LIVE_ROWS = 8_000
Result = TypeVar("Result")


def add(connection: Connection, *contents: str) -> list[str]:
    """Insert rows with these texts, without topic and category; return their ids."""
    rows = connection.execute(
        "insert into music_knowledge (topic, content) select '', t.content"
        " from unnest(%s::text[]) with ordinality t (content, place) order by t.place returning id::text",
        [list(contents)],
    )
    return [row[0] for row in rows]


def edit(connection: Connection, row_id: str, content: str) -> None:
    connection.execute("update music_knowledge set content = %s where id = %s", [content, row_id])


def save(work: Collection, provider: FakeProvider, rows: Sequence[ClaimedRow]) -> tuple[int, int]:
    """Embed and save claimed rows: (saved, stale)."""
    return work.save_embeddings(provider.model, rows, provider.embed_documents([row.text for row in rows]))


def embed_all(work: Collection, provider: FakeProvider) -> int:
    """Embed all rows in one thread, like a backfill; returns the number of saved rows."""
    total = 0
    while rows := work.claim_embeddings(1000, 60):
        total += save(work, provider, rows)[0]
    return total


def coverage_of(database: Database, collection: str = MUSIC) -> Coverage:
    """The coverage of one collection."""
    return {one.collection: one for one in embedding_coverage(database)}[collection]


def vector_of(connection: Connection, row_id: str, table: str = MUSIC) -> tuple[Any, ...]:
    """(embedding, embedding_model, embedding_hash) of a row."""
    found = connection.execute(
        f"select embedding::text, embedding_model, encode(embedding_hash, 'hex') from {table} where id::text = %s",
        [row_id],
    ).fetchone()
    assert found is not None
    return found


def queued(connection: Connection, collection: str = MUSIC) -> set[str]:
    """Ids of every row in the queue, failed ones too."""
    rows = connection.execute(
        "select q.row_id from embedding.queue q join embedding.collections c on c.id = q.collection_id where c.name = %s",
        [collection],
    )
    return {row[0] for row in rows}


def missing_indexes(connection: Connection, collection: str = "live") -> list[str]:
    """The statements that build the indexes which a large table lacks."""
    return [row[0] for row in connection.execute("select embedding.missing_indexes(%s)", [collection]).fetchall()]


def entry(connection: Connection, row_id: str) -> dict[str, Any] | None:
    """The queue entry of a row."""
    found = connection.execute(
        "select to_jsonb(q) || jsonb_build_object('wait', extract(epoch from q.available_at - clock_timestamp()))"
        " from embedding.queue q where q.row_id = %s",
        [row_id],
    ).fetchone()
    return found[0] if found else None


def end_leases(connection: Connection) -> None:
    """Make every lease expire."""
    connection.execute(
        "update embedding.queue set available_at = now() - interval '1 second' where leased_at is not null"
    )


def end_waits(connection: Connection) -> None:
    """Make every backoff end."""
    connection.execute("update embedding.queue set available_at = now() - interval '1 second' where failed_at is null")


def wait_until_blocked(connection: Connection, pid: int | None = None) -> None:
    """Wait until a backend (the given one, or any of this database) is blocked by a lock."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        waiting = connection.execute(
            "select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        ).fetchall()
        if waiting and (pid is None or (pid,) in waiting):
            return
        time.sleep(0.01)
    raise AssertionError("no session waits for the lock")


class InThread(Generic[Result]):
    """Runs a function in a thread; `result()` waits for it and raises what it raised."""

    def __init__(self, function: Callable[[], Result]) -> None:
        self._function = function
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._function()
        except BaseException as error:  # noqa: BLE001 - raised again in the test's own thread
            self._error = error

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def result(self, timeout: float = 30) -> Result:
        self._thread.join(timeout)
        assert not self._thread.is_alive(), "still running"
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]
