"""Tests rows that are written, changed or deleted during a backfill."""

import threading
import time
from collections.abc import Callable
from typing import Any

from shared.database.base import Database
from shared.database.postgres import PostgresDatabase
from shared.embedding.backfill import BackfillOptions, Progress, backfill
from shared.embedding.collection import Collection
from tests.database.backfill_rows import Run, texts
from tests.database.rows import MUSIC, Connection, InThread, add, edit, embed_all, queued, vector_of
from tests.fake_provider import FakeProvider


def test_a_text_changed_during_its_provider_call_is_embedded_again(
    owner: Connection, run: Run, provider: FakeProvider, work: Collection
) -> None:
    (row_id, *_) = add(owner, *texts(5))
    provider.wire.gate = threading.Event()
    running = InThread(run)
    assert provider.wire.arrived.wait(10)
    edit(owner, row_id, "changed in the meantime")
    provider.wire.gate.set()
    report = running.result().report
    assert (report.processed, report.embedded, report.stale) == (6, 5, 1)
    assert "changed in the meantime" in provider.wire.texts
    assert queued(owner) == set()
    assert work.verify_embeddings() == 0


class _Between(Database):
    """A database that runs a function after the first read of the queue, before the result is returned."""

    def __init__(self, database: Database, happen: Callable[[], object]) -> None:
        self._database, self._happen = database, happen
        self._happened = False
        self.saved = threading.Event()

    def _call(self, function: str, arguments: dict[str, Any]) -> list[Any]:
        rows = self._database.call(function, arguments)
        if function == "save_embeddings":
            self.saved.set()
        if function == "embedding_queue" and not self._happened:
            self._happened = True
            self._happen()
        return rows

    def close(self) -> None: ...


def test_a_row_released_after_the_run_looked_at_the_queue_is_embedded_in_the_same_run(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    (row_id,) = add(owner, "a text")
    provider.wire.gate = threading.Event()

    def come_back() -> None:
        assert provider.wire.arrived.wait(10)
        edit(owner, row_id, "another text")
        assert provider.wire.gate is not None
        provider.wire.gate.set()
        assert between.saved.wait(10)
        # The thread that saved the row releases it.
        time.sleep(0.2)

    between = _Between(database, come_back)
    # A run with a limit does not wait for leased rows; that wait would find the row too.
    outcome = backfill(between, provider, BackfillOptions(MUSIC, workers=1, limit=10))
    assert (outcome.report.stale, outcome.report.embedded, outcome.left.pending) == (1, 1, 0)


def test_a_row_deleted_during_its_provider_call_is_stale(owner: Connection, run: Run, provider: FakeProvider) -> None:
    (row_id, *_) = add(owner, *texts(5))
    provider.wire.gate = threading.Event()
    running = InThread(run)
    assert provider.wire.arrived.wait(10)
    owner.execute("delete from music_knowledge where id = %s", [row_id])
    provider.wire.gate.set()
    outcome = running.result()
    assert (outcome.report.embedded, outcome.report.stale, outcome.complete) == (4, 1, True)


def test_a_run_that_starts_empty_and_gets_rows_is_recorded(
    owner: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    class Late(_Between):
        def _call(self, function: str, arguments: dict[str, Any]) -> list[Any]:
            if function == "claim_embeddings" and not self._happened:
                self._happened = True
                self._happen()
            return self._database.call(function, arguments)

    late = Late(database, lambda: add(owner, "a text"))
    assert backfill(late, provider, BackfillOptions(MUSIC)).report.embedded == 1
    assert owner.execute("select status, embedded from embedding.runs").fetchall() == [("completed", 1)]


def test_rows_written_during_a_run_are_embedded(
    owner: Connection, run: Run, provider: FakeProvider, work: Collection
) -> None:
    add(owner, *texts(20))
    provider.wire.delay = 0.3
    late: list[str] = []

    def progress(_: Progress) -> None:
        if not late:
            late.extend(add(owner, *texts(15, "late")))

    assert run(on_progress=progress).report.embedded == 35
    assert vector_of(owner, late[0])[1] == "fake"
    assert embed_all(work, provider) == 0
