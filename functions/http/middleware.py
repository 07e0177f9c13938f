"""Wraps each request: assigns an id, limits open requests, adds security headers and CORS, writes the access log, and
turns an unexpected error into a 500.
"""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Callable
from ipaddress import ip_address

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from functions.http.errors import error_response
from functions.services import Services
from shared.errors import AppError, Forbidden, Overloaded
from shared.logs import request_id

log = logging.getLogger("functions.access")

# The most requests that are open at the same time; one more gets 503. Each of them holds its body in memory.
MAX_REQUESTS = 512
# These are always answered: a server under load works, so a load balancer must not remove it.
_PROBES = ("/health", "/ready")

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")

_SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
]

# Where the scope holds the status of an answer that has begun.
_STATUS = "tonnetz.status"

# A function that gets method, route, status and seconds of each answered request.
ObserveRequest = Callable[[str, str, int, float], None]


class RequestMiddleware:
    """Wraps an application. `function` is its name in logs; `observe` is called after every request.

    This is one layer of plain ASGI, because a stack of BaseHTTPMiddleware takes longer than a whole /embed request.
    """

    def __init__(self, app: ASGIApp, *, function: str, services: Services, observe: ObserveRequest | None) -> None:
        self._app = app
        self._function = function
        self._services = services
        self._observe = observe
        self._inside: ASGIApp | None = None
        self._checks_origin = True
        self._open_requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        # Use a copy, because the server may append the trailers of the body to its own list.
        scope["headers"] = list(scope["headers"])
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        current = given.decode() if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        token = request_id.set(current)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                scope[_STATUS] = message["status"]
                headers = message.get("headers", ())
                present = {name for name, _ in headers}
                added = [header for header in _SECURITY_HEADERS if header[0] not in present]
                message["headers"] = [*headers, (b"x-request-id", current.encode()), *added]
            await send(message)

        self._open_requests += 1
        try:
            await (self._inside or self._prepared(scope))(scope, receive, answer)
            # If there is no answer, the client has closed the connection; 499 is nginx's status for that.
            scope.setdefault(_STATUS, 499)
        finally:
            self._open_requests -= 1
            seconds, status = time.perf_counter() - started, scope.get(_STATUS, 500)
            if log.isEnabledFor(logging.INFO):
                fields = {
                    "function": self._function,
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                }
                log.info("request", extra={"fields": fields | {"duration_ms": round(seconds * 1000, 2)}})
            if self._observe is not None:
                self._observe(scope["method"], getattr(scope.get("route"), "path", "other"), status, seconds)
            request_id.reset(token)

    def _prepared(self, scope: Scope) -> ASGIApp:
        """The application with CORS around it, so that a page of an allowed origin can read every error.

        Created at the first request, because importing a function must not read settings.
        """
        try:
            if "aws.context" in scope:
                _ = self._services.lambda_logs
            self._checks_origin = not self._services.needs_key
            self._inside = self._with_cors(self._services.settings.allowed_origins)
            return self._inside
        except AppError as error:
            return self._error(error, scope)

    def _with_cors(self, origins: tuple[str, ...]) -> ASGIApp:
        if not origins:
            return self._guarded
        from starlette.middleware.cors import CORSMiddleware

        return CORSMiddleware(
            self._guarded,
            allow_origins=origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "X-Request-Id"],
            expose_headers=["X-Request-Id", "Retry-After", "X-Truncated-Inputs"],
        )

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application with its limits, and turn every error into an answer."""
        try:
            if self._checks_origin:
                self._check_origin(dict(scope["headers"]))
            if self._open_requests > MAX_REQUESTS and scope["path"] not in _PROBES:
                raise Overloaded("the server has too many open requests; try again", retry_after=1)
            await self._app(scope, receive, send)
        except (Exception, asyncio.CancelledError) as error:
            response = self._error(error, scope)
            if _STATUS in scope:
                raise
            await response(scope, receive, send)

    def _error(self, error: BaseException, scope: Scope) -> Response:
        if isinstance(error, asyncio.CancelledError):
            # At shutdown uvicorn cancels requests that exceed its time limit.
            error = Overloaded("the server is shutting down; try again", retry_after=5)
        if not isinstance(error, AppError):
            fields = {"function": self._function, "path": scope["path"]}
            log.error("unexpected error", exc_info=error, extra={"fields": fields})
            error = AppError("internal error")
        return error_response(error, scope["path"])

    def _check_origin(self, headers: dict[bytes, bytes]) -> None:
        """Protect a loopback server without a key from web pages, which could reach it through the user's browser."""
        # A web page can reach this server in two ways. With a name that resolves to 127.0.0.1 (DNS rebinding), the header
        # Host contains this name. With a request to 127.0.0.1, the header Origin contains the page's site.
        # Starlette's TrustedHostMiddleware cannot check ranges of addresses, and answers in plain text.
        if not is_loopback(headers.get(b"host", b"").decode("latin-1")):
            raise Forbidden("without FUNCTIONS_API_KEY only 127.0.0.1 and localhost are served")
        origin = headers.get(b"origin", b"").decode("latin-1")
        allowed = self._services.settings.allowed_origins
        if origin and origin not in allowed and not is_loopback(origin.partition("://")[2]):
            raise Forbidden("without FUNCTIONS_API_KEY pages of other origins are not served; see ALLOWED_ORIGINS")


def is_loopback(host: str) -> bool:
    """Whether a host (with or without a port) can only be this machine."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name.lower() == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
