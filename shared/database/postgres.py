"""The database adapter for any PostgreSQL with pgvector, by psycopg."""

import logging
from contextlib import nullcontext
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

Connection = psycopg.Connection[tuple[Any, ...]]

# Supabase's own statement timeout of the role authenticated.
CALLER_TIMEOUT = "8s"

# Seconds that a call waits for a connection. The pool stops reconnecting after the same time: by default it doubles
# its pauses up to minutes, so that it would notice a restarted server a minute late.
WAIT_FOR_CONNECTION = 15.0

_ACT_AS_CALLER = (
    "select set_config('request.jwt.claims', %s, true), set_config('statement_timeout', %s, true), "
    "set_config('transaction_read_only', 'on', true), set_config('role', %s, true)"
)

# orjson: a batch of vectors is a megabyte of JSON.
set_json_dumps(orjson.dumps)
set_json_loads(orjson.loads)

# The pool's warnings quote libpq, which names hosts and users; our own errors report the problem.
logging.getLogger("psycopg.pool").setLevel(logging.ERROR)


def translate(error: psycopg.Error, function: str = "") -> AppError:
    """Translate an error of psycopg, without connection strings and values of rows."""
    if error.sqlstate is None and isinstance(error, psycopg.OperationalError):
        return DatabaseUnavailable(
            "the connection to the database was lost; check DATABASE_URL and that the server runs"
        )
    if error.sqlstate is None and isinstance(error, psycopg.DataError):
        return DatabaseRejected("a text contains the character NUL, which PostgreSQL cannot store; remove it")
    return error_from_sqlstate(
        error.sqlstate, error.diag.message_primary or type(error).__name__, error.diag.message_hint, function=function
    )


def connect(url: SecretStr, *, application_name: str = "tonnetz") -> Connection:
    """Open one connection as the user of the URL, who owns the database: for the bootstrap and migrations.

    Raises DatabaseUnavailable, which names DATABASE_URL but never contains the URL.
    """
    try:
        return psycopg.connect(
            url.get_secret_value(), autocommit=True, connect_timeout=10, application_name=application_name
        )
    except psycopg.Error as error:
        raise _unreachable(error) from None


def _unreachable(error: Exception) -> DatabaseUnavailable:
    # Not libpq's message, because it may quote the whole connection string.
    text = str(error)
    reasons = {
        "password": "the server refused the password",
        "does not exist": "the database or role does not exist",
        "refused": "no server listens at this address",
        "resolve": "the host name is unknown",
        "timeout": "the server did not answer in time",
        "No such file": "no server listens at this address",
    }
    reason = next((reason for sign, reason in reasons.items() if sign in text), "the connection failed")
    return DatabaseUnavailable(f"cannot connect to the database: {reason}; check DATABASE_URL and that the server runs")


class PostgresDatabase(Database):
    """Calls SQL functions over a pool of connections that act as service_role.

    `max_connections` bounds the pool: one for each thread that calls at the same time.
    """

    _caller: Caller | None = None

    def __init__(self, url: SecretStr, *, max_connections: int = 10, role: str | None = "service_role") -> None:
        self._role = role
        # Connect once before the pool: the pool would retry in the background and only report a timeout.
        first = self._first = [connect(url)]
        try:
            self._configure(first[0])
        except psycopg.Error:
            first.pop().close()
            raise DatabaseContractError(
                f"the user of DATABASE_URL cannot act as {role}: the role is missing or was not granted; "
                "run scripts/migrate.py to bring the database up to date"
            ) from None

        class FirstConnection(psycopg.Connection[tuple[Any, ...]]):
            """Gives the pool the open connection before it opens others."""

            @classmethod
            def connect(cls, conninfo: str = "", **options: Any) -> Connection:  # type: ignore[override]
                try:
                    # pop() is atomic: only one of two threads gets the connection.
                    return first.pop()
                except IndexError:
                    return psycopg.Connection.connect(conninfo, **options)

        self._pool: ConnectionPool[Connection] = ConnectionPool(
            url.get_secret_value(),
            connection_class=FirstConnection,
            min_size=1,
            max_size=max_connections,
            timeout=WAIT_FOR_CONNECTION,
            reconnect_timeout=WAIT_FOR_CONNECTION,
            # A call is one statement and one transaction, so no transaction is open during a provider call.
            kwargs={"autocommit": True, "connect_timeout": 10, "application_name": "tonnetz"},
            configure=self._configure,
            check=ConnectionPool.check_connection,
            open=True,
        )

    def _configure(self, connection: Connection) -> None:
        if self._role is not None:
            connection.execute(sql.SQL("set role {}").format(sql.Identifier(self._role)))

    def _call(self, function: str, arguments: dict[str, Any]) -> list[Any]:
        named = [sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in arguments]
        # to_json gives the same values as PostgREST.
        query = sql.SQL("select to_json(r) from public.{}({}) r").format(
            sql.Identifier(function), sql.SQL(", ").join(named)
        )
        values = dict(arguments)
        for name, value in arguments.items():
            # A list without objects is an array.
            if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(one, dict) for one in value)):
                values[name] = Jsonb(value)
        try:
            with self._pool.connection() as connection, connection.transaction() if self._caller else nullcontext():
                if self._caller is not None:
                    # All settings are local: the connection is service_role's again when the transaction ends.
                    claims = orjson.dumps(dict(self._caller.claims)).decode()
                    connection.execute(_ACT_AS_CALLER, [claims, CALLER_TIMEOUT, self._caller.role])
                rows = connection.execute(query, values).fetchall()
        except PoolTimeout as error:
            raise _unreachable(error) from None
        except psycopg.Error as error:
            raise translate(error, function) from None
        except (UnicodeEncodeError, orjson.JSONEncodeError) as error:
            if "surrogates" not in str(error):
                raise
            raise DatabaseRejected("a text contains half of a surrogate pair, which UTF-8 cannot encode") from None
        return [row[0] for row in rows if row[0] not in (None, "")]

    def as_caller(self, caller: Caller) -> Database:
        return _PostgresCaller(self._pool, caller)

    def close(self) -> None:
        self._pool.close()
        while self._first:
            self._first.pop().close()


class _PostgresCaller(PostgresDatabase):
    """Runs each call in a read-only transaction with the caller's role and claims, as PostgREST does."""

    def __init__(self, pool: ConnectionPool[Connection], caller: Caller) -> None:
        self._pool = pool
        self._caller = caller

    def close(self) -> None:
        """Do nothing: the pool owns the connections."""
