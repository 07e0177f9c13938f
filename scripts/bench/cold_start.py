#!/usr/bin/env python3
"""Measures cold starts: the time from the start of a program in a new interpreter to a handler's first answer.

The time includes imports, settings, connecting and answering. It is compared with that of an app that has only FastAPI and
Mangum. The database server is already running (DATABASE_URL, as on Lambda). Some functions first load the model, or numpy
for the map of a collection; the time for this is shown separately.
"""

import compileall
import json
import os
import secrets
import subprocess
import sys
from typing import Any

import benchmark
import command
from command import ROOT
from scratch import SCRATCH

from shared.database.postgres import PostgresDatabase
from shared.embedded.migrations import migrate
from shared.embedded.server import start_embedded

KEY = secrets.token_hex(16)

BARE = """
from fastapi import FastAPI
from mangum import Mangum
from pydantic import BaseModel
class Body(BaseModel):
    text: str
class Answer(BaseModel):
    text: str
app = FastAPI()
@app.post("/bare")
def bare(body: Body) -> Answer:
    return Answer(text=body.text)
handler = Mangum(app, lifespan="off")
"""

PROGRAM = """
import time
started, worked = time.perf_counter(), time.process_time()
import json, sys
name, event = sys.argv[1], json.loads(sys.argv[2])
loading = loading_work = 0.0
if name == "bare":
    exec({bare!r})
else:
    import importlib
    handler = importlib.import_module("functions." + name).handler
    begun, begun_work = time.perf_counter(), time.process_time()
    if sys.argv[3] == "model":
        from functions.services import SERVICES
        SERVICES.provider.embed_query("music")
    elif sys.argv[3]:
        importlib.import_module(sys.argv[3])
    loading, loading_work = time.perf_counter() - begun, time.process_time() - begun_work
class Context:
    def get_remaining_time_in_millis(self):
        return 900_000
answer = handler(event, Context())
total, work = time.perf_counter() - started, time.process_time() - worked
assert answer["status"] == "completed" if name == "worker" else answer["statusCode"] < 300, answer
print(json.dumps([1000 * seconds for seconds in (total - loading, work - loading_work, loading)]))
""".replace("{bare!r}", repr(BARE))

SCHEDULE = {"source": "aws.events", "detail-type": "Scheduled Event", "detail": {}}
EMBED = {"batch_id": "b", "chunks": [{"chunk_id": "c", "content": "a text"}]}
TAG_IS_GONE = {"type": "DELETE", "table": "genre_tags", "schema": "public"}
# For each function: method, path and body of the request, and the module that is loaded first and measured separately
# ("model" means the embedding model, "" means nothing).
CALLS: dict[str, tuple[str, str, Any, str]] = {
    "bare": ("POST", "/bare", {"text": "a text"}, ""),
    "health": ("GET", "/health", None, ""),
    "collections": ("GET", "/api/collections", None, ""),
    "maps": ("GET", "/api/collections/music_knowledge/map", None, "numpy"),
    "runs": ("GET", "/api/runs", None, ""),
    "tasks": ("GET", "/api/tasks/{task}", None, ""),
    "console": ("GET", "/api/console", None, "model"),
    "synonyms": ("GET", "/api/synonyms/generation", None, ""),
    "synonyms_webhook": ("POST", "/api/webhooks/synonyms", TAG_IS_GONE, ""),
    "embed": ("POST", "/embed", EMBED, "model"),
    "vectorization": ("POST", "/api/vectorization/embed", {"text": "a text"}, "model"),
    "openai_embeddings": ("POST", "/v1/embeddings", {"model": "all-MiniLM-L6-v2", "input": "a text"}, "model"),
    "search": ("POST", "/api/search/music_knowledge", {"query": "a text"}, "model"),
    "upsert_embeddings": ("POST", "/api/upsert-embeddings", {"rows": [{"id": "missing"}]}, "model"),
    "webhooks": ("POST", "/api/webhooks/embeddings", {"type": "DELETE", "table": "music_knowledge"}, "model"),
    # This function gets an event of the schedule instead of an HTTP request. No row is pending.
    "worker": ("", "", SCHEDULE, "model"),
}


def main() -> int:
    arguments = benchmark.parser(__doc__, rounds=(7, "fresh interpreters for each function")).parse_args()
    environment, task = prepare()
    # For each first answer three numbers in milliseconds: its time, its CPU time, and the time of loading (the first two do
    # not include the third).
    measured: dict[str, list[list[float]]] = {name: [] for name in CALLS}
    for number in range(arguments.rounds + 1):
        for name in CALLS:
            times = start_cold(name, task, environment)
            if number:  # the first round fills the caches of the file system
                measured[name].append(times)
        print(f"round {number} of {arguments.rounds}", file=sys.stderr)
    medians = {
        name: [benchmark.median(column, 1) for column in zip(*times, strict=True)] for name, times in measured.items()
    }
    bare_ms, bare_cpu, _ = medians["bare"]
    result = {
        name: {
            "ms": total,
            "ratio": round(total / bare_ms, 2),
            "cpu_ms": work,
            "cpu_ratio": round(work / bare_cpu, 2),
            "loading_ms": loading,
        }
        for name, (total, work, loading) in medians.items()
    }
    print(f"medians of {arguments.rounds} fresh interpreters each, ms")
    headings = ("function", "first answer", "ratio to bare", "CPU time", "ratio to bare", "loading")
    benchmark.print_table(headings, [(name, *row.values()) for name, row in result.items()])
    return benchmark.finish(arguments, result)


def prepare() -> tuple[dict[str, str], str]:
    """Start a database; returns the environment in which the functions use it, and the id of a task in it."""
    url = start_embedded(SCRATCH)
    migrate(url)
    with PostgresDatabase(url) as database:
        task = str(database.call_scalar("record_embedding_run", {"status": "completed"}))
    # The container image has compiled modules. Compile them here too, because PYTHONDONTWRITEBYTECODE may be set.
    for package in ("functions", "shared"):
        compileall.compile_dir(ROOT / package, quiet=1)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "DATABASE_URL": url.get_secret_value(),
        "TONNETZ_DATA_DIR": str(SCRATCH),
        "EMBEDDING_PROVIDER": "onnx",
        "FUNCTIONS_API_KEY": KEY,
        "WEBHOOK_SECRET": KEY,
        "CONSOLE": "true",
        "LOG_LEVEL": "ERROR",
    }
    return environment, task


def start_cold(name: str, task: str, environment: dict[str, str]) -> list[float]:
    """Measure one function's first answer in a fresh interpreter; returns the three numbers of `main`."""
    method, path, body, load_first = CALLS[name]
    event = json.dumps(http_event(method, path.format(task=task), body) if method else body)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, name, event, load_first],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr[-1000:]}")
    times: list[float] = json.loads(done.stdout.splitlines()[-1])
    return times


def http_event(method: str, path: str, body: Any) -> dict[str, Any]:
    """An event of an HTTP API, payload format 2.0."""
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"host": "a.example", "content-type": "application/json", "authorization": f"Bearer {KEY}"},
        "requestContext": {
            "domainName": "a.example",
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "1.2.3.4", "userAgent": "b"},
            "requestId": "r",
            "stage": "$default",
        },
        "body": None if body is None else json.dumps(body),
        "isBase64Encoded": False,
    }


if __name__ == "__main__":
    command.run(main)
