"""Fixtures with real servers: a PostgreSQL server, a clone of the migrated database for each test, a PostgREST."""

import logging
import os
import secrets
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import cache
from pathlib import Path
from typing import NoReturn

import psycopg
import pytest
from pydantic import SecretStr

from shared.database.postgres import PostgresDatabase
from shared.database.supabase import SupabaseDatabase
from shared.embedding.collection import Collection
from tests import pgbouncer
from tests.fake_provider import FakeProvider
from tests.gateway import Gateway
from tests.pgbouncer import PgBouncer
from tests.postgres_cluster import Cluster, as_role, make_directory, remove
from tests.postgrest_server import BINARY, INSTALL, Postgrest, sign_token

Connection = psycopg.Connection[tuple[object, ...]]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tonnetz")
    group.addoption(
        "--skip-tools",
        action="store_true",
        default=os.environ.get("TONNETZ_SKIP_TOOLS") == "1",
        help="skip, rather than fail, the tests whose program is missing: see scripts/check_test_tools.sh (TONNETZ_SKIP_TOOLS=1)",
    )
    group.addoption(
        "--update-snapshots", action="store_true", help="rewrite tests/database/snapshots from the migrations"
    )
    group.addoption("--live", action="store_true", help="also run the provider contract against real providers")


def pytest_configure(config: pytest.Config) -> None:
    # A shell starts background jobs with SIGINT ignored. The commands that tests interrupt would inherit this.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # A `.env` file or exported variables of the user must not change the tests.
    for name in ("SUPABASE_URL", "SUPABASE_SERVICE_ROLE_KEY", "DATABASE_URL", "TONNETZ_DATA_DIR"):
        os.environ.pop(name, None)
    os.environ["TONNETZ_ENV_FILE"] = os.devnull


def missing_tool(request: pytest.FixtureRequest, reason: str) -> NoReturn:
    """Fail with the install command; with --skip-tools skip the test."""
    if request.config.getoption("--skip-tools"):
        pytest.skip(reason)
    pytest.fail(f"{reason} (TONNETZ_SKIP_TOOLS=1 skips such tests)", pytrace=False)


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """Restore the log settings: a Lambda function changes those of its process, which here is that of later tests."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """An empty PostgreSQL server for this worker, removed when the tests end."""
    directory = make_directory("tonnetz-tests-")
    try:
        with Cluster(directory) as running:
            yield running
    finally:
        remove(directory)


@pytest.fixture
def database_url(cluster: Cluster) -> Iterator[SecretStr]:
    """A fresh, migrated database."""
    with cluster.clone() as url:
        yield url


@pytest.fixture
def owner(database_url: SecretStr) -> Iterator[Connection]:
    """An autocommit connection of the database's owner."""
    with psycopg.connect(database_url.get_secret_value(), autocommit=True) as connection:
        yield connection


@pytest.fixture
def connect(database_url: SecretStr) -> Iterator[Callable[..., Connection]]:
    """More connections of the owner, for races; closed at the end."""
    opened: list[Connection] = []

    def open_connection(*, autocommit: bool = True) -> Connection:
        opened.append(psycopg.connect(database_url.get_secret_value(), autocommit=autocommit))
        return opened[-1]

    yield open_connection
    for connection in opened:
        connection.close()


@pytest.fixture
def role(database_url: SecretStr) -> Callable[..., AbstractContextManager[Connection]]:
    """`with role("anon") as connection:` a connection that acts as the role, like PostgREST."""
    return lambda name, **claims: as_role(database_url, name, **claims)


@pytest.fixture
def database(database_url: SecretStr) -> Iterator[PostgresDatabase]:
    with PostgresDatabase(database_url) as adapter:
        yield adapter


@pytest.fixture
def provider() -> FakeProvider:
    """A fake provider with the real base class; its vectors are deterministic and rank texts."""
    return FakeProvider()


@pytest.fixture
def work(database: PostgresDatabase, provider: FakeProvider) -> Collection:
    """The collection music_knowledge with a registered model."""
    queue = Collection(database, "music_knowledge")
    queue.register_embedding_model(provider.spec)
    return queue


@pytest.fixture(scope="session")
def pooler(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Callable[[str], PgBouncer]]:
    """`pooler(mode)`: PgBouncer in front of the cluster. In transaction mode, programs share three connections."""
    if pgbouncer.BINARY is None:
        missing_tool(request, f"needs a real PgBouncer: {pgbouncer.INSTALL}")
    with ExitStack() as running:
        sizes = {"transaction": "3", "session": "40"}
        yield cache(
            lambda mode: running.enter_context(PgBouncer(cluster.url("postgres"), mode, default_pool_size=sizes[mode]))
        )


# PostgREST


@pytest.fixture(scope="session")
def jwt_secret() -> str:
    return secrets.token_urlsafe(48)


@pytest.fixture(scope="session")
def tokens(jwt_secret: str) -> dict[str, str]:
    """A signed key for each role, as in a Supabase project."""
    return {name: sign_token(jwt_secret, name) for name in ("anon", "authenticated", "service_role")}


@pytest.fixture(scope="session")
def postgrest_binary(request: pytest.FixtureRequest) -> Path:
    if not BINARY.exists():
        missing_tool(request, f"needs a real PostgREST: {INSTALL}")
    return BINARY


@pytest.fixture
def rest(
    postgrest_binary: Path, cluster: Cluster, database_url: SecretStr, jwt_secret: str, tokens: dict[str, str]
) -> Iterator[Gateway]:
    """A small Supabase project: PostgREST on the test's database behind a gateway that adds /rest/v1."""
    with (
        Postgrest(postgrest_binary, cluster.url(database_url, user="authenticator"), jwt_secret) as server,
        Gateway(server.port, keys=set(tokens.values())) as gateway,
    ):
        yield gateway


@pytest.fixture
def supabase_database(rest: Gateway, tokens: dict[str, str]) -> Iterator[SupabaseDatabase]:
    with SupabaseDatabase(rest.url, SecretStr(tokens["service_role"])) as adapter:
        yield adapter
