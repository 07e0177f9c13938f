"""Serves all functions in one process: python -m functions.local [--host ADDRESS] [--port NUMBER]."""

import argparse
import gc
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from types import FrameType

from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI

from functions.http import docs
from functions.http.app import create_app
from functions.http.events import LambdaHandler
from functions.http.middleware import is_loopback
from functions.http.thread_shares import THREADS
from functions.services import Services
from shared.errors import AppError, ConfigurationError
from shared.logs import configure_logs
from shared.settings import Settings, load_settings

log = logging.getLogger(__name__)

# The modules of functions/ that have routes.
FUNCTIONS = (
    "collections",
    "console",
    "embed",
    "health",
    "maps",
    "openai_embeddings",
    "runs",
    "search",
    "synonyms",
    "synonyms_webhook",
    "tasks",
    "upsert_embeddings",
    "vectorization",
    "webhooks",
)


def create_server(services: Services) -> FastAPI:
    """The application that serves every route, with /metrics and /docs."""
    routers = [import_module(f"functions.{name}").router for name in FUNCTIONS]
    routers += services.metrics.router, docs.router
    observe = services.metrics.observe_request
    return create_app("local", *routers, services=services, lifespan=_lifespan, observe=observe)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    services: Services = app.state.services
    _warm_up(services)
    current_default_thread_limiter().total_tokens = THREADS
    # functions/__init__.py makes the garbage collector run rarely, for fast cold starts. A server runs for days, so it
    # must run more often here.
    gc.set_threshold(10_000, 10, 10)
    yield
    services.close()


def _warm_up(services: Services) -> None:
    """Connect, and start to load the model. After a failure, the first request tries again."""
    try:
        services.database.call_scalar("ping_embeddings")
        services.start_schedules()
    except AppError as error:
        log.warning("not ready yet: %s", error.message)
    except Exception:
        # Keep serving after an error, because /ready and the first request can then report it.
        log.exception("not ready yet")
    # Do not wait for the check, because Ollama may start minutes later.
    services.provider_check.start()


def check_host(host: str, settings: Settings) -> None:
    """Raise ConfigurationError for an address that other machines can reach, if FUNCTIONS_API_KEY is not set."""
    if settings.functions_api_key is None and not is_loopback(f"[{host}]" if ":" in host else host):
        raise ConfigurationError(
            f"FUNCTIONS_API_KEY: is needed to listen on {host}; without it the server listens only on 127.0.0.1"
        )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m functions.local", description="Serve all functions.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=_port, default=8000, help="port to listen on (default: 8000)")
    parser.add_argument(
        "--drain-minutes", type=float, default=30, metavar="N", help="embed pending rows every N minutes; 0: never"
    )
    return parser.parse_args()


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: 1 to 65535")
    return int(text)


def main() -> int:
    arguments = parse_arguments()
    host, port = arguments.host, arguments.port
    try:
        settings = load_settings()
        check_host(host, settings)
    except AppError as error:
        print("error: " + error.message.replace("\n", "\nerror: "), file=sys.stderr)
        return 2
    try:
        # Listen before anything is started, so that a port that is in use is reported at once.
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # A socket with an IPv6 address also accepts IPv4, if the system allows it.
        both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
        bound = socket.create_server((host, port), family=family, backlog=2048, dualstack_ipv6=both)
    except OSError as error:
        # Remove the address, which Python appends to the system's message.
        reason = str(error.strerror).partition(" (while")[0]
        advice = "choose another with --port, or make serve PORT=N"
        print(f"error: cannot listen on {host}:{port}: {reason}; {advice}", file=sys.stderr)
        return 3
    configure_logs(settings.log_level, settings.secrets())
    drain_every = arguments.drain_minutes * 60 or None
    services = Services(settings, long_lived=True, open_on_loopback=True, console=True, drain_every=drain_every)
    return _serve(services, bound)


def _serve(services: Services, bound: socket.socket) -> int:
    """Serve until SIGINT or SIGTERM. The signal stops running tasks; everything else is closed after the last request."""
    from functions.http.server import LimitedServer, server_config

    class Server(LimitedServer):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                print(_greeting(services, bound), flush=True)

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            # A task needs some time to release its rows.
            services.stop_tasks()
            super().handle_exit(sig, frame)

    # When uvicorn ends, it raises the signal again. With this handler SIGTERM ends the program like Ctrl-C, which leaves
    # time to stop an embedded database.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    server = Server(server_config(create_server(services), timeout_graceful_shutdown=20))
    with suppress(KeyboardInterrupt):
        server.run(sockets=[bound])
    return 0 if server.started else 3


def _greeting(services: Services, bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    # A browser cannot open a wildcard address such as 0.0.0.0.
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "::1": "[::1]"}.get(host, host)
    pages = "console, API at /docs" if services.serves_console else "API at /docs"
    return f"Tonnetz is at http://{host}:{port} ({pages}); Ctrl-C ends it"


if __name__ == "__main__":
    # This must come before the application below, which is for `uvicorn functions.local:app` and Lambda.
    sys.exit(main())

app = create_server(Services(long_lived=True))
handler = LambdaHandler(app)
