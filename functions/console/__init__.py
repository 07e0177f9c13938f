"""GET /, /console/{name} and /api/console: the console's page, its files and its start data.

The page calls only public routes, with the key that the user enters.
"""

import logging
import mimetypes
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from fastapi import Path as PathParameter
from pydantic import BaseModel, Field
from starlette.staticfiles import StaticFiles

from functions.http.app import create_function
from functions.http.auth import ServicesOf
from functions.http.problems import Problem, provider_problems
from functions.http.routes import CompressedRoute
from functions.http.schemas import Text
from functions.services import Services
from shared.embedding.collection import list_embedding_collections
from shared.errors import AppError, NotFound
from shared.search.filters import FILTERS

log = logging.getLogger(__name__)

FOLDER = Path(__file__).parent
SUFFIXES = (".html", ".css", ".js", ".svg")
_FILES = StaticFiles(directory=FOLDER)
# Some systems register a content type for .js with which browsers refuse to run a module.
mimetypes.add_type("text/javascript", ".js")

# Everything is loaded from this server, and the page holds no inline script or style.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_NOT_MODIFIED: dict[str, Any] = {"description": "The browser's copy is up to date."}
_TEXT: dict[str, Any] = {"schema": {"type": "string"}}


class ConsoleStart(BaseModel):
    """Data for the page before it has a key. `model` and `dimensions` are null until the provider has reported them."""

    version: str = Field(examples=["0.2.0"])
    needs_key: bool
    provider: str = Field(examples=["onnx"])
    model: str | None = Field(examples=["all-MiniLM-L6-v2"])
    dimensions: int | None = Field(examples=[384])
    database: Literal["ok", "gone"]
    synonyms: bool = Field(description="whether a generator of synonyms is configured")
    currency: Literal["USD"]
    searchable: list[str] = Field(
        description="the collections that /api/search can search", examples=[["music_knowledge"]]
    )
    problems: list[Problem]


async def _is_on(services: ServicesOf) -> None:
    if not services.serves_console:
        raise NotFound("this server does not serve the console; set CONSOLE=true to serve it")


router = APIRouter(tags=["console"], dependencies=[Depends(_is_on)], route_class=CompressedRoute)


@router.get("/", response_class=Response, responses={200: {"content": {"text/html": _TEXT}}, 304: _NOT_MODIFIED})
async def page(request: Request) -> Response:
    """The console's page. It contains no rows and no key: it asks the user for the key and fetches rows with it."""
    return await _serve("index.html", request)


@router.get(
    "/console/{name}",
    response_class=Response,
    responses={
        200: {"content": {"text/css": _TEXT, "text/javascript": _TEXT, "image/svg+xml": _TEXT, "text/html": _TEXT}},
        304: _NOT_MODIFIED,
    },
)
async def asset(
    name: Annotated[Text, PathParameter(max_length=63, examples=["console.css"])], request: Request
) -> Response:
    """A file of the console, by its name."""
    return await _serve(name, request)


async def _serve(name: str, request: Request) -> Response:
    if Path(name).suffix not in SUFFIXES:
        raise NotFound(f"the console has no file {name!r}")
    response = await _FILES.get_response(name, request.scope)
    # With no-cache the browser asks the server each time; the answer 304 means that the file has not changed.
    response.headers.update({"cache-control": "no-cache", "content-security-policy": _POLICY})
    return response


@router.get("/api/console")
def start(request: Request, services: ServicesOf) -> ConsoleStart:
    """Return the data with which the page starts, and a list of problems. The answer contains no row data."""
    up = services.health.database_is_up()
    state = services.provider_check.state()
    settings = services.settings
    problems = [*([] if up else [DATABASE_GONE]), *provider_problems(services)]
    if services.needs_key and settings.functions_api_key is None:
        problems.append(NO_KEY)
    return ConsoleStart(
        version=request.app.version,
        needs_key=services.needs_key,
        provider=settings.embedding_provider,
        model=state.model or settings.embedding_model,
        dimensions=state.dimensions or settings.embedding_dimensions,
        database="ok" if up else "gone",
        synonyms=services.has_generator,
        currency="USD",
        searchable=_searchable(services) if up else sorted(FILTERS),
        problems=problems,
    )


def _searchable(services: Services) -> list[str]:
    """The collections that can be searched and that this database has."""
    try:
        return sorted(FILTERS.keys() & list_embedding_collections(services.database).keys())
    except AppError as error:
        log.warning("console: %s", error.message)
        return sorted(FILTERS)


DATABASE_GONE = Problem(
    code="database_gone",
    message="The database does not answer.",
    fix="Check that the database runs and that DATABASE_URL or SUPABASE_URL has its address. If it runs, migrations of "
    "this version may be missing: run scripts/migrate.py, or supabase db push. The server's log has the reason.",
)
NO_KEY = Problem(
    code="no_key",
    message="FUNCTIONS_API_KEY is not set, so the server refuses every request that needs this key.",
    fix="Set FUNCTIONS_API_KEY and restart the server.",
)


app, handler = create_function("console", router)
