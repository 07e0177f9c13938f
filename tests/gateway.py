"""A gateway in front of PostgREST like Supabase's: adds /rest/v1, checks the project's keys, and can fail."""

import http.client
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host"}


@dataclass(frozen=True)
class Fault:
    """An error answer of the gateway itself."""

    status: int
    body: str
    content_type: str = "text/html"
    delay: float = 0.0


# The answer of Supabase's gateway to an unknown key, verbatim.
INVALID_KEY = Fault(
    401,
    '{"message":"Invalid API key","hint":"Double check your Supabase `anon` or `service_role` API key."}',
    "application/json",
)


class Gateway:
    """A gateway in front of PostgREST. A context manager. If `fault` is set, it replaces PostgREST's answer.

    `unreachable` counts how often PostgREST was down, so that the answer was 502.
    """

    def __init__(self, upstream_port: int, *, keys: set[str]) -> None:
        self.fault: Fault | None = None
        self.keys = keys
        self.unreachable = 0
        self.upstream_port = upstream_port
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.gateway = self
        self._server.upstream_port = upstream_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        """The project's URL, as in SUPABASE_URL."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # A client keeps its connection open, so do not wait for its thread.
    block_on_close = False
    gateway: Gateway
    upstream_port: int


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        gateway = self.server.gateway
        fault = gateway.fault
        if fault is None and self.headers.get("apikey") not in gateway.keys:
            fault = INVALID_KEY
        if fault is not None:
            threading.Event().wait(fault.delay)
            self._answer(fault.status, [("content-type", fault.content_type)], fault.body.encode())
        elif not self.path.startswith("/rest/v1/"):
            self._answer(
                404, [("content-type", "application/json")], b'{"message":"no Route matched with those values"}'
            )
        else:
            self._forward(body)

    do_GET = do_PATCH = do_DELETE = do_POST

    def _forward(self, body: bytes) -> None:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.upstream_port, timeout=60)
        try:
            upstream.request(self.command, self.path.removeprefix("/rest/v1"), body, headers)
            response = upstream.getresponse()
            payload = response.read()
        except OSError:
            self.server.gateway.unreachable += 1
            self._answer(502, [("content-type", "text/html")], b"<html><h1>502 Bad Gateway</h1></html>")
            return
        finally:
            upstream.close()
        self._answer(response.status, response.getheaders(), payload)

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        if status != 204:
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        if status != 204:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Do not log requests into pytest's output."""
