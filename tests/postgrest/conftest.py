"""A fixture with each way to the database in turn."""

from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from shared.database.base import Database
from shared.database.postgres import PostgresDatabase

# Two adapters, and the two modes of PgBouncer.
WAYS = ["postgres", "transaction", "session", "supabase"]


@pytest.fixture(params=WAYS)
def database(request: pytest.FixtureRequest, database_url: SecretStr) -> Iterator[Database]:
    """Each way to a new database: psycopg, also through PgBouncer in both of its modes, and PostgREST."""
    if request.param == "supabase":
        yield request.getfixturevalue("supabase_database")
        return
    pooled = request.param != "postgres"
    url = request.getfixturevalue("pooler")(request.param).url(database_url) if pooled else database_url
    with PostgresDatabase(url) as adapter:
        yield adapter
