"""Tests generated synonyms over HTTP: from a new tag to a search that finds it, and its deletion."""

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from functions.services import Services
from functions.worker import run
from shared.database.postgres import PostgresDatabase
from shared.embedding.runs import SYNONYMS_TASK_NAME
from tests.conftest import Connection
from tests.fake_provider import FakeProvider
from tests.functions.conftest import KEYS, Serve, make_settings, token
from tests.functions.synonym_tags import HOOK, add_tag, by_full_text, deliver, search
from tests.functions.test_tasks import look, wait_for
from tests.protocol_server import ProtocolServer


@pytest.fixture
def chat() -> Iterator[ProtocolServer]:
    with ProtocolServer() as running:
        yield running


@pytest.fixture
def writing(serve: Serve, chat: ProtocolServer) -> httpx.Client:
    """A client of a server that has a generator."""
    return serve(generation_provider="ollama", ollama_url=chat.url)


def wait_until_asked(chat: ProtocolServer) -> None:
    """Wait until the generator has its first request."""
    deadline = time.monotonic() + 15
    while not chat.calls:
        assert time.monotonic() < deadline, "the generator was not called"
        time.sleep(0.01)


# The whole path


def test_a_new_genre_is_soon_found_by_a_word_that_is_not_in_its_name(
    writing: httpx.Client, chat: ProtocolServer, owner: Connection
) -> None:
    chat.vocabulary["Zouk"] = ["caribbean love dance", "antilles party", "creole groove", "island slow dance"]
    tag_id = add_tag(owner, "Zouk")
    accepted = deliver(writing, "INSERT", tag_id, "Zouk")
    assert (accepted["task_name"], accepted["status"]) == ("generate-synonyms", "queued")
    task = wait_for(writing, accepted["task_id"], "completed")
    assert (task["task_name"], task["model"]) == ("generate-synonyms", "ollama:llama3.2:1b")
    assert (task["result"]["processed"], task["result"]["embedded"], task["result"]["failed"]) == (1, 1, 0)

    (hit,) = search(writing, "caribbean")
    assert (hit["tag_type"], hit["tag_id"], hit["tag_name"], hit["source"]) == ("genre", tag_id, "Zouk", "generated")
    assert hit["full_text_score"] > 0
    assert hit["semantic_score"] > 0, "it has its vector as well"
    assert hit["score"] == pytest.approx(0.3 * hit["full_text_score"] + 0.7 * hit["semantic_score"])
    assert search(writing, "caribbean", tag_type="mood") == []
    found = writing.get("/api/synonyms/genre/zouk").json()
    assert found["synonyms"]["search_terms"][1] == "caribbean love dance"


def test_a_renamed_genre_gets_new_synonyms_and_its_old_ones_find_nothing(
    writing: httpx.Client, chat: ProtocolServer, owner: Connection
) -> None:
    chat.vocabulary["Zouk"] = ["caribbean dance", "b", "c", "d"]
    chat.vocabulary["Polka"] = ["bohemian hop", "b", "c", "d"]
    tag_id = add_tag(owner, "Zouk")
    wait_for(writing, deliver(writing, "INSERT", tag_id, "Zouk")["task_id"], "completed")
    assert by_full_text(writing, "caribbean") == ["Zouk"]

    owner.execute("update genre_tags set name = 'Polka' where id = %s", [tag_id])
    assert search(writing, "caribbean") == [], "before the webhook has come"
    assert writing.get("/api/synonyms/genre/Zouk").status_code == 404
    assert writing.get("/api/synonyms/genre/Polka").status_code == 404
    wait_for(writing, deliver(writing, "UPDATE", tag_id, "Polka", old="Zouk")["task_id"], "completed")
    assert by_full_text(writing, "bohemian") == ["Polka"]
    assert by_full_text(writing, "caribbean zouk") == []


def test_a_repeated_or_late_webhook_does_no_harm(
    writing: httpx.Client, chat: ProtocolServer, owner: Connection
) -> None:
    tag_id = add_tag(owner, "Zouk")
    wait_for(writing, deliver(writing, "INSERT", tag_id, "Zouk")["task_id"], "completed")
    assert deliver(writing, "INSERT", tag_id, "Zouk")["status"] == "skipped"
    owner.execute("delete from genre_tags where id = %s", [tag_id])
    assert deliver(writing, "UPDATE", tag_id, "Zouk", old="Souk")["status"] == "skipped"
    assert deliver(writing, "DELETE", tag_id, "Zouk")["status"] == "skipped"
    assert len(chat.calls) == 1


def test_a_mood_and_a_genre_of_one_name_have_separate_synonyms(
    writing: httpx.Client, chat: ProtocolServer, owner: Connection
) -> None:
    chat.vocabulary["Jolly"] = ["merry", "gleeful", "sunny side", "laughing"]
    tag_id = add_tag(owner, "Jolly", "mood_tags")
    wait_for(writing, deliver(writing, "INSERT", tag_id, "Jolly", table="mood_tags")["task_id"], "completed")
    assert by_full_text(writing, "gleeful", tag_type="mood") == ["Jolly"]
    assert writing.get("/api/synonyms/mood/jolly").status_code == 200
    assert writing.get("/api/synonyms/genre/jolly").status_code == 404


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not one JSON object"),
        ('Sure! {"search_terms": []}', "not one JSON object"),
        ('{"terms": ["a"]}', "exactly the keys"),
        ('{"search_terms": [' + ", ".join(f'"t{number}"' for number in range(10_000)) + "]}", "longer than"),
        ("", "empty"),
    ],
    ids=["broken", "prose", "wrong keys", "10,000 terms", "nothing"],
)
def test_a_tag_with_only_invalid_answers_is_failed_and_the_others_get_synonyms(
    writing: httpx.Client, chat: ProtocolServer, owner: Connection, content: str, reason: str
) -> None:
    bad, good = add_tag(owner, "Bad"), add_tag(owner, "Good")
    chat.fail("chat", times=None, containing='"tag": "Bad"', content=content)
    accepted = writing.post("/api/synonyms/generate", headers=KEYS).json()
    task = wait_for(writing, accepted["task_id"], "completed")
    assert (task["result"]["processed"], task["result"]["embedded"], task["result"]["failed"]) == (2, 1, 1)
    assert owner.execute("select tag_id from mir_synonyms").fetchall() == [(good,)], "nothing partial is stored"
    state = writing.get("/api/synonyms/generation", headers=KEYS).json()
    (failure,) = state["failures"]
    assert (failure["tag_id"], failure["tag_name"], failure["attempts"]) == (bad, "Bad", 1)
    assert reason in failure["error"]
    assert state["coverage"] == [{"tag_type": "genre", "tags": 2, "active": 1, "without": 1, "waiting": 0, "failed": 1}]

    # A new request resets the attempts to 0.
    chat.faults.clear()
    wait_for(writing, writing.post("/api/synonyms/generate", headers=KEYS).json()["task_id"], "completed")
    assert writing.get("/api/synonyms/genre/Bad").status_code == 200
    assert writing.post("/api/synonyms/generate", headers=KEYS).json()["status"] == "skipped"


def test_synonyms_of_one_tag_are_generated_again_and_other_tags_keep_theirs(
    writing: httpx.Client, chat: ProtocolServer, owner: Connection
) -> None:
    zouk, polka = add_tag(owner, "Zouk"), add_tag(owner, "Polka")
    wait_for(writing, writing.post("/api/synonyms/generate", headers=KEYS).json()["task_id"], "completed")
    chat.vocabulary["Zouk"] = chat.vocabulary["Polka"] = ["new synonyms", "b", "c", "d"]
    body = {"tag_type": "genre", "tag_ids": [zouk], "force": True}
    accepted = writing.post("/api/synonyms/generate", json=body, headers=KEYS).json()
    assert accepted["message"].startswith("1 tags queued")
    wait_for(writing, accepted["task_id"], "completed")
    assert by_full_text(writing, "new") == ["Zouk"]
    assert writing.get("/api/synonyms/genre/Polka").json()["tag_id"] == polka

    # An id alone does not identify a tag: genres and moods are numbered separately.
    refused = writing.post("/api/synonyms/generate", json={"tag_ids": [zouk], "force": True}, headers=KEYS)
    assert refused.status_code == 422
    assert "tag_type" in refused.json()["error"]["message"]


def test_an_unreachable_generator_counts_no_attempt(serve: Serve, owner: Connection) -> None:
    client = serve(generation_provider="ollama", ollama_url="http://127.0.0.1:9")
    tag_id = add_tag(owner, "Zouk")
    task = wait_for(client, deliver(client, "INSERT", tag_id, "Zouk")["task_id"], "failed")
    assert "ollama serve" in task["error"]
    assert owner.execute("select attempts, leased_at, failed_at from embedding.synonym_queue").fetchall() == [
        (0, None, None)
    ]


def test_a_thousand_webhooks_make_one_run(writing: httpx.Client, chat: ProtocolServer, owner: Connection) -> None:
    chat.latency = 0.3
    first = deliver(writing, "INSERT", add_tag(owner, "first"), "first")
    wait_until_asked(chat)
    tasks = {deliver(writing, "INSERT", add_tag(owner, f"tag {n}"), f"tag {n}")["task_id"] for n in range(5)}
    assert len(tasks - {first["task_id"]}) == 1
    wait_for(writing, tasks.pop(), "completed")
    assert owner.execute("select count(*) from mir_synonyms").fetchone() == (6,)


# Low priority


def test_a_slow_generator_does_not_delay_a_backfill(
    writing: httpx.Client, chat: ProtocolServer, owner: Connection
) -> None:
    chat.gate = threading.Event()
    generation = deliver(writing, "INSERT", add_tag(owner, "Zouk"), "Zouk")
    wait_until_asked(chat)
    owner.execute("insert into music_knowledge (topic, content) select 't', n::text from generate_series(1, 50) n")
    answer = writing.post("/api/tasks/generate-embeddings", json={"collection": "music_knowledge"}, headers=KEYS)
    task = wait_for(writing, answer.json()["task_id"], "completed")
    assert task["result"]["embedded"] == 50
    assert look(writing, generation["task_id"])["status"] in ("queued", "running")
    chat.gate.set()
    wait_for(writing, generation["task_id"], "completed")


def test_the_generator_pauses_during_a_backfill(
    writing: httpx.Client, chat: ProtocolServer, owner: Connection, provider: FakeProvider
) -> None:
    owner.execute("insert into music_knowledge (topic, content) values ('t', 'one')")
    gate = provider.wire.gate = threading.Event()
    provider.wire.arrived.clear()
    answer = writing.post("/api/tasks/generate-embeddings", json={"collection": "music_knowledge"}, headers=KEYS)
    assert provider.wire.arrived.wait(10)
    generation = deliver(writing, "INSERT", add_tag(owner, "Zouk"), "Zouk")
    time.sleep(1.5)
    assert chat.calls == []
    gate.set()
    provider.wire.gate = None
    wait_for(writing, answer.json()["task_id"], "completed")
    wait_for(writing, generation["task_id"], "completed")
    assert len(chat.calls) == 1


# Access


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/synonyms"),
        ("PUT", "/api/synonyms/1"),
        ("DELETE", "/api/synonyms/1"),
        ("POST", "/api/synonyms/generate"),
        ("GET", "/api/synonyms/generation"),
        ("POST", "/api/webhooks/synonyms"),
    ],
)
def test_writing_synonyms_needs_a_key(client: httpx.Client, method: str, path: str) -> None:
    assert client.request(method, path, json={}).status_code == 401
    assert client.request(method, path, json={}, headers={"Authorization": f"Bearer {token()}"}).status_code == 401


@pytest.mark.parametrize(
    "changes", [{"table": "users"}, {"schema": "private"}, {"record": None}, {"record": {"id": "x"}}, {"type": "MERGE"}]
)
def test_a_webhook_about_anything_else_is_refused(writing: httpx.Client, changes: dict[str, Any]) -> None:
    body = {"type": "INSERT", "table": "genre_tags", "schema": "public", "record": {"id": 1, "name": "a"}, **changes}
    assert writing.post("/api/webhooks/synonyms", json=body, headers=HOOK).status_code == 422


class _Context:
    def get_remaining_time_in_millis(self) -> int:
        return 60_000


# On Lambda


def test_on_lambda_the_worker_generates_synonyms(
    database: PostgresDatabase, provider: FakeProvider, chat: ProtocolServer, owner: Connection
) -> None:
    settings = make_settings(generation_provider="ollama", ollama_url=chat.url)
    services = Services(settings, database=database, provider=provider)
    add_tag(owner, "Zouk")
    services.synonym_store.request_synonyms()
    run_id = services.runs.record_queued(name=SYNONYMS_TASK_NAME).task_id
    event = {"task_id": run_id, "name": SYNONYMS_TASK_NAME, "collection": None, "batch_size": 50}
    assert run(event, _Context(), services)["embedded"] == 1
    assert services.runs.get(run_id)["status"] == "completed"
    ended = datetime.fromisoformat(services.runs.get(run_id)["finished_at"])
    assert (datetime.now(UTC) - ended).total_seconds() < 60
    services.close()
