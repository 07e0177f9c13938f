"""Limits the memory and time of HTTP/1.1 connections; uvicorn alone reads heads and trailers of any size without a time limit."""

import math
from asyncio import BaseTransport, Transport
from collections.abc import Iterable
from typing import Any, cast

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

# The most bytes and fields in the head of a request. MAX_HEAD_BYTES also limits what a client may send after the head
# without a byte of body: chunk extensions and trailers.
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
        self._in_head = True
        self._head_bytes = self._fields = 0
        # Bytes since the head began, or since the last byte of a body.
        self._since = 0
        self._unread, self._unread_since = 0, self.loop.time()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._since += len(data)
        super().data_received(data)
        # A complete field was counted when it was parsed, an incomplete one was not.
        if self._since > MAX_HEAD_BYTES:
            self.refuse(*TOO_LARGE)

    def send_400_response(self, msg: str) -> None:
        if not self.transport.is_closing():
            super().send_400_response(msg)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.due = self.loop.time() + HEAD_SECONDS
        self._in_head = True
        self._head_bytes = self._fields = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        self._count(len(name) + len(value) + 4)
        # Do not use a trailer as a header: a gateway in front, which checks or logs headers, does not see trailers.
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            self.refuse(*TOO_MANY_REQUESTS)
            raise _Refused
        self._in_head = False
        self._since = 0
        self.due = self.loop.time() + BODY_SECONDS
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._since = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._since = 0
        self.due = math.inf
        super().on_message_complete()

    def check_time(self, now: float) -> None:
        """Close the connection if its request or its client takes too long."""
        if self.flow.read_paused:
            # The server has paused reading, so the client is not late.
            self.due = max(self.due, now + HEAD_SECONDS)
        elif now > self.due:
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

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES or self._fields > MAX_FIELDS:
            self.refuse(*(TOO_MANY if self._fields > MAX_FIELDS else TOO_LARGE))
            raise _Refused


def slowest(connections: Iterable[Any]) -> LimitedProtocol | None:
    """The connection whose incomplete request is due first; None if no request is incomplete."""
    reading = [one for one in connections if isinstance(one, LimitedProtocol) and one.due < math.inf]
    return min(reading, key=lambda one: one.due, default=None)
