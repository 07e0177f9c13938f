"""Checks keys and tokens. Keys are compared in constant time, so the time of an answer tells nothing about them."""

from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer
from fastapi.security.base import SecurityBase

from functions.services import Services
from shared.errors import Unauthorized
from shared.models import Caller
from shared.tokens import matches

# For the OpenAPI document only; bearer_token() below reads the header.
_key_scheme: SecurityBase = HTTPBearer(
    scheme_name="FunctionsKey", description="Authorization: Bearer FUNCTIONS_API_KEY", auto_error=False
)
_webhook_scheme: SecurityBase = HTTPBearer(
    scheme_name="WebhookSecret",
    description="Authorization: Bearer WEBHOOK_SECRET, or the header x-webhook-secret",
    auto_error=False,
)


async def _services(request: Request) -> Services:
    # `async`, because FastAPI would run a plain function in a thread, which costs time.
    services: Services = request.app.state.services
    return services


async def _require_key(request: Request, _: Annotated[object, Security(_key_scheme)]) -> None:
    services: Services = request.app.state.services
    key = services.settings.functions_api_key
    if key is None:
        if services.open_on_loopback:
            return
        raise Unauthorized("this server has no FUNCTIONS_API_KEY, so this route refuses every call: set it")
    token = bearer_token(request)
    if token is None or not matches(token, key):
        raise Unauthorized("this route needs Authorization: Bearer FUNCTIONS_API_KEY")


async def _require_webhook_secret(request: Request, _: Annotated[object, Security(_webhook_scheme)]) -> None:
    services: Services = request.app.state.services
    secret = services.settings.webhook_secret
    if secret is None:
        if services.open_on_loopback and services.settings.functions_api_key is None:
            return
        raise Unauthorized("this server has no WEBHOOK_SECRET, so this route refuses every call: set it")
    given = request.headers.get("x-webhook-secret") or bearer_token(request)
    if given is None or not matches(given, secret):
        raise Unauthorized("this route needs Authorization: Bearer WEBHOOK_SECRET, or the header x-webhook-secret")


async def _caller(request: Request) -> Caller:
    services: Services = request.app.state.services
    return services.callers.resolve(bearer_token(request))


def bearer_token(request: Request) -> str | None:
    """The token of the Authorization header, None if the header is missing. Raises Unauthorized for another scheme."""
    header = request.headers.get("authorization")
    if header is None:
        return None
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthorized("Authorization: only Bearer tokens are accepted")
    return token.strip()


# The class `Route` calls these before it reads a body. FastAPI also calls them as dependencies, so the key is checked
# even on a route of another class.
CHECKS = (_require_key, _require_webhook_secret)

ServicesOf = Annotated[Services, Depends(_services)]
CallerOf = Annotated[Caller, Depends(_caller)]
NeedsKey = Depends(_require_key)
NeedsWebhookSecret = Depends(_require_webhook_secret)
# For the OpenAPI document: a token is optional.
OPTIONAL_TOKEN: dict[str, list[dict[str, list[str]]]] = {"security": [{}, {"CallerToken": []}]}
