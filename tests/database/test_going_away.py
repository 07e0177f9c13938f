"""Tests what remains after a server or a process has ended."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared.database.postgres import PostgresDatabase
from shared.embedded.server import start_embedded
from shared.embedding.backfill import BackfillOutcome
from shared.embedding.collection import Collection
from shared.errors import DatabaseUnavailable
from shared.models import BackfillReport, QueueState
from tests.postgres_cluster import Cluster


def test_a_killed_process_does_not_keep_the_embedded_server_running(cluster: Cluster) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    handles = cluster._server.global_process_id_list
    handles.put([gone.pid, os.getpid()])
    start_embedded(cluster._directory)
    assert handles._get() == [os.getpid()], "the last process would not stop the server"


def test_an_unreachable_database_is_not_reported_as_zero_pending_rows(
    database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "scripts"))
    report = BackfillReport("music_knowledge", "a-model", 5, 5, 0, 0, 0, 0, 9, 0.0, 1.0)
    unknown = QueueState(ready=0, leased=0, waiting=0, failed=0)
    outcome = BackfillOutcome(report, unknown, error=DatabaseUnavailable("nothing listens there"))
    code = importlib.import_module("backfill").explain(Collection(database, "music_knowledge"), outcome)
    assert (code, capsys.readouterr().err) == (1, "error: nothing listens there\n")
