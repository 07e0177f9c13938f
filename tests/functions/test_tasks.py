"""Tests runs that a request or a schedule starts in the background."""

import threading
import time
import uuid
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from functions.services import Services
from functions.worker import run, time_limit
from shared.database.postgres import PostgresDatabase
from shared.embedding import run_queue
from shared.embedding import runs as runs_module
from shared.embedding.embedding_job import EmbeddingJob
from shared.embedding.model_providers import ModelProviders
from shared.embedding.run_queue import RunQueue
from shared.embedding.runs import Runs, Task
from shared.errors import InvalidRequest, Overloaded
from tests.conftest import Connection
from tests.fake_provider import FakeProvider
from tests.functions.conftest import KEYS, Insert, Output, Serve, make_settings

COUNTS = {"processed", "embedded", "failed", "stale", "reused", "truncated", "tokens", "cost_usd"}


def start(client: httpx.Client, **body: Any) -> str:
    answer = client.post("/api/tasks/generate-embeddings", json=body, headers=KEYS)
    assert answer.status_code == 202, answer.text
    accepted = answer.json()
    assert (accepted["task_name"], accepted["status"]) == ("generate-embeddings", "queued")
    return str(accepted["task_id"])


def look(client: httpx.Client, task_id: str) -> dict[str, Any]:
    body: dict[str, Any] = client.get(f"/api/tasks/{task_id}", headers=KEYS).json()
    return body


def wait_for(client: httpx.Client, task_id: str, *statuses: str) -> dict[str, Any]:
    deadline = time.monotonic() + 30
    while (task := look(client, task_id))["status"] not in statuses:
        assert time.monotonic() < deadline, task
        time.sleep(0.05)
    return task


@pytest.mark.parametrize("body", [{}, {"collection": "music_knowledge", "batch_size": 2}])
def test_a_task_is_answered_at_once_and_embeds_everything(
    client: httpx.Client, insert: Insert, provider: FakeProvider, body: dict[str, Any]
) -> None:
    for number in range(5):
        insert(f"text {number}")
    insert("poison")
    provider.wire.refuses.add("poison")
    gate = provider.wire.gate = threading.Event()
    task_id = start(client, **body)
    assert wait_for(client, task_id, "running")["result"] is None
    gate.set()
    task = wait_for(client, task_id, "completed")
    assert task["collection"] == body.get("collection")
    assert set(task["result"]) == COUNTS
    assert (task["result"]["processed"], task["result"]["embedded"], task["result"]["failed"]) == (6, 5, 1)
    assert task["model"] == "fake"
    assert task["finished_at"] is not None
    collections = client.get("/api/collections", headers=KEYS).json()["collections"]
    (collection,) = [one for one in collections if one["collection"] == "music_knowledge"]
    assert (collection["embedded"], collection["failed"], collection["total"]) == (5, 1, 6)
    assert "refused" in collection["failures"][0]["error"]


def test_a_task_for_an_untracked_collection_is_refused(client: httpx.Client, owner: Connection) -> None:
    answer = client.post("/api/tasks/generate-embeddings", json={"collection": "nothing"}, headers=KEYS)
    assert answer.status_code == 404
    assert owner.execute("select count(*) from embedding.runs").fetchone() == (0,)


def test_an_unknown_task_is_not_found(client: httpx.Client) -> None:
    assert client.get(f"/api/tasks/{uuid.uuid4()}", headers=KEYS).status_code == 404
    assert client.get("/api/tasks/7", headers=KEYS).status_code == 422


def test_a_task_fails_with_the_reason_when_the_model_of_the_collection_has_no_provider(
    client: httpx.Client, insert: Insert, owner: Connection
) -> None:
    insert("a harp")
    owner.execute("select register_embedding_model('another', 'fake', 16)")
    owner.execute("select embedding.check_model(embedding.get_collection('music_knowledge'), 'another')")
    task = wait_for(client, start(client, collection="music_knowledge"), "failed")
    assert "another" in task["error"]
    assert "fake" in task["error"]


@pytest.mark.parametrize("status", ["running", "queued"])
def test_a_silent_run_is_shown_as_crashed(client: httpx.Client, owner: Connection, status: str) -> None:
    row = owner.execute(
        "insert into embedding.runs (status, reported_at) values (%s, now() - interval '121 seconds') returning id::text",
        [status],
    ).fetchone()
    assert row is not None
    assert look(client, str(row[0]))["status"] == "crashed"
    owner.execute("update embedding.runs set reported_at = now() - interval '60 seconds'")
    assert look(client, str(row[0]))["status"] == status
    owner.execute("update embedding.runs set reported_at = now() - interval '1 day', status = 'completed'")
    assert look(client, str(row[0]))["status"] == "completed"


class CountingJob(EmbeddingJob):
    """Counts how often the schedule asks whether there is work."""

    asked = 0

    def has_work(self) -> bool:
        self.asked += 1
        return super().has_work()


def make_job(database: PostgresDatabase, provider: FakeProvider) -> CountingJob:
    return CountingJob(database, ModelProviders(lambda: provider), {"fake": 2})


def make_queue(database: PostgresDatabase, provider: FakeProvider, **options: Any) -> RunQueue:
    return RunQueue(Runs(database), make_job(database, provider), **options)


def test_a_server_that_stops_ends_its_tasks_cleanly(
    database: PostgresDatabase, provider: FakeProvider, insert: Insert, owner: Connection
) -> None:
    for number in range(40):
        insert(f"text {number}")
    gate = provider.wire.gate = threading.Event()
    queue = make_queue(database, provider)
    runs = Runs(database)
    running = runs.start(queue, "music_knowledge", 5)
    waiting = runs.start(queue, None, 5)
    assert provider.wire.arrived.wait(10)
    threading.Timer(0.3, gate.set).start()
    queue.close()
    assert runs.get(running.task_id)["status"] == "interrupted"
    assert runs.get(waiting.task_id)["status"] == "interrupted"
    assert owner.execute("select count(*) from embedding.queue where leased_at is not null").fetchone() == (0,)
    done = runs.get(running.task_id)["embedded"]
    assert 0 < done < 40, "running requests are finished, the other rows are released"
    assert owner.execute("select count(*) from embedding.queue").fetchone() == (40 - done,)


@pytest.mark.parametrize("collection", [None, "music_knowledge"])
def test_a_task_that_waits_longer_than_two_minutes_is_not_shown_as_crashed(
    database: PostgresDatabase,
    provider: FakeProvider,
    insert: Insert,
    owner: Connection,
    monkeypatch: pytest.MonkeyPatch,
    collection: str | None,
) -> None:
    assert run_queue.HEARTBEAT_SECONDS <= 60, "twice within the 120 s of silence after which a run has crashed"
    monkeypatch.setattr(run_queue, "HEARTBEAT_SECONDS", 0.0)
    insert("a harp")
    gate = provider.wire.gate = threading.Event()
    queue = make_queue(database, provider)
    runs = Runs(database)
    try:
        runs.start(queue, "music_knowledge")
        assert provider.wire.arrived.wait(30)
        task_id = runs.start(queue, collection).task_id
        owner.execute("update embedding.runs set reported_at = now() - interval '10 minutes' where id = %s", [task_id])
        deadline = time.monotonic() + 30
        while (status := runs.get(task_id)["status"]) == "crashed":
            assert time.monotonic() < deadline, "nothing says that the task waits"
            time.sleep(0.05)
        assert status == "queued"
    finally:
        gate.set()
        queue.close()


def test_a_run_over_all_collections_is_reported_on_while_the_provider_computes(
    database: PostgresDatabase,
    provider: FakeProvider,
    insert: Insert,
    owner: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runs_module, "REPORT_SECONDS", 0.05)
    insert("a harp")
    gate = provider.wire.gate = threading.Event()
    queue = make_queue(database, provider)
    runs = Runs(database)
    try:
        task_id = runs.start(queue).task_id
        assert provider.wire.arrived.wait(30)
        owner.execute("update embedding.runs set reported_at = now() - interval '10 minutes' where id = %s", [task_id])
        deadline = time.monotonic() + 30
        while runs.get(task_id)["status"] == "crashed":
            assert time.monotonic() < deadline, "nothing reports that the run is active"
            time.sleep(0.05)
        assert runs.get(task_id)["status"] == "running"
    finally:
        gate.set()
        queue.close()
    assert runs.get(task_id)["embedded"] == 1


def test_a_server_embeds_pending_rows_by_its_own_schedule(
    database: PostgresDatabase, provider: FakeProvider, insert: Insert, owner: Connection
) -> None:
    insert("a harp")
    queue = make_queue(database, provider, every=0.5)
    deadline = time.monotonic() + 15
    while owner.execute("select count(*) from embedding.queue").fetchone() != (0,):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    queue.close()


def test_a_schedule_queues_nothing_while_its_last_run_is_under_way(
    database: PostgresDatabase, provider: FakeProvider, insert: Insert, owner: Connection
) -> None:
    insert("a harp")
    gate = provider.wire.gate = threading.Event()
    job = make_job(database, provider)
    queue = RunQueue(Runs(database), job, every=0.1)
    assert provider.wire.arrived.wait(15)
    time.sleep(2.5)
    assert job.asked == 1
    gate.set()
    deadline = time.monotonic() + 15
    while job.asked < 2:
        assert time.monotonic() < deadline, "it continues after that"
        time.sleep(0.05)
    queue.close()


def test_the_schedule_continues_after_an_exception_and_a_full_queue(
    database: PostgresDatabase,
    provider: FakeProvider,
    insert: Insert,
    owner: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    insert("a harp")
    tries = iter([RuntimeError("a bug"), Overloaded("a hundred tasks are waiting")])
    queue = make_queue(database, provider, every=0.1)
    dispatch = queue.dispatch

    def crowded(task: Task) -> None:
        if error := next(tries, None):
            raise error
        dispatch(task)

    monkeypatch.setattr(queue, "dispatch", crowded)
    deadline = time.monotonic() + 15
    while ("completed",) not in (ended := owner.execute("select status from embedding.runs").fetchall()):
        assert time.monotonic() < deadline, ended
        time.sleep(0.05)
    queue.close()
    assert ("failed",) in ended, "a run that cannot be started is recorded as failed, not left to look crashed"


def test_a_schedule_that_finds_nothing_leaves_no_record(
    database: PostgresDatabase, provider: FakeProvider, owner: Connection
) -> None:
    job = make_job(database, provider)
    queue = RunQueue(Runs(database), job, every=0.1)
    deadline = time.monotonic() + 15
    while not job.asked:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    queue.close()
    assert owner.execute("select count(*) from embedding.runs").fetchall() == [(0,)]


# On Lambda


class Context:
    """Lambda's context with this number of remaining seconds."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def get_remaining_time_in_millis(self) -> int:
        return int((self._end - time.monotonic()) * 1000)


SCHEDULE = {"source": "aws.events", "detail-type": "Scheduled Event", "detail": {}}


def test_the_schedule_drains_all_collections(
    database: PostgresDatabase, provider: FakeProvider, insert: Insert, owner: Connection
) -> None:
    for number in range(3):
        insert(f"text {number}")
    outcome = run(SCHEDULE, Context(60), Services(make_settings(), database=database, provider=provider))
    assert (outcome["status"], outcome["embedded"]) == ("completed", 3)
    assert owner.execute("select status from embedding.runs where id = %s", [outcome["task_id"]]).fetchone() == (
        "completed",
    )


def test_a_schedule_without_rows_makes_no_provider_and_leaves_no_record(
    database: PostgresDatabase, owner: Connection
) -> None:
    services = Services(make_settings(), database=database)
    outcome = run(SCHEDULE, Context(60), services)
    assert (outcome["task_id"], outcome["status"], outcome["processed"]) == (None, "completed", 0)
    assert not services.provider_is_made
    assert owner.execute("select count(*) from embedding.runs").fetchall() == [(0,)]


def test_the_worker_stops_before_its_time_is_up_and_invokes_another(
    database: PostgresDatabase, provider: FakeProvider, insert: Insert, owner: Connection
) -> None:
    for number in range(60):
        insert(f"text {number}")
    provider.wire.delay = 0.4
    services = Services(make_settings(), database=database, provider=provider)
    started = time.monotonic()
    event = {"task_id": str(uuid.uuid4()), "collection": "music_knowledge", "batch_size": 2}
    first = run(event, Context(3), services)
    assert time.monotonic() - started < 3
    assert first["status"] == "interrupted"
    assert 0 < first["embedded"] < 60
    assert owner.execute("select count(*) from embedding.queue where leased_at is not null").fetchone() == (0,)
    provider.wire.delay = 0
    second = run(SCHEDULE, Context(60), services)
    assert first["embedded"] + second["embedded"] == 60


def test_the_worker_does_not_wait_for_rows_of_another_worker(
    database: PostgresDatabase, provider: FakeProvider, insert: Insert, owner: Connection
) -> None:
    insert("a harp")
    database.call("register_embedding_model", {"name": "fake", "provider": "fake", "dimensions": 16})
    database.call("claim_embeddings", {"collection": "music_knowledge", "batch_size": 1, "lease_seconds": 300})
    started = time.monotonic()
    outcome = run(SCHEDULE, Context(60), Services(make_settings(), database=database, provider=provider))
    assert outcome["status"] == "completed"
    assert time.monotonic() - started < 10


def test_another_event_is_refused(database: PostgresDatabase, provider: FakeProvider) -> None:
    with pytest.raises(InvalidRequest):
        run({"source": "aws.s3"}, Context(60), Services(make_settings(), database=database, provider=provider))


def test_the_time_limit_keeps_a_margin() -> None:
    with time_limit(0.6) as stop:
        assert not stop.wait(0.1)
        assert stop.wait(0.5)


def test_a_task_that_cannot_be_dispatched_is_recorded_as_failed(
    serve: Serve, database: PostgresDatabase, provider: FakeProvider, owner: Connection, output: Output
) -> None:
    # This is like Lambda without TASK_FUNCTION.
    client = serve(services=Services(make_settings(), database=database, provider=provider))
    answer = client.post("/api/tasks/generate-embeddings", json={}, headers=KEYS)
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "configuration"
    assert owner.execute("select status from embedding.runs").fetchall() == [("failed",)]
    assert any("TASK_FUNCTION" in line for line in output.lines), "the log names the setting"


def test_a_task_and_its_run_have_the_same_id(
    database_url: SecretStr, insert: Insert, client: httpx.Client, owner: Connection
) -> None:
    insert("a harp")
    task_id = start(client, collection="music_knowledge")
    wait_for(client, task_id, "completed")
    assert owner.execute("select id::text from embedding.runs").fetchall() == [(task_id,)]


def test_at_most_a_hundred_tasks_can_wait(database: PostgresDatabase, provider: FakeProvider) -> None:
    queue = make_queue(database, provider)
    queue.stop()
    for _ in range(run_queue.MAX_WAITING):
        queue.dispatch(Task(str(uuid.uuid4())))
    with pytest.raises(Overloaded):
        queue.dispatch(Task(str(uuid.uuid4())))
