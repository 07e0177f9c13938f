"""Tests that forged, expired, unsigned and altered tokens are refused."""

import base64
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest
from pydantic import SecretStr

from functions.services import Services
from shared.database.base import Database
from shared.database.postgres import PostgresDatabase
from shared.database.supabase import SupabaseDatabase
from tests.database.rows import Connection
from tests.drills.inputs_rows import fill_database, fingerprint
from tests.drills.privileges_callers import ANNA, BERT, signed, unsigned
from tests.fake_provider import FakeProvider
from tests.functions.conftest import JWT_SECRET, SERVICE_KEY, make_settings, serving, token
from tests.gateway import Gateway
from tests.postgrest_server import Postgrest


def forgeries() -> dict[str, str]:
    """Invalid tokens in the name of Anna, none of which may be accepted."""
    soon = int(time.time()) + 3600
    claims = {"role": "authenticated", "sub": ANNA, "exp": soon, "aud": "authenticated"}
    genuine = signed(claims)
    header, payload, signature = genuine.split(".")
    altered = base64.urlsafe_b64encode(json.dumps({**claims, "sub": BERT}).encode()).rstrip(b"=").decode()
    return {
        "forged": signed(claims, secret="f" * 48),
        "forged service role": signed({**claims, "role": "service_role"}, secret="f" * 48),
        "expired": signed({**claims, "exp": int(time.time()) - 3600}),
        "expired long ago": signed({**claims, "exp": 1}),
        "not yet valid": signed({**claims, "nbf": soon}),
        "not signed": unsigned(claims),
        "payload exchanged": f"{header}.{altered}.{signature}",
        "signature cut": f"{header}.{payload}.",
        "signature shortened": genuine[:-4],
        "genuine, of the service role": signed({**claims, "role": "service_role"}),
        "genuine, of the database's owner": signed({**claims, "role": "postgres"}),
        "genuine, of the authenticator": signed({**claims, "role": "authenticator"}),
        "genuine, of a role with SQL in it": signed({**claims, "role": "anon; set role postgres"}),
        "no token at all": "not.a.token",
        "large": signed({**claims, "more": "x" * 30_000}, secret="f" * 48),
    }


@pytest.fixture(params=["postgres", pytest.param("supabase", marks=pytest.mark.postgrest)])
def server(request: pytest.FixtureRequest, database_url: SecretStr, provider: FakeProvider) -> Iterator[httpx.Client]:
    """A client of the functions, on each adapter."""
    with ExitStack() as stack:
        if request.param == "postgres":
            database: Database = stack.enter_context(PostgresDatabase(database_url))
            settings = make_settings()
        else:
            binary, cluster = request.getfixturevalue("postgrest_binary"), request.getfixturevalue("cluster")
            rest = stack.enter_context(Postgrest(binary, cluster.url(database_url, user="authenticator"), JWT_SECRET))
            anon = token("anon")
            gateway = stack.enter_context(Gateway(rest.port, keys={SERVICE_KEY, anon}))
            settings = make_settings(
                supabase_url=gateway.url, supabase_service_role_key=SERVICE_KEY, supabase_anon_key=anon
            )
            database = stack.enter_context(
                SupabaseDatabase(gateway.url, SecretStr(SERVICE_KEY), anon_key=SecretStr(anon))
            )
        services = Services(settings, database=database, provider=provider, long_lived=True)
        url = stack.enter_context(serving(services))
        yield stack.enter_context(httpx.Client(base_url=url, timeout=60))


def test_every_route_refuses_forged_and_expired_tokens(
    server: httpx.Client, owner: Connection, database: PostgresDatabase, provider: FakeProvider
) -> None:
    fill_database(owner, database, provider)
    before = fingerprint(owner)

    def ask(path: str, key: str) -> httpx.Response:
        return server.get(path, headers={"authorization": f"Bearer {key}"})

    genuine = ask("/api/search/music_knowledge?q=gain", token(sub=ANNA))
    assert genuine.status_code == 200, "the genuine one does"
    assert "gain staging" in genuine.text
    for name, key in forgeries().items():
        for path in ("/api/search/music_knowledge?q=gain", "/api/synonyms/search?q=salsa", "/api/synonyms/genre/Salsa"):
            answer = ask(path, key)
            assert answer.status_code in (401, 403), f"{name} at {path}: {answer.status_code} {answer.text[:200]}"
            assert "gain staging" not in answer.text
        for path in ("/api/collections", "/metrics", "/api/synonyms/generation"):
            assert ask(path, key).status_code == 401, f"{name} at {path}"
    assert fingerprint(owner) == before


@pytest.mark.postgrest
def test_postgrest_refuses_every_invalid_token(
    postgrest_binary: object, request: pytest.FixtureRequest, database_url: SecretStr
) -> None:
    """A client that calls Supabase directly, without the functions."""
    cluster = request.getfixturevalue("cluster")
    with (
        Postgrest(postgrest_binary, cluster.url(database_url, user="authenticator"), JWT_SECRET) as rest,  # type: ignore[arg-type]
        httpx.Client(base_url=f"http://127.0.0.1:{rest.port}", timeout=30) as client,
    ):

        def call(function: str, key: str, **headers: str) -> int:
            sent = {"authorization": f"Bearer {key}", **headers}
            return client.post(f"/rpc/{function}", json={}, headers=sent).status_code

        assert call("search_music_knowledge", token("anon")) == 200
        for name, key in forgeries().items():
            if not name.startswith("genuine"):
                assert call("search_music_knowledge", key) == 401, name
                assert call("embedding_coverage", key) == 401, name
        assert call("embedding_coverage", token("service_role")) == 200
        for role in ("anon", "authenticated"):
            assert call("embedding_coverage", token(role)) in (401, 403)
            for schema in ("embedding", "extensions", "pg_catalog"):
                exposed = call("get_collection", token("service_role"), **{"content-profile": schema})
                assert exposed == 406, f"{schema} is exposed"
