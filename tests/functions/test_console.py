"""Tests the console's routes: collections, runs, costs and the map."""

import threading
import time
from typing import Any

import httpx
import pytest

from shared.embedding import backfill as service
from tests.conftest import Connection
from tests.database.rows import add
from tests.fake_provider import FakeProvider
from tests.functions.conftest import Insert

MUSIC = "/api/collections/music_knowledge"


def wait_for(client: httpx.Client, task: httpx.Response) -> dict[str, Any]:
    """Wait until the task has ended; returns its state."""
    assert task.status_code == 202, task.text
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        state: dict[str, Any] = client.get(f"/api/tasks/{task.json()['task_id']}").json()
        if state["finished_at"]:
            return state
        time.sleep(0.05)
    raise AssertionError("the task did not end")


def embed_all(client: httpx.Client) -> None:
    task = client.post("/api/tasks/generate-embeddings", json={"collection": "music_knowledge"})
    assert wait_for(client, task)["status"] == "completed"


def collection(client: httpx.Client, name: str = "music_knowledge") -> dict[str, Any]:
    (found,) = [one for one in client.get("/api/collections").json()["collections"] if one["collection"] == name]
    return dict(found)


# Coverage


def test_a_collection_says_where_to_search_and_how_to_show_it(keyed: httpx.Client, insert: Insert) -> None:
    for number in range(8):
        insert(f"text {number}", topic=f"topic {number}", category="mixing" if number % 2 else "harmony")
    found = collection(keyed)
    assert found["search"] == {"route": "/api/search/music_knowledge"}
    assert (found["label_column"], found["category_columns"], found["running"]) == ("topic", ["category"], None)
    assert keyed.post(found["search"]["route"], json={"query": "text", "match_count": 50}).status_code == 200


def test_a_table_without_a_search_function_has_no_search_route(keyed: httpx.Client, owner: Connection) -> None:
    owner.execute("create table notes (id bigint primary key, body text)")
    owner.execute(
        "create function embedding.document_text(t public.notes) returns text language sql stable return t.body"
    )
    owner.execute("select track_embeddings('public.notes')")
    assert collection(keyed, "notes")["search"] is None
    assert keyed.post("/api/search/notes", json={"query": "text"}).status_code == 404


def test_an_active_run_is_listed(
    keyed: httpx.Client, owner: Connection, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "REPORT_SECONDS", 0.1)
    add(owner, *(f"text {number}" for number in range(40)))
    provider.wire.delay = 0.05
    provider.wire.gate = threading.Event()
    # The server checked the provider at its start.
    provider.wire.arrived.clear()
    body = {"collection": "music_knowledge", "batch_size": 2}
    task = keyed.post("/api/tasks/generate-embeddings", json=body)
    assert provider.wire.arrived.wait(20)
    running = collection(keyed)["running"]
    assert running["run_id"] == task.json()["task_id"]
    assert running["done"] == 0
    assert running["seconds_left"] is None
    assert running["remaining"] == 40
    provider.wire.gate.set()
    seen = []
    while (running := collection(keyed)["running"]) is not None:
        seen.append(running)
    assert wait_for(keyed, task)["status"] == "completed"
    done = [one["done"] for one in seen]
    assert done == sorted(done)
    assert any(one["rows_per_second"] and one["seconds_left"] is not None and 0 < one["done"] < 40 for one in seen)
    (run,) = keyed.get("/api/runs?collection=music_knowledge").json()["runs"]
    assert (run["state"], run["rows"], run["embedded"], run["calls"]) == ("finished", 40, 40, 20)
    assert run["ended_at"] > run["started_at"]


def test_failed_rows_are_listed_and_tried_again(keyed: httpx.Client, owner: Connection, provider: FakeProvider) -> None:
    good, one, two = add(owner, "good", "bad one", "bad two")
    provider.wire.refuses = {"bad"}
    embed_all(keyed)
    failures = keyed.get(f"{MUSIC}/failures?limit=1").json()
    assert failures["total"] == 2
    (failure,) = failures["failures"]
    assert failure["row_id"] in (one, two)
    assert "refused" in failure["error"]
    assert keyed.post(f"{MUSIC}/retry", json={"row_ids": [one, good]}).json() == {"retried": 1}
    assert keyed.get(f"{MUSIC}/failures").json()["total"] == 1
    provider.wire.refuses = set()
    embed_all(keyed)
    found = collection(keyed)
    assert (found["embedded"], found["failed"]) == (2, 1)
    assert keyed.post(f"{MUSIC}/retry").json() == {"retried": 1}
    embed_all(keyed)
    assert collection(keyed)["embedded"] == 3


@pytest.mark.parametrize("path", ["failures", "estimate", "map"])
def test_a_collection_that_is_not_tracked_is_not_found(keyed: httpx.Client, path: str) -> None:
    assert keyed.get(f"/api/collections/nothing/{path}").status_code == 404
    assert keyed.post("/api/collections/nothing/retry", json={}).status_code == 404
    assert keyed.get("/api/runs?collection=nothing").status_code == 404


def test_the_cost_of_pending_rows_is_estimated_without_a_call(
    keyed: httpx.Client, owner: Connection, provider: FakeProvider
) -> None:
    keyed.get("/api/vectorization/status")
    provider.price_per_million_tokens = 1000.0
    add(owner, "one two three", "four five", "four five")
    before = len(provider.wire.requests)
    found = keyed.get(f"{MUSIC}/estimate").json()
    assert (found["rows"], found["tokens"], found["cost"], found["model"]) == (3, 5, 0.005, "fake")
    assert (found["counted"], found["rows_estimated"]) == ("estimated", False)
    assert "every text" in found["method"]
    assert len(provider.wire.requests) == before


def test_an_estimate_is_for_the_model_of_the_collection(keyed: httpx.Client, owner: Connection) -> None:
    owner.execute("select register_embedding_model('other', 'ollama', 8)")
    owner.execute("select embedding.check_model(embedding.get_collection('music_knowledge'), 'other')")
    assert keyed.get(f"{MUSIC}/estimate").json()["model"] == "other"


# Map, runs, costs


def test_the_map_places_similar_rows_near_each_other(keyed: httpx.Client, insert: Insert) -> None:
    subjects = {"harmony": "chord scale tonic cadence", "mixing": "fader bus reverb level"}
    for category, words in subjects.items():
        for number in range(12):
            insert(f"{words} {number}", topic=f"{category} {number}", category=category)
    embed_all(keyed)
    answer = keyed.get(f"{MUSIC}/map?category=category")
    drawn = answer.json()
    assert (drawn["model"], drawn["total"], drawn["sampled"], drawn["category"]) == ("fake", 24, 24, "category")
    assert 0 < drawn["explained"][1] <= drawn["explained"][0] <= 1
    points = drawn["points"]
    assert all(-1 <= point[axis] <= 1 for point in points for axis in ("x", "y"))
    assert {point["category"] for point in points} == set(subjects)
    assert all(point["label"].startswith(point["category"]) for point in points)
    sides = {(point["category"], point["x"] > 0) for point in points}
    assert len(sides) == 2, "the two subjects lie on two sides"
    assert keyed.get(f"{MUSIC}/map?category=category").json() == drawn, "the cached one"
    fresh = keyed.get(f"{MUSIC}/map?category=category&refresh=true").json()
    assert fresh["points"] == drawn["points"]
    assert fresh["computed_at"] > drawn["computed_at"]
    assert keyed.get(f"{MUSIC}/map?limit=5").json()["sampled"] == 5
    assert answer.headers["content-encoding"] == "gzip"
    plain = keyed.get(f"{MUSIC}/map?category=category", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.json()["points"] == drawn["points"]


def test_an_empty_collection_has_an_empty_map(keyed: httpx.Client) -> None:
    drawn = keyed.get(f"{MUSIC}/map").json()
    assert (drawn["model"], drawn["total"], drawn["points"], drawn["explained"]) == (None, 0, [], [0, 0])


@pytest.mark.parametrize("query", ["limit=2001", "limit=0", "category=content;drop", "category=embedding", "limit=x"])
def test_a_map_of_a_missing_collection_or_column_is_refused(keyed: httpx.Client, query: str) -> None:
    assert keyed.get(f"{MUSIC}/map?{query}").status_code == 422


def test_runs_and_costs_are_counted_once(keyed: httpx.Client, owner: Connection, provider: FakeProvider) -> None:
    provider.price_per_million_tokens = 1000.0
    add(owner, "one two three", "four five")
    assert wait_for(keyed, keyed.post("/api/tasks/generate-embeddings", json={}))["status"] == "completed"
    runs = keyed.get("/api/runs").json()["runs"]
    everything = [run for run in runs if run["collection"] is None]
    (part,) = [run for run in runs if run["collection"] == "music_knowledge"]
    assert len(everything) == 1
    assert (part["tokens"], part["cost"], part["kind"], part["seconds"] > 0) == (5, 0.005, "embedding", True)
    costs = keyed.get("/api/costs").json()
    (entry,) = costs["entries"]
    assert (entry["model"], entry["tokens"], entry["cost"], entry["embedded"]) == ("fake", 5, 0.005, 2)
    assert costs["total"] == {"tokens": 5, "cost": 0.005}
    assert (costs["days"], costs["currency"]) == (30, "USD")
    assert [len(keyed.get(f"/api/runs?limit={limit}").json()["runs"]) for limit in (1, 2)] == [1, 2]
