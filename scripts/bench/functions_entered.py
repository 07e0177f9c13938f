#!/usr/bin/env python3
"""Counts the functions of this project that four typical operations call, and their database calls.

The operations are a search for a new query, `/embed` with one text, a backfill of one row, and a webhook after which
synonyms are generated and embedded. Each program runs with a profile function, which records every called function of
functions/, shared/ and scripts/; comprehensions and module bodies do not count. The backfill gets the address of a
running database, because starting PostgreSQL is no part of embedding a row, and early versions left it to a package.
`--checkout` also counts another version and compares the two.
"""

import json
import os
import secrets
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import benchmark
import command
import httpx
from serving import FUNCTIONS, serving

KEY = secrets.token_hex(16)

# Runs a module or script of the current checkout. SIGUSR1 clears the entered functions, SIGUSR2 writes them to a file.
TRACER = """
import atexit, json, os, runpy, signal, sys, threading
root, output = os.getcwd() + os.sep, sys.argv[1]
own = tuple(root + folder + os.sep for folder in ("functions", "shared", "scripts"))
entered, calls, seen = {}, [], {}
def profile(frame, event, argument):
    if event != "call":
        return
    code = frame.f_code
    kept = seen.get(code)
    if kept is None:
        name = code.co_name
        # Flag 1: a function, not the body of a module or a class.
        is_function = code.co_flags & 1 and (name[0] != "<" or name == "<lambda>")
        kept = seen[code] = bool(is_function) and code.co_filename.startswith(own)
    if kept:
        entered[code] = True
        # Each call of an SQL function goes through Database.call once.
        if code.co_name == "call" and code.co_filename.endswith(os.path.join("database", "base.py")):
            calls.append(str(frame.f_locals.get("function")))
def write(*_):
    names = sorted({(code.co_filename.removeprefix(root), code.co_qualname) for code in list(entered)})
    with open(output + ".part", "w") as file:
        json.dump({"entered": names, "calls": list(calls)}, file)
    os.replace(output + ".part", output)
def forget(*_):
    entered.clear()
    calls.clear()
signal.signal(signal.SIGUSR1, forget)
signal.signal(signal.SIGUSR2, write)
threading.setprofile(profile)
sys.setprofile(profile)
atexit.register(write)
sys.argv = sys.argv[2:]
sys.path.insert(0, root)
if sys.argv[0] == "-m":
    name = sys.argv[1]
    sys.argv = sys.argv[1:]
    runpy.run_module(name, run_name="__main__", alter_sys=True)
else:
    sys.path.insert(0, root + "scripts")
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


SQL = """
import sys
from shared.settings import load_settings
from shared.wiring import get_database_url
from shared.database.postgres import connect
with connect(get_database_url(load_settings())) as owner:
    found = owner.execute(sys.argv[1])
    if found.description:
        print(found.fetchone()[0])
"""

# Prints the address of the embedded database, and keeps it running until the input ends.
DATABASE = """
import sys
from shared.settings import load_settings
from shared.wiring import get_database_url
print(get_database_url(load_settings()).get_secret_value(), flush=True)
sys.stdin.read()
"""

# The functions (`entered`) and database calls (`calls`) of one operation.
Found = dict[str, Any]


def main() -> int:
    parser = benchmark.parser(__doc__)
    parser.add_argument("--checkout", type=Path, help="folder of another version to count, too, with its own .venv")
    parser.add_argument("--names", action="store_true", help="also list the functions of each operation")
    arguments = parser.parse_args()
    results = {"here": count(command.ROOT)}
    if arguments.checkout is not None:
        results["there"] = count(arguments.checkout.resolve())
    rows = []
    for side, walks in results.items():
        for walk, found in walks.items():
            files = len({file for file, _ in found["entered"]})
            rows.append((walk, len(found["entered"]), files, len(found["calls"]), side))
            if arguments.names:
                print(walk, *(f"    {file} {name}" for file, name in found["entered"]), sep="\n")
                print(f"    calls: {', '.join(found['calls'])}")
    benchmark.print_table(("operation", "functions", "files", "database calls", "checkout"), rows)
    for walk, found in results.get("there", {}).items():
        share = len(results["here"][walk]["entered"]) / len(found["entered"])
        print(f"{walk:10} {share:8.2f} times the functions of the other checkout")
    sizes = {
        side: {walk: {"functions": len(f["entered"]), "calls": len(f["calls"])} for walk, f in walks.items()}
        for side, walks in results.items()
    }
    return benchmark.finish(arguments, sizes)


def count(root: Path) -> dict[str, Found]:
    """Count the four operations in one checkout."""
    from tests.protocol_server import ProtocolServer

    with tempfile.TemporaryDirectory(prefix="tonnetz-walks-") as folder, ProtocolServer() as chat:
        # If root runs this, the user of the embedded database has to enter the folder.
        Path(folder).chmod(0o711)
        checkout = Checkout(root, Path(folder), chat.openai_url)
        checkout.trace("scripts/migrate.py", "--seed")
        checkout.trace("scripts/backfill.py")
        walks = checkout.serve()
        with checkout.running_database() as url:
            return walks | {"row": checkout.trace("scripts/backfill.py", "--collection", "music_knowledge", url=url)}


class Checkout:
    """A version of the project, run by its own .venv on an embedded database in the folder."""

    def __init__(self, root: Path, folder: Path, openai_url: str) -> None:
        self._root, self._entered = root, folder / "entered"
        self._python = root / ".venv" / "bin" / "python"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DATABASE_", "SUPABASE_"))}
        self._environment = kept | {
            "PYTHONPATH": str(root),
            "TONNETZ_DATA_DIR": str(folder / "data"),
            "EMBEDDING_PROVIDER": "onnx",
            "GENERATION_PROVIDER": "openai",
            "OPENAI_BASE_URL": openai_url,
            "OPENAI_API_KEY": KEY,
            "FUNCTIONS_API_KEY": KEY,
            "WEBHOOK_SECRET": KEY,
            "LOG_LEVEL": "ERROR",
        }

    def _run(self, *arguments: object, **environment: str) -> str:
        done = subprocess.run(
            [str(part) for part in (self._python, *arguments)],
            cwd=self._root, env=self._environment | environment, check=False, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{arguments[-1]}: {done.stderr[-1000:]}")
        return done.stdout.strip()

    def trace(self, *arguments: str, url: str | None = None) -> Found:
        """Run a script, on the database at `url`, and return what it entered."""
        self._run("-c", TRACER, self._entered, *arguments, **({"DATABASE_URL": url} if url else {}))
        return self._read()

    @contextmanager
    def running_database(self) -> Iterator[str]:
        """Keep the embedded database running; yields its address."""
        command = (self._python, "-c", DATABASE)
        with subprocess.Popen(
            command, cwd=self._root, env=self._environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as program:
            assert program.stdout is not None
            yield program.stdout.readline().strip()

    def _read(self) -> Found:
        found: Found = json.loads(self._entered.read_text())
        return found

    def execute(self, statement: str) -> str:
        """Run a statement; returns the first value of its answer."""
        return self._run("-c", SQL, statement)

    def change_a_row(self) -> None:
        """Change the text of one row, so that it needs a vector."""
        first = "select id from music_knowledge order by id limit 1"
        self.execute(f"update music_knowledge set content = content || ' {secrets.token_hex(4)}' where id = ({first})")

    def serve(self) -> dict[str, Found]:
        """Count the operations of a server whose connections are open and whose model is loaded."""
        program = (self._python, "-c", TRACER, self._entered, *FUNCTIONS[1:])
        log = self._entered.with_suffix(".log")
        with serving(program, "/ready", folder=self._root, environment=self._environment, log=log) as (url, server):
            headers = {"authorization": f"Bearer {KEY}", "x-webhook-secret": KEY}
            with httpx.Client(base_url=url, headers=headers, timeout=60) as http:

                def post(path: str, body: Any) -> None:
                    http.post(path, json=body).raise_for_status()

                def walk(action: Callable[[], object]) -> Found:
                    time.sleep(2)
                    server.send_signal(signal.SIGUSR1)
                    time.sleep(0.3)
                    action()
                    self._entered.unlink(missing_ok=True)
                    server.send_signal(signal.SIGUSR2)
                    wait_until(self._entered.exists, 20, "the server does not write down what it entered")
                    return self._read()

                def search() -> None:
                    post("/api/search/music_knowledge", {"query": f"warm {secrets.token_hex(4)}"})

                def embed() -> None:
                    text = f"a text {secrets.token_hex(4)}"
                    post("/embed", {"batch_id": "b", "chunks": [{"chunk_id": "c", "content": text}]})

                search()
                # What a server does each second also without a request, such as closing slow connections, does not count.
                idle = walk(lambda: time.sleep(1.2))
                # The server closes a connection after five seconds without a request.
                embed()
                walks = {"search": walk(search), "embed": walk(embed)}
                self.change_a_row()
                walks["synonyms"] = walk(lambda: self.name_a_tag(post))
                self.change_a_row()
                for found in walks.values():
                    found["entered"] = [one for one in found["entered"] if one not in idle["entered"]]
                return walks

    def name_a_tag(self, post: Callable[[str, Any], None]) -> None:
        """Insert a tag, send its webhook and wait until its synonyms are embedded."""
        name = f"style {secrets.token_hex(3)}"
        tag = int(self.execute(f"insert into genre_tags (name) values ('{name}') returning id"))
        record = {"type": "INSERT", "table": "genre_tags", "schema": "public", "record": {"id": tag}}
        post("/api/webhooks/synonyms", record)
        done = (
            f"select count(*) from mir_synonyms where tag_id = {tag} and tag_type = 'genre' and embedding is not null"
        )
        wait_until(lambda: self.execute(done) == "1", 60, "the tag has no embedded synonyms")


def wait_until(condition: Callable[[], bool], seconds: float, problem: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(problem)
        time.sleep(0.05)


if __name__ == "__main__":
    command.run(main)
