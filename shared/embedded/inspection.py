"""Reads migrations, versions and roles of a server as the database's owner, without changing anything."""

from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psycopg
from pydantic import SecretStr

from shared.database.pooling import Pooling, find_pooling
from shared.database.postgres import connect, translate
from shared.embedded.migrations import list_migrations, missing
from shared.embedded.requirements import require_server


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was read from a server.

    `pooling` says whether the connection goes through a pooler. `lacking` are the names of the missing migrations.
    `facts` is what describe_installation returns; it is empty while migrations are missing.
    """

    pooling: Pooling
    lacking: list[str]
    facts: dict[str, Any]


def inspect(url: SecretStr) -> Inspection:
    """Connect and read. Raises ConfigurationError if migrations are missing and the server does not meet their needs.

    Raises DatabaseError if the database fails; its message contains no address and no value.
    """
    try:
        with closing(connect(url, application_name="tonnetz-doctor")) as owner:
            lacking = [one.name for one in missing(owner, list_migrations())]
            if lacking:
                require_server(owner)
            facts = None if lacking else owner.execute("select public.describe_installation()").fetchone()
            return Inspection(find_pooling(url, owner), lacking, facts[0] if facts else {})
    except psycopg.Error as error:
        raise translate(error, "describe_installation") from None
