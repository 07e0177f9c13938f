"""Each adapter in turn."""

from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from shared.database.base import Database
from shared.database.postgres import PostgresDatabase

BOTH = ["postgres", "supabase"]


@pytest.fixture(params=BOTH)
def database(request: pytest.FixtureRequest, database_url: SecretStr) -> Iterator[Database]:
    """Each adapter in turn, on a new database."""
    if request.param == "supabase":
        yield request.getfixturevalue("supabase_database")
        return
    with PostgresDatabase(database_url) as adapter:
        yield adapter
