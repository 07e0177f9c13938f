"""GET /, /console/{name} and /api/console: the page, what it is made of, and what it needs to start.

The page itself only calls routes that anybody with the key may call.
"""

import gzip
import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from fastapi import Path as PathParameter
from mangum import Mangum
from pydantic import BaseModel, Field

from functions.http.app import create_app
from functions.http.auth import ServicesOf
from functions.http.compress import accepts_gzip
from functions.http.schemas import Text
from functions.services import Services
from shared.embedding.collection import list_embedding_collections
from shared.errors import AppError, ConfigurationError, NotFound, ProviderUnavailable
from shared.search.filters import FILTERS

log = logging.getLogger(__name__)

FOLDER = Path(__file__).parent
PAGE = "index.html"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

# Everything comes from here, and nothing is written into the page.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_NOT_MODIFIED: dict[str, Any] = {"description": "What the browser holds is still right."}
_TEXT: dict[str, Any] = {"schema": {"type": "string"}}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file of the page, as it is and compressed; `digest` names its content."""

    body: bytes
    compressed: bytes
    digest: str
    media_type: str


class Problem(BaseModel):
    """Something is missing: what, and what to do about it."""

    code: str = Field(examples=["database_gone"])
    message: str = Field(examples=["The database does not answer."])
    fix: str


class ConsoleStart(BaseModel):
    """What the page needs before it has a key. `model` and `dimensions` are null while the provider has not said."""

    version: str = Field(examples=["0.2.0"])
    needs_key: bool
    provider: str = Field(examples=["onnx"])
    model: str | None = Field(examples=["all-MiniLM-L6-v2"])
    dimensions: int | None = Field(examples=[384])
    database: Literal["ok", "gone"]
    synonyms: bool = Field(description="whether somebody is set up who writes synonyms")
    currency: Literal["USD"]
    searchable: list[str] = Field(description="the collections that /api/search takes", examples=[["music_knowledge"]])
    problems: list[Problem]


@cache
def assets() -> Mapping[str, Asset]:
    """The files beside this one, by name: what is not among them is not served, whatever a path says."""
    return {path.name: _read(path) for path in sorted(FOLDER.iterdir()) if path.suffix in MEDIA_TYPES}


def _read(path: Path) -> Asset:
    body = path.read_bytes()
    # No time in the header: the same content is the same answer from every process.
    compressed = gzip.compress(body, 9, mtime=0)
    return Asset(body, compressed, hashlib.sha256(body).hexdigest()[:32], MEDIA_TYPES[path.suffix])


async def _is_on(services: ServicesOf) -> None:
    if not services.serves_console:
        raise NotFound("the console is off here; CONSOLE=true serves it")


router = APIRouter(tags=["console"], dependencies=[Depends(_is_on)])


@router.get(
    "/",
    response_class=Response,
    responses={200: {"content": {"text/html": _TEXT}}, 304: _NOT_MODIFIED},
)
async def page(request: Request) -> Response:
    """The console. It holds no row and no key: it asks for the one, and fetches the others with it."""
    return _serve(PAGE, request)


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
    return _serve(name, request)


@router.get("/api/console")
def start(request: Request, services: ServicesOf) -> ConsoleStart:
    """What the page needs to start, and what is missing; nothing of any row."""
    up = services.health.database_is_up()
    state = services.provider_check.state()
    settings = services.settings
    problems = [] if up else [DATABASE_GONE]
    if state.error is not None:
        problems.append(_provider_problem(services, state.error))
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
    """The collections that can be searched and that this database was set up with."""
    try:
        return sorted(FILTERS.keys() & list_embedding_collections(services.database).keys())
    except AppError as error:
        log.warning("console: %s", error.message)
        return sorted(FILTERS)


DATABASE_GONE = Problem(
    code="database_gone",
    message="The database does not answer.",
    fix="Check that it runs and that DATABASE_URL or SUPABASE_URL leads to it. Is it there, it may lack the migrations "
    "of this version: run scripts/migrate.py, or supabase db push. The server's log has the reason.",
)
NO_KEY = Problem(
    code="no_key",
    message="This server has no key, so nobody may call it.",
    fix="Set FUNCTIONS_API_KEY and start it again.",
)
_START_PROVIDER = {
    "onnx": "The model runs in this process: the server's log has the reason.",
    "ollama": "Start it with ollama serve, pull the model, and check that OLLAMA_URL leads to it.",
    "openai": "Check the connection and OPENAI_BASE_URL.",
}


def _provider_problem(services: Services, error: AppError) -> Problem:
    """The problem without addresses and settings, which are nobody's business; but whoever needs no key has them anyway."""
    name = services.settings.embedding_provider
    if isinstance(error, ConfigurationError):
        message = f"The provider {name} is not set up."
        fix = "Check EMBEDDING_PROVIDER, EMBEDDING_MODEL and its key, then start the server again. Its log has the reason."
    elif isinstance(error, ProviderUnavailable):
        message = f"The provider {name} cannot be reached: search is full-text only, and nothing is embedded."
        fix = _START_PROVIDER[name]
    else:
        message = (
            f"The provider {name} does not answer as it should: search is full-text only, and nothing is embedded."
        )
        fix = "The server's log has the reason."
    if not services.needs_key:
        fix = f"{fix} It says: {error.message}"
    return Problem(code=error.code, message=message, fix=fix)


def _serve(name: str, request: Request) -> Response:
    found = assets().get(name)
    if found is None:
        raise NotFound(f"the console has no file {name!r}")
    compress = accepts_gzip(request)
    # Each form of the file has a tag of its own.
    etag = f'"{found.digest}{"-gzip" if compress else ""}"'
    headers = {
        "etag": etag,
        # Ask each time, and be told in a few bytes that nothing has changed.
        "cache-control": "no-cache",
        "vary": "Accept-Encoding",
        "content-security-policy": _POLICY,
    }
    if etag in [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    if compress:
        headers["content-encoding"] = "gzip"
    return Response(found.compressed if compress else found.body, headers=headers, media_type=found.media_type)


app = create_app("console", router)
handler = Mangum(app, lifespan="off")
