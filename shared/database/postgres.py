"""The direct adapter: psycopg on any PostgreSQL with pgvector."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb, set_json_dumps, set_json_loads
from psycopg_pool import ConnectionPool, PoolTimeout
from pydantic import SecretStr

from shared.database.base import Database
from shared.database.translate import error_from_sqlstate
from shared.errors import AppError, DatabaseContractError, DatabaseRejected, DatabaseUnavailable
from shared.models import Caller

# As long as Supabase lets a signed-in user's statement run.
CALLER_TIMEOUT = "8s"

# How long a call waits for a connection, in seconds. The pool's own reconnecting ends as soon: left alone it
# doubles its pauses up to minutes, and a server that was down for one would be found again after another.
WAIT_FOR_CONNECTION = 15.0

# orjson: a batch of vectors is a megabyte of JSON.
set_json_dumps(orjson.dumps)
set_json_loads(orjson.loads)


# The pool's warnings quote libpq, which names hosts and users; what matters of them our own errors say.
logging.getLogger("psycopg.pool").setLevel(logging.ERROR)


def translate(error: psycopg.Error, function: str = "") -> AppError:
    """The error of our tree for one of psycopg's; connection strings and row details are left behind."""
    if error.sqlstate is None and isinstance(error, psycopg.OperationalError):
        return DatabaseUnavailable(
            "the connection to the database was lost; check DATABASE_URL and that the server runs"
        )
    if error.sqlstate is None and isinstance(error, psycopg.DataError):
        return DatabaseRejected("a text holds the character NUL, which PostgreSQL cannot store")
    return error_from_sqlstate(
        error.sqlstate, error.diag.message_primary or type(error).__name__, error.diag.message_hint, function=function
    )


def connect(url: SecretStr, *, application_name: str = "tonnetz") -> psycopg.Connection[tuple[Any, ...]]:
    """One connection as the user of the URL, for what needs the owner: bootstrap and migrations.

    Raises DatabaseUnavailable naming DATABASE_URL, never the URL itself.
    """
    try:
        return psycopg.connect(
            url.get_secret_value(), autocommit=True, connect_timeout=10, application_name=application_name
        )
    except psycopg.Error as error:
        raise _unreachable(error) from None


def _unreachable(error: Exception) -> DatabaseUnavailable:
    # libpq's message may quote the whole connection string; its class says enough.
    text = str(error)
    reasons = {
        "password": "the password was refused",
        "does not exist": "the database or role does not exist",
        "refused": "nothing listens there",
        "resolve": "the host name is not known",
        "timeout": "it did not answer in time",
        "No such file": "nothing listens there",
    }
    reason = next((reason for sign, reason in reasons.items() if sign in text), "the connection failed")
    return DatabaseUnavailable(f"cannot connect to the database: {reason}; check DATABASE_URL and that the server runs")


class PostgresDatabase(Database):
    """Calls SQL functions over a pool of connections that act as service_role.

    `max_connections` bounds the pool: one for each thread that calls at the same time.
    """

    def __init__(self, url: SecretStr, *, max_connections: int = 10, role: str | None = "service_role") -> None:
        self._role = role
        # Fail with the reason at once: a pool would retry in the background and only say "timeout".
        self._first = [connect(url)]
        try:
            self._configure(self._first[0])
        except psycopg.Error:
            self._first.pop().close()
            raise DatabaseContractError(
                f"the user of DATABASE_URL cannot act as {role}: the database has no such role or it was not granted; "
                "run scripts/migrate.py to bring the database up to date"
            ) from None
        self._pool: ConnectionPool[psycopg.Connection[tuple[Any, ...]]] = ConnectionPool(
            url.get_secret_value(),
            connection_class=_handing_over(self._first),
            min_size=1,
            max_size=max_connections,
            timeout=WAIT_FOR_CONNECTION,
            reconnect_timeout=WAIT_FOR_CONNECTION,
            # A call is one statement and one transaction: nothing stays open while a provider works.
            kwargs={"autocommit": True, "connect_timeout": 10, "application_name": "tonnetz"},
            configure=self._configure,
            check=ConnectionPool.check_connection,
            open=False,
        )
        self._pool.open()

    def _configure(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        if self._role is not None:
            connection.execute(sql.SQL("set role {}").format(sql.Identifier(self._role)))

    def _call(self, function: str, arguments: dict[str, Any]) -> list[Any]:
        with _translated(function), self._pool.connection() as connection:
            return _run(connection, function, arguments)

    def as_caller(self, caller: Caller) -> Database:
        return _PostgresCaller(self._pool, caller)

    def close(self) -> None:
        self._pool.close()
        while self._first:
            self._first.pop().close()


def _handing_over(
    first: list[psycopg.Connection[tuple[Any, ...]]],
) -> type[psycopg.Connection[tuple[Any, ...]]]:
    """The class of a pool's connections that takes those that are there already, before it makes others."""

    class Connection(psycopg.Connection[tuple[Any, ...]]):
        @classmethod
        def connect(cls, conninfo: str = "", **options: Any) -> psycopg.Connection[tuple[Any, ...]]:  # type: ignore[override]
            try:
                # One step: of two threads only one gets it.
                return first.pop()
            except IndexError:
                return psycopg.Connection.connect(conninfo, **options)

    return Connection


class _PostgresCaller(Database):
    """Each call is one read-only transaction under the caller's role and claims, as PostgREST would run it."""

    def __init__(self, pool: ConnectionPool[psycopg.Connection[tuple[Any, ...]]], caller: Caller) -> None:
        self._pool = pool
        self._caller = caller

    def _call(self, function: str, arguments: dict[str, Any]) -> list[Any]:
        with _translated(function), self._pool.connection() as connection, connection.transaction():
            # All of it local: the connection is service_role's again when the transaction ends, however it ends.
            connection.execute(
                "select set_config('request.jwt.claims', %s, true), set_config('statement_timeout', %s, true), "
                "set_config('transaction_read_only', 'on', true), set_config('role', %s, true)",
                [orjson.dumps(dict(self._caller.claims)).decode(), CALLER_TIMEOUT, self._caller.role],
            )
            return _run(connection, function, arguments)

    def close(self) -> None:
        """Nothing to do: the connections are the pool's."""


def _run(connection: psycopg.Connection[tuple[Any, ...]], function: str, arguments: dict[str, Any]) -> list[Any]:
    # to_json: the same values as through PostgREST, where everything is JSON.
    query = sql.SQL("select to_json(r) from public.{}({}) r").format(
        sql.Identifier(function),
        sql.SQL(", ").join(
            sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in arguments
        ),
    )
    rows = connection.execute(query, {name: _adapt(value) for name, value in arguments.items()}).fetchall()
    return [row[0] for row in rows if row[0] not in (None, "")]


@contextmanager
def _translated(function: str) -> Iterator[None]:
    try:
        yield
    except PoolTimeout as error:
        raise _unreachable(error) from None
    except psycopg.Error as error:
        raise translate(error, function) from None
    except (UnicodeEncodeError, orjson.JSONEncodeError) as error:
        if "surrogates" not in str(error):
            raise
        raise DatabaseRejected("a text holds half of a surrogate pair, which UTF-8 cannot carry") from None


def _adapt(value: Any) -> Any:
    is_json = isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, dict) for item in value))
    return Jsonb(value) if is_json else value
