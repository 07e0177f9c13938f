"""Tests that a client without a key cannot hold memory or connections: endless, half and slow requests."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module

import httpx
import pytest

from functions.http import protocol, routes, server
from functions.http.routes import LARGE_BODY, SMALL_BODY
from functions.local import FUNCTIONS
from tests.fake_provider import FakeProvider
from tests.functions.conftest import API_KEY, KEYS

HEAD = b"GET /health HTTP/1.1\r\nHost: a\r\n"


@contextmanager
def connected(client: httpx.Client) -> Iterator[socket.socket]:
    with socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=30) as connection:
        yield connection


def post(path: str, *fields: str) -> bytes:
    return "\r\n".join((f"POST {path} HTTP/1.1", "Host: a", "Content-Type: application/json", *fields, "", "")).encode()


def send_until_refused(connection: socket.socket, piece: Callable[[int], bytes], most: int = 64 << 20) -> int:
    """Send pieces until the server closes the connection; returns how many bytes were sent."""
    sent = 0
    try:
        while sent < most:
            data = piece(sent)
            connection.sendall(data)
            sent += len(data)
    except OSError:
        pass
    return sent


def answer(connection: socket.socket) -> bytes:
    """What the server sent until it closed the connection."""
    received = b""
    try:
        while data := connection.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    return received


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (HEAD, lambda sent: b"".join(b"x-%d: y\r\n" % (sent + n) for n in range(1000))),
        (HEAD + b"x-long: ", lambda _: b"y" * 16384),
        (HEAD + b"x-long", lambda _: b"y" * 16384),
        (b"GET /health?q=", lambda _: b"y" * 16384),
        (post("/embed", "Transfer-Encoding: chunked") + b"0\r\n", lambda sent: b"x-%d: y\r\n" % sent * 1000),
        (post("/embed", "Transfer-Encoding: chunked") + b"0\r\nx-long: ", lambda _: b"y" * 16384),
        (post("/embed", "Transfer-Encoding: chunked") + b"5;x=", lambda _: b"y" * 16384),
        (b"", lambda _: HEAD + b"\r\n" + (HEAD + b"\r\n") * 2000),
    ],
    ids=["headers", "value", "name", "address", "trailers", "trailer", "chunk extension", "requests"],
)
def test_an_endless_request_is_refused(client: httpx.Client, begin: bytes, piece: Callable[[int], bytes]) -> None:
    with connected(client) as connection:
        connection.sendall(begin)
        # The buffers of both sockets take some megabytes that the server never reads.
        assert send_until_refused(connection, piece) < 16 << 20
    assert client.get("/health").status_code == 200


def test_a_head_over_its_limits_is_answered_with_431(client: httpx.Client) -> None:
    for fields in (b"x: y\r\n" * 200, b"x: " + b"y" * 70_000 + b"\r\n"):
        with connected(client) as connection:
            connection.sendall(HEAD + fields + b"\r\n")
            assert answer(connection).startswith(b"HTTP/1.1 431 ")


def test_a_head_within_its_limits_is_answered(client: httpx.Client) -> None:
    fields = {f"x-{number}": "y" * 500 for number in range(80)}
    assert client.get("/health", headers=fields).status_code == 200


def test_a_half_request_is_closed_in_time(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(protocol, "BODY_SECONDS", 0.3)
    monkeypatch.setattr(routes, "BODY_SECONDS", 0.3)
    halves = (b"", HEAD, post("/api/search/datasets", "Content-Length: 100") + b"{", b"POST /nowhere HTTP/1.1\r\nHo")
    with ExitStack() as stack:
        connections = [stack.enter_context(connected(client)) for _ in halves]
        for connection, half in zip(connections, halves, strict=True):
            connection.sendall(half)
        answers = [answer(connection) for connection in connections]
    assert all(given.startswith(b"HTTP/1.1 408 ") for given in answers), answers


def test_a_connection_that_only_sends_empty_lines_after_an_answer_is_closed(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.3)
    with connected(client) as connection:
        connection.sendall(HEAD + b"\r\n")
        received = b""
        while b"0\r\n\r\n" not in received and not received.endswith(b"}"):
            received += connection.recv(65536)
        connection.sendall(b"\r\n")
        # Nothing is sent that a client could take for the answer to its next request.
        assert answer(connection) == b""


def test_a_slow_but_complete_request_is_answered(client: httpx.Client) -> None:
    body = json.dumps({"query": "violin"}).encode()
    with connected(client) as connection:
        connection.sendall(post("/api/search/datasets", f"Content-Length: {len(body)}", "Connection: close"))
        for start in range(0, len(body), 4):
            connection.sendall(body[start : start + 4])
            time.sleep(0.01)
        assert answer(connection).startswith(b"HTTP/1.1 200 ")


def test_a_complete_request_may_take_longer_than_its_head_and_body(
    client: httpx.Client, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 1.0)
    monkeypatch.setattr(protocol, "BODY_SECONDS", 1.0)
    provider.wire.delay = 3.0
    answered = client.post("/api/vectorization/embed", json={"text": "a"}, headers=KEYS)
    assert answered.status_code == 200, answered.text


def test_half_requests_leave_room_for_others(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 20)
    monkeypatch.setattr(server, "_FEWEST_CONNECTIONS", 20)
    with ExitStack() as stack:
        halves = [stack.enter_context(connected(client)) for _ in range(60)]
        for connection in halves:
            connection.sendall(HEAD)
        fresh = stack.enter_context(httpx.Client(base_url=client.base_url))
        assert fresh.get("/health").status_code == 200
        # The half requests that began first are closed.
        assert answer(halves[0]).startswith(b"HTTP/1.1 503 ")


def test_a_trailer_is_not_a_header(client: httpx.Client) -> None:
    chunked = post("/api/tasks/generate-embeddings", "Transfer-Encoding: chunked", "Connection: close")
    trailer = f"Authorization: Bearer {API_KEY}\r\n".encode()
    for pause in (False, True):
        with connected(client) as connection:
            rest = b"2\r\n{}\r\n0\r\n" + trailer + b"\r\n"
            if pause:
                connection.sendall(chunked)
                time.sleep(0.1)
                connection.sendall(rest)
            else:
                # Send all in one packet, so that the trailer is parsed before the application gets the head.
                connection.sendall(chunked + rest)
            assert answer(connection).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET /health HTTP/1.1\r\n", 400),
        ("GET /health HTTP/1.1\r\nHost: localhost\r\nhost: elsewhere.example\r\n", 400),
        ("GET /health HTTP/1.0\r\nHost: localhost\r\nHost: localhost\r\n", 400),
        ("GET /health HTTP/1.0\r\n", 200),
        ("GET /health HTTP/1.1\r\nHost: localhost\r\n", 200),
    ],
    ids=["none", "two", "two equal ones, HTTP/1.0", "none, HTTP/1.0", "one"],
)
def test_a_request_has_one_host(client: httpx.Client, head: str, status: int) -> None:
    with connected(client) as connection:
        connection.sendall(f"{head}Connection: close\r\n\r\n".encode())
        assert answer(connection).startswith(b"HTTP/1.1 %d " % status)


def test_the_key_is_checked_before_the_body_is_read(client: httpx.Client) -> None:
    with connected(client) as connection:
        connection.sendall(post("/embed", f"Content-Length: {LARGE_BODY}", "Connection: close"))
        assert answer(connection).startswith(b"HTTP/1.1 401 ")


def test_each_route_has_its_own_limit_for_a_body(client: httpx.Client, keyed: httpx.Client) -> None:
    text = "x" * (SMALL_BODY + 1)
    refused = client.post("/api/search/datasets", json={"query": text})
    assert refused.status_code == 413
    assert "64 kB" in refused.json()["error"]["message"]
    with connected(client) as connection:
        connection.sendall(post("/api/search/datasets", "Transfer-Encoding: chunked"))
        connection.sendall(b"%x\r\n%s\r\n" % (len(text), text.encode()))
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")
    body = {"batch_id": "b", "chunks": [{"chunk_id": "c", "content": text}]}
    assert keyed.post("/embed", json=body).status_code == 200


def test_every_route_has_the_class_with_the_limits() -> None:
    routers = [import_module(f"functions.{name}").router for name in FUNCTIONS]
    every = [route for router in routers for route in router.routes]
    assert len(every) > 30
    assert [route for route in every if not isinstance(route, routes.Route)] == []
