"""Verifies the bearer token of a search and returns its caller."""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import SecretStr

from shared.errors import Forbidden, Unauthorized
from shared.models import ANON, Caller

# The roles that may search. service_role may not: it bypasses row level security, and its key must stay on a server.
ROLES = ("anon", "authenticated")
# The end of the year 9999, in seconds since 1970. A token with a later time is refused: the time is a mistake, or the
# token would never expire.
_LAST_TIME = 253_402_300_799


def matches(given: str, secret: SecretStr | None) -> bool:
    """Compare a key with the secret in constant time."""
    if secret is None:
        return False
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), secret.get_secret_value().encode())


@dataclass(frozen=True, slots=True)
class TokenVerifier:
    """Turns a bearer token into a caller.

    Without `passes_on`, a token is verified here with `jwt_secret` (HS256, `exp` and a role of ROLES are required). With
    `passes_on`, the token is passed on to Supabase, which verifies it. Here only `exp` and the role are checked.
    """

    jwt_secret: SecretStr | None = None
    anon_key: SecretStr | None = None
    service_role_key: SecretStr | None = None
    functions_api_key: SecretStr | None = None
    passes_on: bool = False

    def resolve(self, token: str | None) -> Caller:
        """Return the caller. Raises Unauthorized for an invalid token, Forbidden for a role that may not search."""
        if token is None or matches(token, self.anon_key) or matches(token, self.functions_api_key):
            # FUNCTIONS_API_KEY names no user of the database. A caller with this key searches as anon, like a caller
            # with the anon key or without a token.
            return ANON
        if matches(token, self.service_role_key) or token.startswith("sb_secret_"):
            raise Forbidden("the service role key is not for searching: use the anon key or a user's token")
        claims = self._read(token)
        role = claims.get("role")
        if role not in ROLES:
            raise Forbidden("only tokens of the roles anon and authenticated can search")
        return Caller(str(role), claims, token)

    def _read(self, token: str) -> dict[str, Any]:
        import jwt

        try:
            if self.passes_on:
                options: jwt.types.Options = {"verify_signature": False, "verify_exp": True, "require": ["exp"]}
                claims = jwt.decode(token, options=options)
            elif self.jwt_secret is None:
                raise Unauthorized("this server verifies no tokens, because SUPABASE_JWT_SECRET is not set")
            else:
                options = {"require": ["exp", "role"], "verify_aud": False, "verify_iat": False, "verify_sub": False}
                claims = jwt.decode(token, self.jwt_secret.get_secret_value(), algorithms=["HS256"], options=options)
            # Claims are sent to the database as JSON and are part of cache keys. Python can parse integers of more than 64
            # bits, half of a surrogate pair and very deep lists. orjson cannot write these, so such a token is refused.
            orjson.dumps(claims)
            _check_times(claims)
        except (jwt.PyJWTError, orjson.JSONEncodeError, ValueError, OverflowError):
            raise Unauthorized("the token is not valid, or has expired") from None
        return claims


def _check_times(claims: Mapping[str, Any]) -> None:
    """Raise ValueError for a time that is not a number of seconds, because jwt accepts texts and `true` as numbers."""
    for name in ("exp", "nbf"):
        time = claims.get(name, 0)
        if isinstance(time, bool) or not isinstance(time, int | float) or not 0 <= time <= _LAST_TIME:
            raise ValueError(f"{name} is not a valid time")
