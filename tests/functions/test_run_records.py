"""The record of a run that has ended does not change."""

import uuid

import pytest

from functions.services import Services
from functions.worker import run
from shared.database.postgres import PostgresDatabase
from shared.embedding.runs import record_run
from tests.conftest import Connection
from tests.fake_provider import FakeProvider
from tests.functions.conftest import Insert, make_settings
from tests.functions.test_tasks import SCHEDULE, Context


def test_a_task_that_is_delivered_again_after_its_end_keeps_its_record(
    database: PostgresDatabase, provider: FakeProvider, insert: Insert, owner: Connection
) -> None:
    services = Services(make_settings(), database=database, provider=provider)
    for collection in ("music_knowledge", None):
        insert(f"a harp {collection}")
        event = {"task_id": str(uuid.uuid4()), "collection": collection}
        assert run(event, Context(60), services)["embedded"] == 1
        read = "select to_jsonb(r) from embedding.runs r order by r.started_at"
        recorded = owner.execute(read).fetchall()
        insert(f"another harp {collection}")
        again = run(event, Context(60), services)
        assert (again["status"], again["embedded"]) == ("completed", 0)
        assert owner.execute(read).fetchall() == recorded
        assert run(SCHEDULE, Context(60), services)["embedded"] == 1


@pytest.mark.parametrize("status", ["running", "queued", "completed", "failed"])
def test_a_late_report_does_not_change_a_run_that_has_ended(
    database: PostgresDatabase, owner: Connection, status: str
) -> None:
    run_id = record_run(database, None, None, "queued")
    counts = {"processed": 400, "embedded": 400, "tokens": 11_275}
    assert record_run(database, run_id, None, "running", counts) == run_id
    assert record_run(database, run_id, None, "completed", counts) == run_id
    read = "select r::text from embedding.runs r"
    before = owner.execute(read).fetchall()
    assert record_run(database, run_id, None, status, {"error": "late"}) is None
    assert owner.execute(read).fetchall() == before
