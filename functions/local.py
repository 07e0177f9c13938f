"""All functions in one server: python -m functions.local [--host ADDRESS] [--port NUMBER]."""

import argparse
import gc
import logging
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from types import FrameType

from fastapi import FastAPI
from mangum import Mangum

from functions import (
    collections,
    console,
    embed,
    health,
    maps,
    openai_embeddings,
    runs,
    search,
    synonyms,
    synonyms_webhook,
    tasks,
    upsert_embeddings,
    vectorization,
    webhooks,
)
from functions.http.app import create_app
from functions.http.middleware import is_loopback
from functions.services import Services
from shared.errors import AppError, ConfigurationError
from shared.logs import configure_logs
from shared.settings import Settings, load_settings

log = logging.getLogger(__name__)

FUNCTIONS = (
    collections,
    console,
    embed,
    health,
    maps,
    openai_embeddings,
    runs,
    search,
    synonyms,
    synonyms_webhook,
    tasks,
    upsert_embeddings,
    vectorization,
    webhooks,
)


def create_server(services: Services) -> FastAPI:
    """The application that serves every route, with /metrics."""
    metrics = services.metrics
    routers = [function.router for function in FUNCTIONS]
    return create_app(
        "local", *routers, metrics.router, services=services, lifespan=_lifespan, observe=metrics.observe_request
    )


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    services: Services = app.state.services
    _warm_up(services)
    # What a cold start goes without (functions/__init__.py): imports are done, and days of work follow.
    gc.set_threshold(10_000, 10, 10)
    yield
    services.close()


def _warm_up(services: Services) -> None:
    """Connect, and begin to load the model; what is not there yet is tried again by requests."""
    try:
        services.database.call_scalar("ping_embeddings")
        services.embedding_queue.start()
        services.synonym_queue.start()
    except AppError as error:
        log.warning("not ready yet: %s", error.message)
    except Exception:
        # /ready and the first request will tell; a server that runs can be asked why it does not work.
        log.exception("not ready yet")
    # Not waited for: Ollama may start minutes after this, on the same machine.
    services.provider_check.state()


def check_host(host: str, settings: Settings) -> None:
    """Without FUNCTIONS_API_KEY only this machine is served. Raises ConfigurationError."""
    if settings.functions_api_key is None and not is_loopback(f"[{host}]" if ":" in host else host):
        raise ConfigurationError(
            f"FUNCTIONS_API_KEY: is needed to serve {host}; without it only 127.0.0.1 is served, to this machine"
        )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m functions.local", description="Serve all functions.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=_port, default=8000, help="port to listen on (default: 8000)")
    parser.add_argument(
        "--drain-minutes", type=float, default=30, metavar="N", help="embed what is pending every N minutes; 0: never"
    )
    return parser.parse_args()


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: 1 to 65535")
    return int(text)


def main() -> int:
    import uvicorn

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            # A task takes its time to hand its rows back: it begins to while requests are still answered.
            services.stop_tasks()
            super().handle_exit(sig, frame)

    arguments = parse_arguments()
    try:
        settings = load_settings()
        check_host(arguments.host, settings)
    except AppError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 2
    configure_logs(settings.log_level, settings.secrets())
    # uvicorn ends in good order and then sends itself the signal again, which by default would leave no time to stop an
    # embedded database.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    services = Services(
        settings, long_lived=True, open_on_loopback=True, console=True, drain_every=arguments.drain_minutes * 60 or None
    )
    server = Server(
        uvicorn.Config(
            create_server(services),
            host=arguments.host,
            port=arguments.port,
            log_config=None,
            # Ours says more, and in JSON.
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=20,
        )
    )
    with suppress(KeyboardInterrupt):
        server.run()
    return 0 if server.started else 3


app = create_server(Services(long_lived=True))
handler = Mangum(app, lifespan="off")

if __name__ == "__main__":
    sys.exit(main())
