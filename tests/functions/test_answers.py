"""Tests errors, headers and limits of every answer, and that it shows no internals."""

import asyncio
import json
import socket
from contextlib import closing
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from functions.http.middleware import RequestMiddleware
from functions.http.routes import LARGE_BODY
from functions.services import Services
from shared.database.base import Database
from shared.errors import DatabaseContractError, DatabaseUnavailable
from tests.fake_provider import FakeProvider
from tests.functions.conftest import KEYS, Output, Serve, make_settings

TEXT = "a row that other users may not read"


class BrokenDatabase(Database):
    """Raises the given error."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def _call(self, function: str, arguments: dict[str, Any]) -> list[Any]:
        raise self._error

    def as_caller(self, caller: object) -> Database:
        return self

    def close(self) -> None: ...


def broken(serve: Serve, provider: FakeProvider, error: Exception) -> httpx.Client:
    return serve(services=Services(make_settings(), database=BrokenDatabase(error), provider=provider))


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing/here", 404, "not_found"),
        ("DELETE", "/embed", 405, "method_not_allowed"),
        ("POST", "/api/search/music_knowledge", 422, "invalid_request"),
    ],
)
def test_every_error_has_the_same_shape_and_the_requests_id(
    client: httpx.Client, method: str, path: str, status: int, code: str
) -> None:
    answer = client.request(method, path, json=7, headers={"X-Request-Id": "mine-1"})
    assert answer.status_code == status
    assert set(answer.json()) == {"error"}
    assert set(answer.json()["error"]) == {"code", "message", "request_id"}
    assert answer.json()["error"]["code"] == code
    assert answer.json()["error"]["request_id"] == answer.headers["x-request-id"] == "mine-1"


@pytest.mark.parametrize("given", ["a b", "x" * 65, "<script>", '","level":"forged'])
def test_a_request_id_that_could_forge_a_log_line_is_replaced(client: httpx.Client, given: str) -> None:
    assert client.get("/health", headers={"X-Request-Id": given}).headers["x-request-id"] != given


def test_an_invalid_field_is_named_and_its_value_is_not_repeated(keyed: httpx.Client) -> None:
    answer = keyed.post("/embed", json={"batch_id": "b", "chunks": [{"chunk_id": "c", "content": [TEXT]}]})
    assert answer.status_code == 422
    assert "chunks.0.content" in answer.json()["error"]["message"]
    assert TEXT not in answer.text


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[" * 100_000, b"\xff\xfe", b'{"a":' * 5000, b"null", b'{"batch_id": NaN}']
)
def test_a_body_that_is_not_json_is_refused(keyed: httpx.Client, body: bytes) -> None:
    answer = keyed.post("/embed", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]["code"] == "invalid_request"


def test_a_form_is_refused(keyed: httpx.Client) -> None:
    # A page of another site can send a form without a preflight request.
    answer = keyed.post(
        "/api/tasks/generate-embeddings", content=b'{"batch_size": 1}', headers={"Content-Type": "text/plain"}
    )
    assert answer.status_code == 422


def test_a_body_over_the_limit_is_refused_with_or_without_content_length(keyed: httpx.Client) -> None:
    large = b" " * (LARGE_BODY + 1)
    named = keyed.post("/embed", content=large)
    chunked = keyed.post("/embed", content=(large[start : start + 65536] for start in range(0, len(large), 65536)))
    for answer in (named, chunked):
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "request_too_large"


def test_a_chunked_body_is_read(keyed: httpx.Client) -> None:
    body = json.dumps({"batch_id": "b", "chunks": [{"chunk_id": "c", "content": "a harp"}]}).encode()
    pieces = (body[start : start + 7] for start in range(0, len(body), 7))
    assert keyed.post("/embed", content=pieces, headers={"Content-Type": "application/json"}).status_code == 200


def test_an_unexpected_error_is_answered_without_details_and_logged_without_its_message(
    serve: Serve, provider: FakeProvider, output: Output
) -> None:
    client = broken(serve, provider, RuntimeError(TEXT))
    answer = client.get("/api/collections", headers=KEYS)
    assert answer.status_code == 500
    assert answer.json()["error"] | {"request_id": ""} == {
        "code": "internal",
        "message": "internal error",
        "request_id": "",
    }
    logged = [json.loads(line) for line in output.lines if line.startswith("{") and '"request_id"' in line]
    logged = [line for line in logged if line.get("error_type") == "RuntimeError"]
    assert logged[0]["request_id"] == answer.headers["x-request-id"]
    assert any("test_answers.py" in place for place in logged[0]["trace"])
    everything = "".join(line for line in output.lines if line.startswith("{"))
    assert TEXT not in everything


@pytest.mark.parametrize(
    ("error", "status"), [(DatabaseContractError(f"column {TEXT} is missing"), 500), (DatabaseUnavailable(TEXT), 503)]
)
def test_database_errors_are_answered_without_details(
    serve: Serve, provider: FakeProvider, output: Output, error: Exception, status: int
) -> None:
    answer = broken(serve, provider, error).get("/api/search/music_knowledge?q=a")
    assert answer.status_code == status
    assert TEXT not in answer.text
    assert any(TEXT in line for line in output.lines)


def test_every_answer_has_the_security_headers(client: httpx.Client) -> None:
    for path in ("/health", "/nothing", "/embed"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "server" not in headers or "uvicorn" not in headers["server"]


# Browsers


def preflight(client: httpx.Client, origin: str) -> httpx.Response:
    wanted = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    return client.options("/api/search/music_knowledge", headers=wanted)


def test_no_origin_is_allowed_by_default(client: httpx.Client) -> None:
    assert preflight(client, "https://a.example").status_code == 405
    answer = client.get("/api/search/music_knowledge?q=a", headers={"Origin": "https://a.example"})
    assert "access-control-allow-origin" not in answer.headers


def test_only_configured_origins_are_allowed(serve: Serve) -> None:
    client = serve(allowed_origins="https://a.example, https://b.example")
    allowed = preflight(client, "https://b.example")
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == "https://b.example"
    assert "access-control-allow-credentials" not in allowed.headers
    assert "access-control-allow-origin" not in preflight(client, "https://c.example").headers
    error = client.post("/embed", json={}, headers={"Origin": "https://a.example"})
    assert error.status_code in (401, 422)
    assert error.headers["access-control-allow-origin"] == "https://a.example", "also on errors, or none can be read"
    content = b"x" * (LARGE_BODY + 1)
    too_large = client.post("/api/search/music_knowledge", content=content, headers={"Origin": "https://a.example"})
    assert too_large.status_code == 413
    assert too_large.headers["access-control-allow-origin"] == "https://a.example", "also on those before any route"


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "169.254.169.254"]
)
def test_an_open_loopback_server_answers_no_other_name(serve: Serve, host: str) -> None:
    client = serve(functions_api_key=None, loopback=True)
    assert client.get("/health", headers={"Host": host}).status_code == 403


@pytest.mark.parametrize("host", ["localhost", "localhost:9999", "127.0.0.1", "127.0.0.2:80", "[::1]:80"])
def test_an_open_loopback_server_answers_its_own_names(serve: Serve, host: str) -> None:
    client = serve(functions_api_key=None, loopback=True)
    assert client.get("/health", headers={"Host": host}).status_code == 200


def test_an_open_loopback_server_is_not_reached_through_a_page_of_the_web(serve: Serve) -> None:
    client = serve(functions_api_key=None, loopback=True, allowed_origins="https://a.example")
    path = "/api/tasks/generate-embeddings"
    assert client.post(path, headers={"Origin": "https://evil.example"}).status_code == 403
    assert client.post(path, headers={"Origin": "null"}).status_code == 403
    for origin in ("https://a.example", "http://localhost:3000"):
        assert client.post(path, headers={"Origin": origin}).status_code == 202


def test_a_server_with_a_key_answers_every_name(client: httpx.Client) -> None:
    assert client.get("/health", headers={"Host": "search.example"}).status_code == 200


def test_a_path_with_an_extra_slash_is_not_found_and_not_redirected(client: httpx.Client) -> None:
    answer = client.get("/health/")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert "location" not in answer.headers


@pytest.mark.parametrize(("path", "shape"), [("/embed", "request_id"), ("/v1/embeddings", "type")])
def test_a_request_during_shutdown_gets_a_retryable_error(path: str, shape: str) -> None:
    """uvicorn cancels running requests when its shutdown timeout ends."""

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(3600)

    async def run() -> list[Message]:
        middleware = RequestMiddleware(endless, function="endless", services=Services(make_settings()), observe=None)
        answers: list[Message] = []

        async def send(message: Message) -> None:
            answers.append(message)

        async def receive() -> Message:
            return {"type": "http.request"}

        scope = {"type": "http", "method": "GET", "path": path, "headers": []}
        task = asyncio.create_task(middleware(scope, receive, send))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait([task])
        return answers

    # Not asyncio.run, which would close the event loop that other tests' handlers use.
    with closing(asyncio.new_event_loop()) as loop:
        start, body = loop.run_until_complete(run())
    assert start["status"] == 503
    assert (b"retry-after", b"5") in start["headers"]
    assert shape in json.loads(body["body"])["error"]


def test_a_slow_or_broken_client_does_not_block_the_next(client: httpx.Client) -> None:
    address = (client.base_url.host, client.base_url.port)
    with socket.create_connection(address) as broken_sender:
        broken_sender.sendall(b"POST /embed HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
    with socket.create_connection(address) as nonsense:
        nonsense.sendall(b"\0\0\0\r\n\r\n")
        assert b" 400 " in nonsense.recv(200)
    assert client.get("/health").status_code == 200
