#!/usr/bin/env python3
"""How many of the project's own functions four typical walks enter, and how many database calls they make.

The walks: a search for a new query, `/embed` with one text, a backfill of one row, and a webhook that ends in
embedded synonyms. Each program runs under a profile function that notes every code object below functions/, shared/
and scripts/ it enters; comprehensions and module bodies do not count. `--checkout` counts another version beside
this one, in the same run.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# What the benchmarks share lies in the folder above.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import command
from serving import serving

KEY = secrets.token_hex(16)
PORT = 18_431

# Runs a module or a script of the checkout it stands in. SIGUSR1 forgets what was entered so far, SIGUSR2 writes it down.
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


def main() -> int:
    parser = command.parser(__doc__, json=command.JSON)
    parser.add_argument("--checkout", type=Path, help="another checkout to count beside this one, with its own .venv")
    parser.add_argument("--names", action="store_true", help="also list the functions of each walk")
    arguments = parser.parse_args()
    results = {"here": count(command.ROOT)}
    if arguments.checkout is not None:
        results["there"] = count(arguments.checkout.resolve())
    print(f"{'walk':10} {'functions':>9} {'files':>6} {'database calls':>15}")
    for side, walks in results.items():
        for walk, found in walks.items():
            files = len({file for file, _ in found["entered"]})
            print(f"{walk:10} {len(found['entered']):9} {files:6} {len(found['calls']):15}   {side}")
            if arguments.names:
                print(*(f"    {file} {name}" for file, name in found["entered"]), sep="\n")
                print(f"    calls: {', '.join(found['calls'])}")
    if "there" in results:
        for walk, found in results["here"].items():
            theirs = len(results["there"][walk]["entered"])
            print(f"{walk:10} {len(found['entered']) / theirs:8.2f} of the other checkout's functions")
    if arguments.json:
        sizes = {
            side: {walk: {"functions": len(f["entered"]), "calls": len(f["calls"])} for walk, f in walks.items()}
            for side, walks in results.items()
        }
        print(json.dumps(sizes))
    return 0


def count(checkout: Path) -> dict[str, dict[str, Any]]:
    """The four walks in one checkout."""
    from tests.protocol_server import ProtocolServer

    with tempfile.TemporaryDirectory(prefix="tonnetz-walks-") as folder, ProtocolServer() as chat:
        python = checkout / ".venv" / "bin" / "python"
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("DATABASE_", "SUPABASE_"))},
            "TONNETZ_DATA_DIR": str(Path(folder) / "data"),
            "EMBEDDING_PROVIDER": "onnx",
            "GENERATION_PROVIDER": "openai",
            "OPENAI_BASE_URL": chat.openai_url,
            "OPENAI_API_KEY": KEY,
            "FUNCTIONS_API_KEY": KEY,
            "WEBHOOK_SECRET": KEY,
            "LOG_LEVEL": "ERROR",
        }

        def run(*arguments: str, output: str = "ignored") -> None:
            done = subprocess.run(
                [python, "-c", TRACER, str(Path(folder) / output), *arguments],
                cwd=checkout, env=environment, check=False, capture_output=True, text=True,
            )  # fmt: skip
            if done.returncode:
                raise RuntimeError(f"{' '.join(arguments)}: {done.stderr[-1000:]}")

        run("scripts/migrate.py", "--seed")
        run("scripts/backfill.py")
        walks: dict[str, dict[str, Any]] = {}
        with served(python, checkout, environment, Path(folder) / "served") as walk:
            walks["search"] = walk(
                lambda: post("/api/search/music_knowledge", {"query": f"warm {secrets.token_hex(4)}"})
            )
            text = {"batch_id": "b", "chunks": [{"chunk_id": "c", "content": f"a text {secrets.token_hex(4)}"}]}
            walks["embed"] = walk(lambda: post("/embed", text))
            change(python, checkout, environment)
            walks["synonyms"] = walk(lambda: name_a_tag(python, checkout, environment))
            change(python, checkout, environment)
        run("scripts/backfill.py", "--collection", "music_knowledge", output="row")
        walks["row"] = json.loads((Path(folder) / "row").read_text())
        return walks


@contextmanager
def served(python: Path, checkout: Path, environment: dict[str, str], output: Path) -> Iterator[Any]:
    """A server of the checkout; what is yielded runs an action and returns what it entered."""
    arguments = [python, "-c", TRACER, output, "-m", "functions.local", "--port", PORT, "--drain-minutes", "0"]
    ready = f"http://127.0.0.1:{PORT}/ready"
    with serving(arguments, ready, folder=checkout, environment=environment, log=output.with_suffix(".log")) as server:
        # Warm: connections, the model and whatever is made at the first use.
        post("/api/search/music_knowledge", {"query": "warm up"})
        post("/embed", {"batch_id": "b", "chunks": [{"chunk_id": "c", "content": "warm up"}]})

        def walk(action: Any) -> dict[str, Any]:
            time.sleep(2)
            server.send_signal(signal.SIGUSR1)
            time.sleep(0.3)
            action()
            output.unlink(missing_ok=True)
            server.send_signal(signal.SIGUSR2)
            deadline = time.monotonic() + 20
            while not output.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            found: dict[str, Any] = json.loads(output.read_text())
            return found

        yield walk


def request(method: str, path: str, body: Any = None, **headers: str) -> Any:
    asked = urllib.request.Request(
        f"http://127.0.0.1:{PORT}{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"content-type": "application/json", "authorization": f"Bearer {KEY}", **headers},
    )
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return json.load(answer)


def post(path: str, body: Any, **headers: str) -> Any:
    return request("POST", path, body, **headers)


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


def execute(python: Path, checkout: Path, environment: dict[str, str], statement: str) -> str:
    done = subprocess.run(
        [python, "-c", SQL, statement], cwd=checkout, env={**environment, "PYTHONPATH": str(checkout)},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout.strip()


def change(python: Path, checkout: Path, environment: dict[str, str]) -> None:
    """Change the text of one row, so that it needs a vector."""
    statement = f"""update music_knowledge set content = content || ' {secrets.token_hex(4)}'
        where id = (select id from music_knowledge order by id limit 1)"""
    execute(python, checkout, environment, statement)


def name_a_tag(python: Path, checkout: Path, environment: dict[str, str]) -> None:
    """Insert a tag, send its webhook and wait until its synonyms are embedded."""
    name = f"style {secrets.token_hex(3)}"
    tag = int(execute(python, checkout, environment, f"insert into genre_tags (name) values ('{name}') returning id"))
    body = {"type": "INSERT", "table": "genre_tags", "schema": "public", "record": {"id": tag}}
    post("/api/webhooks/synonyms", body, **{"x-webhook-secret": KEY})
    done = f"select count(*) from mir_synonyms where tag_id = {tag} and tag_type = 'genre' and embedding is not null"
    deadline = time.monotonic() + 60
    while execute(python, checkout, environment, done) != "1":
        if time.monotonic() > deadline:
            raise TimeoutError("the tag has no embedded synonyms")


if __name__ == "__main__":
    command.run(main)
