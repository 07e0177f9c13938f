"""GET /docs of the long-lived server: Swagger UI, with its files from the package fastapi-offline, so that it works offline."""

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

from functions.http.routes import CompressedRoute
from shared.errors import NotFound

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Tonnetz API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
START = 'SwaggerUIBundle({ url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true });\n'

_FILES = StaticFiles(directory=Path(str(files("fastapi_offline"))) / "static")
# Swagger UI sets styles of its own, and draws its icons from data URLs.
_POLICY = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}

router = APIRouter(include_in_schema=False, route_class=CompressedRoute)


@router.get("/docs")
async def page() -> Response:
    """The page that lists every route and can send requests."""
    return HTMLResponse(PAGE, headers=_POLICY)


@router.get("/docs/{name}")
async def asset(name: str, request: Request) -> Response:
    """A file of the page."""
    if name == "start.js":
        return Response(START, headers=_POLICY, media_type="text/javascript")
    if not name.startswith("swagger-ui"):
        raise NotFound(f"the page has no file {name!r}")
    response = await _FILES.get_response(name, request.scope)
    response.headers.update({"cache-control": "no-cache", **_POLICY})
    return response
