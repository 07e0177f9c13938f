"""Tests requests while the provider is down: they fail fast and their rows are released."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from functions.http import deadlines
from functions.services import Services
from shared.database.base import Database
from shared.database.postgres import PostgresDatabase
from shared.embedding import provider_check
from shared.embedding.collection import Collection
from shared.errors import DatabaseUnavailable
from shared.providers.isolate import PROBE
from shared.retry import REQUEST_RETRIES
from shared.search import search
from tests.conftest import Connection
from tests.fake_provider import FakeProvider
from tests.functions.conftest import API_KEY, KEYS, WEBHOOK_SECRET, Insert, Output, Serve, make_settings
from tests.functions.test_tasks import wait_for
from tests.protocol_server import ProtocolServer

HOOK = {"x-webhook-secret": WEBHOOK_SECRET}
MODEL = "text-embedding-3-small"


@pytest.fixture
def server() -> Iterator[ProtocolServer]:
    with ProtocolServer() as running:
        yield running


@pytest.fixture
def client(serve: Serve, database: PostgresDatabase, server: ProtocolServer) -> httpx.Client:
    """A client of a server whose provider is OpenAI's client."""
    settings = make_settings(embedding_provider="openai", openai_base_url=server.openai_url)
    return serve(services=Services(settings, database=database, long_lived=True))


@pytest.fixture
def gate(provider: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The provider receives requests, and answers when this event is set."""
    # A server asks for the provider's state when it starts.
    monkeypatch.setattr(provider_check, "WAIT_SECONDS", 0.05)
    provider.wire.gate = threading.Event()
    yield provider.wire.gate
    provider.wire.gate.set()


@pytest.fixture
def hung(serve: Serve, database: PostgresDatabase, provider: FakeProvider, gate: threading.Event) -> httpx.Client:
    """A client of a server whose provider does not answer."""
    settings = make_settings(embedding_provider="ollama")
    return serve(services=Services(settings, database=database, provider=provider, long_lived=True))


def requests(row: str, model: str) -> dict[str, tuple[str, dict[str, Any], dict[str, str]]]:
    """Every request that waits for the provider."""
    chunks = [{"chunk_id": "c", "content": "a"}]
    return {
        "a chunk": ("/embed", {"batch_id": "b", "chunks": chunks}, KEYS),
        "two chunks": ("/embed", {"batch_id": "b", "chunks": [*chunks, {"chunk_id": "d", "content": "b"}]}, KEYS),
        "a text": ("/api/vectorization/embed", {"text": "a"}, KEYS),
        "openai": ("/v1/embeddings", {"model": model, "input": "a"}, KEYS),
        "rows": ("/api/upsert-embeddings", {"rows": [{"id": row}]}, KEYS),
        "webhook": (
            "/api/webhooks/embeddings",
            {"type": "INSERT", "table": "music_knowledge", "schema": "public", "record": {"id": row}},
            HOOK,
        ),
    }


def asked(server: ProtocolServer) -> int:
    """The number of calls, without that for the word that a server embeds when it starts."""
    return sum(call.inputs != [PROBE] for call in server.calls)


REQUESTS = ["a chunk", "two chunks", "a text", "openai", "rows", "webhook"]


def ask(client: httpx.Client, request: str, row: str, *, model: str = MODEL) -> httpx.Response:
    path, body, headers = requests(row, model)[request]
    return client.post(path, json=body, headers=headers)


def assert_unavailable(answer: httpx.Response, *codes: str) -> None:
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["retry-after"]) >= 1
    error = answer.json()["error"]
    assert error["code"] in codes
    own, theirs = {"code", "message", "request_id"}, {"message", "type", "param", "code"}
    assert set(error) == (theirs if "/v1/" in str(answer.url) else own)


def assert_free(database: Database, row: str) -> None:
    """Assert that the row can be claimed at once and no attempt was counted."""
    (claimed,) = Collection(database, "music_knowledge").claim_embeddings(10, 60)
    assert (claimed.row_id, claimed.attempts) == (row, 1)
    Collection(database, "music_knowledge").release_embeddings([row])


def test_an_outage_fails_an_interactive_request_at_once(
    client: httpx.Client, server: ProtocolServer, insert: Insert, database: PostgresDatabase
) -> None:
    row = insert("a harp")
    server.fail("unavailable", times=None)
    for request in REQUESTS:
        server.calls.clear()
        assert_unavailable(ask(client, request, row), "provider_unavailable")
        assert asked(server) == REQUEST_RETRIES.max_attempts, request
    assert_free(database, row)


def test_a_retry_after_that_exceeds_the_requests_time_is_returned_at_once(
    client: httpx.Client, server: ProtocolServer, insert: Insert, database: PostgresDatabase
) -> None:
    row = insert("a harp")
    server.fail("rate_limit", times=None, retry_after=60)
    for request in REQUESTS:
        answer = ask(client, request, row)
        assert_unavailable(answer, "provider_rate_limited")
        assert 30 < int(answer.headers["retry-after"]) <= 60
    assert asked(server) == 1, "all requests share the cooldown, which is longer than they may wait"
    assert_free(database, row)


def test_a_short_retry_after_is_respected(client: httpx.Client, server: ProtocolServer, insert: Insert) -> None:
    row = insert("a harp")
    for request in ("openai", "rows"):
        server.fail("rate_limit", retry_after=0.2)
        assert ask(client, request, row).status_code == 200
    assert server.too_soon == 0


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_silent_provider_times_out_for_an_interactive_request(
    hung: httpx.Client, insert: Insert, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch, request_: str
) -> None:
    monkeypatch.setattr(deadlines, "REQUEST_SECONDS", 0.5)
    assert_unavailable(ask(hung, request_, insert("a harp"), model="fake"), "provider_unavailable")
    assert provider.wire.requests, "it was asked"


@pytest.mark.parametrize("request_", ["rows", "webhook"])
@pytest.mark.parametrize("long_lived", [True, False])
def test_rows_are_free_at_once_when_the_provider_says_nothing(
    serve: Serve,
    insert: Insert,
    provider: FakeProvider,
    gate: threading.Event,
    database: PostgresDatabase,
    monkeypatch: pytest.MonkeyPatch,
    request_: str,
    long_lived: bool,
) -> None:
    monkeypatch.setattr(deadlines, "REQUEST_SECONDS", 0.5)
    settings = make_settings(embedding_provider="ollama")
    client = serve(services=Services(settings, database=database, provider=provider, long_lived=long_lived))
    row = insert("a harp")
    assert_unavailable(ask(client, request_, row), "provider_unavailable")
    assert_free(database, row)


def test_a_request_does_not_wait_for_an_unknown_width(
    serve: Serve, database: PostgresDatabase, server: ProtocolServer, insert: Insert, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadlines, "REQUEST_SECONDS", 0.5)
    server.fail("slow", times=None, seconds=20)
    settings = make_settings(embedding_provider="ollama", ollama_url=server.url, embedding_model="house-model")
    client = serve(services=Services(settings, database=database, long_lived=True))
    for request in ("openai", "rows"):
        assert_unavailable(ask(client, request, insert(request), model="house-model"), "provider_unavailable")
    assert_unavailable(client.get("/api/vectorization/status", headers=KEYS), "provider_unavailable")


def test_a_search_with_a_silent_provider_answers_with_full_text(
    hung: httpx.Client,
    insert: Insert,
    provider: FakeProvider,
    database: PostgresDatabase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(search, "QUERY_SECONDS", 0.5)
    row = insert("a harp")
    work = Collection(database, "music_knowledge")
    work.register_embedding_model(provider.spec, use=True)
    answer = hung.get("/api/search/music_knowledge?q=harp").json()
    assert (answer["degraded"], [hit["id"] for hit in answer["hits"]]) == (True, [row])
    assert provider.wire.requests, "it was asked"


def test_the_official_openai_client_reports_the_503(client: httpx.Client, server: ProtocolServer) -> None:
    server.fail("unavailable", times=None)
    official = openai.OpenAI(base_url=f"{client.base_url}/v1", api_key=API_KEY, max_retries=0)
    with pytest.raises(openai.InternalServerError) as raised:
        official.embeddings.create(model=MODEL, input="a")
    assert raised.value.status_code == 503
    assert int(raised.value.response.headers["retry-after"]) >= 1


def test_rows_saved_before_the_provider_failed_stay_saved(
    client: httpx.Client, server: ProtocolServer, insert: Insert, database: PostgresDatabase
) -> None:
    rows = [insert(f"text {number}") for number in range(50)] + [insert("one too many")]
    server.fail("unavailable", times=None, containing="one too many")
    answer = client.post("/api/upsert-embeddings", json={"rows": [{"id": row} for row in rows]}, headers=KEYS)
    assert_unavailable(answer, "provider_unavailable")
    assert_free(database, rows[-1])


class _Failing(Database):
    """A database with one failing function."""

    def __init__(self, database: Database, function: str, error: Exception) -> None:
        self._database, self._function, self._error = database, function, error

    def _call(self, function: str, arguments: dict[str, Any]) -> list[Any]:
        if function == self._function:
            raise self._error
        return self._database.call(function, arguments)

    def as_caller(self, caller: Any) -> Database:
        return self._database.as_caller(caller)

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("function", "error", "status"),
    [
        ("save_embeddings", RuntimeError("a bug"), 500),
        ("reuse_embeddings", RuntimeError("a bug"), 500),
        ("save_embeddings", DatabaseUnavailable(), 503),
    ],
)
def test_rows_are_released_after_any_error(
    serve: Serve,
    database: PostgresDatabase,
    provider: FakeProvider,
    insert: Insert,
    function: str,
    error: Exception,
    status: int,
) -> None:
    row = insert("a harp")
    failing = _Failing(database, function, error)
    client = serve(services=Services(make_settings(), database=failing, provider=provider, long_lived=True))
    assert ask(client, "rows", row).status_code == status
    assert_free(database, row)


def test_saved_rows_are_not_released(
    serve: Serve, database: PostgresDatabase, provider: FakeProvider, insert: Insert, owner: Connection
) -> None:
    """The refused row is failed and then leased by another worker; a later error must not release it."""
    provider.wire.refuses.add("poison")
    refused, good = insert("poison"), insert("a harp")
    work = Collection(database, "music_knowledge")

    class Meanwhile(_Failing):
        def _call(self, function: str, arguments: dict[str, Any]) -> list[Any]:
            if function == "save_embeddings":
                # The failed row is queued again, and another worker leases it.
                work.retry_failed_embeddings()
                assert [named.state for named in work.claim_embedding_rows([refused], 60)] == ["claimed"]
            return super()._call(function, arguments)

    failing = Meanwhile(database, "save_embeddings", DatabaseUnavailable())
    client = serve(services=Services(make_settings(), database=failing, provider=provider, long_lived=True))
    body = {"rows": [{"id": refused}, {"id": good}]}
    assert client.post("/api/upsert-embeddings", json=body, headers=KEYS).status_code == 503
    leased = owner.execute("select row_id from embedding.queue where leased_at is not null").fetchall()
    assert leased == [(refused,)]


def events(output: Output) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.stdout().splitlines() if '"embedding.batch' in line]


@pytest.mark.parametrize("request_", ["rows", "webhook"])
def test_a_failed_batch_writes_an_event(
    client: httpx.Client, server: ProtocolServer, insert: Insert, output: Output, request_: str
) -> None:
    server.fail("unavailable", times=None)
    ask(client, request_, insert("a harp"))
    started, ended = events(output)
    assert (started["event"], ended["event"]) == ("embedding.batch_started.v1", "embedding.batch_failed.v1")
    assert started["batch_id"] == ended["batch_id"]
    assert (ended["error"], ended["collection"], ended["chunk_count"]) == ("provider_unavailable", "music_knowledge", 1)
    assert ended["duration_ms"] > 0


def test_synonyms_are_stored_while_the_provider_is_down(
    client: httpx.Client, server: ProtocolServer, owner: Connection
) -> None:
    owner.execute("insert into public.genre_tags (name) values ('Zouk')")
    server.fail("unavailable", times=None)
    body = {"tag_type": "genre", "tag_name": "Zouk", "synonyms": {"search_terms": ["zouk"]}}
    assert client.post("/api/synonyms", json=body, headers=KEYS).status_code == 201
    assert asked(server) == REQUEST_RETRIES.max_attempts
    assert owner.execute("select embedding is null from public.mir_synonyms").fetchall() == [(True,)]


def test_a_background_task_waits_for_the_provider(client: httpx.Client, server: ProtocolServer, insert: Insert) -> None:
    insert("a harp")
    server.fail("unavailable", times=REQUEST_RETRIES.max_attempts + 1)
    accepted = client.post("/api/tasks/generate-embeddings", json={}, headers=KEYS).json()
    client.headers.update(KEYS)
    assert wait_for(client, accepted["task_id"], "completed", "failed")["result"]["embedded"] == 1
