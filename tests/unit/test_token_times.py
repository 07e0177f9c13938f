"""Tests that the times in a token must be numbers of seconds. The jwt package also accepts texts and `true`."""

import json
from typing import Any

import jwt
import pytest
from pydantic import SecretStr

from shared.errors import Unauthorized
from shared.tokens import TokenVerifier

SECRET = "s" * 32
# It is part of the names of tests, so it must be the same in every process.
LATER = 4_000_000_000


def sign(claims: dict[str, Any]) -> str:
    """A signed token with these claims, even if the jwt package would refuse to write them."""
    return jwt.api_jws.encode(json.dumps(claims).encode(), SECRET, "HS256")


@pytest.fixture(params=["verified here", "verified by the database"])
def verifier(request: pytest.FixtureRequest) -> TokenVerifier:
    return TokenVerifier(jwt_secret=SecretStr(SECRET), passes_on=request.param != "verified here")


@pytest.mark.parametrize(
    "exp", [str(LATER), f"{LATER}.5", 1e308, 1e300, 2**80, True, float("inf"), [LATER], {"at": LATER}, None, -1]
)
def test_an_expiry_that_is_no_time_is_refused(verifier: TokenVerifier, exp: object) -> None:
    with pytest.raises(Unauthorized):
        verifier.resolve(sign({"role": "authenticated", "exp": exp}))


@pytest.mark.parametrize("start", ["0", True, 1e308])
def test_a_start_that_is_no_time_is_refused(verifier: TokenVerifier, start: object) -> None:
    with pytest.raises(Unauthorized):
        verifier.resolve(sign({"role": "authenticated", "exp": LATER, "nbf": start}))


@pytest.mark.parametrize("exp", [LATER, LATER + 0.5])
def test_a_number_of_seconds_is_accepted(verifier: TokenVerifier, exp: float) -> None:
    assert verifier.resolve(sign({"role": "authenticated", "exp": exp, "nbf": 0})).role == "authenticated"
