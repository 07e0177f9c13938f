"""Tests the console's page: its files, its start data, and when it is off."""

import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from functions import console
from functions.services import Services
from shared.database.postgres import PostgresDatabase
from shared.errors import ConfigurationError, DatabaseUnavailable, ProviderRejected, ProviderUnavailable
from tests.fake_provider import FakeProvider
from tests.functions.conftest import HIDDEN, KEYS, Insert, Serve, make_settings
from tests.functions.test_operations import BrokenDatabase

FOLDER = Path(console.__file__).parent
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
NAMES = {path.name for path in FOLDER.iterdir() if path.suffix in MEDIA_TYPES}


# The page


def test_every_file_of_the_page_has_the_right_content_type(client: httpx.Client) -> None:
    assert {"index.html", "console.css", "icon.svg"} <= NAMES
    for path, name in [("/", "index.html"), *((f"/console/{name}", name) for name in NAMES)]:
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


def test_every_file_that_the_page_names_exists_on_this_server(client: httpx.Client) -> None:
    page = client.get("/").text
    named = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert named
    for path in named:
        assert path.startswith(("/console/", "#")), path
        assert path.startswith("#") or client.get(path).status_code == 200, path
    for name in NAMES:
        for imported in re.findall(r'(?:from|import) "\./([^"]+)"', (FOLDER / name).read_text()):
            assert imported in NAMES, f"{name} imports {imported}"
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son[a-z]+=", page), "nothing is written into the page"


def test_the_whole_page_is_less_than_100_kib_on_the_wire(client: httpx.Client) -> None:
    total = 0
    for path in ("/", *(f"/console/{name}" for name in NAMES - {"index.html"})):
        with httpx.stream("GET", f"{client.base_url}{path}", headers={"accept-encoding": "gzip"}) as answer:
            assert path.endswith(".svg") or answer.headers["content-encoding"] == "gzip", path
            total += sum(len(part) for part in answer.iter_raw())
    assert total < 100 * 1024


@pytest.mark.parametrize("encoding", ["gzip", "identity", "br"])
def test_unchanged_files_are_not_sent_again(client: httpx.Client, encoding: str) -> None:
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
def test_only_files_of_the_page_are_served(client: httpx.Client, name: str) -> None:
    answer = client.get(f"/console/{name}")
    assert answer.status_code in (404, 422), answer.text
    assert set(answer.json()) == {"error"}


@pytest.mark.parametrize("path", ["/", "/console/icon.svg", "/api/console"])
def test_the_console_is_off_by_default(serve: Serve, path: str) -> None:
    off = serve(console=None)
    assert off.get(path).status_code == 404
    assert "CONSOLE" in off.get(path).json()["error"]["message"]
    assert serve(console=False, functions_api_key=None, loopback=True).get(path).status_code == 404


def test_the_console_can_be_switched_off() -> None:
    assert Services(make_settings(console=None), console=True).serves_console
    assert not Services(make_settings(console=False), console=True).serves_console
    assert not Services(make_settings(console=None)).serves_console


# Start data


def test_the_start_data_of_the_page_needs_no_key(client: httpx.Client) -> None:
    assert client.get("/api/console").json() == {
        "version": "0.2.0",
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


def test_a_server_without_a_key_says_that_its_routes_are_closed(serve: Serve) -> None:
    start = serve(functions_api_key=None).get("/api/console").json()
    assert start["needs_key"] is True
    assert [problem["code"] for problem in start["problems"]] == ["no_key"]


def broken(error: Exception, *, loopback: bool = False, **settings: Any) -> Services:
    """Services with an unreachable database and a provider that raises this error."""
    provider = FakeProvider()
    provider.wire.down = error  # type: ignore[assignment]
    return Services(
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
def test_problems_are_shown_with_the_fix_and_addresses_only_on_loopback(
    serve: Serve, error: ProviderUnavailable
) -> None:
    answer = serve(services=broken(error)).get("/api/console")
    assert answer.status_code == 200
    start = answer.json()
    assert start["database"] == "gone"
    assert [problem["code"] for problem in start["problems"]] == ["database_gone", error.code]
    assert all(problem["message"] and problem["fix"] for problem in start["problems"])
    assert "10.1.2.3" not in answer.text
    local = serve(services=broken(error, functions_api_key=None, loopback=True)).get("/api/console")
    assert error.message in local.json()["problems"][1]["fix"]


def test_a_provider_that_cannot_be_created_causes_no_server_error(
    serve: Serve, database: PostgresDatabase, tmp_path: Path
) -> None:
    settings = make_settings(onnx_model=str(tmp_path / "nothing-there"), tonnetz_data_dir=tmp_path)
    answer = serve(services=Services(settings, database=database, long_lived=True)).get("/api/console")
    assert answer.status_code == 200
    (problem,) = answer.json()["problems"]
    assert problem["code"] in ("configuration", "provider_unavailable", "provider_error")
    assert str(tmp_path) not in answer.text


def test_the_page_contains_no_rows_or_keys(client: httpx.Client, insert: Insert) -> None:
    insert("a private text", topic="private topic")
    answer = client.get("/api/console").text + client.get("/").text
    assert "private" not in answer
    assert not any(secret in answer for secret in HIDDEN)


# Map, runs, costs


def test_the_page_is_served_by_lambda_too() -> None:
    from mangum import Mangum

    from functions.http.app import create_app

    app = create_app("console", console.router, services=Services(make_settings()))
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
