"""Creates a FastAPI application from the routers of one or several modules in functions/.

On Lambda each module is a function of its own; `make serve` runs all of them in one server.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import APIRouter, FastAPI

from functions.http import errors
from functions.http.events import LambdaHandler
from functions.http.middleware import ObserveRequest, RequestMiddleware
from functions.http.thread_shares import ThreadShares
from functions.services import SERVICES, Services
from shared import __version__

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]

_CALLER_TOKEN = {
    "type": "http",
    "scheme": "bearer",
    "description": "A Supabase user's token or the anon key; without one the search runs as anon.",
}


def create_app(
    function: str,
    *routers: APIRouter,
    services: Services | None = None,
    lifespan: Lifespan | None = None,
    observe: ObserveRequest | None = None,
) -> FastAPI:
    """Create an application with these routes. `services` replaces the services of the process."""
    services = services or SERVICES
    app = _Application(
        title="Tonnetz",
        summary="Keeps database rows embedded; full-text, semantic and hybrid search over them.",
        version=__version__,
        # FastAPI's own pages load scripts from other sites; functions/http/docs.py serves /docs.
        docs_url=None,
        redoc_url=None,
        # A redirect would contain the server's own address, which is wrong behind a proxy.
        redirect_slashes=False,
        lifespan=lifespan,
        responses=errors.ERROR_RESPONSES,
    )
    app.state.services = services
    app.state.thread_shares = ThreadShares()
    for router in routers:
        app.include_router(router)
    errors.install(app)
    app.add_middleware(RequestMiddleware, function=function, services=services, observe=observe)
    return app


def create_function(name: str, router: APIRouter) -> tuple[FastAPI, LambdaHandler]:
    """The application of one function, and its handler on Lambda."""
    app = create_app(name, router)
    return app, LambdaHandler(app)


class _Application(FastAPI):
    def openapi(self) -> dict[str, Any]:
        document = super().openapi()
        if any("/api/search" in path for path in document["paths"]):
            document.setdefault("components", {}).setdefault("securitySchemes", {})["CallerToken"] = _CALLER_TOKEN
        return document
