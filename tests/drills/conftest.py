"""Fixtures for the drills that run as tests."""

from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from shared.database.base import Database
from shared.database.postgres import PostgresDatabase
from shared.database.supabase import SupabaseDatabase
from tests.database.rows import Connection
from tests.drills.inputs_functions import write_as_a_user
from tests.drills.inputs_rows import fill_database, invalid_states
from tests.fake_provider import FakeProvider


@pytest.fixture(params=["postgres", pytest.param("supabase", marks=pytest.mark.postgrest)])
def adapter(request: pytest.FixtureRequest, database_url: SecretStr) -> Iterator[Database]:
    """Each adapter in turn; it can search as a caller."""
    if request.param == "postgres":
        with PostgresDatabase(database_url) as direct:
            yield direct
        return
    gateway, tokens = request.getfixturevalue("rest"), request.getfixturevalue("tokens")
    with SupabaseDatabase(
        gateway.url, SecretStr(tokens["service_role"]), anon_key=SecretStr(tokens["anon"])
    ) as through_postgrest:
        yield through_postgrest


@pytest.fixture
def filled(owner: Connection, database: PostgresDatabase, provider: FakeProvider) -> Connection:
    """The owner's connection to a database with rows in every table and state."""
    fill_database(owner, database, provider)
    write_as_a_user(owner)
    assert invalid_states(owner) == []
    return owner
