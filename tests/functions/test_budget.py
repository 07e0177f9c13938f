"""Tests the functions with EMBEDDING_BUDGET_PER_DAY, and with OpenAI's protocol at a socket."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from functions.services import Services
from functions.worker import run
from shared.database.postgres import PostgresDatabase
from shared.errors import DatabaseUnavailable
from shared.providers import budget as module
from tests.conftest import Connection
from tests.database.spending import next_day, spend, spent
from tests.functions.conftest import KEYS, Insert, Output, Serve, make_settings
from tests.functions.test_tasks import SCHEDULE, Context
from tests.protocol_server import ProtocolServer

LIMIT = 50.0
MODEL = "text-embedding-3-small"
CHUNKS = {"batch_id": "b", "chunks": [{"chunk_id": "c", "content": "a harp"}]}
CALLS = {
    "/embed": CHUNKS,
    "/api/vectorization/embed": {"text": "a harp"},
    "/v1/embeddings": {"model": MODEL, "input": "a harp"},
}
MakeServices = Callable[..., Services]
Start = Callable[..., httpx.Client]


@pytest.fixture
def openai() -> Iterator[ProtocolServer]:
    with ProtocolServer(api_key="key-of-the-test") as server:
        yield server


@pytest.fixture
def make_services(database: PostgresDatabase, openai: ProtocolServer) -> Iterator[MakeServices]:
    """`make_services(limit)`: the services of a new process, whose provider costs a dollar for each token. With a
    `database_url` they open and close their own database.

    A server closes its services itself.
    """
    of_lambda: list[Services] = []

    def make(
        limit: float | None = LIMIT, *, long_lived: bool = True, drain: float | None = None, **more: Any
    ) -> Services:
        settings = make_settings(
            **more,
            embedding_provider="openai",
            openai_api_key="key-of-the-test",
            openai_base_url=openai.openai_url,
            embedding_price_per_million=1_000_000.0,
            embedding_budget_per_day=limit,
        )
        given = None if more else database
        services = Services(settings, database=given, long_lived=long_lived, drain_every=drain)
        if not long_lived:
            of_lambda.append(services)
        return services

    yield make
    for services in of_lambda:
        services.close()


@pytest.fixture
def start(serve: Serve, make_services: MakeServices) -> Start:
    """`start(limit)`: a client, with the key, of a new server that has checked its provider."""

    def begin(limit: float | None = LIMIT, **options: Any) -> httpx.Client:
        client = serve(services=make_services(limit, **options))
        client.headers.update(KEYS)
        wait_until(lambda: client.get("/ready").status_code == 200)
        return client

    return begin


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def runs(owner: Connection) -> list[tuple[str, str | None]]:
    """Status and error of every run of a collection, latest first."""
    found = owner.execute(
        "select status, error from embedding.runs where collection_id is not null order by started_at desc"
    )
    return [(status, error) for status, error in found.fetchall()]


# Interactive calls


@pytest.mark.parametrize("path", CALLS)
def test_a_call_is_refused_until_midnight_and_nothing_is_sent(
    start: Start, owner: Connection, openai: ProtocolServer, path: str
) -> None:
    spend(owner, LIMIT)
    answer = start().post(path, json=CALLS[path])
    assert answer.status_code == 429
    error = answer.json()["error"]
    for part in ("EMBEDDING_BUDGET_PER_DAY", "$50 of $50", "00:00 UTC", "raise the setting"):
        assert part in error["message"]
    if path.startswith("/v1/"):
        assert (error["type"], error["code"], error["param"]) == ("insufficient_quota", "insufficient_quota", None)
        assert answer.headers["x-should-retry"] == "false"
    else:
        assert error["code"] == "budget_spent"
    (left,) = owner.execute(
        "select extract(epoch from date_trunc('day', now() at time zone 'UTC') + interval '1 day'"
        " - now() at time zone 'UTC')::float"
    ).fetchone() or (0,)
    assert int(answer.headers["retry-after"]) == pytest.approx(left, abs=60)
    assert openai.calls == []


def test_rows_that_a_request_names_stay_pending(start: Start, owner: Connection, insert: Insert) -> None:
    row = insert("a harp")
    spend(owner, LIMIT)
    answer = start().post("/api/upsert-embeddings", json={"rows": [{"id": row}]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "budget_spent")
    assert owner.execute("select attempts, leased_at from embedding.queue").fetchall() == [(0, None)]


def test_a_search_goes_on_by_full_text(start: Start, owner: Connection, insert: Insert) -> None:
    insert("a harp in a hall")
    owner.execute(f"select register_embedding_model('{MODEL}', 'openai', 1536)")
    owner.execute(f"select embedding.check_model(embedding.get_collection('music_knowledge'), '{MODEL}')")
    spend(owner, LIMIT)
    answer = start().post("/api/search/music_knowledge", json={"query": "harp"})
    assert answer.status_code == 200
    assert (answer.json()["degraded"], len(answer.json()["hits"])) == (True, 1)


def test_without_a_budget_no_call_of_the_database_is_made_for_it(
    start: Start, database: PostgresDatabase, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SYNC_SECONDS", 3600.0)
    called: list[str] = []
    call = database.call
    monkeypatch.setattr(database, "call", lambda name, *rest: (called.append(name), call(name, *rest))[1])
    for limit, expected in ((None, 0), (1000.0, 1)):
        called.clear()
        client = start(limit)
        for _ in range(5):
            for path, body in CALLS.items():
                assert client.post(path, json=body).status_code == 200
        assert called.count("embedding_costs") == expected


def test_two_servers_share_the_budget(
    start: Start, openai: ProtocolServer, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SYNC_SECONDS", 0.0)
    one, other = start(), start()
    body = {"text": "harp " * 10}
    while one.post("/api/vectorization/embed", json=body).status_code == 200:
        pass
    before = len(openai.calls)
    assert other.post("/api/vectorization/embed", json=body).status_code == 429
    assert len(openai.calls) == before
    assert openai.tokens == spent(owner)
    assert 20 < openai.tokens <= LIMIT
    next_day(owner)
    for client in (one, other):
        assert client.post("/api/vectorization/embed", json=body).status_code == 200


def test_a_process_that_ends_records_what_it_spent(
    make_services: MakeServices,
    owner: Connection,
    database_url: SecretStr,
    monkeypatch: pytest.MonkeyPatch,
    openai: ProtocolServer,
) -> None:
    monkeypatch.setattr(module, "SYNC_SECONDS", 3600.0)
    services = make_services(database_url=database_url)
    services.embedding.submit(["a harp"], "document", "b").result(30)
    assert spent(owner) == 0.0
    services.close()
    assert spent(owner) == openai.tokens > 0


# The schedule


def test_a_schedule_on_lambda_leaves_the_rows_pending_and_goes_on_the_next_day(
    make_services: MakeServices, owner: Connection, insert: Insert, openai: ProtocolServer
) -> None:
    insert("a harp")
    spend(owner, LIMIT)
    stopped = run(SCHEDULE, Context(60), make_services(long_lived=False))
    assert (stopped["status"], stopped["embedded"], openai.calls) == ("failed", 0, [])
    assert stopped["error"].startswith("music_knowledge: EMBEDDING_BUDGET_PER_DAY: $50 of $50")
    ((status, error),) = runs(owner)
    assert (status, error) == ("failed", stopped["error"].removeprefix("music_knowledge: "))
    assert owner.execute("select attempts, leased_at from embedding.queue").fetchall() == [(0, None)]
    next_day(owner)
    done = run(SCHEDULE, Context(60), make_services(long_lived=False))
    assert (done["status"], done["embedded"]) == ("completed", 1)
    assert spent(owner) == openai.tokens > 0, "recorded at once, because the function may never run again"


def test_a_server_stops_for_the_budget_and_embeds_the_rows_the_next_day(
    start: Start, owner: Connection, insert: Insert, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SYNC_SECONDS", 0.0)
    spend(owner, LIMIT)
    start(drain=0.1)
    insert("a harp")
    wait_until(lambda: any("EMBEDDING_BUDGET_PER_DAY" in (error or "") for _, error in runs(owner)))
    assert owner.execute("select count(embedding) from music_knowledge").fetchone() == (0,)
    next_day(owner)
    wait_until(lambda: owner.execute("select count(embedding) from music_knowledge").fetchone() == (1,))


# What users see


def test_the_costs_show_the_budget(start: Start, owner: Connection) -> None:
    assert start(None).get("/api/costs").json()["budget"] is None
    spend(owner, 12.5)
    client = start(100.0)
    before = client.get("/api/costs").json()["budget"]
    assert (before["limit"], before["spent"] >= 12.5, 0 < before["resets_in"] <= 86_400) == (100.0, True, True)
    assert client.post("/embed", json=CHUNKS).status_code == 200
    assert client.get("/api/costs").json()["budget"]["spent"] > before["spent"]


def test_health_names_the_budget_and_shows_no_sum_without_a_key(start: Start, owner: Connection) -> None:
    spend(owner, LIMIT)
    client = start()
    client.post("/embed", json=CHUNKS)
    health = httpx.get(f"{client.base_url}/health").json()
    (problem,) = health["problems"]
    assert (health["status"], problem["code"]) == ("degraded", "budget_spent")
    assert "EMBEDDING_BUDGET_PER_DAY" in problem["fix"]
    assert "$" not in problem["message"] + problem["fix"]


def test_an_outage_of_the_database_is_no_problem_of_the_provider(
    serve: Serve, make_services: MakeServices, database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = database.call_scalar

    def fail(name: str, *rest: Any) -> Any:
        if name == "embedding_costs":
            raise DatabaseUnavailable("gone")
        return ask(name, *rest)

    monkeypatch.setattr(database, "call_scalar", fail)
    services = make_services()
    client = serve(services=services)
    assert client.get("/ready").status_code == 503
    wait_until(lambda: isinstance(services.provider_check.latest().error, DatabaseUnavailable))
    assert client.get("/health").json()["problems"] == []


def test_a_model_without_a_known_price_is_not_called(
    serve: Serve, database: PostgresDatabase, openai: ProtocolServer, output: Output
) -> None:
    settings = make_settings(
        embedding_provider="openai",
        openai_api_key="key-of-the-test",
        openai_base_url=openai.openai_url,
        embedding_model="house-model",
        embedding_dimensions=96,
        embedding_budget_per_day=LIMIT,
    )
    client = serve(services=Services(settings, database=database, long_lived=True))
    answer = client.post("/embed", json=CHUNKS, headers=KEYS)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "configuration")
    assert openai.calls == []
    assert any("EMBEDDING_PRICE_PER_MILLION" in line for line in output.lines)
