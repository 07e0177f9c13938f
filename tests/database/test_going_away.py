"""Tests what a command reports after the database has gone away."""

import importlib
from pathlib import Path

import pytest

from shared.database.postgres import PostgresDatabase
from shared.embedding.backfill import BackfillOutcome
from shared.embedding.collection import Collection
from shared.errors import DatabaseUnavailable
from shared.models import BackfillReport, QueueState


def test_an_unreachable_database_is_not_reported_as_zero_pending_rows(
    database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "scripts"))
    report = BackfillReport("music_knowledge", "a-model", 5, 5, 0, 0, 0, 0, 9, 0.0, 1.0)
    unknown = QueueState(ready=0, leased=0, waiting=0, failed=0)
    outcome = BackfillOutcome(report, unknown, error=DatabaseUnavailable("nothing listens there"))
    code = importlib.import_module("backfill").explain(Collection(database, "music_knowledge"), outcome)
    assert (code, capsys.readouterr().err) == (1, "error: nothing listens there\n")
