"""The class of every route: checks the key, reads the body within its limits, and waits for a free thread, in this order.

FastAPI would first read and parse the whole body, and then check the key.
"""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import Message, Receive, Scope, Send

from functions.http.auth import CHECKS
from functions.http.thread_shares import KEYED, ThreadShares
from shared.errors import AppError, RequestTooLarge

# This is enough for a query of 20,000 characters with up to 3 bytes each, as in every script (but not in emoji).
SMALL_BODY = 64 * 1024
# Lambda takes 6 MB; a batch of 256 chunks of 2,000 words is 3 MB.
LARGE_BODY = 6 * 1024 * 1024
# Seconds in which a body must be complete.
BODY_SECONDS = 30.0


class RequestTimeout(AppError, code="request_timeout", status=408):
    """The body did not arrive in time."""


Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
_large: set[Callable[..., Any]] = set()


def takes_large_body(endpoint: Endpoint) -> Endpoint:
    """Mark the endpoint of a route that takes more than SMALL_BODY. Write it below the decorator of the route."""
    _large.add(endpoint)
    return endpoint


class Route(APIRoute):
    """Refuses a request without a valid key, or with a body over the limit, before it is parsed and before it takes a thread."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self._checks = [one.dependency for one in self.dependencies if one.dependency in CHECKS]
        self._limit = LARGE_BODY if endpoint in _large else SMALL_BODY
        self._takes_thread = not inspect.iscoroutinefunction(endpoint)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.methods and scope["method"] not in self.methods:
            await super().handle(scope, receive, send)
            return
        # Give it the server's own `receive`: is_disconnected() must not consume the body that is replayed below.
        request = Request(scope, receive)
        for check in self._checks:
            await check(request, None)
        if self.body_field is not None:
            replayed = await _read(request, receive, self._limit)
            if replayed is None:
                return
            receive = replayed
        if not self._takes_thread:
            await super().handle(scope, receive, send)
            return
        # All routes with a key share their threads. Of the others each one does, for each collection.
        collection = str(request.path_params.get("collection", "")).removeprefix("public.")
        kind = KEYED if self._checks else f"{self.path} {collection}"
        shares: ThreadShares = request.app.state.thread_shares
        async with shares.share(kind) as has_waited:
            # If the client has closed the connection while its request waited, do not use a thread for it.
            if not (has_waited and await request.is_disconnected()):
                await super().handle(scope, receive, send)


class CompressedRoute(Route):
    """A route whose answers are compressed for callers that accept gzip."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await GZipMiddleware(super().handle, compresslevel=5)(scope, receive, send)


async def _read(request: Request, receive: Receive, limit: int) -> Receive | None:
    """Read the body. Returns a `receive` that returns it again, and after it the server's further messages, such as a
    disconnect; None if the client closed the connection. Raises RequestTooLarge before more than `limit` is kept.
    """
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > limit:
        raise _too_large(limit)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            more = True
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    return None
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > limit:
                    raise _too_large(limit)
    except TimeoutError:
        raise RequestTimeout(f"the body was not complete after {BODY_SECONDS:.0f} s") from None
    messages: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return again


def _too_large(limit: int) -> RequestTooLarge:
    size = f"{limit // 1024 // 1024} MB" if limit >= 1024 * 1024 else f"{limit // 1024} kB"
    return RequestTooLarge(f"the body is larger than {size}, which is the limit of this route")
