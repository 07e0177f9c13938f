"""Limits the memory and time of HTTP/1.1 connections; uvicorn alone reads heads and trailers of any size without a time limit."""

import math
from asyncio import BaseTransport, Transport
from collections.abc import Iterable
from typing import Any, cast

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

# The most bytes and fields in the head of a request. After the head, MAX_HEAD_BYTES also limits the bytes that are not
# body: a client may send only this many of them (chunk extensions and trailers) between two bytes of body.
MAX_HEAD_BYTES = 64 * 1024
MAX_FIELDS = 100
# The most requests that a client may send before the first is answered.
MAX_PIPELINED = 16
# Seconds in which a head must be complete, and after it the body.
HEAD_SECONDS = 10.0
BODY_SECONDS = 45.0
# Seconds in which a client must read at least a part of an answer that waits to be sent.
ANSWER_SECONDS = 60.0

TOO_LARGE = (431, "request_too_large", f"the head of the request is larger than {MAX_HEAD_BYTES // 1024} kB")
TOO_MANY = (431, "request_too_large", f"the head of the request has more than {MAX_FIELDS} fields")
TOO_MANY_REQUESTS = (429, "overloaded", "the connection sends requests faster than they are answered")
BAD_HOST = (400, "invalid_request", "the request must have one header Host")
TOO_SLOW = (408, "request_timeout", "the request did not arrive in time")
NO_ROOM = (503, "overloaded", "the server has too many open connections; try again")


class _Refused(Exception):
    """Stops the parser: the connection is closing."""


class LimitedProtocol(HttpToolsProtocol):
    """A connection. The server calls `check_time` every second, which costs less than a timer for each request."""

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(cast(Transport, transport))
        # The time at which the head or body that is being received must be complete; infinite between requests.
        self.due = self.loop.time() + HEAD_SECONDS
        # Bytes since the head began, or since the last byte of a body.
        self._since = 0
        self._unread, self._unread_since = 0, self.loop.time()
        # uvicorn sets these when a head begins.
        self.url, self.headers = b"", []

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        scope, cycle = self.scope, self.cycle
        self._since += len(data)
        super().data_received(data)
        if self._since > MAX_HEAD_BYTES:
            self.refuse(*TOO_LARGE)
        elif len(self.headers) > MAX_FIELDS:
            self.refuse(*TOO_MANY)
        if self.cycle is None or self.cycle.scope is not self.scope:
            if self.scope is not scope:
                self.due = self.loop.time() + HEAD_SECONDS
        elif self.cycle.response_complete:
            # Bytes between two requests, such as an empty line, have ended uvicorn's own limit of the idle time.
            self.due = self.loop.time() + HEAD_SECONDS
        elif not self.cycle.more_body:
            self.due, self._since = math.inf, 0
        elif self.cycle is not cycle:
            self.due = self.loop.time() + BODY_SECONDS

    def send_400_response(self, msg: str) -> None:
        if not self.transport.is_closing():
            super().send_400_response(msg)

    def on_headers_complete(self) -> None:
        # Programs that read different ones of two hosts would disagree about the address of a request (RFC 9112, 3.2).
        hosts = sum(name == b"host" for name, _ in self.headers)
        problem = None
        if len(self.pipeline) >= MAX_PIPELINED:
            problem = TOO_MANY_REQUESTS
        elif len(self.headers) > MAX_FIELDS:
            problem = TOO_MANY
        elif len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > MAX_HEAD_BYTES:
            problem = TOO_LARGE
        elif hosts > 1 or (hosts == 0 and self.parser.get_http_version() != "1.0"):
            problem = BAD_HOST
        if problem is not None:
            self.refuse(*problem)
            raise _Refused
        super().on_headers_complete()
        # The list for trailers. Do not use a trailer as a header: a gateway in front, which checks or logs headers, does
        # not see trailers.
        self.headers = []
        self._since = 0

    def on_body(self, body: bytes) -> None:
        self._since = 0
        super().on_body(body)

    def check_time(self, now: float) -> None:
        """Close the connection if its request or its client takes too long."""
        if self.flow.read_paused:
            # The server has paused reading, so the client is not late.
            self.due = max(self.due, now + HEAD_SECONDS)
        elif now > self.due:
            if self.cycle is not None and self.cycle.scope is self.scope and self.cycle.response_complete:
                # No request has begun, so no answer is due.
                self.transport.close()
            else:
                self.refuse(*TOO_SLOW)
        unread = self.transport.get_write_buffer_size()
        if not unread or unread < self._unread:
            self._unread_since = now
        elif now > self._unread_since + ANSWER_SECONDS:
            self.transport.abort()
        self._unread = unread

    def refuse(self, status: int, code: str, message: str) -> None:
        """Answer with an error, unless an answer has begun, and close the connection."""
        if self.transport.is_closing():
            return
        if not self._is_answering:
            body = orjson.dumps({"error": {"code": code, "message": message, "request_id": None}})
            retry = b"retry-after: 1\r\n" if status == 503 else b""
            self.transport.write(
                STATUS_LINE[status]
                + b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
                + retry
                + b"connection: close\r\n\r\n"
                + body
            )
        self.transport.close()

    @property
    def _is_answering(self) -> bool:
        cycle = self.cycle
        return cycle is not None and cycle.response_started and not cycle.response_complete


def slowest(connections: Iterable[Any]) -> LimitedProtocol | None:
    """The connection whose incomplete request is due first; None if no request is incomplete."""
    reading = [one for one in connections if isinstance(one, LimitedProtocol) and one.due < math.inf]
    return min(reading, key=lambda one: one.due, default=None)
