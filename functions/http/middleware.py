"""What happens around every request: id, body limit, security headers, access log, the last catch.

Plain ASGI, and one layer: a stack of BaseHTTPMiddleware costs more than a whole /embed.
"""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from functions.http.errors import error_response, internal_error
from functions.services import Services
from shared.errors import AppError, Forbidden, Overloaded, RequestTooLarge
from shared.logs import request_id

if TYPE_CHECKING:
    from starlette.responses import Response

log = logging.getLogger("functions.access")

# Lambda takes 6 MB; a batch of 256 chunks of 2,000 words is 3 MB.
MAX_BODY_BYTES = 6 * 1024 * 1024

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")

_SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
]

# Method, route, status and seconds of a request that was answered.
ObserveRequest = Callable[[str, str, int, float], None]


class Edge:
    """Wraps an application. `function` is its name in logs; `observe`, where given, sees every request."""

    def __init__(
        self, app: ASGIApp, *, function: str, services: Services, observe: ObserveRequest | None = None
    ) -> None:
        self._app = app
        self._function = function
        self._services = services
        self._observe = observe
        self._answering = self._caught(self._check)
        self._allowing: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        current = _accepted_id(headers.get(b"x-request-id")) or uuid.uuid4().hex
        token = request_id.set(current)
        scope.setdefault("state", {})["request_id"] = current
        status = 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                present = {name for name, _ in message.get("headers", ())}
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", current.encode()),
                    *((name, value) for name, value in _SECURITY_HEADERS if name not in present),
                ]
            await send(message)

        try:
            await self._answering(scope, receive, answer)
        finally:
            seconds = time.perf_counter() - started
            if log.isEnabledFor(logging.INFO):
                fields = {
                    "function": self._function,
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "duration_ms": round(seconds * 1000, 2),
                }
                log.info("request", extra={"fields": fields})
            if self._observe is not None:
                route = scope.get("route")
                self._observe(scope["method"], getattr(route, "path", "other"), status, seconds)
            request_id.reset(token)

    def _caught(self, app: ASGIApp) -> ASGIApp:
        """The application with every error that leaves it answered in our shape."""

        async def caught(scope: Scope, receive: Receive, send: Send) -> None:
            begun = False

            async def watched(message: Message) -> None:
                nonlocal begun
                begun = True
                await send(message)

            try:
                await app(scope, receive, watched)
            except AppError as error:
                await _respond(error_response(error, scope["path"]), scope, receive, watched)
            except asyncio.CancelledError:
                # The server ends, and this took longer than it waits for.
                if begun:
                    raise
                ending = Overloaded("the server is ending; try again", retry_after=5)
                await _respond(error_response(ending, scope["path"]), scope, receive, watched)
            except Exception:
                log.exception("unexpected error", extra={"fields": {"function": self._function, "path": scope["path"]}})
                if begun:
                    raise
                await _respond(internal_error(scope["path"]), scope, receive, watched)

        return caught

    async def _check(self, scope: Scope, receive: Receive, send: Send) -> None:
        if "aws.context" in scope:
            _ = self._services.lambda_logs
        self._check_origin(dict(scope["headers"]))
        if self._allowing is None:
            # Decided at the first request, not at import. What is refused inside is read by an allowed page as well.
            inside = self._caught(self._bound)
            origins = self._services.settings.allowed_origins
            self._allowing = _allow_origins(inside, origins) if origins else inside
        await self._allowing(scope, receive, send)

    async def _bound(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, await _limited(dict(scope["headers"]), receive), send)

    def _check_origin(self, headers: dict[bytes, bytes]) -> None:
        """On a loopback server that asks for no key: no page of the web may call it through its reader's browser."""
        services = self._services
        if not services.open_on_loopback or services.settings.functions_api_key is not None:
            return
        # A name that resolves to 127.0.0.1 (DNS rebinding) is in the Host header; another site's page is in Origin.
        if not is_loopback(headers.get(b"host", b"").decode("latin-1")):
            raise Forbidden("without FUNCTIONS_API_KEY only 127.0.0.1 and localhost are served")
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and origin not in services.settings.allowed_origins and not is_loopback(origin.partition("://")[2]):
            raise Forbidden("without FUNCTIONS_API_KEY pages of other origins are not served; see ALLOWED_ORIGINS")


def _accepted_id(given: bytes | None) -> str | None:
    return given.decode() if given and _REQUEST_ID.fullmatch(given) else None


def is_loopback(host: str) -> bool:
    """Whether a host, with a port or without, is this machine by a name that no other one can have."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name.lower() == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def _allow_origins(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    from starlette.middleware.cors import CORSMiddleware

    return CORSMiddleware(
        app,
        allow_origins=list(origins),
        allow_methods=["GET", "POST", "PUT", "DELETE"],
        allow_headers=["Authorization", "Content-Type", "X-Request-Id"],
        expose_headers=["X-Request-Id", "Retry-After"],
        max_age=600,
    )


async def _limited(headers: dict[bytes, bytes], receive: Receive) -> Receive:
    """The body's source, after a look at its size. Raises RequestTooLarge."""
    too_large = RequestTooLarge(f"the body is larger than {MAX_BODY_BYTES // 1024 // 1024} MB")
    length = headers.get(b"content-length")
    if length is not None:
        # The server holds the sender to the length it named.
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            raise too_large
        return receive
    if b"transfer-encoding" not in headers:
        return receive
    # No length was named: read as far as it may go, then play it back.
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return _replay([message], receive)
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise too_large
        more = message.get("more_body", False)
    return _replay([{"type": "http.request", "body": bytes(body), "more_body": False}], receive)


def _replay(messages: list[Message], receive: Receive) -> Receive:
    async def replayed() -> Message:
        return messages.pop(0) if messages else await receive()

    return replayed


async def _respond(response: "Response", scope: Scope, receive: Receive, send: Send) -> None:
    await response(scope, receive, send)
