"""The database adapter for any PostgreSQL with pgvector, by psycopg."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson
import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb, set_json_loads
from psycopg_pool import ConnectionPool, PoolTimeout
from pydantic import SecretStr

from shared.database.base import Database
from shared.database.connection_errors import explain, pooler_error
from shared.database.limits import CALLER, WORK, Limits, Shares
from shared.database.translate import error_from_sqlstate
from shared.errors import AppError, DatabaseBusy, DatabaseContractError, DatabaseRejected, DatabaseUnavailable
from shared.models import Caller

Connection = psycopg.Connection[tuple[Any, ...]]
Cursor = psycopg.Cursor[tuple[Any, ...]]

# Seconds that a call waits for a connection. The pool stops its attempts to reconnect after the same time. By default it
# would double the pauses between them up to minutes, and notice a restarted server a minute late.
WAIT_FOR_CONNECTION = 15.0
# The advisory lock of the session that builds indexes.
BUILDS = 6_203_114_582

# Through a pooler in transaction mode a prepared statement would be missing in the next transaction.
_OPTIONS: dict[str, Any] = {
    "autocommit": True,
    "connect_timeout": 10,
    "prepare_threshold": None,
    "client_encoding": "utf8",
}

# These statements are sent before each call. Their effect must end with the transaction of the call, because after it a
# pooler in transaction mode gives the connection to another program. The role is set in a separate statement, because
# PostgreSQL may check the privileges of a statement before it runs the statement.
_AS_SERVICE_ROLE = "set local role service_role"
_AS_CALLER = (
    "select set_config('request.jwt.claims', %s, true)",
    *CALLER.statements,
    "set local transaction_read_only = on",
    "set local role %s",
)

# An argument with more bytes of JSON is sent as a parameter: as a literal in the statement, PostgreSQL would need about
# 10 ns more for each byte.
_LARGE = 32_768

# orjson reads JSON faster than Python's module, and a batch of vectors is a megabyte of JSON.
set_json_loads(orjson.loads)

# The pool's warnings quote libpq, which names hosts and users; our own errors report the problem.
logging.getLogger("psycopg.pool").setLevel(logging.ERROR)


def translate(error: psycopg.Error, function: str = "") -> AppError:
    """Translate an error of psycopg. The result contains no connection string and no value of a row."""
    if error.sqlstate is None and isinstance(error, psycopg.OperationalError):
        return DatabaseUnavailable(
            "the connection to the database was lost; check DATABASE_URL and that the server runs"
        )
    if error.sqlstate is None and isinstance(error, psycopg.DataError):
        return DatabaseRejected("a text contains the character NUL, which PostgreSQL cannot store; remove it")
    # A pooler uses this code for every refusal; only its message gives the reason.
    if error.sqlstate == "08P01" and (refused := pooler_error(error.diag.message_primary or "")):
        return refused
    return error_from_sqlstate(
        error.sqlstate, error.diag.message_primary or type(error).__name__, error.diag.message_hint, function=function
    )


def connect(url: SecretStr, *, application_name: str = "tonnetz") -> Connection:
    """Open one connection as the user of the URL. Bootstrap and migrations need it, because this user owns the database.

    Raises ConfigurationError or DatabaseUnavailable. Their message names DATABASE_URL, but never contains the URL.
    """
    try:
        return psycopg.connect(url.get_secret_value(), **_OPTIONS, application_name=application_name)
    except (psycopg.Error, UnicodeError) as error:
        raise explain(error, url) from None


@dataclass(eq=False)
class _PostgresCalls(Database):
    """Sends each call after the statements that set its role and limits: those of service_role, or _AS_CALLER."""

    pool: "_Pool"
    preceded_by: tuple[str, ...]
    caller: Caller | None = None

    def _call(self, function: str, arguments: dict[str, Any]) -> list[Any]:
        with self.pool.lend(function, arguments) as connection:
            names = tuple(arguments)
            values = [_adapted(value) for value in arguments.values()]
            if self.caller is not None:
                values = [orjson.dumps(dict(self.caller.claims)).decode(), self.caller.role, *values]
            elif any(isinstance(value, Jsonb) and len(value.obj) > _LARGE for value in values):
                return self._send_large(connection, _statement((), function, names), values)
            answer = connection.execute(_statement(self.preceded_by, function, names), values).set_result(-1)
            return [row[0] for row in answer if row[0] not in (None, "")]

    def _send_large(self, connection: Connection, statement: bytes, values: list[Any]) -> list[Any]:
        # Do not use psycopg's pipeline. After its Sync it may send a Flush, which gets no answer. PgBouncer in transaction
        # mode then keeps the server's connection for this client.
        try:
            connection.execute("; ".join(("begin", *self.preceded_by)))
            answer = [row[0] for row in psycopg.Cursor(connection).execute(statement, values)]
            connection.execute("commit")
        except psycopg.Error:
            if not connection.closed:
                connection.rollback()
            raise
        return [value for value in answer if value not in (None, "")]

    def run_alone(self, listed_by: str, argument: str) -> bool:
        if self.caller is not None:
            return False
        with connect(self.pool.url) as connection:
            try:
                # A pooler could send the statements to different sessions, where their settings and locks would remain.
                found = connection.execute("select pg_backend_pid()").fetchone()
                if found != (connection.info.backend_pid,):
                    return False
                connection.execute("set statement_timeout = 0")
                if connection.execute("select pg_try_advisory_lock(%s)", [BUILDS]).fetchone() == (True,):
                    for (statement,) in connection.execute(listed_by.encode(), [argument]).fetchall():
                        connection.execute(statement.encode())
            except psycopg.errors.InsufficientPrivilege:
                return False
            except psycopg.Error as error:
                raise translate(error) from None
        return True

    def close(self) -> None:
        """Do nothing: PostgresDatabase owns the connections."""


class PostgresDatabase(_PostgresCalls):
    """Calls SQL functions as service_role over a pool of connections. No call needs session state of an earlier one.

    `max_connections` is the size of the pool: one connection for each thread that calls at the same time. `limits` are
    for a server, where requests wait for the calls: they limit the time of each call, and no kind of call may use all
    connections.
    """

    def __init__(self, url: SecretStr, *, max_connections: int = 10, limits: Limits | None = None) -> None:
        # Connect once before the pool: the pool would retry in the background and only report a timeout.
        first = connect(url)
        try:
            first.execute(f"{_AS_SERVICE_ROLE}; select 1")
        except psycopg.Error as error:
            first.close()
            raise _cannot_act(error) from None
        self._is_limited = limits is not None
        pool = _Pool(url, first, max_connections, divided=self._is_limited)
        super().__init__(pool, (_AS_SERVICE_ROLE, *(limits.statements if limits else ())))

    def as_caller(self, caller: Caller) -> Database:
        return _PostgresCalls(self.pool, _AS_CALLER, caller)

    def for_work(self) -> Database:
        return _PostgresCalls(self.pool, (_AS_SERVICE_ROLE, *WORK.statements)) if self._is_limited else self

    def close(self) -> None:
        self.pool.close()


class _Pool:
    """A pool of connections. A call and the statements before it are one simple query: one round trip, one transaction."""

    def __init__(self, url: SecretStr, first: Connection, size: int, *, divided: bool) -> None:
        self.url = url
        self._shares = Shares(size if divided else 0)
        self._first = [first]
        # The error of the last attempt to connect.
        self._failure: Exception | None = None
        self._pool = ConnectionPool(
            url.get_secret_value(),
            connection_class=_connected_by(self._connect),
            min_size=1,
            max_size=size,
            timeout=WAIT_FOR_CONNECTION,
            reconnect_timeout=WAIT_FOR_CONNECTION,
            # ClientCursor writes the arguments into the statement as quoted literals, which the simple protocol needs.
            kwargs=_OPTIONS | {"application_name": "tonnetz", "cursor_factory": psycopg.ClientCursor},
            open=True,
        )

    def _connect(self, conninfo: str, options: dict[str, Any]) -> Connection:
        try:
            # pop() is atomic: only one of two threads gets the connection.
            connection = self._first.pop()
            connection.cursor_factory = psycopg.ClientCursor
        except IndexError:
            try:
                connection = psycopg.Connection.connect(conninfo, **options)
            except psycopg.Error as error:
                self._failure = error
                raise
        self._failure = None
        return connection

    @contextmanager
    def lend(self, function: str, arguments: dict[str, Any]) -> Iterator[Connection]:
        """A connection for one call; an error of the call becomes an AppError."""
        try:
            with self._shares.share(function, arguments, WAIT_FOR_CONNECTION):
                deadline = time.monotonic() + WAIT_FOR_CONNECTION
                # The pool's own check is not used: it waits a second or more for each closed connection.
                while not _is_open(connection := self._pool.getconn(deadline - time.monotonic())):
                    # The pool replaces the closed connection in the background.
                    self._pool.putconn(connection)
                try:
                    yield connection
                finally:
                    self._pool.putconn(connection)
        except PoolTimeout:
            raise self._no_connection() from None
        except psycopg.Error as error:
            raise translate(error, function) from None
        except (UnicodeEncodeError, orjson.JSONEncodeError) as error:
            if "surrogates" not in str(error):
                raise
            raise DatabaseRejected("a text contains half of a surrogate pair, which UTF-8 cannot encode") from None

    def _no_connection(self) -> DatabaseUnavailable:
        if self._failure is None:
            return DatabaseBusy("all connections to the database are in use; try again later")
        found = explain(self._failure, self.url)
        # The program could connect when it started, so the error may be temporary.
        return found if isinstance(found, DatabaseUnavailable) else DatabaseUnavailable(found.message)

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()
        while self._first:
            self._first.pop().close()


def _connected_by(connect: Callable[[str, dict[str, Any]], Connection]) -> type[Connection]:
    """A connection class for the pool. Its connections come from the function `connect`."""

    class Connected(psycopg.Connection[tuple[Any, ...]]):
        @classmethod
        def connect(cls, conninfo: str = "", **options: Any) -> Connection:  # type: ignore[override]
            return connect(conninfo, options)

    return Connected


def _is_open(connection: Connection) -> bool:
    """Whether the connection is still open at the server or pooler. Unlike a query, this check takes no round trip."""
    try:
        # After a close, the first call reads the server's last message, and the second raises the error.
        connection.pgconn.consume_input()
        connection.pgconn.consume_input()
    except psycopg.OperationalError:
        return False
    return True


@lru_cache(maxsize=256)
def _statement(preceded_by: tuple[str, ...], function: str, names: tuple[str, ...]) -> bytes:
    """The text of a call and of the statements before it, with a placeholder for each value."""
    named = [sql.SQL("{} => %s").format(sql.Identifier(name)) for name in names]
    # to_json gives the same values as PostgREST.
    call = sql.SQL("select to_json(r) from public.{}({}) r").format(sql.Identifier(function), sql.SQL(", ").join(named))
    return "; ".join((*preceded_by, "")).encode() + call.as_bytes()


def _adapted(value: Any) -> Any:
    """The value as psycopg writes it: objects and lists of objects are JSON, other lists are arrays."""
    is_json = isinstance(value, dict) or (isinstance(value, list) and any(isinstance(one, dict) for one in value))
    return Jsonb(orjson.dumps(value), dumps=bytes) if is_json else value


def _cannot_act(error: psycopg.Error) -> AppError:
    """The error for a connection whose user cannot act as service_role."""
    if error.sqlstate in ("42704", "42501", "22023"):
        return DatabaseContractError(
            "the user of DATABASE_URL cannot act as service_role: the role is missing or was not granted; "
            "run scripts/migrate.py to bring the database up to date"
        )
    return translate(error)
