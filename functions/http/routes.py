"""The class of every route: checks the key, reads the body within its limits, and waits for a free thread, in this order.

FastAPI would first read and parse the whole body, and then check the key.
"""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from fastapi import Depends, Request
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


class _BodyLimit:
    """Declares the limit of a route's body; `Route` enforces it."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    async def __call__(self) -> None:
        """Do nothing: FastAPI calls each dependency of a route, but `Route` has checked the body already."""


# Dependencies of a route that takes more than SMALL_BODY.
TakesLargeBody = Depends(_BodyLimit(LARGE_BODY))


class Route(APIRoute):
    """Refuses a request without a valid key, or with a body over the limit, before it is parsed and before it takes a thread."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        declared = [one.dependency for one in self.dependencies]
        self._checks = [check for check in declared if check in CHECKS]
        self._limit = max((one.limit for one in declared if isinstance(one, _BodyLimit)), default=SMALL_BODY)
        self._takes_thread = not inspect.iscoroutinefunction(endpoint)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.methods and scope["method"] not in self.methods:
            await self._answer(scope, receive, send)
            return
        # Give it the server's own `receive`: is_disconnected() must not consume the body that is replayed below.
        request = Request(scope, receive)
        for check in self._checks:
            await check(request, None)
        if self.body_field is not None:
            body = await _read(request, receive, self._limit)
            if body is None:
                return
            receive = _replay(body, receive)
        if not self._takes_thread:
            await self._answer(scope, receive, send)
            return
        shares: ThreadShares = request.app.state.thread_shares
        async with shares.share(self._kind(scope)) as has_waited:
            # If the client has closed the connection while its request waited, do not use a thread for it.
            if not (has_waited and await request.is_disconnected()):
                await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().handle(scope, receive, send)

    def _kind(self, scope: Scope) -> str:
        """The group whose requests share threads: one for all routes with a key, else one for each route and collection."""
        if self._checks:
            return KEYED
        return f"{self.path} {str(scope['path_params'].get('collection', '')).removeprefix('public.')}"


class CompressedRoute(Route):
    """A route whose answers are compressed for callers that accept gzip."""

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        await GZipMiddleware(super()._answer, compresslevel=5)(scope, receive, send)


async def _read(request: Request, receive: Receive, limit: int) -> bytes | None:
    """The body; None if the client closed the connection. Raises RequestTooLarge before more than `limit` is kept."""
    too_large = RequestTooLarge(f"the body is larger than {_size(limit)}, which is the limit of this route")
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > limit:
        raise too_large
    parts: list[bytes] = []
    received = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    return None
                part = message.get("body", b"")
                received += len(part)
                if received > limit:
                    raise too_large
                parts.append(part)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        raise RequestTimeout(f"the body was not complete after {BODY_SECONDS:.0f} s") from None


def _size(limit: int) -> str:
    return f"{limit // 1024 // 1024} MB" if limit >= 1024 * 1024 else f"{limit // 1024} kB"


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that returns the body that was read, and after it the server's further messages, such as a disconnect."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return again
