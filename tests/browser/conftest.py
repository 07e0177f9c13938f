"""The console in Debian's Chromium, on a real server and database.

Tests that only read share one `python -m functions.local`. A test with special settings or rows starts its server in
this process, which takes a tenth of the time.

The embedding provider is the protocol server: texts with common words have similar vectors, and it fails on request.
"""

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect
from pydantic import SecretStr

from functions.services import Services
from shared.database.postgres import PostgresDatabase
from shared.embedded.migrations import migrate
from shared.embedding.backfill import BackfillOptions, backfill
from shared.providers.ollama.provider import OllamaProvider
from shared.settings import Settings
from tests.browser.chromium import INSTALL_CHROMIUM, is_installed, open_browser
from tests.conftest import Connection, missing_tool
from tests.functions.conftest import serving
from tests.postgres_cluster import Cluster
from tests.protocol_server import ProtocolServer

ROOT = Path(__file__).resolve().parents[2]
AXE = ROOT / ".tools/browser/node_modules/axe-core/axe.min.js"
INSTALL_AXE = "apt-get install -y npm, then run scripts/install_axe.sh"
DESK = (1280, 860)
PHONE = (390, 844)
API_KEY = f"console-key-{secrets.token_urlsafe(24)}"
# The model of the protocol server, under Ollama's protocol.
MODEL = "all-minilm"
START_SECONDS = 180.0
# This limit is high, because other jobs may use the processor.
PATIENCE_MS = 90_000
expect.set_options(timeout=PATIENCE_MS)


@pytest.hookimpl(tryfirst=True)  # before the plugin that reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run these tests in two workers, each of which has a browser, the seeded database and the servers.

    In one worker they would take longer than all other tests together.
    """
    for item in items:
        if (path := Path(item.path)).parent == Path(__file__).parent:
            group = "pages" if path.stem in ("test_page", "test_map", "test_search") else "panels"
            item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="module")
def browser(request: pytest.FixtureRequest) -> Iterator[Browser]:
    # Playwright is stopped after the module: while it runs, no other test can run an event loop in this thread.
    if not is_installed():
        missing_tool(request, f"needs Debian's Chromium: {INSTALL_CHROMIUM}")
    with open_browser() as running:
        yield running


@pytest.fixture(scope="session")
def seeded(cluster: Cluster) -> Iterator[SecretStr]:
    """A database with the sample rows, embedded with the protocol server's model."""
    with cluster.clone() as url, ProtocolServer() as server:
        migrate(url, seed=True)
        with PostgresDatabase(url) as database, provider_of(server) as provider:
            for collection in ("music_knowledge", "mir_synonyms", "datasets", "code_chunks"):
                assert backfill(database, provider, BackfillOptions(collection)).complete
        yield url


@contextmanager
def provider_of(server: ProtocolServer) -> Iterator[OllamaProvider]:
    provider = OllamaProvider(url=server.url, model=MODEL)
    try:
        yield provider
    finally:
        provider.close()


class Console:
    """A server of the console, which uses the same port after a restart."""

    def __init__(self, database_url: SecretStr, settings: dict[str, str]) -> None:
        self.database_url = database_url.get_secret_value()
        self._settings = {
            "EMBEDDING_PROVIDER": "ollama",
            "EMBEDDING_MODEL": MODEL,
            "DATABASE_URL": self.database_url,
            **settings,
        }
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port: int = probe.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"


class ConsoleProcess(Console):
    """`python -m functions.local`, as `make serve` starts it."""

    def start(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "functions.local", "--port", str(self._port), "--drain-minutes", "0"],
            cwd=folder,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(folder),
                "PYTHONPATH": str(ROOT),
                "PYTHONDONTWRITEBYTECODE": "1",
                "TONNETZ_DATA_DIR": str(folder / "data"),
                "TONNETZ_ENV_FILE": os.devnull,
                **self._settings,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                httpx.get(f"{self.url}/api/console", timeout=10)
                return
            except httpx.TransportError:
                assert self._process.poll() is None, "the server did not start"
                assert time.monotonic() < deadline, "the server did not start in time"
                time.sleep(0.05)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(60)


class ConsoleThread(Console):
    """The same functions, served by a thread of this process."""

    _running: ExitStack

    def start(self) -> None:
        given = {name.lower(): value for name, value in self._settings.items()}
        services = Services(
            Settings(_env_file=None, **given),  # type: ignore[arg-type]
            long_lived=True,
            open_on_loopback=True,
            console=True,
        )
        with ExitStack() as stack:
            stack.enter_context(serving(services, self._port))
            self._running = stack.pop_all()

    def stop(self) -> None:
        self._running.close()


@dataclass
class Tab:
    """A page of the console, with its errors and its requests to other hosts."""

    page: Page
    url: str
    errors: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    # Messages that Chromium writes to the console for error answers that a test expects.
    expected: list[str] = field(default_factory=list)

    def open(self, panel: str = "coverage") -> Page:
        self.page.goto(f"{self.url}/#/{panel}")
        return self.page

    def assert_clean(self) -> None:
        unexpected = [text for text in self.errors if not any(known in text for known in self.expected)]
        assert unexpected == []
        assert self.elsewhere == [], "the page asked another host"


OpenTab = Callable[..., Tab]


@pytest.fixture
def tab(browser: Browser) -> Iterator[OpenTab]:
    """`tab(url, size=DESK, theme="light")`: a new browser profile; at the end the page must have reported no error."""
    with ExitStack() as stack:
        opened: list[Tab] = []

        def make(url: str, *, size: tuple[int, int] = DESK, theme: str = "light", **options: Any) -> Tab:
            context = browser.new_context(
                viewport={"width": size[0], "height": size[1]},
                color_scheme="dark" if theme == "dark" else "light",
                reduced_motion="reduce",
                **options,
            )
            stack.callback(context.close)
            made = Tab(context.new_page(), url)
            made.page.set_default_timeout(PATIENCE_MS)
            made.page.on("console", lambda message: message.type == "error" and made.errors.append(message.text))
            made.page.on("pageerror", lambda error: made.errors.append(str(error)))
            made.page.on("request", lambda request: request.url.startswith(url) or made.elsewhere.append(request.url))
            opened.append(made)
            return made

        yield make
        for made in opened:
            made.assert_clean()


@pytest.fixture(scope="session")
def ollama() -> Iterator[ProtocolServer]:
    with ProtocolServer() as server:
        yield server


@pytest.fixture(autouse=True)
def sound_provider(ollama: ProtocolServer) -> Iterator[None]:
    """Reset faults and delays after the test that set them."""
    yield
    ollama.faults.clear()
    ollama.latency = 0


@pytest.fixture(scope="session")
def reading(
    seeded: SecretStr, cluster: Cluster, ollama: ProtocolServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Console]:
    """A server over the sample rows for the tests that only read."""
    with cluster.copy(seeded) as url:
        server = ConsoleProcess(url, {"OLLAMA_URL": ollama.url})
        server.start(tmp_path_factory.mktemp("console"))
        yield server
        server.stop()


@pytest.fixture
def own_url(cluster: Cluster, seeded: SecretStr) -> Iterator[SecretStr]:
    """A copy of the sample rows for a test that writes."""
    with cluster.copy(seeded) as url:
        yield url


StartConsole = Callable[..., ConsoleThread]


@pytest.fixture
def start(ollama: ProtocolServer) -> Iterator[StartConsole]:
    """`start(database_url, **settings)`: start a server for one test."""
    with ExitStack() as stack:

        def make(url: SecretStr, **settings: str) -> ConsoleThread:
            server = ConsoleThread(url, {"OLLAMA_URL": ollama.url, **settings})
            server.start()
            stack.callback(server.stop)
            return server

        yield make


@pytest.fixture
def axe(request: pytest.FixtureRequest) -> str:
    if not AXE.exists():
        missing_tool(request, f"needs axe-core: {INSTALL_AXE}")
    return AXE.read_text(encoding="utf-8")


def add_rows(connection: Connection, number: int, text: str = "take {} of the song") -> None:
    """Insert pending rows into music_knowledge."""
    connection.execute(
        "insert into public.music_knowledge (topic, category, content) "
        "select 'take ' || n, 'takes', replace(%s, '{}', n::text) from generate_series(1, %s) n",
        [text, number],
    )
