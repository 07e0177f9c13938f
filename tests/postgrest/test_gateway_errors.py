"""Tests failures of one adapter: unreachable servers, gateways, keys."""

import time
import traceback
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from shared.database.postgres import PostgresDatabase
from shared.database.supabase import SupabaseDatabase
from shared.errors import (
    AppError,
    ConfigurationError,
    DatabaseError,
    DatabaseTimeout,
    DatabaseUnavailable,
    Forbidden,
)
from tests.database.rows import MUSIC, Connection, add, queued
from tests.gateway import Fault, Gateway
from tests.postgrest_server import sign_token

pytestmark = pytest.mark.postgrest


def test_an_unreachable_database_is_reported(tokens: dict[str, str]) -> None:
    with pytest.raises(DatabaseUnavailable, match=r"no server listens.*DATABASE_URL"):
        PostgresDatabase(SecretStr("postgresql://user:hunter2@127.0.0.1:1/tonnetz"))
    with (
        SupabaseDatabase("http://127.0.0.1:1", SecretStr(tokens["service_role"])) as database,
        pytest.raises(DatabaseUnavailable, match="SUPABASE_URL"),
    ):
        database.call("embedding_coverage")


def test_postgrest_without_its_database_is_unavailable(
    rest: Gateway, supabase_database: SupabaseDatabase, owner: Connection, cluster: Any
) -> None:
    supabase_database.call("embedding_coverage")
    name = owner.info.dbname
    with cluster.admin() as admin:
        admin.execute(f"alter database {name} with allow_connections false")
        admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name])
    try:
        with pytest.raises(DatabaseUnavailable):
            supabase_database.call("embedding_coverage")
    finally:
        with cluster.admin() as admin:
            admin.execute(f"alter database {name} with allow_connections true")


@pytest.mark.parametrize("status", [502, 503, 504, 520, 530])
def test_a_gateways_page_is_unavailable_and_its_body_is_not_shown(
    rest: Gateway, supabase_database: SupabaseDatabase, status: int
) -> None:
    rest.fault = Fault(status, "<html><h1>Bad gateway</h1><p>internal-host-7 said no</p></html>")
    with pytest.raises(DatabaseUnavailable) as caught:
        supabase_database.call("embedding_coverage")
    assert "internal-host-7" not in "".join(traceback.format_exception(caught.value))
    rest.fault = None
    assert supabase_database.call("embedding_coverage")


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault(404, "<html>no such page</html>"), DatabaseError),
        (Fault(200, "<html>a captive portal</html>"), DatabaseError),
        (Fault(404, '{"message":"no Route matched with those values"}', "application/json"), DatabaseError),
        (Fault(403, "<html>forbidden</html>"), ConfigurationError),
        (Fault(429, '{"message":"API rate limit exceeded"}', "application/json"), DatabaseUnavailable),
        (Fault(500, '{"message":"An unexpected error occurred"}', "application/json"), DatabaseUnavailable),
        (
            Fault(
                503,
                '{"code":"PGRST002","message":"Could not query the database for the schema cache. Retrying."}',
                "application/json",
            ),
            DatabaseUnavailable,
        ),
        (
            Fault(
                504,
                '{"code":"PGRST003","message":"Timed out acquiring connection from connection pool."}',
                "application/json",
            ),
            DatabaseTimeout,
        ),
        (Fault(540, '{"message":"Project paused"}', "application/json"), DatabaseUnavailable),
    ],
)
def test_each_gateway_error_is_translated(
    rest: Gateway, supabase_database: SupabaseDatabase, fault: Fault, expected: type[AppError]
) -> None:
    rest.fault = fault
    with pytest.raises(expected):
        supabase_database.call("embedding_coverage")


def test_a_supabase_that_does_not_answer_is_a_timeout(rest: Gateway, tokens: dict[str, str]) -> None:
    rest.fault = Fault(200, "[]", "application/json", delay=2)
    with (
        SupabaseDatabase(rest.url, SecretStr(tokens["service_role"]), timeout=0.2) as database,
        pytest.raises(DatabaseTimeout, match="SUPABASE_URL"),
    ):
        database.call("embedding_coverage")


def test_a_wrong_key_names_the_variable(rest: Gateway, tokens: dict[str, str]) -> None:
    """The gateway does not know the key, or the key has another project's signature, or it has expired."""
    forged = sign_token("another secret, as long as any of them is", "service_role")
    expired = tokens["service_role"]
    for key, known in ((forged, False), (forged, True), ("not-a-token", True)):
        rest.keys = {key} if known else {expired}
        with SupabaseDatabase(rest.url, SecretStr(key)) as database:
            with pytest.raises(ConfigurationError, match="SUPABASE_SERVICE_ROLE_KEY") as caught:
                database.call("embedding_coverage")
            assert key not in "".join(traceback.format_exception(caught.value))


def test_an_expired_key_names_the_variable(rest: Gateway, jwt_secret: str) -> None:
    key = sign_token(jwt_secret, "service_role", exp=int(time.time()) - 3600)
    rest.keys.add(key)
    with (
        SupabaseDatabase(rest.url, SecretStr(key)) as database,
        pytest.raises(ConfigurationError, match="SUPABASE_SERVICE_ROLE_KEY"),
    ):
        database.call("embedding_coverage")


@pytest.mark.parametrize("key", ["eyJhbGci••••••••", "eyJhbGci\n", " ", ""])
def test_a_malformed_key_names_the_variable_and_is_not_shown(rest: Gateway, key: str) -> None:
    with pytest.raises(AppError) as caught, SupabaseDatabase(rest.url, SecretStr(key)) as database:
        database.call("embedding_coverage")
    assert isinstance(caught.value, ConfigurationError)
    assert "SUPABASE_SERVICE_ROLE_KEY" in caught.value.message
    assert "eyJhbGci" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("url", ["http://", "https://exa mple.com", "http://[::1", "http://127.0.0.1:99999"])
def test_an_invalid_url_names_the_variable(url: str, tokens: dict[str, str]) -> None:
    with pytest.raises(AppError) as caught, SupabaseDatabase(url, SecretStr(tokens["service_role"])) as database:
        database.call("embedding_coverage")
    assert isinstance(caught.value, ConfigurationError | DatabaseUnavailable)
    assert "SUPABASE_URL" in caught.value.message


@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_the_anon_key_may_search_but_not_claim(
    rest: Gateway, owner: Connection, tokens: dict[str, str], role: str
) -> None:
    add(owner, "reverb")
    with SupabaseDatabase(rest.url, SecretStr(tokens[role])) as database:
        with pytest.raises(Forbidden, match="SUPABASE_SERVICE_ROLE_KEY"):
            database.call("claim_embeddings", {"collection": MUSIC})
        with pytest.raises(AppError):
            database.call("embedding_coverage")
        assert len(database.call("search_music_knowledge", {"query_text": "reverb"})) == 1
    assert len(queued(owner)) == 1


@pytest.mark.parametrize("path", ["queue", "models", "collections", "runs"])
def test_the_private_schema_is_not_exposed(rest: Gateway, tokens: dict[str, str], path: str) -> None:
    port = rest.upstream_port
    headers = {"authorization": f"Bearer {tokens['service_role']}"}
    assert httpx.get(f"http://127.0.0.1:{port}/{path}", headers=headers).status_code == 404
    profile = headers | {"accept-profile": "embedding"}
    assert httpx.get(f"http://127.0.0.1:{port}/{path}", headers=profile).status_code == 406
