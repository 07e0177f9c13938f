"""Reads versions, migrations and roles of a server as the database's owner, without changing anything."""

from dataclasses import dataclass
from typing import Any

import psycopg
from pydantic import SecretStr

from shared.database.postgres import connect, translate
from shared.embedded.migrations import list_migrations, missing


@dataclass(frozen=True, slots=True)
class Inspection:
    """`vector` is the version that is installed, or else could be; `lacking` are the missing migrations, by name.

    `facts` is what describe_installation returns; it is empty while migrations are missing.
    """

    server_version: int
    vector: str | None
    vector_schema: str | None
    direct: bool
    lacking: list[str]
    facts: dict[str, Any]


def inspect(url: SecretStr) -> Inspection:
    """Connect and read. Raises DatabaseError, whose message contains no address and no value."""
    try:
        with connect(url, application_name="tonnetz-doctor") as owner:
            row = owner.execute(
                "select pg_backend_pid(), coalesce(x.installed_version, x.default_version), e.extnamespace::regnamespace::text"
                " from (select) t left join pg_available_extensions x on x.name = 'vector'"
                " left join pg_extension e on e.extname = 'vector'"
            ).fetchone()
            assert row is not None
            lacking = [one.name for one in missing(owner, list_migrations())]
            facts = None if lacking else owner.execute("select public.describe_installation()").fetchone()
            return Inspection(
                server_version=owner.info.server_version,
                vector=row[1],
                vector_schema=row[2],
                # Through a pooler, the client gets another process id than the server's.
                direct=row[0] == owner.info.backend_pid,
                lacking=lacking,
                facts=facts[0] if facts else {},
            )
    except psycopg.Error as error:
        raise translate(error, "describe_installation") from None
