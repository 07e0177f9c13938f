"""Tests a server and a worker whose collections have different models, and their reports of a provider that fails."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import httpx
import pytest

from functions.services import Services
from functions.worker import run
from shared.database.postgres import PostgresDatabase
from shared.embedding import provider_check
from shared.errors import ProviderRejected, ProviderUnavailable
from tests.conftest import Connection
from tests.fake_provider import FakeProvider
from tests.functions.conftest import API_KEY, KEYS, Insert, Serve, make_settings
from tests.functions.test_tasks import SCHEDULE, Context, start, wait_for
from tests.protocol_server import ProtocolServer

OPENAI_MODEL = "text-embedding-3-small"
MakeServices = Callable[..., Services]


@pytest.fixture
def server() -> Iterator[ProtocolServer]:
    with ProtocolServer(api_key="key-of-the-test") as running:
        yield running


@pytest.fixture
def two_models(owner: Connection, insert: Insert) -> str:
    """A row of music_knowledge, which has OpenAI's model, and one of notes, which has the configured one."""
    owner.execute("select register_embedding_model(%s, 'openai', 1536)", [OPENAI_MODEL])
    owner.execute("select set_collection_model('music_knowledge', %s)", [OPENAI_MODEL])
    owner.execute("create table notes (id int primary key, body text)")
    owner.execute("create function embedding.document_text(n notes) returns text language sql immutable return n.body")
    owner.execute("select track_embeddings('notes')")
    owner.execute("insert into notes values (1, 'a note')")
    return insert("a harp")


@pytest.fixture
def make(database: PostgresDatabase, provider: FakeProvider, server: ProtocolServer) -> Iterator[MakeServices]:
    """Services with the fake as the configured provider and a key for OpenAI, unless `key` is false."""
    made = ExitStack()

    def services(*, key: bool = True, loopback: bool = False, **options: Any) -> Services:
        openai = {"openai_api_key": "key-of-the-test", "openai_base_url": server.openai_url} if key else {}
        settings = make_settings(**openai, **({"functions_api_key": None} if loopback else {}))
        options = {"database": database, "provider": provider, "open_on_loopback": loopback, **options}
        return made.enter_context(closing(Services(settings, **options)))

    with made:
        yield services


def models(owner: Connection) -> dict[str, Any]:
    return {
        table: (owner.execute(f"select embedding_model from {table}").fetchone() or (None,))[0]
        for table in ("music_knowledge", "notes")
    }


BOTH = {"music_knowledge": OPENAI_MODEL, "notes": "fake"}


def test_a_task_embeds_each_collection_with_its_own_provider(
    serve: Serve, make: MakeServices, two_models: str, owner: Connection
) -> None:
    client = serve(services=make(long_lived=True))
    task = wait_for(client, start(client), "completed")
    assert (task["result"]["embedded"], task["error"], models(owner)) == (2, None, BOTH)
    assert task["model"] is None, "the collections have different ones"


def test_the_schedule_of_the_worker_embeds_each_collection_with_its_own_provider(
    make: MakeServices, two_models: str, owner: Connection
) -> None:
    outcome = run(SCHEDULE, Context(60), make())
    assert (outcome["status"], outcome["embedded"], models(owner)) == ("completed", 2, BOTH)


def test_a_server_that_drains_embeds_each_collection_with_its_own_provider(
    serve: Serve, make: MakeServices, two_models: str, owner: Connection
) -> None:
    serve(services=make(long_lived=True, drain_every=0.5))
    deadline = time.monotonic() + 20
    while models(owner) != BOTH:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("how", ["task", "schedule"])
def test_a_collection_without_a_provider_is_reported_and_the_others_are_embedded(
    how: str, serve: Serve, make: MakeServices, two_models: str, owner: Connection
) -> None:
    if how == "task":
        client = serve(services=make(key=False, long_lived=True))
        task = wait_for(client, start(client), "failed")
        embedded, error = task["result"]["embedded"], task["error"]
    else:
        outcome = run(SCHEDULE, Context(60), make(key=False))
        assert outcome["status"] == "failed"
        embedded, error = outcome["embedded"], outcome["error"]
    assert embedded == 1
    assert error.startswith(f"music_knowledge: OPENAI_API_KEY: is needed for the model {OPENAI_MODEL}")
    assert models(owner) == {"music_knowledge": None, "notes": "fake"}
    stored = owner.execute("select status, error from embedding.runs where collection_id is null").fetchone()
    assert stored == ("failed", error)


def test_search_upsert_and_estimate_use_the_provider_of_the_collection(
    serve: Serve, make: MakeServices, two_models: str, owner: Connection, provider: FakeProvider
) -> None:
    client = serve(services=make(long_lived=True))
    client.headers["Authorization"] = f"Bearer {API_KEY}"
    estimated = client.get("/api/collections/music_knowledge/estimate").json()
    assert (estimated["model"], estimated["rows"], estimated["cost"] > 0) == (OPENAI_MODEL, 1, True)
    answer = client.post("/api/upsert-embeddings", json={"rows": [{"id": two_models}]})
    assert answer.json()["updated"] == 1, answer.text
    found = client.get("/api/search/music_knowledge?q=harp").json()
    assert (found["degraded"], found["hits"][0]["semantic_rank"]) == (False, 1)
    assert "harp" not in " ".join(provider.wire.texts)


# A provider that fails


def health(client: httpx.Client) -> dict[str, Any]:
    body: dict[str, Any] = client.get("/health").json()
    return body


@pytest.mark.parametrize(
    "error", [ProviderUnavailable("it is gone"), ProviderRejected("OPENAI_API_KEY: refused")], ids=["outage", "key"]
)
def test_a_failed_call_ends_a_good_answer_at_once(
    client: httpx.Client, provider: FakeProvider, error: ProviderUnavailable
) -> None:
    assert client.get("/ready").status_code == 200
    assert (health(client)["status"], health(client)["problems"]) == ("ok", [])
    provider.wire.down = error
    assert client.get("/ready").status_code == 200, "nothing has failed yet"
    assert client.post("/api/vectorization/embed", json={"text": "a"}, headers=KEYS).status_code >= 500
    answer = client.get("/health")
    assert (answer.status_code, answer.json()["status"], answer.json()["model_loaded"]) == (200, "degraded", False)
    (problem,) = answer.json()["problems"]
    assert problem["code"] == error.code
    assert "The provider onnx" in problem["message"]
    assert error.message not in answer.text, "a server with a key shows no details"
    assert client.get("/ready").status_code == 503


def test_a_refused_text_does_not_make_the_server_degraded(client: httpx.Client, provider: FakeProvider) -> None:
    assert client.get("/ready").status_code == 200
    provider.wire.refuses.add("poison")
    assert client.post("/api/vectorization/embed", json={"text": "poison"}, headers=KEYS).status_code == 422
    assert health(client)["status"] == "ok"


def test_health_names_the_model_and_the_collections_whose_provider_fails(
    serve: Serve, make: MakeServices, two_models: str, server: ProtocolServer
) -> None:
    client = serve(services=make(loopback=True, long_lived=True))
    client.get("/ready")
    assert client.get("/api/search/music_knowledge?q=harp").json()["degraded"] is False
    assert health(client)["status"] == "ok"
    server.fail("unavailable", times=None)
    assert client.get("/api/search/music_knowledge?q=drum").json()["degraded"] is True
    answer = client.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    (problem,) = answer.json()["problems"]
    assert problem["message"].startswith(f"The provider openai of the model {OPENAI_MODEL} cannot be reached")
    assert "(collections: music_knowledge)" in problem["fix"]
    assert client.get("/ready").status_code == 200, "the configured provider answers"
    assert [one["code"] for one in client.get("/api/console").json()["problems"]] == ["provider_unavailable"]


def test_health_names_a_model_without_a_provider_and_no_table_on_a_server_with_a_key(
    serve: Serve, make: MakeServices, two_models: str
) -> None:
    client = serve(services=make(key=False, long_lived=True))
    assert client.get("/api/search/music_knowledge?q=harp").json()["degraded"] is True
    answer = health(client)
    assert answer["status"] == "degraded"
    assert answer["problems"][0]["message"] == f"The provider openai of the model {OPENAI_MODEL} is not set up."
    assert "music_knowledge" not in str(answer)


def test_health_is_ok_again_when_the_provider_has_returned(
    serve: Serve, make: MakeServices, two_models: str, server: ProtocolServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider_check, "BAD_SECONDS", 0.0)
    client = serve(services=make(long_lived=True))
    server.fail("unavailable", times=None)
    assert client.get("/api/search/music_knowledge?q=drum").json()["degraded"] is True
    assert health(client)["status"] == "degraded"
    server.faults.clear()
    assert health(client)["status"] == "ok"
