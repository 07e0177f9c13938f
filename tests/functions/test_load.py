"""Tests that slow, abandoned and oversized requests of some clients do not stop the server for others."""

import asyncio
import gc
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress

import httpx
import pytest
from pydantic import SecretStr, ValidationError

from functions.embed import EmbedRequest
from functions.http import middleware, thread_shares
from functions.http.schemas import Body
from functions.http.thread_shares import ThreadShares
from functions.search import SearchRequest
from functions.services import Services
from functions.synonyms import NewSynonyms
from shared.database.limits import Limits
from shared.database.postgres import PostgresDatabase
from shared.errors import Overloaded
from tests.conftest import Connection
from tests.drills.harness import wait_until
from tests.fake_provider import FakeProvider
from tests.functions.conftest import KEYS, Serve, make_settings

MANY = {str(number): 1 for number in range(560_000)}


@pytest.fixture
def locked(owner: Connection) -> Iterator[Connection]:
    """A connection that reads while another locks music_knowledge."""
    with owner.transaction():
        owner.execute("lock table music_knowledge in access exclusive mode")
        yield owner


@pytest.fixture
def server(serve: Serve, database_url: SecretStr, provider: FakeProvider) -> Iterator[httpx.Client]:
    """A server whose calls wait for a lock as long as a test runs."""
    limits = Limits("60s", "60s")
    with PostgresDatabase(database_url, max_connections=16, limits=limits) as database:
        services = Services(make_settings(), database=database, provider=provider, long_lived=True)
        yield serve(services=services)


@contextmanager
def waiting(
    server: httpx.Client, method: str, path: str, count: int, locked: Connection, blocked: int
) -> Iterator[None]:
    """Requests that wait for a lock until the block ends. The block starts when enough of them have reached the database."""
    with ExitStack() as stack:
        client = stack.enter_context(
            httpx.Client(base_url=server.base_url, timeout=60, headers=KEYS, limits=httpx.Limits(max_connections=count))
        )
        pool = stack.enter_context(ThreadPoolExecutor(count))
        body = {"query": "violin"} if method == "POST" else None
        asked = [pool.submit(client.request, method, path, json=body) for _ in range(count)]
        assert wait_until(lambda: _blocked(locked) == blocked)
        yield
        # The lock is released and the calls end.
        locked.execute("rollback")
        wait(asked, 30)
        locked.execute("begin")


def _blocked(owner: Connection) -> int:
    # Within a transaction the view does not change by itself.
    owner.execute("select pg_stat_clear_snapshot()")
    row = owner.execute(
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    ).fetchone()
    assert row is not None
    return int(str(row[0]))


def test_requests_that_wait_for_a_lock_leave_threads_to_searches(server: httpx.Client, locked: Connection) -> None:
    with waiting(server, "GET", "/api/collections", 45, locked, 6):
        found = server.post("/api/search/datasets", json={"query": "violin"}, timeout=10)
        assert found.status_code == 200
        assert server.get("/health", timeout=10).status_code == 200


def test_requests_above_the_limit_are_refused_and_probes_answered(
    server: httpx.Client, locked: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(middleware, "MAX_REQUESTS", 20)
    with waiting(server, "GET", "/api/collections", 20, locked, 6):
        refused = server.get("/api/console")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json()["error"]["code"] == "overloaded"
        assert server.get("/health").status_code == 200
    assert server.get("/api/console").status_code == 200


def test_an_abandoned_request_that_waits_for_a_thread_does_no_work(
    serve: Serve,
    provider: FakeProvider,
    database: PostgresDatabase,
    locked: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called: list[str] = []
    original = PostgresDatabase._call

    def record(self: PostgresDatabase, function: str, arguments: dict[str, object]) -> list[object]:
        called.append(function)
        return original(self, function, arguments)

    monkeypatch.setattr(thread_shares, "KEYED_SHARE", 1)
    monkeypatch.setattr(PostgresDatabase, "_call", record)
    server = serve()
    with waiting(server, "GET", "/api/collections", 1, locked, 1):
        before = len(called)
        for _ in range(5):
            with suppress(httpx.ReadTimeout):
                httpx.get(f"{server.base_url}/api/runs", headers=KEYS, timeout=0.2)
    assert server.get("/api/runs", headers=KEYS).status_code == 200
    assert "list_embedding_runs" not in called[before:-1]


def test_a_request_that_waited_for_a_thread_keeps_its_body(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_shares, "SHARE", 1)
    server = serve()
    with ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(server.post, "/api/search/datasets", json={"query": f"violin {n}"}) for n in range(32)]
        assert [one.result().status_code for one in asked] == [200] * 32


@pytest.mark.parametrize("body", [SearchRequest, EmbedRequest, NewSynonyms])
def test_a_body_with_many_fields_costs_one_error(body: type[Body]) -> None:
    with pytest.raises(ValidationError) as caught:
        body.model_validate(MANY)
    assert caught.value.error_count() == 1
    assert "560,000 fields" in str(caught.value)


def test_a_filter_with_many_fields_costs_one_error() -> None:
    with pytest.raises(ValidationError) as caught:
        SearchRequest.model_validate({"query": "x", "filter": MANY})
    assert caught.value.error_count() == 1


def run_loop(main: Coroutine[None, None, None]) -> None:
    """Run a coroutine in a new event loop. asyncio.run would replace the thread's own loop, which Mangum has created."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(main)


def test_a_thread_share_is_passed_to_the_request_that_waits_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_shares, "SHARE", 2)
    order: list[int] = []

    async def run(shares: ThreadShares, number: int) -> None:
        async with shares.share("search"):
            order.append(number)
            await asyncio.sleep(0.001)

    async def main() -> None:
        shares = ThreadShares()
        tasks = [asyncio.create_task(run(shares, number)) for number in range(20)]
        await asyncio.sleep(0)
        tasks[5].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert order == [number for number in range(20) if number != 5]
        # The error of the cancelled task holds the frame of `share`.
        tasks.clear()
        await asyncio.sleep(0)
        gc.collect()
        assert not shares._shares, "the kind is dropped with its last request"

    run_loop(main())


def test_a_request_that_waits_too_long_for_a_thread_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_shares, "KEYED_SHARE", 1)
    monkeypatch.setattr(thread_shares, "PATIENCE", 0.01)

    async def main() -> None:
        shares = ThreadShares()
        async with shares.share("keyed"), shares.share("search"):
            with pytest.raises(Overloaded):
                async with shares.share("keyed"):
                    pass
        async with shares.share("keyed") as has_waited:
            assert not has_waited

    run_loop(main())
