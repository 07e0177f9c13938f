"""The console's routes: the page, what it needs to start, and what it shows."""

import re
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from functions import console
from functions.console import MEDIA_TYPES, assets
from functions.edge.process import Process
from shared.database.postgres import PostgresDatabase
from shared.errors import ConfigurationError, DatabaseUnavailable, ProviderRejected, ProviderUnavailable
from shared.services import backfill as service
from tests.conftest import Connection
from tests.database.rows import add
from tests.fake_provider import FakeProvider
from tests.functions.conftest import HIDDEN, KEYS, Insert, Serve, make_settings
from tests.functions.test_operations import BrokenDatabase

FOLDER = Path(console.__file__).parent
MUSIC = "/api/collections/music_knowledge"


def wait_for(client: httpx.Client, task: httpx.Response) -> dict[str, Any]:
    """The task as it ended."""
    assert task.status_code == 202, task.text
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        state: dict[str, Any] = client.get(f"/api/tasks/{task.json()['task_id']}").json()
        if state["finished_at"]:
            return state
        time.sleep(0.05)
    raise AssertionError("the task did not end")


def embed_all(client: httpx.Client) -> None:
    task = client.post("/api/tasks/generate-embeddings", json={"collection": "music_knowledge"})
    assert wait_for(client, task)["status"] == "completed"


def collection(client: httpx.Client, name: str = "music_knowledge") -> dict[str, Any]:
    (found,) = [one for one in client.get("/api/collections").json()["collections"] if one["collection"] == name]
    return dict(found)


# The page


def test_every_file_of_the_page_is_served_as_what_it_is(client: httpx.Client) -> None:
    names = {path.name for path in FOLDER.iterdir() if path.suffix in MEDIA_TYPES}
    assert {"index.html", "console.css", "icon.svg"} <= names
    for path, name in [("/", "index.html"), *((f"/console/{name}", name) for name in names)]:
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert answer.content == (FOLDER / name).read_bytes()
        assert answer.headers["content-type"] == MEDIA_TYPES[Path(name).suffix]
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
        assert policy == {
            "default-src": "'none'",
            "script-src": "'self'",
            "style-src": "'self'",
            "img-src": "'self' data:",
            "connect-src": "'self'",
            "base-uri": "'none'",
            "form-action": "'none'",
            "frame-ancestors": "'none'",
        }


def test_what_the_page_names_is_there_and_comes_from_nowhere_else(client: httpx.Client) -> None:
    page = client.get("/").text
    named = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert named
    for path in named:
        assert path.startswith(("/console/", "#")), path
        assert path.startswith("#") or client.get(path).status_code == 200, path
    for name, asset in assets().items():
        for imported in re.findall(r'(?:from|import) "\./([^"]+)"', asset.body.decode()):
            assert imported in assets(), f"{name} imports {imported}"
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son[a-z]+=", page), "nothing is written into the page"


def test_the_whole_page_is_less_than_100_kib_on_the_wire(client: httpx.Client) -> None:
    total = 0
    for path in ("/", *(f"/console/{name}" for name in assets() if name != "index.html")):
        with httpx.stream("GET", f"{client.base_url}{path}", headers={"accept-encoding": "gzip"}) as answer:
            assert answer.headers["content-encoding"] == "gzip", path
            total += sum(len(part) for part in answer.iter_raw())
    assert total < 100 * 1024


@pytest.mark.parametrize("encoding", ["gzip", "identity", "gzip;q=0", "br"])
def test_what_the_browser_holds_is_not_sent_again(client: httpx.Client, encoding: str) -> None:
    headers = {"accept-encoding": encoding}
    first = client.get("/console/console.css", headers=headers)
    assert first.headers.get("content-encoding") == ("gzip" if encoding == "gzip" else None)
    assert first.headers["vary"] == "Accept-Encoding"
    tag = first.headers["etag"]
    for held in (tag, f"W/{tag}", f'"other", {tag}'):
        again = client.get("/console/console.css", headers={**headers, "if-none-match": held})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == tag
    other = client.get("/console/console.css", headers={**headers, "if-none-match": '"other"'})
    assert other.status_code == 200


def test_two_forms_of_a_file_have_two_tags(client: httpx.Client) -> None:
    tags = {client.get("/", headers={"accept-encoding": form}).headers["etag"] for form in ("gzip", "identity")}
    assert len(tags) == 2


@pytest.mark.parametrize(
    "name",
    [
        "__init__.py",
        "nothing.js",
        "..%2f__init__.py",
        "%2e%2e%2fcoverage.py",
        "..%5ccoverage.py",
        "%2fetc%2fpasswd",
        "console.css%00.js",
        "Index.html",
        "__pycache__",
    ],
)
def test_nothing_but_the_files_of_the_page_is_served(client: httpx.Client, name: str) -> None:
    answer = client.get(f"/console/{name}")
    assert answer.status_code in (404, 422), answer.text
    assert set(answer.json()) == {"error"}


@pytest.mark.parametrize("path", ["/", "/console/icon.svg", "/api/console"])
def test_it_is_off_where_nobody_asked_for_it(serve: Serve, path: str) -> None:
    off = serve(console=None)
    assert off.get(path).status_code == 404
    assert "CONSOLE" in off.get(path).json()["error"]["message"]
    assert serve(console=False, functions_api_key=None, loopback=True).get(path).status_code == 404


def test_a_server_that_serves_it_may_be_told_not_to() -> None:
    assert Process(make_settings(console=None), console=True).serves_console
    assert not Process(make_settings(console=False), console=True).serves_console
    assert not Process(make_settings(console=None)).serves_console


# What it needs to start


def test_the_page_learns_what_it_needs_without_a_key(client: httpx.Client) -> None:
    assert client.get("/api/console").json() == {
        "version": "0.1.0",
        "needs_key": True,
        "provider": "onnx",
        "model": "fake",
        "dimensions": 16,
        "database": "ok",
        "synonyms": False,
        "currency": "USD",
        "searchable": ["code_chunks", "datasets", "mir_synonyms", "music_knowledge"],
        "problems": [],
    }


def test_on_this_machine_no_key_is_needed(serve: Serve) -> None:
    start = serve(functions_api_key=None, loopback=True, generation_provider="ollama").get("/api/console").json()
    assert (start["needs_key"], start["synonyms"], start["problems"]) == (False, True, [])


def test_a_server_without_a_key_says_that_nobody_may_call_it(serve: Serve) -> None:
    start = serve(functions_api_key=None).get("/api/console").json()
    assert start["needs_key"] is True
    assert [problem["code"] for problem in start["problems"]] == ["no_key"]


def broken(error: Exception, *, loopback: bool = False, **settings: Any) -> Process:
    """A process whose database is gone and whose provider fails so."""
    provider = FakeProvider()
    provider.wire.down = error  # type: ignore[assignment]
    return Process(
        make_settings(**settings),
        database=BrokenDatabase(DatabaseUnavailable("gone from 10.1.2.3")),
        provider=provider,
        long_lived=True,
        open_on_loopback=loopback,
    )


@pytest.mark.parametrize(
    "error",
    [
        ProviderUnavailable("nothing listens at http://10.1.2.3:11434"),
        ConfigurationError("OPENAI_API_KEY at http://10.1.2.3:11434"),
        ProviderRejected("http://10.1.2.3:11434 refuses"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_missing_is_said_with_the_fix_and_addresses_only_to_this_machine(
    serve: Serve, error: ProviderUnavailable
) -> None:
    answer = serve(process=broken(error)).get("/api/console")
    assert answer.status_code == 200
    start = answer.json()
    assert start["database"] == "gone"
    assert [problem["code"] for problem in start["problems"]] == ["database_gone", error.code]
    assert all(problem["message"] and problem["fix"] for problem in start["problems"])
    assert "10.1.2.3" not in answer.text
    local = serve(process=broken(error, functions_api_key=None, loopback=True)).get("/api/console")
    assert error.message in local.json()["problems"][1]["fix"]


def test_a_provider_that_cannot_even_be_made_is_no_server_error(
    serve: Serve, database: PostgresDatabase, tmp_path: Path
) -> None:
    settings = make_settings(onnx_model=str(tmp_path / "nothing-there"), tonnetz_data_dir=tmp_path)
    answer = serve(process=Process(settings, database=database, long_lived=True)).get("/api/console")
    assert answer.status_code == 200
    (problem,) = answer.json()["problems"]
    assert problem["code"] in ("configuration", "provider_unavailable", "provider_error")
    assert str(tmp_path) not in answer.text


def test_it_tells_nothing_of_rows_and_keys(client: httpx.Client, insert: Insert) -> None:
    insert("a private text", topic="private topic")
    answer = client.get("/api/console").text + client.get("/").text
    assert "private" not in answer
    assert not any(secret in answer for secret in HIDDEN)


# Coverage


def test_a_collection_says_where_to_search_and_how_to_show_it(keyed: httpx.Client, insert: Insert) -> None:
    for number in range(8):
        insert(f"text {number}", topic=f"topic {number}", category="mixing" if number % 2 else "harmony")
    found = collection(keyed)
    assert found["search"] == {"route": "/api/search/music_knowledge"}
    assert (found["label_column"], found["category_columns"], found["running"]) == ("topic", ["category"], None)
    assert keyed.post(found["search"]["route"], json={"query": "text", "match_count": 50}).status_code == 200


def test_a_table_without_a_search_function_has_no_search_route(keyed: httpx.Client, owner: Connection) -> None:
    owner.execute("create table notes (id bigint primary key, body text)")
    owner.execute(
        "create function embedding.document_text(t public.notes) returns text language sql stable return t.body"
    )
    owner.execute("select track_embeddings('public.notes')")
    assert collection(keyed, "notes")["search"] is None
    assert keyed.post("/api/search/notes", json={"query": "text"}).status_code == 404


def test_a_run_is_seen_while_it_is_at_work(
    keyed: httpx.Client, owner: Connection, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "REPORT_SECONDS", 0.1)
    add(owner, *(f"text {number}" for number in range(40)))
    provider.wire.delay = 0.05
    provider.wire.gate = threading.Event()
    # Somebody asked when the server started.
    provider.wire.arrived.clear()
    body = {"collection": "music_knowledge", "batch_size": 2}
    task = keyed.post("/api/tasks/generate-embeddings", json=body)
    assert provider.wire.arrived.wait(20)
    running = collection(keyed)["running"]
    assert running["run_id"] == task.json()["task_id"]
    assert running["done"] == 0
    assert running["seconds_left"] is None
    assert running["remaining"] == 40
    provider.wire.gate.set()
    seen = []
    while (running := collection(keyed)["running"]) is not None:
        seen.append(running)
    assert wait_for(keyed, task)["status"] == "completed"
    done = [one["done"] for one in seen]
    assert done == sorted(done)
    assert any(one["rows_per_second"] and one["seconds_left"] is not None and 0 < one["done"] < 40 for one in seen)
    (run,) = keyed.get("/api/runs?collection=music_knowledge").json()["runs"]
    assert (run["state"], run["rows"], run["embedded"], run["calls"]) == ("finished", 40, 40, 20)
    assert run["ended_at"] > run["started_at"]


def test_parked_rows_are_listed_and_tried_again(keyed: httpx.Client, owner: Connection, provider: FakeProvider) -> None:
    good, one, two = add(owner, "good", "bad one", "bad two")
    provider.wire.refuses = {"bad"}
    embed_all(keyed)
    failures = keyed.get(f"{MUSIC}/failures?limit=1").json()
    assert failures["total"] == 2
    (failure,) = failures["failures"]
    assert failure["row_id"] in (one, two)
    assert "refused" in failure["error"]
    assert keyed.post(f"{MUSIC}/retry", json={"row_ids": [one, good]}).json() == {"retried": 1}
    assert keyed.get(f"{MUSIC}/failures").json()["total"] == 1
    provider.wire.refuses = set()
    embed_all(keyed)
    found = collection(keyed)
    assert (found["embedded"], found["failed"]) == (2, 1)
    assert keyed.post(f"{MUSIC}/retry").json() == {"retried": 1}
    embed_all(keyed)
    assert collection(keyed)["embedded"] == 3


@pytest.mark.parametrize("path", ["failures", "estimate", "map"])
def test_a_collection_that_is_not_tracked_is_not_found(keyed: httpx.Client, path: str) -> None:
    assert keyed.get(f"/api/collections/nothing/{path}").status_code == 404
    assert keyed.post("/api/collections/nothing/retry", json={}).status_code == 404
    assert keyed.get("/api/runs?collection=nothing").status_code == 404


def test_what_is_pending_is_estimated_without_a_call(
    keyed: httpx.Client, owner: Connection, provider: FakeProvider
) -> None:
    keyed.get("/api/vectorization/status")
    provider.price_per_million_tokens = 1000.0
    add(owner, "one two three", "four five", "four five")
    before = len(provider.wire.requests)
    found = keyed.get(f"{MUSIC}/estimate").json()
    assert (found["rows"], found["tokens"], found["cost"], found["model"]) == (3, 5, 0.005, "fake")
    assert found["counted"] == "estimated"
    assert "every text" in found["method"]
    assert len(provider.wire.requests) == before


def test_an_estimate_for_another_model_names_both(keyed: httpx.Client, owner: Connection) -> None:
    owner.execute("select register_embedding_model('other', 'ollama', 8)")
    owner.execute("select use_collection_model('music_knowledge', 'other')")
    refused = keyed.get(f"{MUSIC}/estimate")
    assert refused.status_code == 409
    assert '"other"' in refused.json()["error"]["message"]
    assert '"fake"' in refused.json()["error"]["message"]


# Map, runs, costs


def test_the_map_places_rows_by_what_they_mean(keyed: httpx.Client, insert: Insert) -> None:
    subjects = {"harmony": "chord scale tonic cadence", "mixing": "fader bus reverb level"}
    for category, words in subjects.items():
        for number in range(12):
            insert(f"{words} {number}", topic=f"{category} {number}", category=category)
    embed_all(keyed)
    answer = keyed.get(f"{MUSIC}/map?category=category")
    drawn = answer.json()
    assert (drawn["model"], drawn["total"], drawn["sampled"], drawn["category"]) == ("fake", 24, 24, "category")
    assert 0 < drawn["explained"][1] <= drawn["explained"][0] <= 1
    points = drawn["points"]
    assert all(-1 <= point[axis] <= 1 for point in points for axis in ("x", "y"))
    assert {point["category"] for point in points} == set(subjects)
    assert all(point["label"].startswith(point["category"]) for point in points)
    sides = {(point["category"], point["x"] > 0) for point in points}
    assert len(sides) == 2, "the two subjects lie on two sides"
    assert keyed.get(f"{MUSIC}/map?category=category").json() == drawn, "the cached one"
    fresh = keyed.get(f"{MUSIC}/map?category=category&refresh=true").json()
    assert fresh["points"] == drawn["points"]
    assert fresh["computed_at"] > drawn["computed_at"]
    assert keyed.get(f"{MUSIC}/map?limit=5").json()["sampled"] == 5
    assert answer.headers["content-encoding"] == "gzip"
    plain = keyed.get(f"{MUSIC}/map?category=category", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.json()["points"] == drawn["points"]


def test_an_empty_collection_has_an_empty_map(keyed: httpx.Client) -> None:
    drawn = keyed.get(f"{MUSIC}/map").json()
    assert (drawn["model"], drawn["total"], drawn["points"], drawn["explained"]) == (None, 0, [], [0, 0])


@pytest.mark.parametrize("query", ["limit=2001", "limit=0", "category=content;drop", "category=embedding", "limit=x"])
def test_a_map_of_what_is_not_there_is_refused(keyed: httpx.Client, query: str) -> None:
    assert keyed.get(f"{MUSIC}/map?{query}").status_code == 422


def test_runs_and_costs_are_told_once(keyed: httpx.Client, owner: Connection, provider: FakeProvider) -> None:
    provider.price_per_million_tokens = 1000.0
    add(owner, "one two three", "four five")
    assert wait_for(keyed, keyed.post("/api/tasks/generate-embeddings", json={}))["status"] == "completed"
    runs = keyed.get("/api/runs").json()["runs"]
    everything = [run for run in runs if run["collection"] is None]
    (part,) = [run for run in runs if run["collection"] == "music_knowledge"]
    assert len(everything) == 1
    assert (part["tokens"], part["cost"], part["kind"], part["seconds"] > 0) == (5, 0.005, "embedding", True)
    costs = keyed.get("/api/costs").json()
    (entry,) = costs["entries"]
    assert (entry["model"], entry["tokens"], entry["cost"], entry["embedded"]) == ("fake", 5, 0.005, 2)
    assert costs["total"] == {"tokens": 5, "cost": 0.005}
    assert (costs["days"], costs["currency"]) == (30, "USD")
    assert [len(keyed.get(f"/api/runs?limit={limit}").json()["runs"]) for limit in (1, 2)] == [1, 2]


def test_the_page_is_served_by_lambda_too() -> None:
    from mangum import Mangum

    from functions.edge.app import create_app

    app = create_app("console", console.router, process=Process(make_settings()))
    event = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/",
        "rawQueryString": "",
        "headers": {"accept-encoding": "gzip", "host": "example.org"},
        "requestContext": {"http": {"method": "GET", "path": "/", "sourceIp": "127.0.0.1", "protocol": "HTTP/1.1"}},
        "isBase64Encoded": False,
    }
    answer = Mangum(app, lifespan="off")(event, {})  # type: ignore[arg-type]
    import base64
    import gzip

    assert answer["statusCode"] == 200
    assert answer["isBase64Encoded"] is True
    assert gzip.decompress(base64.b64decode(answer["body"])) == (FOLDER / "index.html").read_bytes()
    assert KEYS["Authorization"] not in str(answer)
