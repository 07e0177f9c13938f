"""Code that all drills share: a database for each, the program in processes, and a record of provider calls."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, Self

import httpx
import psycopg
from pydantic import SecretStr

from tests.postgres_cluster import Cluster, remove
from tests.protocol_faults import Fault
from tests.protocol_server import Call, ProtocolServer

ROOT = Path(__file__).resolve().parents[2]
MUSIC = "music_knowledge"
# The width is small, because drills check only to which row a vector belongs.
WIDTH = 32


Connection = psycopg.Connection[Any]


class Length(IntEnum):
    """How long a drill may take: seconds, minutes, or up to an hour."""

    SHORT = 0
    FULL = 1
    LONG = 2


class Skipped(Exception):
    """This machine lacks a tool that the drill needs; the message says how to install it."""


def tools_are_required() -> bool:
    """Whether a missing tool is a failure."""
    return os.environ.get("TONNETZ_SKIP_TOOLS") != "1"


def environment_of_tests(length: Length) -> dict[str, str]:
    """The environment of drills that run as tests: they read their length from TONNETZ_DRILL."""
    return {**os.environ, "TONNETZ_DRILL": length.name.lower()}


@dataclass
class Finding:
    """The result of a drill; it passed if there are no problems."""

    done: str = ""
    found: str = ""
    problems: list[str] = field(default_factory=list)

    def expect(self, condition: object, problem: str) -> None:
        """Record the problem unless the condition holds."""
        if not condition:
            self.problems.append(problem)


class Program:
    """A process of the program. Its output goes to files, because a full pipe would block it."""

    def __init__(self, folder: Path, environment: dict[str, str], arguments: Sequence[str]) -> None:
        self._outputs = [folder / f"{secrets.token_hex(6)}.{name}" for name in ("stdout", "stderr")]
        with self._outputs[0].open("wb") as stdout, self._outputs[1].open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )

    @property
    def stdout(self) -> str:
        return self._outputs[0].read_text(encoding="utf-8")

    @property
    def stderr(self) -> str:
        return self._outputs[1].read_text(encoding="utf-8")

    @property
    def errors(self) -> list[str]:
        """The error lines on stderr."""
        return [line for line in self.stderr.splitlines() if line.startswith("error: ")]

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """Kill the process with kill -9."""
        self.process.kill()
        self.process.wait()

    def stop(self, seconds: float = 30) -> None:
        """Ask the process to end, and kill it if it does not."""
        self.process.terminate()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def finish(self, seconds: float) -> int:
        """Wait for its exit code; a process that hangs is killed and returns -9."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return -9


class Site:
    """A migrated database with rows, a folder, and the programs that were started there."""

    def __init__(self, cluster: Cluster, url: SecretStr, folder: Path) -> None:
        self.cluster, self.url, self.folder = cluster, url, folder
        self._programs: list[Program] = []
        self._closed = False
        self._connections: list[Connection] = []

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """A connection of the owner, each statement its own transaction."""
        with psycopg.connect(self.url.get_secret_value(), autocommit=True) as connection:
            yield connection

    def keep_connection(self) -> Connection:
        """A connection of the owner that is closed with the site."""
        self._connections.append(psycopg.connect(self.url.get_secret_value(), autocommit=True))
        return self._connections[-1]

    def ask(self, query: str, *arguments: object) -> Any:
        """The first value of a query, over a new connection."""
        with self.connect() as owner:
            row = owner.execute(query, arguments or None).fetchone()
        return row[0] if row else None

    def add(self, rows: int) -> None:
        """Insert rows whose texts are all different."""
        with self.connect() as owner:
            owner.execute(
                "insert into music_knowledge (topic, content)"
                " select 'drill', 'row ' || n || ' in key ' || md5(n::text) from generate_series(1, %s) n",
                [rows],
            )

    def environment(self, server: ProtocolServer | None, **more: str) -> dict[str, str]:
        """An environment without this machine's keys and `.env`; the value `<unset>` removes a variable."""
        chosen = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore",
            "PYTHONDONTWRITEBYTECODE": "1",
            "TONNETZ_ENV_FILE": os.devnull,
            "DATABASE_URL": self.url.get_secret_value(),
            "TONNETZ_DATA_DIR": str(self.folder / "data"),
            "EMBEDDING_PROVIDER": "openai",
            "EMBEDDING_DIMENSIONS": str(WIDTH),
            "OPENAI_API_KEY": secrets.token_hex(12),
            **({"OPENAI_BASE_URL": server.openai_url, "OLLAMA_URL": server.url} if server else {}),
            **more,
        }
        return {name: value for name, value in chosen.items() if value != "<unset>"}

    def start(self, *arguments: str, environment: dict[str, str]) -> Program:
        if self._closed:
            # The drill is ending. If a thread started a process now, the process would not be stopped.
            raise RuntimeError("the site is closed")
        program = Program(self.folder, environment, arguments)
        self._programs.append(program)
        return program

    def backfill(self, server: ProtocolServer | None, *arguments: str, **environment: str) -> Program:
        """Start scripts/backfill.py, with a lease of a few seconds, so that rows of a killed worker are soon free."""
        command = (str(ROOT / "scripts/backfill.py"), "--collection", MUSIC, "--lease-seconds", "6", *arguments)
        return self.start(*command, environment=self.environment(server, **environment))

    def close(self) -> None:
        self._closed = True
        for program in self._programs:
            if program.running:
                program.kill()
        for connection in self._connections:
            connection.close()


class FunctionsServer:
    """The HTTP server (python -m functions.local) on a free port of 127.0.0.1. A context manager."""

    def __init__(
        self, site: Site, provider: ProtocolServer, *arguments: str, environment: dict[str, str] | None = None
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        chosen = site.environment(provider, LOG_LEVEL="WARNING", **(environment or {}))
        command = ("-m", "functions.local", "--port", str(self.port), *arguments)
        self.program = site.start(*command, environment=chosen)
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60)

    def get(self, path: str) -> httpx.Response:
        return self._http.get(path)

    def post(self, path: str, body: object) -> httpx.Response:
        return self._http.post(path, json=body)

    def search(self, query: str) -> httpx.Response:
        return self.post("/api/search/music_knowledge", {"query": query, "match_count": 5})

    def __enter__(self) -> Self:
        def answers() -> bool:
            with suppress(httpx.TransportError):
                return self.get("/health").status_code == 200
            return False

        if not wait_until(answers, 60, program=self.program):
            raise RuntimeError(f"the HTTP server does not start: {self.program.stderr[-500:]}")
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()
        self.program.stop()


@contextmanager
def open_site(cluster: Cluster, rows: int = 0) -> Iterator[Site]:
    """A new database in the cluster; programs of it that still run are killed at the end."""
    folder = make_folder("tonnetz-drill-")
    try:
        with cluster.clone() as url:
            site = Site(cluster, url, folder)
            try:
                if rows:
                    site.add(rows)
                yield site
            finally:
                site.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_folder(prefix: str) -> Path:
    """Make a temporary folder. If root starts an embedded server in it, the system user of the server has to enter it."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    folder.chmod(0o711)
    return folder


@contextmanager
def open_cluster() -> Iterator[Cluster]:
    """A PostgreSQL server for drills only, because they crash it."""
    directory = make_folder("tonnetz-drills-")
    try:
        with Cluster(directory) as cluster:
            yield cluster
    finally:
        remove(directory)


# Calls of the provider


class Gate(ProtocolServer):
    """A provider that signals when a call has arrived or was answered, and can delay answers.

    The first `passing` calls are answered normally. With `holds`, later calls wait for `release`.
    """

    def __init__(self, *, latency: float = 0.0, passing: int = 0, holds: bool = False) -> None:
        super().__init__(latency=latency)
        self.was_asked, self.has_answered = threading.Event(), threading.Event()
        self.waiting: list[Call] = []
        self._passing = passing
        self._open = threading.Event()
        if not holds:
            self._open.set()

    def pause(self) -> None:
        """Let all later calls wait for `release`."""
        self._open.clear()

    def release(self) -> None:
        """Answer the waiting calls and all later ones."""
        self._open.set()

    def record(self, call: Call) -> Fault | None:
        fault = super().record(call)
        if len(self.calls) > self._passing:
            self.was_asked.set()
            self.waiting.append(call)
            self._open.wait(60)
            self.waiting.remove(call)
        return fault

    def answered(self, call: Call) -> None:
        if len(self.calls) > self._passing:
            self.has_answered.set()


def texts_sent(servers: Iterable[ProtocolServer]) -> Counter[str]:
    """How often each text was sent to any of these servers."""
    return Counter(text for server in servers for call in server.calls for text in call.inputs)


def sent_again(server: ProtocolServer) -> int:
    """How many texts were sent again to a provider. Calls that it refused do not count."""
    sent = Counter(text for call in server.calls if call.status == 200 for text in call.inputs)
    return sum(sent.values()) - len(sent)


# Waiting


def wait_until(condition: Callable[[], object], seconds: float = 30, *, program: Program | None = None) -> bool:
    """Wait until the condition holds; False after `seconds`, or when the program has ended."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline or (program is not None and not program.running):
            return bool(condition())
        time.sleep(0.005)
    return True
