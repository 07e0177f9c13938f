"""Fixtures: a server on a free port of 127.0.0.1 with a real database and the fake provider."""

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from tiktoken import Encoding, get_encoding

from functions.http import token_arrays
from functions.http.server import LimitedServer, server_config
from functions.local import create_server
from functions.services import Services
from shared.database.postgres import PostgresDatabase
from shared.database.supabase import SupabaseDatabase
from shared.logs import JsonFormatter
from shared.settings import Settings
from tests.conftest import Connection
from tests.fake_provider import FakeProvider
from tests.gateway import Gateway
from tests.postgrest_server import Postgrest, sign_token

API_KEY = f"functions-key-{secrets.token_urlsafe(24)}"
WEBHOOK_SECRET = f"webhook-secret-{secrets.token_urlsafe(24)}"
JWT_SECRET = secrets.token_urlsafe(48)
SERVICE_KEY = sign_token(JWT_SECRET, "service_role")
KEYS = {"Authorization": f"Bearer {API_KEY}"}

# No output may contain any of them.
HIDDEN = (API_KEY, WEBHOOK_SECRET, JWT_SECRET, SERVICE_KEY)


@dataclass
class Output:
    """All output of the servers of one test: answers, log lines with their tracebacks, stdout."""

    capture: pytest.CaptureFixture[str]
    answers: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    printed: str = ""

    def stdout(self) -> str:
        """The text that was printed so far."""
        out, err = self.capture.readouterr()
        self.printed += out
        self.lines.append(err)
        return self.printed

    def assert_clean(self) -> None:
        everything = "\n".join([*self.answers, *self.lines, self.stdout(), *self.lines])
        for secret in HIDDEN:
            assert secret not in everything, f"the output contains a secret: {secret[:14]}..."


class _Recorder(logging.Handler):
    """Keeps each record twice: from our formatter without its removal of secrets, and from Python's formatter."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self._lines = lines
        self._json = JsonFormatter()
        self._plain = logging.Formatter("%(name)s %(message)s")

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith(("httpx", "httpcore")):
            # This record is from the test's own client, which logs its requests.
            return
        self._lines.append(self._json.format(record))
        self._lines.append(self._plain.format(record))


@pytest.fixture(autouse=True)
def output(capfd: pytest.CaptureFixture[str]) -> Iterator[Output]:
    """Scans all output for secrets when the test has ended."""
    collected = Output(capfd)
    recorder = _Recorder(collected.lines)
    root = logging.getLogger()
    level = root.level
    root.addHandler(recorder)
    root.setLevel(logging.INFO)
    yield collected
    root.removeHandler(recorder)
    root.setLevel(level)
    collected.assert_clean()


def make_settings(**overrides: Any) -> Settings:
    """Settings with all keys, from these arguments only."""
    given: dict[str, Any] = {
        "functions_api_key": API_KEY,
        "webhook_secret": WEBHOOK_SECRET,
        "supabase_jwt_secret": JWT_SECRET,
        "console": True,
        **overrides,
    }
    return Settings(_env_file=None, **given)  # type: ignore[call-arg]


@contextmanager
def serving(services: Services, port: int = 0) -> Iterator[str]:
    """Serve all functions on this port or a free one; yields the URL."""
    server = LimitedServer(server_config(create_server(services), host="127.0.0.1", port=port, lifespan="on"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        assert time.monotonic() < deadline, "the server did not start in time"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the server did not stop"


Serve = Callable[..., httpx.Client]


@pytest.fixture
def serve(database: PostgresDatabase, provider: FakeProvider, output: Output) -> Iterator[Serve]:
    """`serve(**settings)`: a client of a new server over the test's database and provider."""
    with ExitStack() as stack:

        def start(*, services: Services | None = None, loopback: bool = False, **settings: Any) -> httpx.Client:
            services = services or Services(
                make_settings(**settings),
                database=database,
                provider=provider,
                long_lived=True,
                open_on_loopback=loopback,
            )
            url = stack.enter_context(serving(services))

            def record(response: httpx.Response) -> None:
                response.read()
                output.answers.append(f"{response.headers!r} {response.text}")

            return stack.enter_context(httpx.Client(base_url=url, timeout=60, event_hooks={"response": [record]}))

        yield start


@pytest.fixture
def client(serve: Serve) -> httpx.Client:
    """A client without a key, for a server that requires keys."""
    return serve()


@pytest.fixture
def keyed(client: httpx.Client) -> httpx.Client:
    """A client that has FUNCTIONS_API_KEY."""
    client.headers.update(KEYS)
    return client


@pytest.fixture(params=["postgres", pytest.param("supabase", marks=pytest.mark.postgrest)])
def each_adapter(
    request: pytest.FixtureRequest, database_url: SecretStr, provider: FakeProvider, output: Output
) -> Iterator[httpx.Client]:
    """A client of a server on each adapter."""
    with ExitStack() as stack:
        if request.param == "postgres":
            database: PostgresDatabase | SupabaseDatabase = stack.enter_context(PostgresDatabase(database_url))
            settings = make_settings()
        else:
            binary = request.getfixturevalue("postgrest_binary")
            cluster = request.getfixturevalue("cluster")
            server = stack.enter_context(Postgrest(binary, cluster.url(database_url, user="authenticator"), JWT_SECRET))
            anon = token("anon")
            gateway = stack.enter_context(Gateway(server.port, keys={SERVICE_KEY, anon}))
            settings = make_settings(
                supabase_url=gateway.url, supabase_service_role_key=SERVICE_KEY, supabase_anon_key=anon
            )
            database = stack.enter_context(
                SupabaseDatabase(gateway.url, SecretStr(SERVICE_KEY), anon_key=SecretStr(anon))
            )
        services = Services(settings, database=database, provider=provider, long_lived=True)
        url = stack.enter_context(serving(services))

        def record(response: httpx.Response) -> None:
            response.read()
            output.answers.append(f"{response.headers!r} {response.text}")

        yield stack.enter_context(httpx.Client(base_url=url, timeout=60, event_hooks={"response": [record]}))


@pytest.fixture
def encoding(monkeypatch: pytest.MonkeyPatch) -> Encoding:
    """The tokens of OpenAI's models, from the copy that LlamaIndex ships: tiktoken would fetch it from the internet."""
    # The package is not imported, because it would leave an event loop open.
    package = find_spec("llama_index.core")
    assert package is not None
    assert package.origin is not None
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(Path(package.origin).parent / "_static/tiktoken_cache"))
    monkeypatch.setattr(token_arrays, "_loading", None)
    return get_encoding(token_arrays.ENCODING)


Insert = Callable[..., str]


@pytest.fixture
def insert(owner: Connection) -> Insert:
    """`insert(content, topic=..., category=...)` inserts a row of music_knowledge and returns its id."""

    def insert_row(content: str, *, topic: str = "t", category: str = "c") -> str:
        row = owner.execute(
            "insert into public.music_knowledge (topic, category, content) values (%s, %s, %s) returning id::text",
            [topic, category, content],
        ).fetchone()
        assert row is not None
        return str(row[0])

    return insert_row


def token(role: str = "authenticated", *, secret: str = JWT_SECRET, **claims: object) -> str:
    """A user's token."""
    return sign_token(secret, role, **claims)
